"""A Dask cluster as a pool of workers: https://distributed.dask.org.

The cluster may belong to somebody else: addresses, TLS and credentials come from Dask's own configuration, and nothing
is closed that was not opened here. What the cluster does wrong is one line, an exit code, and no wait without a word.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any, Final

from migrate.batch.executors import Work, WorkerPool
from migrate.batch.journal import JournalEntry
from migrate.batch.plan import Plan, Task
from migrate.batch.preflight import check_loads, check_mark, check_reports, examine_worker, remove_marks, samples_of
from migrate.batch.task import WorkOrder, close_workers, run_task
from migrate.errors import MigrateError, TargetError, UsageError
from migrate.model.progress import Event, Progress
from migrate.report.tables import printable

FROM_CONFIGURATION: Final = "auto"
"""The scheduler that Dask's configuration names: DASK_SCHEDULER_ADDRESS, DASK_SCHEDULER_FILE, or a file of it."""
_CONNECT_SECONDS: Final = 10.0
_SILENT_SECONDS: Final = 10.0
"""So long nothing may happen without a line with the reason."""
_ASK_SECONDS: Final = 1.0
_BACKLOG: Final = 64
"""Tasks that wait at the scheduler at least: an adaptive cluster grows by what waits, not by what runs."""


class DaskPool(WorkerPool):
    """Workers of the cluster of `client`. UsageError if no cluster can be reached."""

    def __init__(self, client: Any, *, is_ours: bool = False, work: Work = run_task) -> None:
        distributed = _distributed()
        self._client = client
        self._is_ours = is_ours
        self._work = work
        self._deaths: tuple[type[BaseException], ...] = (distributed.KilledWorker, CancelledError)
        self._run = secrets.token_hex(4)
        self._number = 0
        self._checked: set[str] = set()
        self._order: WorkOrder | None = None
        self._reserved: str | None = None
        self._alone_since: float | None = None
        self._was_told = False
        self._known: dict[str, int] = {}
        self._asked = -_ASK_SECONDS

    @classmethod
    def connect(cls, scheduler: str, work: Work = run_task) -> DaskPool:
        """`scheduler`: an address, a scheduler file, or `auto` for what is in Dask's configuration."""
        return cls(_connect(scheduler), is_ours=True, work=work)

    @property
    def workers(self) -> int:
        return max(1, sum(self._threads_by_worker().values()))

    def _threads_by_worker(self) -> dict[str, int]:
        """Of the workers that are there now, listed once in a while. TargetError where the scheduler is lost."""
        if self._client.status != "running":  # else the client would wait for a connection for ever
            raise _lost()
        if time.monotonic() - self._asked >= _ASK_SECONDS:
            try:
                self._known = dict(self._client.nthreads(callback_timeout=_CONNECT_SECONDS))
            except Exception as error:
                raise _lost() from error
            self._asked = time.monotonic()
        return self._known

    @property
    def backlog(self) -> int:
        return max(2 * self.workers, _BACKLOG)

    # --- before the first task -----------------------------------------------------------------------------------

    def prove(self, order: WorkOrder, plan: Plan, progress: Progress) -> None:
        """Every worker that is there; those that come later are proven by the first thing that they finish."""
        if not plan.tasks:
            return
        self._order = order
        workers = list(self._threads_by_worker())
        if not workers:
            progress.emit(Event(kind="notice", message="the Dask cluster has no workers yet; waiting"))
            self._was_told = True
            return
        marks = {worker: f"{order.run}-{number}" for number, worker in enumerate(sorted(workers))}
        samples = samples_of(plan.tasks)
        # A worker that cannot load this package cannot even report that when it gets a function of it.
        loads = self._on_each(workers, progress, lambda worker: (_package_loader(),))
        check_loads(loads)
        reports = self._on_each(list(loads), progress, lambda worker: (examine_worker, order, samples, marks[worker]))
        check_reports(order, reports, marks)

    def _on_each(
        self, workers: Sequence[str], progress: Progress, work: Callable[[str], tuple[Any, ...]]
    ) -> dict[str, object]:
        """The result of a call on each worker, or the exception that it ended with. Workers that leave are left out."""
        calls = {
            worker: self._client.submit(*work(worker), workers=[worker], key=f"migrate-check-{self._key()}", pure=False)
            for worker in workers
        }
        results = {worker: self._result_of(worker, call, progress) for worker, call in calls.items()}
        return {worker: result for worker, result in results.items() if worker in self._threads_by_worker()}

    def _result_of(self, worker: str, call: Any, progress: Progress) -> object:
        began = time.monotonic()
        was_told = False
        while True:
            try:
                return call.result(timeout=_ASK_SECONDS)
            except TimeoutError as error:
                waited = time.monotonic() - began
                if worker not in self._threads_by_worker() or waited > 3 * _SILENT_SECONDS:
                    return error
                if waited > _SILENT_SECONDS and not was_told:
                    was_told = True
                    progress.emit(Event(kind="notice", message=f"worker {worker} has not answered yet; waiting"))
            except Exception as error:  # noqa: BLE001 - whatever a worker answers with is its report
                return error

    def _key(self) -> str:
        self._number += 1
        return f"{self._run}-{self._number}"

    # --- tasks ---------------------------------------------------------------------------------------------------

    def submit(self, order: WorkOrder, task: Task, /, avoid: Collection[str] = ()) -> Future[list[JournalEntry]]:
        avoided = {*avoid, self._reserved}
        others = [worker for worker in self._threads_by_worker() if worker not in avoided]
        return self._send(order, task, others if others and (avoid or self._reserved) else ())

    def _send(self, order: WorkOrder, task: Task, workers: Sequence[str]) -> Future[list[JournalEntry]]:
        """`workers` are those that shall have it, while one of them is there."""
        where = {"workers": list(workers), "allow_other_workers": True} if workers else {}
        name = printable(os.path.basename(task.sources[0].location.rstrip("/")))[:60]  # a key has to be text
        more = f" and {len(task.sources) - 1:,} more" if len(task.sources) > 1 else ""
        try:
            call = self._client.submit(
                functools.partial(_named_task, self._work),
                order,
                task,
                key=("migrate batch", f"{name}{more}", self._key()),
                pure=False,
                retries=0,
                **where,
            )
        except Exception as error:
            if self._client.status == "running":
                raise
            raise _lost() from error
        future: Future[list[JournalEntry]] = Future()
        future.set_running_or_notify_cancel()
        call.add_done_callback(functools.partial(self._settle, order, future))
        return future

    @property
    def isolates(self) -> bool:
        """Where each worker has one thread, one of them can be kept for a task that may end it. Else the task would
        take with it what the other threads do, and waits until they have nothing to do."""
        threads = self._threads_by_worker().values()
        return len(threads) > 1 and max(threads) == 1

    def submit_alone(self, order: WorkOrder, task: Task, /) -> Future[list[JournalEntry]]:
        self._reserved = min(self._threads_by_worker(), default=None) if self.isolates else None
        future = self._send(order, task, () if self._reserved is None else (self._reserved,))
        future.add_done_callback(self._release)
        return future

    def _release(self, future: Future[list[JournalEntry]]) -> None:
        del future
        self._reserved = None

    def _settle(self, order: WorkOrder, future: Future[list[JournalEntry]], call: Any) -> None:
        """In a thread of the client."""
        try:
            if call.status == "cancelled":
                raise CancelledError
            worker, mark, entries = call.result()
            if worker not in self._checked:  # also what those that were proven have left with their first task
                check_mark(order, worker, mark)
                self._checked.add(worker)
            future.set_result([replace(entry, worker=worker) for entry in entries])
        except BaseException as error:  # noqa: BLE001 - the coordinator takes it from the future
            future.set_exception(error)

    def is_death(self, error: BaseException, /) -> bool:
        """A result that was lost with the worker that held it comes as a cancelled call; so does every one that was
        under way when the scheduler was lost, which is TargetError."""
        self._asked = -_ASK_SECONDS
        self._threads_by_worker()
        return isinstance(error, self._deaths)

    def watch(self, waiting: int, progress: Progress) -> None:
        """TargetError where the scheduler is lost; a line where tasks wait for workers that are not there."""
        if self._threads_by_worker() or not waiting:
            self._alone_since, self._was_told = None, False
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if not self._was_told and now - self._alone_since >= _SILENT_SECONDS:
            self._was_told = True
            message = f"the Dask cluster has no workers; {waiting:,} tasks wait for the first one (Ctrl-C ends the run)"
            progress.emit(Event(kind="notice", message=message))

    def stop(self, *, at_once: bool) -> None:
        with contextlib.suppress(Exception):  # a cluster that is gone does not answer
            if not at_once and self._client.status == "running":
                self._client.run(close_workers)
        if self._order is not None:
            with contextlib.suppress(MigrateError):
                remove_marks(self._order)
        if self._is_ours:
            with contextlib.suppress(Exception):
                self._client.close(timeout=2)


