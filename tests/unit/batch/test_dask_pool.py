"""Which worker of a Dask cluster a task may go to. The cluster is one of a test: it notes what it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.batch.dask_pool import DaskPool
from migrate.batch.plan import Candidate, Identity, Task
from migrate.batch.preflight import samples_of
from migrate.batch.task import WorkOrder
from migrate.model.options import ConvertOptions

ORDER = WorkOrder(run="0" * 16, recipe="r", target=None, state="/", options=ConvertOptions())
TASK = Task(0, (Candidate("/shelf/a.tar", Identity(1, "mark"), 0),))


class Call:
    status = "error"

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Call], None]] = []

    def add_done_callback(self, callback: Callable[[Call], None]) -> None:
        self.callbacks.append(callback)

    def result(self) -> Any:
        raise OSError("the worker is gone")

    def end(self) -> None:
        for callback in self.callbacks:
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
    DaskPool(client).submit(ORDER, Task(0, (Candidate(f"/shelf/{name}", Identity(1, "mark"), 0),)))
    assert len(client.calls) == 1


def test_no_worker_has_to_read_what_cannot_be_read_here(tmp_path: Path) -> None:
    names = ["archive.tar", "folder", "lost.tar", "gone.tar", "loop.tar"]
    (tmp_path / "archive.tar").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "lost.tar").symlink_to("nowhere")
    (tmp_path / "loop.tar").symlink_to("loop.tar")
    sources = [Candidate(str(tmp_path / name), Identity(1, "mark"), place) for place, name in enumerate(names)]
    assert samples_of([Task(0, tuple(sources))]) == [str(tmp_path / name) for name in names[:2]]
