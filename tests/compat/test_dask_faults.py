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
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.model.options import ConvertOptions
from tests.command import Result, migrate
from tests.compat.test_dask import ROOT, Cluster, cluster, free_port, write_shelf
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


@pytest.mark.parametrize("answers", [True, False], ids=["dashboard", "silent"])
def test_a_port_of_something_else_is_named_at_once(answers: bool, tmp_path: Path) -> None:
    shelf, port = write_shelf(tmp_path / "shelf", 2), free_port()
    with server_at(port, answers=answers):
        result = migrate("batch", "--scheduler", f"tcp://127.0.0.1:{port}", shelf, tmp_path / "out")
    assert result.code == 2
    said = lines_of(result)
    assert len(said) == 1, result.err
    assert ("a web server answers there" if answers else "no Dask scheduler answers there") in said[0]
    assert migrate("batch", shelf, tmp_path / "out").code == 0  # no lock is left


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [("missing.json", "there is no such scheduler file"), ("auto", "Dask's configuration names no scheduler")],
)
def test_a_scheduler_that_is_not_named_rightly_is_a_usage_error(scheduler: str, said: str, tmp_path: Path) -> None:
    shelf = write_shelf(tmp_path / "shelf", 2)
    result = migrate("batch", "--scheduler", scheduler, shelf, tmp_path / "out")
    assert result.code == 2
    assert said in lines_of(result)[0]


_NO_PACKAGE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "migrate":
            raise ModuleNotFoundError("No module named 'migrate'")
sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize(
    ("python", "shell", "code", "said"),
    [
        pytest.param(_NO_PACKAGE, "", 2, "cannot load this package", id="package"),
        pytest.param("import migrate; migrate.__version__ = '0.0.1'", "", 2, "has migrate 0.0.1", id="version"),
        pytest.param("", "mount -t tmpfs none SHELF", 2, "cannot read the sources", id="source"),
        pytest.param("", "mount -t tmpfs none TARGET", 5, "target", id="target"),
        pytest.param(
            "", "mount -o bind,ro TARGET TARGET\nmount -o remount,bind,ro TARGET", 5, "target", id="read-only"
        ),
    ],
)
def test_a_worker_that_cannot_work_is_named_before_the_first_task(
    python: str, shell: str, code: int, said: str, tmp_path: Path
) -> None:
    shelf, target = write_shelf(tmp_path / "shelf", 20), tmp_path / "out"
    target.mkdir()
    shell = shell.replace("SHELF", shlex.quote(str(shelf))).replace("TARGET", shlex.quote(str(target)))
    with cluster(tmp_path) as dask:
        with odd_worker(dask, tmp_path, python=python, shell=shell):
            result = migrate("batch", "--scheduler", dask.address, shelf, target)
        assert result.code == code, result.err
        last = lines_of(result)[-1]
        assert "worker tcp://127.0.0.1" in last
        assert said in last
        again = migrate("batch", "--scheduler", dask.address, shelf, target)
        assert again.code == 0, again.err
    assert migrate("batch", shelf, tmp_path / "local").code == 0
    assert files_of(target) == files_of(tmp_path / "local")


def test_a_scheduler_that_dies_ends_the_run_in_one_line(tmp_path: Path) -> None:
    shelf, target = write_shelf(tmp_path / "shelf", 400), tmp_path / "out"
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
        assert process.wait(60) == 5
    errors = [line for line in rest if '"event": "error"' in line]
    assert len(errors) == 1, rest
    assert "the Dask scheduler is lost" in errors[0]
    assert not [line for line in rest if '"log"' in line or not line.startswith("{")], rest
    assert migrate("batch", shelf, target).code == 0
    assert migrate("batch", shelf, tmp_path / "local").code == 0
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
    assert migrate("batch", shelf, tmp_path / "out").code == 0


def test_a_scheduler_file_and_dask_s_own_configuration_lead_to_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = write_shelf(tmp_path / "shelf", 4)
    with cluster(tmp_path, scheduler_file=tmp_path / "scheduler.json") as dask:
        file = migrate("batch", "--scheduler", tmp_path / "scheduler.json", shelf, tmp_path / "one")
        assert file.code == 0, file.err
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", dask.address)
        configured = migrate("batch", "--scheduler", "auto", shelf, tmp_path / "two")
        assert configured.code == 0, configured.err
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_program_gives_its_own_client_cluster_or_executor(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    distributed: Any = importlib.import_module("distributed")
    shelf = write_shelf(tmp_path / "shelf", 4)
    options = ConvertOptions(jobs=2)
    with cluster(tmp_path) as dask:
        with distributed.Client(dask.address, timeout="30s", set_as_default=False) as client:
            assert api.batch([shelf], tmp_path / "client", options, client=client).exit_code == 0
            assert client.status == "running"
    with ThreadPoolExecutor(2) as executor:
        assert api.batch([shelf], tmp_path / "executor", options, client=executor).exit_code == 0
        assert executor.submit(int).result() == 0
    assert api.batch([shelf], tmp_path / "local", options).exit_code == 0
    assert files_of(tmp_path / "client") == files_of(tmp_path / "executor") == files_of(tmp_path / "local")
