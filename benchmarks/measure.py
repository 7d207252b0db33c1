"""One command, measured: wall clock, processor time and peak memory, with those of its children."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_WARM_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """Seconds, seconds, MiB. `peak` is the largest single process."""

    wall: float
    cpu: float
    peak: float


@dataclass
class Series:
    samples: list[Sample] = field(default_factory=list)
    output_bytes: int = 0

    def wall(self) -> float:
        return statistics.median(sample.wall for sample in self.samples)

    def cpu(self) -> float:
        return statistics.median(sample.cpu for sample in self.samples)

    def least_cpu(self) -> float:
        return min(sample.cpu for sample in self.samples)

    def peak(self) -> float:
        return max(sample.peak for sample in self.samples)


def _environment() -> dict[str, str]:
    """As a user's: with Python's compiled files, which some containers forbid."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: list[str]) -> Sample:
    """Runs a command to its end. An exit code other than 0 is an error."""
    _adopt_orphans()
    before = time.perf_counter()
    with open(os.devnull, "rb") as nothing, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=nothing, stdout=output, stderr=output, env=_environment(), process_group=0
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - before
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{command}: exit {process.returncode}\n{output.read().decode()[-2000:]}")
    usages = [usage, *_orphans_of(process.pid)]
    cpu = sum(one.ru_utime + one.ru_stime for one in usages)
    return Sample(wall, cpu, max(one.ru_maxrss for one in usages) / 1024)


def _adopt_orphans() -> None:
    """What a command's own children leave behind, such as a server that forks workers, becomes a child of ours; else
    nobody would tell how much time it took."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def _orphans_of(group: int) -> list[resource.struct_rusage]:
    """Usage of every process that ended up with us. (A Docker engine of ours is in a group of its own.)"""
    found = []
    with contextlib.suppress(ChildProcessError):
        while True:
            found.append(os.wait4(-group, 0)[2])
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def warm(path: Path) -> None:
    """Reads a file, or all files below a directory, into the page cache."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                while stream.read(_WARM_BYTES):
                    pass


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Engine:
    """A Docker engine of our own, whose processor time counts as that of the command that it serves."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self._root = root
        self._process = process

    def docker(self, *arguments: str) -> list[str]:
        return ["docker", "-H", f"unix://{self._root / 'docker.sock'}", *arguments]

    def load(self, archive: Path) -> Sample:
        before = self._cpu()
        sample = run(self.docker("load", "-q", "-i", str(archive)))
        cpu = sample.cpu + self._cpu() - before
        peak = self._status("VmHWM") / 1024
        images = subprocess.run(self.docker("images", "-aq"), capture_output=True, check=True).stdout.decode().split()
        subprocess.run(self.docker("rmi", "-f", *sorted(set(images))), capture_output=True, check=False)
        return Sample(sample.wall, cpu, peak)

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1])
        return 0


@contextmanager
def docker_engine(directory: Path) -> Iterator[Engine | None]:
    """A dockerd with the overlay2 driver below `directory`; None where there is none or it may not start."""
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        yield None
        return
    root = Path(tempfile.mkdtemp(prefix="dockerd-", dir=directory))
    roots = [f"--data-root={root}/data", f"--exec-root={root}/exec", f"--pidfile={root}/pid"]
    network = ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    command = ["dockerd", *roots, *network, "-H", f"unix://{root}/docker.sock", "--storage-driver=overlay2"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        engine = Engine(root, process)
        try:
            yield engine if _answers(engine, process) else None
        finally:
            process.terminate()
            process.wait(30)


def _answers(engine: Engine, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(300):
        if process.poll() is not None:
            return False
        if subprocess.run(engine.docker("version"), capture_output=True, check=False).returncode == 0:
            return True
        time.sleep(0.1)
    return False
