"""Which worker of a Dask cluster a task may go to. The cluster is one of a test: it notes what it is given."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from migrate.batch import dask_pool, worker_pool
from migrate.batch.dask_pool import DaskPool
from migrate.batch.plan import Candidate, Plan, SourceIdentity, Task
from migrate.batch.preflight import samples_of
from migrate.batch.task import WorkOrder, failed_entry
from migrate.batch.waits import Silence, silent_places
from migrate.errors import TargetError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from tests.shelves import Recorder

ORDER = WorkOrder(run="0" * 16, recipe="r", target=None, state="/", options=ConvertOptions())
TASK = Task(0, (Candidate("/shelf/a.tar", SourceIdentity(1, "mark"), 0),))


class Call:
    status = "error"

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Call], None]] = []

    def add_done_callback(self, callback: Callable[[Call], None]) -> None:
        self.callbacks.append(callback)

    def result(self, timeout: float) -> Any:
        del timeout
        raise OSError("the worker is gone")

    def end(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback(self)


class Client:
    status = "running"

    def __init__(self, threads: dict[str, int]) -> None:
        self.threads = threads
        self.calls: list[Call] = []
        self.allowed: list[list[str] | None] = []

    def nthreads(self, callback_timeout: float) -> dict[str, int]:
        del callback_timeout
        return self.threads

    def submit(self, *work: Any, key: tuple[str, ...], workers: list[str] | None = None, **options: Any) -> Call:
        assert "".join(key).encode()  # Dask loses its connection over a key that is no UTF-8
        assert all(part.isprintable() for part in key)
        assert options.get("allow_other_workers", False) == (workers is not None)  # none of them may be there later
        self.allowed.append(workers)
        self.calls.append(Call())
        return self.calls[-1]


@pytest.mark.parametrize(
    ("threads", "isolates"),
    [({"a": 1, "b": 1, "c": 1}, True), ({"a": 1}, False), ({"a": 2, "b": 1}, False), ({}, False)],
)
def test_a_task_that_may_end_its_worker_has_one_to_itself(threads: dict[str, int], isolates: bool) -> None:
    client = Client(threads)
    pool = DaskPool(client)
    assert pool.isolates == isolates
    pool.submit(ORDER, TASK)
    alone = pool.submit_alone(ORDER, TASK)
    pool.submit(ORDER, TASK)
    client.calls[1].end()
    assert isinstance(alone.exception(), OSError)
    pool.submit(ORDER, TASK)
    assert client.allowed == ([None, ["a"], ["b", "c"], None] if isolates else [None] * 4)


def test_a_worker_that_does_not_see_a_source_does_not_get_it_again() -> None:
    client = Client({"a": 1, "b": 1})
    DaskPool(client).submit(ORDER, TASK, avoid=["a"])
    assert client.allowed == [["b"]]


@pytest.mark.parametrize("name", ["caf\udce9.tar", "two\nlines.tar", "\x1b[2J.tar", "caf\u00e9.tar", "x" * 300, "/"])
def test_the_name_of_a_task_is_text_whatever_its_source_is_called(name: str) -> None:
    client = Client({"a": 1})
    DaskPool(client).submit(ORDER, Task(0, (Candidate(f"/shelf/{name}", SourceIdentity(1, "mark"), 0),)))
    assert len(client.calls) == 1


def test_no_worker_has_to_read_what_cannot_be_read_here(tmp_path: Path) -> None:
    names = ["archive.tar", "folder", "lost.tar", "gone.tar", "loop.tar"]
    (tmp_path / "archive.tar").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "lost.tar").symlink_to("nowhere")
    (tmp_path / "loop.tar").symlink_to("loop.tar")
    sources = [Candidate(str(tmp_path / name), SourceIdentity(1, "mark"), place) for place, name in enumerate(names)]
    assert samples_of([Task(0, tuple(sources))]) == [str(tmp_path / name) for name in names[:2]]


# --- silence -----------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Scheduler(Client):
    """One whose workers are `busy`, `stopped`, `paused` or gone."""

    def __init__(self, clock: Clock, workers: dict[str, str]) -> None:
        super().__init__(dict.fromkeys(workers, 1))
        self.id = "Scheduler-1"
        self._clock = clock
        self._workers = workers

    def scheduler_info(self, n_workers: int) -> Any:
        def seen(state: str) -> float:
            return 0.0 if state == "stopped" else self._clock.now

        def facts(state: str) -> dict[str, object]:
            return {"last_seen": seen(state), "status": "paused" if state == "paused" else "running"}

        workers = {worker: facts(state) for worker, state in self._workers.items() if n_workers}
        return {"id": self.id, "workers": workers}


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ({}, "the Dask cluster has no workers"),
        ({"a": "stopped", "b": "busy"}, "worker a has not answered lately"),
        ({"c": "stopped", "a": "stopped", "b": "busy"}, "worker a and 1 more have not answered lately"),
        ({"a": "paused"}, "worker a has been paused by Dask, whose memory limit is near"),
        ({"a": "busy"}, None),
    ],
)
def test_tasks_that_wait_are_reported_at_least_every_ten_seconds(
    workers: dict[str, str], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, progress = Clock(), Recorder()
    monkeypatch.setattr(dask_pool, "time", clock)
    pool, silence = DaskPool(Scheduler(clock, workers)), Silence(clock.monotonic)
    told: list[float] = []
    for _ in range(2 * 120):
        clock.now += 0.5
        silence.report(pool.watch([], silence.seconds, progress), 3, "/a.tar", progress)
        told += [clock.now] * (len(progress.events) - len(told))
    assert [event.message.partition("; ")[0] or None for event in progress.events] == [message] * 13
    assert max(two - one for one, two in pairwise([1_000, *told])) < 10
    assert not message or all("; 3 tasks wait, " in event.message for event in progress.events)


def test_nothing_is_reported_while_tasks_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, progress = Clock(), Recorder()
    monkeypatch.setattr(dask_pool, "time", clock)
    client = Scheduler(clock, {"a": "stopped", "b": "busy"})
    pool, silence = DaskPool(client), Silence(clock.monotonic)
    for _ in range(100):
        clock.now += 2
        silence.end()
        silence.report(pool.watch([], silence.seconds, progress), 3, "/a.tar", progress)
    assert progress.events == []


class Hanging(Scheduler):
    """One whose workers `silent` wait for the places that they are asked about."""

    silent: Mapping[str, Mapping[str, float]]
    asked: threading.Event

    def run(self, function: Callable[..., Any], places: Sequence[str], *, on_error: str) -> Any:
        assert function is silent_places and list(places) == ["/shelf/a.tar", "oci:/out"] and on_error == "ignore"
        self.asked.set()
        return self.silent


@pytest.mark.parametrize(
    ("silent", "message"),
    [
        ({"a": {}, "b": {"/shelf/a.tar": 9.0, "oci:/out": 6.0}}, "worker b: /shelf/a.tar does not answer"),
        ({"a": {"/shelf/a.tar": 1.0}, "b": {"oci:/out": 60.0}}, "worker b: oci:/out does not answer"),
        ({"a": {"/shelf/a.tar": 1.0}, "b": {}}, None),
    ],
)
def test_a_worker_that_waits_for_a_disk_or_a_store_is_named(
    silent: Mapping[str, Mapping[str, float]], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(dask_pool, "time", clock)
    monkeypatch.setattr(worker_pool, "silent_places", lambda places: {})
    client = Hanging(clock, {"a": "busy", "b": "busy"})
    client.silent = silent
    pool = DaskPool(client)
    causes = []
    for _ in range(2):
        client.asked = threading.Event()
        causes.append(pool.watch(["/shelf/a.tar", "oci:/out"], 5.0, SilentProgress()))
        assert client.asked.wait(10)
        assert pool._asking is not None
        pool._asking.join()
    assert (causes[1] is not None) == (message is not None)
    assert causes[1] is None or causes[1][0] == message


class Frozen(Client):
    """A scheduler, or a worker, that has stopped: calls do not return before the test ends."""

    def __init__(self) -> None:
        super().__init__({"a": 1})
        self.ended = threading.Event()

    def scheduler_info(self, n_workers: int) -> Any:
        del n_workers
        self.ended.wait(60)

    def run(self, function: Callable[..., Any]) -> None:
        del function
        self.ended.wait(60)


def test_calls_to_what_has_stopped_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_pool, "_CONNECT_SECONDS", 0.01)
    client = Frozen()
    pool = DaskPool(client)
    with pytest.raises(TargetError, match="the Dask scheduler is lost"):
        pool.prove(ORDER, Plan(()), SilentProgress())
    pool.stop(at_once=False)
    client.ended.set()


def test_a_scheduler_that_was_started_again_has_lost_the_tasks() -> None:
    client = Scheduler(Clock(), {"a": "busy"})
    pool = DaskPool(client)
    pool.prove(ORDER, Plan(()), SilentProgress())
    assert pool.deaths(CancelledError()) == 1  # of a worker that had the result
    client.id = "Scheduler-2"
    with pytest.raises(TargetError, match="the Dask scheduler is lost"):
        pool.deaths(CancelledError())


class Reporting(Scheduler):
    """One that sends its events, and whose calls succeed."""

    def subscribe_topic(self, topic: str, handler: Callable[[tuple[float, Any]], None]) -> None:
        assert topic == "all"
        self.report = handler

    def submit(self, *work: Any, key: tuple[str, ...], workers: list[str] | None = None, **options: Any) -> Call:
        self.keys = [*getattr(self, "keys", []), key]
        call = super().submit(*work, key=key, workers=workers, **options)
        entries = [failed_entry(ORDER, source, "other", "") for source in work[2].sources]
        call.result = lambda timeout: ("b", "mark", entries)  # type: ignore[method-assign]
        return call


def test_a_lost_worker_is_reported_once_with_its_tasks_which_count_it_as_tried() -> None:
    client, progress = Reporting(Clock(), {"b": "busy"}), Recorder()
    pool = DaskPool(client, is_ours=True)
    futures = [pool.submit(ORDER, replace(TASK, number=number)) for number in range(6)]
    others = ["migrate-check-1", ("migrate batch", "c.tar", "other-run-1"), ("task", 1, 2)]
    for action, worker, keys in (
        ("add-worker", "c", client.keys),
        ("remove-worker", "retired", []),
        ("remove-worker", "c", others),
        ("remove-worker", "a", [*others, *client.keys[:5]]),
        ("remove-worker", "d", [list(client.keys[0])]),
    ):
        client.report((0.0, {"action": action, "worker": worker, "processing-tasks": keys}))
    client.report((0.0, "an event of another program"))
    for _ in range(2):
        pool.watch([], 0.0, progress)
    assert [event.message for event in progress.events] == [
        "worker a was lost; others take its 5 tasks: a.tar, a.tar, a.tar, …",
        "worker d was lost; others take its 1 task: a.tar",
    ]
    for call in client.calls:
        call.status = "finished"
        call.end()
    assert [entry.tries for future in futures for entry in future.result()] == [3, 2, 2, 2, 2, 1]


def test_the_result_of_a_worker_that_died_after_the_task_is_taken_from_the_next_one() -> None:
    client = Reporting(Clock(), {"b": "busy"})
    future = DaskPool(client).submit(ORDER, TASK)
    call, tried = client.calls[0], []
    call.status, result = "finished", call.result

    def lost(timeout: float) -> Any:
        tried.append(timeout)
        raise TimeoutError

    call.result = lost  # type: ignore[method-assign]
    for _ in range(3):
        call.end()
    assert not future.done() and tried == [3.0, 6.0, 12.0]
    call.result = result  # type: ignore[method-assign]
    call.end()
    assert [entry.worker for entry in future.result()] == ["b"]


def test_a_task_that_itself_runs_out_of_time_has_failed() -> None:
    client = Client({"a": 1})
    future = DaskPool(client).submit(ORDER, TASK)

    def failed(timeout: float) -> Any:
        raise TimeoutError(f"a socket, after {timeout:.0f} s")

    client.calls[0].result = failed  # type: ignore[method-assign]
    client.calls[0].end()
    assert isinstance(future.exception(), TimeoutError)


def test_deaths_are_counted_as_dask_counts_them() -> None:
    distributed: Any = importlib.import_module("distributed")
    pool = DaskPool(Client({"a": 1}))
    assert pool.deaths(distributed.KilledWorker("task", None, 3)) == 4
    assert pool.deaths(OSError()) == 0
