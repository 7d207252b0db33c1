from __future__ import annotations

import os
import threading

import pytest

from migrate.blobio.stopping import check_stop
from migrate.errors import InterruptedRunError, TargetError
from migrate.rehash.workers import Workers, batches


def test_one_job_runs_on_the_callers_thread() -> None:
    seen: list[int] = []
    with Workers(1) as workers:
        workers.each([[1, 2], [3]], lambda item: seen.append(item * (threading.current_thread() is caller)))
    assert seen == [1, 2, 3]


caller = threading.current_thread()


@pytest.mark.parametrize("jobs", [2, 5])
def test_every_item_is_done_once_and_waves_follow_each_other(jobs: int) -> None:
    seen: list[int] = []
    with Workers(jobs) as workers:
        for wave in range(20):
            workers.each([[wave] * 3] * 7, seen.append)
            assert len(seen) == (wave + 1) * 21
        workers.each([], seen.append)
    assert sorted(seen) == seen
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rehash")]


def test_no_thread_is_started_that_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    before = threading.active_count()
    with Workers(1000) as workers:
        workers.each([[1], [2]], lambda item: None)
        assert threading.active_count() == before + 8
        workers.each([[number] for number in range(20)], lambda item: None)
        assert threading.active_count() == before + 20


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_the_work_is_done_with_fewer_threads_than_asked_for(allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    with Workers(8) as workers:
        workers.each([[number] for number in range(10)], done.append)
    assert sorted(done) == list(range(10))
    assert len(started) == allowed


def test_idle_threads_take_blocks_and_an_unbegun_one_can_be_taken_back() -> None:
    done = threading.Event()
    with Workers(2) as workers:

        def step(item: int) -> None:
            assert workers.has_idle_threads()
            workers.offer(done.set)
            assert done.wait(10)
            assert not workers.take_back(done.set)

        workers.each([[1]], step)


class _LargeTask:
    """A block: text of it would be megabytes."""

    def __init__(self) -> None:
        self.done = threading.Event()

    def __call__(self) -> None:
        self.done.set()

    def __repr__(self) -> str:
        raise AssertionError("no text of a task is needed")


def test_no_text_is_made_of_a_task_that_has_begun() -> None:
    def step(task: _LargeTask) -> None:
        workers.offer(task)
        assert task.done.wait(10)
        assert not workers.take_back(task)

    with Workers(2) as workers:
        workers.each([[_LargeTask()]], step)


def test_the_first_error_comes_out_and_stops_the_others() -> None:
    begun, failed = threading.Event(), threading.Event()

    def step(item: str) -> None:
        if item == "bad":
            assert begun.wait(10)
            failed.set()
            raise TargetError("disk full")
        begun.set()
        assert failed.wait(10)
        while True:
            workers.check_stop()

    with pytest.raises(TargetError, match="disk full"), Workers(2) as workers:
        workers.each([["spin"], ["bad"]], step)
    with pytest.raises(InterruptedRunError):
        workers.check_stop()


def test_small_items_share_a_batch() -> None:
    sizes: list[int | None] = [*[100_000] * 12, None, 2_000_000, 20_000, 1_000_000, 500_000]
    grouped = list(batches(sizes, lambda size: size))
    assert [len(batch) for batch in grouped] == [10, 2, 1, 1, 2, 1]
    assert [size for batch in grouped for size in batch] == sizes


def test_all_tiny_items_are_one_batch_at_the_end() -> None:
    """They are Python all the way: on two threads they take longer than on one."""
    sizes: list[int | None] = [*[10] * 300, 2_000_000, *[16 * 1024] * 300]
    assert [len(batch) for batch in batches(sizes, lambda size: size)] == [1, 600]


def test_what_a_thread_reads_asks_the_workers() -> None:
    begun = threading.Event()

    def step(item: str) -> None:
        if item == "bad":
            assert begun.wait(10)
            raise TargetError("disk full")
        begun.set()
        for _ in range(10_000_000):
            check_stop()
        raise AssertionError("it was not stopped")

    with pytest.raises(TargetError, match="disk full"), Workers(2) as workers:
        workers.each([["reads for long"], ["bad"]], step)
    check_stop()  # the caller's own thread is asked by nobody


def test_threads_that_hang_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    begun = threading.Barrier(4)

    def step(item: int) -> None:
        begun.wait(10)
        if item == 0:
            raise TargetError("disk full")
        may_end.wait(10)

    waited: list[float | None] = []
    monkeypatch.setattr(threading.Thread, "join", lambda self, timeout=None: waited.append(timeout))
    clock = iter([100.0, 100.5, 101.5, 103.0, 104.0])
    monkeypatch.setattr("migrate.rehash.workers.time.monotonic", lambda: next(clock))
    with pytest.raises(TargetError, match="disk full"), Workers(4) as workers:
        workers.each([[0], [1], [2], [3]], step)
    assert waited == [1.5, 0.5, 0.0, 0.0]
    may_end.set()