def _lost() -> TargetError:
    return TargetError(
        "the Dask scheduler is lost; what is finished is in the journal, and the same command goes on from there"
    )


def _package_loader() -> Callable[[], None]:
    """A function that is sent as it is, by value: it needs nothing of this package where it runs."""

    def load() -> None:
        import importlib

        importlib.import_module("migrate.batch.preflight")

    return load


_marked_runs: set[str] = set()
"""The runs for which this worker has left its mark: once is enough, however many tasks it gets."""


def _named_task(work: Work, order: WorkOrder, task: Task) -> tuple[str, str, list[JournalEntry]]:
    """Runs on the worker: its address, the mark that it leaves in the target, and the task's entries."""
    worker: str = _distributed().get_worker().address
    mark = f"{order.run}-{abs(hash(worker)):x}"
    if order.run not in _marked_runs:
        examine_worker(order, (), mark)
        _marked_runs.add(order.run)
    return worker, mark, work(order, task)


# --- connecting --------------------------------------------------------------------------------------------------


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as exc:
        raise UsageError("--scheduler needs Dask: pip install 'docker-legacy-migrate[dask]'") from exc


def _connect(scheduler: str) -> Any:
    distributed = _distributed()
    # The client logs every reconnection that it tries; what follows from a lost scheduler is one line of ours.
    for name in ["distributed", *logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    keywords: dict[str, Any] = {"timeout": _CONNECT_SECONDS, "set_as_default": False}
    if scheduler == FROM_CONFIGURATION:
        config: Any = importlib.import_module("dask.config")
        address, file = config.get("scheduler-address", None), config.get("scheduler-file", None)
        if not address and not file:
            raise UsageError(
                "--scheduler auto: Dask's configuration names no scheduler; set DASK_SCHEDULER_ADDRESS, or give one"
            )
        keywords |= {"address": address} if address else {"scheduler_file": file}
    elif "://" not in scheduler and (scheduler.endswith(".json") or os.path.isfile(scheduler)):
        if not os.path.isfile(scheduler):
            raise UsageError(f"--scheduler {scheduler}: there is no such scheduler file")
        keywords["scheduler_file"] = scheduler
    else:
        keywords["address"] = scheduler
    _refuse_web_server(scheduler)
    return _in_time(lambda: distributed.Client(**keywords), scheduler)


def _refuse_web_server(scheduler: str) -> None:
    """The dashboard's port answers in HTTP, for which the client would wait for ever."""
    _, separator, place = scheduler.partition("://")
    host, _, port = place.rpartition(":")
    if not separator or not port.isdigit():
        return
    with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=2) as probe:
        probe.settimeout(1.0)
        probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if probe.recv(5) == b"HTTP/":
            raise UsageError(
                f"--scheduler {scheduler}: a web server answers there, such as the cluster's dashboard; the scheduler"
                " itself listens at another port, 8786 by default"
            )


def _in_time(connect: Callable[[], Any], scheduler: str) -> Any:
    """The client's own timeout does not hold for every way in which a peer can be silent."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(connect())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            found.append(error)

    thread = threading.Thread(target=run, name="dask-connect", daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS + 2)
    if not found:
        raise UsageError(f"--scheduler {scheduler}: no Dask scheduler answers there within {_CONNECT_SECONDS:.0f} s")
    if isinstance(found[0], Exception):  # of any type: an assertion of Dask's where a scheduler file is cut
        why = str(found[0]) or type(found[0]).__name__
        raise UsageError(f"--scheduler {scheduler}: no Dask scheduler answers there ({why})") from found[0]
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]
