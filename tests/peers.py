"""Real peers: a Docker engine and a registry of our own on loopback, skopeo, umoci.

On CI a missing peer is an error; elsewhere the tests that need it are skipped with the reason.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_START_SECONDS = 60


def need(*commands: str) -> None:
    """Skips the test where a command is missing; fails it on CI, where nothing may be missing."""
    missing = [command for command in commands if shutil.which(command) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        message = f"needs {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def run(*command: str | Path, stdin: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}")
    return done


@dataclass(frozen=True)
class DockerEngine:
    """A running engine with a data root of its own."""

    socket_path: Path

    def docker(self, *arguments: str | Path, stdin: bytes | None = None, check: bool = True) -> str:
        done = run("docker", "-H", f"unix://{self.socket_path}", *arguments, stdin=stdin, check=check)
        return (done.stdout + (b"" if check else done.stderr)).decode()

    def load(self, archive: bytes, *, check: bool = True) -> str:
        return self.docker("load", stdin=archive, check=check)

    def inspect(self, image: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.docker("image", "inspect", image))[0]
        return document

    def history(self, image: str) -> list[str]:
        """`created_by` of every step, newest first."""
        out = self.docker("history", "--no-trunc", "--format", "{{json .CreatedBy}}", image)
        return [json.loads(line) for line in out.splitlines()]

    def export(self, image: str) -> dict[str, tuple[object, ...]]:
        """The container file system of an image: name → what a tar can say of it."""
        container = self.docker("create", image, "/nothing").strip()
        try:
            done = run("docker", "-H", f"unix://{self.socket_path}", "export", container)
        finally:
            self.docker("rm", container)
        return tree_of(done.stdout)

    def remove_all(self) -> None:
        ids = self.docker("images", "-aq", "--no-trunc").split()
        if ids:
            self.docker("rmi", "-f", *sorted(set(ids)), check=False)


def tree_of(tar: bytes) -> dict[str, tuple[object, ...]]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            content = stream.read() if stream is not None else b""
            found[member.name] = (
                member.type,
                member.mode,
                member.uid,
                member.gid,
                int(member.mtime) if not member.isdir() else 0,
                member.linkname,
                member.devmajor,
                member.devminor,
                content,
            )
    return {name: value for name, value in found.items() if name not in ENGINE_PATHS}


ENGINE_PATHS = frozenset(
    {
        ".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "etc", "etc/hostname", "etc/hosts", "etc/mtab",
        "etc/resolv.conf", "proc", "sys",
    }
)  # fmt: skip
"""What an engine itself puts into a container when it is made."""


@contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """Starts dockerd in a temporary folder and stops it, by its PID, at the end."""
    need("dockerd", "docker", "containerd")
    root = Path(tempfile.mkdtemp(prefix="migrate-dockerd-"))
    engine = DockerEngine(root / "docker.sock")
    log = (root / "log").open("wb")
    process = subprocess.Popen(
        [
            "dockerd",
            f"--data-root={root / 'data'}",
            f"--exec-root={root / 'exec'}",
            f"--pidfile={root / 'pid'}",
            "-H",
            f"unix://{engine.socket_path}",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=vfs",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        probe = ("docker", "-H", f"unix://{engine.socket_path}", "version")
        wait_until(process, lambda: run(*probe, check=False), log.name)
        yield engine
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()
        shutil.rmtree(root, ignore_errors=True)


def wait_until(process: subprocess.Popen[bytes], probe: Any, log: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if probe().returncode == 0:
            return
        time.sleep(0.1)  # a server's start has no other sign
    raise AssertionError(f"the server did not start:\n{Path(log).read_text()[-3000:]}")


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_RUN = int(os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid():x}")[:8], 16)
"""Another one for each run: two may be on one machine."""
_PORTS = itertools.count(20_000 + 1_000 * ((2 * _RUN + _WORKER) % 12))


def free_port() -> int:
    """A port that no other test process gets: each has a thousand below those that the kernel gives out by itself."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("ports have no end")
