"""What goes wrong around a Dask cluster: one line, an exit code of the reference, and the next run completes."""

from __future__ import annotations

import http.server
import importlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.batch import dask_pool
from migrate.batch.batch import BatchRequest, run_batch
from migrate.errors import MigrateError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from tests.command import Result, migrate
from tests.compat.test_dask import ROOT, Cluster, cluster, write_shelf
from tests.peers import free_port
from tests.shelves import files_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
_SHOWN = ("migrate: ", "  ")


def lines_of(result: Result) -> list[str]:
    """What was said, without progress."""
    return [line for line in result.err.splitlines() if line.startswith("migrate: ")]


@contextmanager
def odd_worker(dask: Cluster, directory: Path, *, python: str = "", shell: str = "") -> Iterator[None]:
    """One more worker, in which `python` runs first; `shell` runs before it in a mount namespace of its own."""
    site = directory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(python)
    words = [sys.executable, "-m", "distributed.cli.dask_worker", dask.address, "--nthreads", "1", "--no-dashboard"]
    command = f"{shell}\nexec {shlex.join([*words, '--name', 'odd', '--host', '127.0.0.1'])}"
    with open(directory / "odd.log", "ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", command],
            env={**os.environ, "PYTHONPATH": f"{site}:{ROOT}"},
            stdout=log,
            stderr=log,
            cwd=directory,
            start_new_session=True,
        )
    try:
        client_class: Any = importlib.import_module("distributed").Client
        with client_class(dask.address, timeout="30s", set_as_default=False) as client:
            client.wait_for_workers(3, timeout=60)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def server_at(port: int, *, answers: bool) -> Iterator[None]:
    """A web server, or something that accepts connections and is silent."""
    if answers:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
    else:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", port))
            listening.listen(8)
            yield


_NO_PACKAGE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "NAME":
            raise ModuleNotFoundError("No module named 'NAME'")
sys.meta_path.insert(0, Block())
"""
_OTHER_VERSION = """
import importlib.metadata
found = importlib.metadata.version
importlib.metadata.version = lambda name: "0.0.1" if name == "deflate" else found(name)
"""
_OTHER_PYTHON = "import platform; platform.python_version_tuple = lambda: ('3', '9', '0')"
_READ_ONLY = "mount -o bind,ro TARGET TARGET\nmount -o remount,bind,ro TARGET"
_FULL = "mount -t tmpfs -o size=4k none TARGET\nhead -c 4096 /dev/zero > TARGET/full"
_OTHER_SHELF = "mkdir -p other/000.tar\nmount -o bind other SHELF"


@dataclass(frozen=True)
class Shared:
    """A cluster and a shelf for many tests, and what a local run makes of it."""

    dask: Cluster
    shelf: Path
    local: dict[str, bytes]
    file: Path

    def run(self, target: Path) -> tuple[int, str]:
        """Exit code and message of the command, which has one line for an error."""
        return attempt(self.shelf, target, scheduler=self.dask.address)


def attempt(shelf: Path, target: Path, **where: Any) -> tuple[int, str]:
    options = ConvertOptions(jobs=2, exact_sizes=True)
    request = BatchRequest(target=str(target), options=options, locations=[str(shelf)], **where)
    try:
        outcome = run_batch(request, SilentProgress())
    except MigrateError as error:
        assert "\n" not in error.message
        return error.exit_code, error.message
    outcome.close()
    return outcome.exit_code, ""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    directory = tmp_path_factory.mktemp("shared")
    shelf = write_shelf(directory / "shelf", 20)
    assert attempt(shelf, directory / "local", executor="threads")[0] == 0
    file = directory / "scheduler.json"
    with cluster(directory, scheduler_file=file) as dask:
        yield Shared(dask, shelf, files_of(directory / "local"), file)


@pytest.mark.parametrize(
    ("python", "shell", "code", "said"),
    [
        pytest.param(_NO_PACKAGE.replace("NAME", "migrate"), "", 2, "cannot load this package", id="package"),
        pytest.param(_NO_PACKAGE.replace("NAME", "orjson"), "", 2, "No module named 'orjson'", id="dependency"),
        pytest.param("import migrate; migrate.__version__ = '0.0.1'", "", 2, "has migrate 0.0.1", id="version"),
        pytest.param(_OTHER_VERSION, "", 2, "has deflate 0.0.1", id="compressor"),
        pytest.param(_OTHER_PYTHON, "", 2, "has Python 3.9", id="python"),
        pytest.param("", "mount -t tmpfs none SHELF", 2, "cannot read the sources", id="source"),
        pytest.param("", _OTHER_SHELF, 2, "cannot read the sources", id="other-source"),
        pytest.param("", "mount -t tmpfs none TARGET", 5, "target", id="target"),
        pytest.param("", _READ_ONLY, 5, "target", id="read-only"),
        pytest.param("", _FULL, 5, "No space left", id="full"),
    ],
)
def test_a_worker_that_cannot_work_is_named_before_the_first_task(
    python: str, shell: str, code: int, said: str, shared: Shared, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    shell = shell.replace("SHELF", shlex.quote(str(shared.shelf))).replace("TARGET", shlex.quote(str(target)))
    with odd_worker(shared.dask, tmp_path, python=python, shell=shell):
        found, message = shared.run(target)
    assert found == code and "worker tcp://127.0.0.1" in message and said in message, message
    assert shared.run(target) == (0, "")
    assert files_of(target) == shared.local
    assert not list((target / ".migrate").glob("preflight*"))


def attempt_in_haste(shelf: Path, target: Path, scheduler: str) -> tuple[int, str]:
    """What nobody answers is given up after two seconds instead of ten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dask_pool, "_CONNECT_SECONDS", 2.0)
        return attempt(shelf, target, scheduler=scheduler)


