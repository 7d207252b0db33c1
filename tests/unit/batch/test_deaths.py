"""Whose fault the death of a worker is. The pool is one of a test: it ends tasks as its script has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from migrate.batch.executors import ExecutorPool
from migrate.batch.journal import JournalEntry, JournalWriter
from migrate.batch.plan import Candidate, Plan, SourceIdentity, Task
from migrate.batch.run import TaskRun
from migrate.batch.task import WorkOrder, failed_entry
from migrate.batch.worker_pool import WorkerPool
from migrate.errors import TargetError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.storage.directory_store import DirectoryStore
from tests import poison
from tests.shelves import archive, journal_of

ORDER = WorkOrder(run="0" * 16, recipe="r", target=None, state="/", options=ConvertOptions())


def task_of(number: int, *names: str) -> Task:
    return Task(number, tuple(Candidate(f"/{name}", SourceIdentity(1, "mark"), number) for name in names))


class OnePool(WorkerPool):
    """Two workers that die together when one of them does. `kills`: how often a source ends its worker. `each`: so many
    workers die of it before the pool reports that."""

    isolates = True
    workers = 2

    def __init__(self, kills: dict[str, int], each: int = 1) -> None:
        self.kills = Counter(kills)
        self.each = each
        self.given: list[str] = []
        self._together: list[tuple[Task, Future[list[JournalEntry]]]] = []

    def submit(self, order: WorkOrder, task: Task, /, avoid: Collection[str] = ()) -> Future[list[JournalEntry]]:
        del order, avoid
        future: Future[list[JournalEntry]] = Future()
        self._together.append((task, future))
        if len(self._together) == self.workers:
            self._end(self._together)
            self._together = []
        return future

    def submit_alone(self, order: WorkOrder, task: Task, /) -> Future[list[JournalEntry]]:
        del order
        future: Future[list[JournalEntry]] = Future()
        self._end([(task, future)])
        return future

    def deaths(self, error: BaseException, /) -> int:
        return self.each * isinstance(error, BrokenExecutor)

    def stop(self, *, at_once: bool) -> None:
        del at_once

    def _end(self, given: list[tuple[Task, Future[list[JournalEntry]]]]) -> None:
        names = [source.location[1:] for task, _ in given for source in task.sources]
        killer = next((name for name in names if self.kills[name] > 0), None)  # the others did not come to theirs
        if killer is not None:
            self.kills[killer] -= self.each
        for task, future in given:
            if killer is None:
                future.set_result([failed_entry(ORDER, source, "read", "read") for source in task.sources])
            else:
                future.set_exception(BrokenExecutor())


@pytest.mark.parametrize(
    ("kills", "each", "failed", "tries"),
    [
        pytest.param({}, 1, set(), {"a": 1, "b": 1}, id="nobody"),
        pytest.param({"a": 99}, 1, {"a"}, {"a": 3, "b": 2}, id="always"),
        pytest.param({"b": 1}, 1, set(), {"a": 2, "b": 2}, id="once"),
        pytest.param({"a": 99, "b": 1}, 1, {"a"}, {"a": 3, "b": 3}, id="once beside always"),
        pytest.param({"a": 1, "b": 1}, 1, set(), {"a": 2, "b": 3}, id="once beside once"),
        pytest.param({"a": 99, "b": 99}, 1, {"a", "b"}, {"a": 3, "b": 3}, id="both always"),
        pytest.param({"b": 2}, 2, set(), {"a": 3, "b": 3}, id="several at once, together"),
        pytest.param({"a": 99}, 2, {"a"}, {"a": 4, "b": 3}, id="several at once, always"),
    ],
)
def test_only_a_source_that_ends_workers_by_itself_has_failed(
    kills: dict[str, int], each: int, failed: set[str], tries: dict[str, int], tmp_path: Path
) -> None:
    plan = Plan((task_of(0, "a"), task_of(1, "b")))
    with closing(DirectoryStore(tmp_path)) as store, closing(JournalWriter(store, None)) as journal:
        TaskRun(ORDER, plan, OnePool(kills, each), journal, SilentProgress()).run()
    lines = {line["source"][1:]: line for line in journal_of(tmp_path)}
    assert {name for name, line in lines.items() if line["error"] == "worker-died"} == failed
    assert {name: line.get("tries", 1) for name, line in lines.items()} == tries


def test_an_executor_that_has_lost_its_processes_ends_the_run_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "poison.tar").write_bytes(archive("poison"))
    with ProcessPoolExecutor(1) as executor:
        pool = ExecutorPool(executor, 1, is_ours=False, work=poison.work)
        task = Task(0, (Candidate(str(tmp_path / "poison.tar"), SourceIdentity(1, "mark"), 0),))
        assert pool.deaths(pool.submit(ORDER, task).exception() or OSError()) == 1
        with pytest.raises(TargetError, match="executor"):
            pool.submit_alone(ORDER, task)
