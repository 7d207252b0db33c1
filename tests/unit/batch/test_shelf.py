"""A shelf that changes between two runs: what is left to do, and what is there no longer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.batch.batch import BatchOutcome, BatchRequest, run_batch
from migrate.batch.executors import ExecutorPool, PoolRequest, open_pool
from migrate.batch.plan import Task
from migrate.batch.task import WorkOrder
from migrate.batch.worker_pool import WorkerPool
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.report.document import Report
from migrate.report.text import RunFacts, render_text
from tests.shelves import archive, files_of

OPTIONS = ConvertOptions(exact_sizes=True)
DRY = ConvertOptions(exact_sizes=True, dry_run=True)


class Shelf:
    """Runs of batch over one directory; `read` are the names of the files that the latest one has opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "shelf"
        self.target = folder / "target"
        self.folder.mkdir()
        self.read: list[str] = []

    def add(self, *names: str) -> None:
        for name in names:
            (self.folder / f"{name}.tar").write_bytes(archive(name))

    def run(self, options: ConvertOptions = OPTIONS, *locations: str) -> BatchOutcome:
        self.read = []
        named = locations or (str(self.folder),)
        request = BatchRequest(target=str(self.target), options=options, locations=named)
        return run_batch(request, SilentProgress(), self._pool)

    def _pool(self, asked: PoolRequest) -> WorkerPool:
        pool = open_pool(PoolRequest(executor="threads", workers=2))
        assert isinstance(pool, ExecutorPool)
        return _Watched(pool, lambda task: self.read.extend(Path(one.location).stem for one in task.sources))


class _Watched(ExecutorPool):
    def __init__(self, pool: ExecutorPool, see: Callable[[Task], None]) -> None:
        super().__init__(pool._executor, pool.workers)
        self._see = see

    def submit(self, order: WorkOrder, task: Task, /, avoid: object = ()):  # type: ignore[no-untyped-def]
        self._see(task)
        return super().submit(order, task)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path)
    made.add("one", "two", "three")
    return made


def report_of(outcome: BatchOutcome) -> Report:
    try:
        return outcome.read_report()
    finally:
        outcome.close()


def summary(outcome: BatchOutcome) -> str:
    assert outcome.head is not None
    return render_text(outcome.head, width=1_000, facts=RunFacts(done_before=outcome.account.already_done))


def test_a_dry_run_reads_only_what_no_run_has_read(shelf: Shelf) -> None:
    report_of(shelf.run())
    shelf.add("four")
    before = {path: path.read_bytes() for path in shelf.target.rglob("*") if path.is_file()}
    outcome = shelf.run(DRY)
    assert shelf.read == ["four"]
    assert "4 converted, 3 of them done before, 1 left to do" in summary(outcome)
    planned = report_of(outcome)
    assert {path: path.read_bytes() for path in shelf.target.rglob("*") if path.is_file()} == before
    assert report_of(shelf.run()).images == planned.images
    outcome = shelf.run(DRY)
    assert shelf.read == [] and "4 converted, 4 of them done before, 0 left to do" in summary(outcome)
    outcome.close()


def test_a_dry_run_on_no_target_makes_none(shelf: Shelf) -> None:
    outcome = shelf.run(DRY)
    assert len(shelf.read) == 3 and not shelf.target.exists()
    assert "left to do" not in summary(outcome)
    outcome.close()


@pytest.mark.parametrize("named", ["directory", "glob", "deep glob"])
def test_what_has_left_the_shelf_is_listed_and_its_images_stay(named: str, shelf: Shelf) -> None:
    location = {
        "directory": str(shelf.folder),
        "glob": f"{shelf.folder}/*.tar",
        "deep glob": f"{shelf.folder.parent}/**/*.tar",
    }[named]
    report_of(shelf.run(OPTIONS, location))
    images = set(os.listdir(shelf.target / "blobs" / "sha256"))
    gone = shelf.folder / "two.tar"
    gone.unlink()
    for _ in range(2):
        outcome = shelf.run(OPTIONS, location)
        assert outcome.exit_code == 0
        assert f"{gone}: " in summary(outcome).partition("Warnings")[2]
        report = report_of(outcome)
        assert [text for text in report.warnings if text.startswith(f"{gone}: ") and "no longer" in text]
        assert {row.location for row in report.sources} == {f"{shelf.folder}/{name}.tar" for name in ("one", "three")}
        assert images <= set(os.listdir(shelf.target / "blobs" / "sha256"))
    before = files_of(shelf.target)
    report_of(shelf.run(OPTIONS, location))
    assert files_of(shelf.target) == before


def test_another_shelf_is_not_missed(shelf: Shelf, tmp_path: Path) -> None:
    report_of(shelf.run())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "five.tar").write_bytes(archive("five"))
    (shelf.folder / "one.tar").unlink()
    outcome = shelf.run(OPTIONS, str(tmp_path / "other"))
    assert "no longer" not in summary(outcome)
    outcome.close()
