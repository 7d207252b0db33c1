"""Batch on a real Dask cluster: a scheduler and two workers, each a process of its own on loopback."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from migrate.batch.batch import BatchRequest, run_batch
from migrate.batch.dask_pool import DaskPool
from migrate.batch.executors import PoolRequest
from migrate.batch.plan import SourceOutcome
from migrate.batch.worker_pool import WorkerPool
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event, SilentProgress
from tests import poison
from tests.command import migrate
from tests.peers import free_port
from tests.shelves import archive, files_of

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Cluster:
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


@contextmanager
def cluster(directory: Path, *, workers: int = 2, scheduler_file: Path | None = None) -> Iterator[Cluster]:
    """Ready when all workers have registered; ended with everything that it started."""
    address = f"tcp://127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        "DASK_DISTRIBUTED__DASHBOARD__LINK": "",
    }

    with ExitStack() as stack:
        start = partial(start_dask, stack, directory, environment)
        file = () if scheduler_file is None else ("--scheduler-file", str(scheduler_file))
        scheduler = start("scheduler", "--host", address, "--no-dashboard", "--no-show", *file)
        started = [
            start("worker", address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1") for _ in range(workers)
        ]
        _wait_for_workers(address, workers)
        yield Cluster(address, scheduler, started)


def start_dask(
    stack: ExitStack, directory: Path, environment: Mapping[str, str], *words: str
) -> subprocess.Popen[bytes]:
    """`dask scheduler` or `dask worker`, ended with `stack`; its messages go to `dask.log` in `directory`."""
    with open(directory / "dask.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=directory,
            start_new_session=True,
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_workers(address: str, count: int) -> None:
    client_class: Any = importlib.import_module("distributed").Client

    with client_class(address, timeout="30s", set_as_default=False) as client:
        if count:
            client.wait_for_workers(count, timeout=60)


def write_shelf(directory: Path, count: int = 120) -> Path:
    directory.mkdir()
    for number in range(count):
        (directory / f"{number:03}.tar").write_bytes(archive(f"app{number % 10}", number))
    return directory


class KillsOneWorker:
    """Progress that ends a worker in the middle of the run."""

    def __init__(self, worker: subprocess.Popen[bytes], after: int) -> None:
        self.finished = self.lost = 0
        self._worker = worker
        self._after = after

    def emit(self, event: Event, /) -> None:
        self.finished += event.kind == "finished"
        self.lost += "was lost; others take its" in event.message
        if event.kind == "finished" and self.finished == self._after:
            os.killpg(self._worker.pid, signal.SIGKILL)


def request(shelf: Path, target: Path) -> BatchRequest:
    return BatchRequest(
        target=str(target), options=ConvertOptions(jobs=2, exact_sizes=True), locations=[str(shelf)], scheduler="x"
    )


def without_report(layout: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_of(layout).items() if name != "migration-report.json"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestDask:
    def test_the_command_gives_the_bytes_of_a_local_run(self, tmp_path: Path) -> None:
        shelf = write_shelf(tmp_path / "shelf", 40)
        with cluster(tmp_path) as dask:
            result = migrate("batch", "--scheduler", dask.address, shelf, tmp_path / "dask")
        assert result.code == 0, result.err
        assert migrate("batch", shelf, tmp_path / "local").code == 0
        assert files_of(tmp_path / "dask") == files_of(tmp_path / "local")

    def test_a_worker_killed_in_the_middle_costs_nothing(self, tmp_path: Path) -> None:
        shelf = write_shelf(tmp_path / "shelf")
        with cluster(tmp_path) as dask:

            def pools(asked: PoolRequest) -> WorkerPool:
                del asked
                return DaskPool.connect(dask.address)

            progress = KillsOneWorker(dask.workers[0], 20)
            outcome = run_batch(request(shelf, tmp_path / "dask"), progress, pools)
        assert len(outcome.lists[SourceOutcome.CONVERTED]) == 120
        assert progress.finished == 120
        assert progress.lost == 1
        assert max(row.tries for row in outcome.rows) >= 2
        assert migrate("batch", shelf, tmp_path / "local").code == 0
        assert files_of(tmp_path / "dask").keys() == files_of(tmp_path / "local").keys()
        assert without_report(tmp_path / "dask") == without_report(tmp_path / "local")

    def test_a_poisoned_archive_fails_alone(self, tmp_path: Path) -> None:
        shelf = write_shelf(tmp_path / "shelf", 6)
        (shelf / "poison.tar").write_bytes(archive("poison"))
        with cluster(tmp_path) as dask:

            def pools(asked: PoolRequest) -> WorkerPool:
                del asked
                return DaskPool.connect(dask.address, poison.work)

            outcome = run_batch(request(shelf, tmp_path / "dask"), SilentProgress(), pools)
        assert [Path(path).name for path in outcome.lists[SourceOutcome.FAILED]] == ["poison.tar"]
        assert outcome.head is not None
        assert [failure.error for failure in outcome.head.failures] == ["worker-died"]
        (shelf / "poison.tar").unlink()
        assert migrate("batch", shelf, tmp_path / "local").code == 0
        assert without_report(tmp_path / "dask") == without_report(tmp_path / "local")

    def test_a_scheduler_that_is_not_there_is_a_usage_error(self, tmp_path: Path) -> None:
        address = f"tcp://127.0.0.1:{free_port()}"
        (tmp_path / "a.tar").write_bytes(archive("a"))
        result = migrate("batch", "--scheduler", address, tmp_path / "a.tar", tmp_path / "out")
        assert result.code == 2
        assert "no Dask scheduler answers there" in result.err