@pytest.mark.parametrize("answers", [True, False], ids=["dashboard", "silent"])
def test_a_port_of_something_else_is_named_at_once(answers: bool, shared: Shared, tmp_path: Path) -> None:
    port = free_port()
    with server_at(port, answers=answers):
        code, message = attempt_in_haste(shared.shelf, tmp_path / "out", f"tcp://127.0.0.1:{port}")
    assert code == 2
    assert ("a web server answers there" if answers else "no Dask scheduler answers there") in message
    assert attempt(shared.shelf, tmp_path / "out", executor="threads") == (0, "")  # no lock is left


@pytest.mark.parametrize(
    ("scheduler", "variables", "said"),
    [
        ("missing.json", {}, "there is no such scheduler file"),
        ("auto", {}, "Dask's configuration names no scheduler"),
        ("auto", {"scheduler-address": "garbage"}, "auto (garbage): is no address of a scheduler"),
        ("auto", {"scheduler-address": "http://head:8787/status"}, "is the address of a web server"),
        ("auto", {"scheduler-file": "/nowhere/file"}, "auto (/nowhere/file): there is no such scheduler file"),
        ("", {}, "is no address of a scheduler"),
        ("head", {}, "is no address of a scheduler"),
        ("tcp://head", {}, "is no address of a scheduler"),
        ("tcp://127.0.0.1:port", {}, "is no address of a scheduler"),
        ("tcp://127.0.0.1:99999", {}, "is no address of a scheduler"),
        ("http://head:8786", {}, "is the address of a web server"),
    ],
)
def test_a_scheduler_that_is_not_named_rightly_is_a_usage_error(
    scheduler: str, variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    config: Any = importlib.import_module("dask.config")
    with config.set(variables):
        code, message = attempt(tmp_path / "a.tar", tmp_path / "out", scheduler=scheduler)
    assert code == 2 and said in message


@pytest.mark.parametrize(
    "scheduler",
    ["tls://PLACE", "tcp://no-such-host.invalid:8786", "gopher://PLACE"],
    ids=["plain", "host", "protocol"],
)
def test_an_address_of_no_scheduler_is_one_line(scheduler: str, shared: Shared, tmp_path: Path) -> None:
    place = shared.dask.address.partition("://")[2]
    code, message = attempt_in_haste(shared.shelf, tmp_path / "out", scheduler.replace("PLACE", place))
    assert code == 2 and "no Dask scheduler answers there" in message
    assert attempt(shared.shelf, tmp_path / "out", executor="threads") == (0, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no scheduler file"),
        ("{", "is no scheduler file"),
        ("[]", "is no scheduler file"),
        ("{}", "is no scheduler file"),
        ('{"address": "head"}', "is no address of a scheduler"),
        ('{"address": "tcp://127.0.0.1:9"}', "no Dask scheduler answers there"),
    ],
    ids=["empty", "cut", "list", "other", "address", "gone"],
)
def test_a_scheduler_file_that_leads_nowhere_is_one_line(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text(content)
    code, message = attempt_in_haste(tmp_path / "a.tar", tmp_path / "out", str(tmp_path / "scheduler.json"))
    assert code == 2 and said in message


def test_a_scheduler_that_dies_ends_the_run_in_one_line(tmp_path: Path) -> None:
    shelf, target = write_shelf(tmp_path / "shelf", 200), tmp_path / "out"
    with cluster(tmp_path) as dask:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "migrate",
                "batch",
                "--progress",
                "json",
                "--scheduler",
                dask.address,
                shelf,
                target,
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if b'"finished"' in line:
                break
        os.killpg(dask.scheduler.pid, signal.SIGKILL)
        rest = process.stderr.read().decode().splitlines()
        assert process.wait(60) == 5, rest
    errors = [line for line in rest if '"event": "error"' in line]
    assert len(errors) == 1, rest
    assert "the Dask scheduler is lost" in errors[0]
    assert not [line for line in rest if '"log"' in line or not line.startswith("{")], rest
    assert attempt(shelf, target, executor="threads") == (0, "")
    assert attempt(shelf, tmp_path / "local", executor="threads") == (0, "")
    assert files_of(target).keys() == files_of(tmp_path / "local").keys()


def test_a_cluster_without_workers_is_told_of_and_ended_by_an_interruption(tmp_path: Path) -> None:
    shelf = write_shelf(tmp_path / "shelf", 4)
    with cluster(tmp_path, workers=0) as dask:
        process = subprocess.Popen(
            [sys.executable, "-m", "migrate", "batch", "--scheduler", dask.address, shelf, tmp_path / "out"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert process.stderr is not None
        began = time.monotonic()
        for line in process.stderr:
            if b"no workers" in line:
                break
        assert time.monotonic() - began < 60
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(60) == 130
    assert attempt(shelf, tmp_path / "out", executor="threads") == (0, "")


def test_a_scheduler_file_and_dask_s_own_configuration_lead_to_the_cluster(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(shared.shelf, tmp_path / "one", scheduler=str(shared.file)) == (0, "")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", shared.dask.address)
    configured = migrate("batch", "--scheduler", "auto", shared.shelf, tmp_path / "two")
    assert configured.code == 0, configured.err
    assert (tmp_path / "one" / "index.json").read_bytes() == (tmp_path / "two" / "index.json").read_bytes()


def test_a_program_gives_its_own_client_cluster_or_executor(shared: Shared, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    distributed: Any = importlib.import_module("distributed")
    shelf = write_shelf(tmp_path / "shelf", 4)
    options = ConvertOptions(jobs=2)
    with distributed.Client(shared.dask.address, timeout="30s", set_as_default=False) as client:
        assert api.batch([shelf], tmp_path / "client", options, client=client).exit_code == 0
        assert client.status == "running"
    with ThreadPoolExecutor(2) as executor:
        assert api.batch([shelf], tmp_path / "executor", options, client=executor).exit_code == 0
        assert executor.submit(int).result() == 0
    assert api.batch([shelf], tmp_path / "local", options).exit_code == 0
    assert files_of(tmp_path / "client") == files_of(tmp_path / "executor") == files_of(tmp_path / "local")
