from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.batch.plan import Candidate, Finished, Shard, SourceIdentity, SourceOutcome, Task, plan_tasks, split
from migrate.errors import UsageError

MIB = 1024 * 1024


def candidate(number: int, size: int | None = 1_000, mark: str = "mtime 1") -> Candidate:
    return Candidate(f"/shelf/{number:05}.tar", SourceIdentity(size, mark), number)


def locations(tasks: Iterable[Task]) -> list[list[str]]:
    return [[source.location for source in task.sources] for task in tasks]


def test_small_sources_share_tasks_and_large_ones_do_not() -> None:
    sizes = [1_000, 1_000, 100 * MIB, None, 1_000, 20 * MIB, 20 * MIB]
    shelf = [candidate(number, size) for number, size in enumerate(sizes)] + [candidate(n) for n in range(7, 40)]
    plan = plan_tasks(shelf, {}, "r", workers=1)
    assert [len(task.sources) for task in plan.tasks][:6] == [2, 1, 1, 2, 5, 5]
    assert [name for task in locations(plan.tasks) for name in task] == [source.location for source in shelf]
    assert plan.sources == len(shelf)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 400), st.integers(1, 64))
def test_there_are_tasks_for_every_worker_while_there_are_sources(count: int, workers: int) -> None:
    plan = plan_tasks([candidate(number) for number in range(count)], {}, "r", workers=workers)
    assert len(plan.tasks) >= min(count, workers)
    assert max(len(task.sources) for task in plan.tasks) <= 64


def test_what_is_finished_and_unchanged_is_not_read_again() -> None:
    shelf = [candidate(number) for number in range(5)]
    finished = {
        shelf[0].location: Finished(shelf[0].identity, "r", SourceOutcome.CONVERTED),
        shelf[1].location: Finished(SourceIdentity(1_000, "mtime 2"), "r", SourceOutcome.CONVERTED),
        shelf[2].location: Finished(shelf[2].identity, "other options", SourceOutcome.CONVERTED),
        shelf[3].location: Finished(shelf[3].identity, "r", SourceOutcome.FAILED),
    }
    plan = plan_tasks(shelf, finished, "r", workers=1)
    assert plan.done == {shelf[0].location: SourceOutcome.CONVERTED, shelf[3].location: SourceOutcome.FAILED}
    assert [task.sources[0].order for task in plan.tasks] == [1, 2, 4]
    again = plan_tasks(shelf, finished, "r", workers=1, retry_failed=True)
    assert [task.sources[0].order for task in again.tasks] == [1, 2, 3, 4]


def test_split_gives_every_source_a_task() -> None:
    task = plan_tasks([candidate(number) for number in range(40)], {}, "r", workers=1).tasks[0]
    assert locations(split(task)) == [[source.location] for source in task.sources]


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "a/b", "1/2/3", "-1/3", "1 /3", f"1/{'9' * 5000}"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="3/8"):
        Shard.parse(text)


def test_every_source_is_in_one_shard_whatever_else_is_there() -> None:
    names = [f"/shelf/{number}.tar" for number in range(500)]
    parts = [[name for name in names if Shard(number, 7).holds(name)] for number in range(1, 8)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(30 < len(part) < 120 for part in parts)
    assert str(Shard.parse("3/8")) == "3/8"
