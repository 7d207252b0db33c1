"""A Dask cluster as a pool of workers: https://distributed.dask.org.

Addresses, TLS and credentials come from Dask's own configuration, and only what was opened here is closed, because the
cluster may be shared. Every fault of the cluster gives one line and an exit code, and every wait gives a message.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Final

from msgspec.structs import replace

from migrate.batch.journal import JournalEntry
from migrate.batch.plan import Plan, Task
from migrate.batch.preflight import (
    check_loads,
    check_mark,
    check_report,
    check_reports,
    examine_worker,
    remove_marks,
    samples_of,
    versions,
)
from migrate.batch.task import WorkOrder, close_workers, run_task
from migrate.batch.waits import SILENT_SECONDS, Cause, silent_place, silent_places
from migrate.batch.worker_pool import Work, WorkerPool
from migrate.errors import MigrateError, TargetError, UsageError
from migrate.model.progress import Event, Progress
from migrate.model.text import printable
from migrate.report.units import count

FROM_CONFIGURATION: Final = "auto"
"""The value for the scheduler in Dask's configuration: DASK_SCHEDULER_ADDRESS, DASK_SCHEDULER_FILE, or a file."""
_CONNECT_SECONDS: Final = 7.0
_PROBE_SECONDS: Final = 5.0
_ASK_SECONDS: Final = 1.0
_RESULT_SECONDS: Final = (3.0, 30.0)
"""The time for fetching a result, at first and at most. Dask itself tries for 30 seconds to reach a worker that has
died."""
_FILE_BYTES: Final = 16 * 1024 * 1024
"""Limit for a scheduler file, which also lists the workers."""
_PORTS: Final = 65_536
_ALL_EVENTS: Final = "all"
"""The scheduler's topic with the events of its workers."""
_TASK: Final = "migrate batch"
_NAMES_SHOWN: Final = 3
_BACKLOG: Final = 64
"""Smallest number of tasks to submit: an adaptive cluster starts workers for tasks that wait, not for running ones."""


class DaskPool(WorkerPool):
    """The workers of the cluster of `client`. Raises UsageError if no cluster can be reached."""

    def __init__(self, client: Any, *, is_ours: bool = False, work: Work = run_task) -> None:
        distributed = _distributed()
        self._client = client
        self._is_ours = is_ours
        self._work = work
        self._versions = versions()
        self._killed: type[BaseException] = distributed.KilledWorker
        # Dask treats two calls with one key as one call, so each key has the run and a number.
        self._run = secrets.token_hex(4)
        self._number = 0
        self._checked: set[str] = set()
        self._checking = threading.Lock()
        self._order: WorkOrder | None = None
        self._reserved: str | None = None
        self._alone_since: float | None = None
        self._scheduler: str | None = None
        self._asking: threading.Thread | None = None
        self._hanging: Cause | None = None
        self._seen: dict[str, tuple[object, float]] = {}
        self._known: dict[str, int] = {}
        self._asked = -_ASK_SECONDS
        # Dask gives the tasks of a lost worker to others by itself, and reports only the last of several deaths.
        self._lost_workers: deque[tuple[str, list[str]]] = deque()
        self._losses: Counter[str] = Counter()
        if is_ours:  # a program may have a handler of its own for these events
            client.subscribe_topic(_ALL_EVENTS, self._take_event)

    @classmethod
    def connect(cls, scheduler: str, work: Work = run_task) -> DaskPool:
        """`scheduler`: an address, a scheduler file, or `auto` for the one in Dask's configuration."""
        return cls(_connect(scheduler), is_ours=True, work=work)

    @property
    def workers(self) -> int:
        return max(1, sum(self._threads_by_worker().values()))

    def _threads_by_worker(self) -> dict[str, int]:
        """Threads of the current workers, listed at most once a second. Raises TargetError if the scheduler is lost."""
        if self._client.status != "running":  # a call would wait for a connection without end
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
        """Checks the current workers. Workers that join later are checked with the result of their first task."""
        self._scheduler = self._identity(0)["id"]
        if not plan.tasks:
            return
        self._order = order
        workers = list(self._threads_by_worker())
        if not workers:
            progress.emit(Event(kind="notice", message="the Dask cluster has no workers yet; waiting"))
            return
        marks = {worker: f"{order.run}-{number}" for number, worker in enumerate(sorted(workers))}
        samples = samples_of(plan.tasks)
        # A function of this package cannot be unpickled on a worker without the package, so it could not report that.
        loads = self._on_each(workers, progress, lambda worker: (_package_loader(),))
        check_loads(loads)
        reports = self._on_each(list(loads), progress, lambda worker: (examine_worker, order, samples, marks[worker]))
        check_reports(order, reports, marks)

    def _on_each(
        self, workers: Sequence[str], progress: Progress, work: Callable[[str], tuple[Any, ...]]
    ) -> dict[str, object]:
        """The result or exception of a call on each worker. Workers that have left meanwhile are left out."""
        calls = {
            worker: self._client.submit(*work(worker), workers=[worker], key=f"migrate-check-{self._key()}", pure=False)
            for worker in workers
        }
        began = time.monotonic()
        results = {worker: self._result_of(worker, call, began, progress) for worker, call in calls.items()}
        return {worker: result for worker, result in results.items() if worker in self._threads_by_worker()}

    def _result_of(self, worker: str, call: Any, began: float, progress: Progress) -> object:
        reported = began - SILENT_SECONDS / 2  # the run has not emitted anything before
        while True:
            try:
                return call.result(timeout=_ASK_SECONDS)
            except TimeoutError as error:
                now = time.monotonic()
                if worker not in self._threads_by_worker() or now - began > 3 * SILENT_SECONDS:
                    return error
                if now - reported >= SILENT_SECONDS - _ASK_SECONDS:
                    reported = now
                    progress.emit(Event(kind="notice", message=f"worker {worker} has not answered yet; waiting"))
            except Exception as error:  # noqa: BLE001 - any error of a worker is reported as its result
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
        """Submits a task, to one of `workers` as long as one of these exists, or else to any worker."""
        where = {"workers": list(workers), "allow_other_workers": True} if workers else {}
        number = self._key()
        name = printable(os.path.basename(task.sources[0].location.rstrip("/")))[:60]  # a key must be valid UTF-8
        more = f" and {len(task.sources) - 1:,} more" if len(task.sources) > 1 else ""
        try:
            call = self._client.submit(
                functools.partial(_named_task, self._work, self._versions),
                order,
                task,
                key=(_TASK, f"{name}{more}", number),
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
        self._take_when_done(call, order, number, future)
        return future

    @property
    def isolates(self) -> bool:
        """True if each worker has one thread: one worker can then be reserved for a task that may kill it. With several
        threads, the death of a worker would also end the tasks of its other threads."""
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

    def _take_when_done(
        self,
        call: Any,
        order: WorkOrder,
        number: str,
        future: Future[list[JournalEntry]],
        seconds: float = _RESULT_SECONDS[0],
    ) -> None:
        def take(call: Any) -> None:
            # Dask has one thread for all such calls: a result that cannot be fetched would hold up the others.
            arguments = (order, number, future, seconds, call)
            threading.Thread(target=self._take_result, args=arguments, name="dask-result", daemon=True).start()

        call.add_done_callback(take)

    def _take_result(
        self, order: WorkOrder, number: str, future: Future[list[JournalEntry]], seconds: float, call: Any
    ) -> None:
        """Takes a finished call; runs in a thread of its own. If the result does not come in `seconds`, the worker may
        have died after the task. Dask then gives the task to another one, whose result is taken."""
        try:
            if call.status == "cancelled":
                raise CancelledError
            has_failed = call.status == "error"
            try:
                worker, mark, entries = call.result(timeout=seconds)
            except TimeoutError:
                if has_failed:  # it is the task's own error
                    raise
                self._take_when_done(call, order, number, future, min(2 * seconds, _RESULT_SECONDS[1]))
                return
            with self._checking:
                if worker not in self._checked:  # also for workers that `prove` has checked: it removes the mark
                    check_mark(order, worker, mark)
                    self._checked.add(worker)
            tries = 1 + self._losses.pop(number, 0)
            future.set_result([replace(entry, worker=worker, tries=tries) for entry in entries])
        except BaseException as error:  # noqa: BLE001 - raised again where the future is read
            future.set_exception(error)

    def _take_event(self, event: tuple[float, Any]) -> None:
        """Takes an event of the scheduler; runs in a thread of the client. Only a worker that is lost has tasks of this
        run: one that is retired has given them away before."""
        message = event[1]
        if not isinstance(message, Mapping) or message.get("action") != "remove-worker":
            return
        keys = [key for key in message.get("processing-tasks", ()) if isinstance(key, (tuple, list)) and len(key) == 3]
        ours = sorted((number, name) for task, name, number in keys if task == _TASK and number.startswith(self._run))
        if ours:
            self._losses.update(number for number, _ in ours)
            self._lost_workers.append((str(message.get("worker")), [name for _, name in ours]))

    def deaths(self, error: BaseException, /) -> int:
        """See WorkerPool. A call is cancelled if its result was lost with its worker, and also if the scheduler was
        lost, which raises TargetError. Dask gives a task to several workers before it reports a death, which all
        count."""
        self._asked = -_ASK_SECONDS
        self._threads_by_worker()
        if isinstance(error, self._killed):
            return int(getattr(error, "allowed_failures", 0)) + 1
        if isinstance(error, CancelledError):
            if self._identity(0)["id"] != self._scheduler:  # it was restarted at its address, without the tasks
                raise _lost()
            return 1
        return 0

    def watch(self, places: Sequence[str], idle: float, progress: Progress) -> Cause | None:
        """See WorkerPool. Emits a message for each worker that was lost. The causes: there are no workers, some have
        stopped or were paused, or a worker waits for a disk or a store."""
        while self._lost_workers:
            worker, names = self._lost_workers.popleft()
            shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
            message = f"worker {worker} was lost; others take its {count(len(names), 'task')}: {shown}"
            progress.emit(Event(kind="notice", message=message))
        threads = self._threads_by_worker()
        now = time.monotonic()
        if not threads:
            self._alone_since = self._alone_since or now
            return "the Dask cluster has no workers", self._alone_since
        self._alone_since = None
        if idle < SILENT_SECONDS / 4:
            self._seen, self._hanging = {}, None
            return None
        return self._stopped(now, idle) or self._hanging_at(places) or super().watch(places, idle, progress)

    def _stopped(self, now: float, idle: float) -> Cause | None:
        """Workers that do not answer or that Dask has paused. A worker that is busy with a large source still
        answers."""
        workers = self._identity(-1)["workers"]
        for worker, facts in workers.items():
            if self._seen.get(worker, (None, 0.0))[0] != facts["last_seen"]:
                self._seen[worker] = facts["last_seen"], now
        # Dask's workers send a heartbeat every half second, or with n workers every n / 200 seconds if that is longer.
        limit = SILENT_SECONDS / 2 + len(workers) / 50
        silent = [worker for worker in workers if now - self._seen[worker][1] > limit]
        if silent:
            return f"{_named(silent)} not answered lately", min(self._seen[worker][1] for worker in silent)
        paused = [worker for worker, facts in workers.items() if facts["status"] == "paused"]
        if paused:
            return f"{_named(paused)} been paused by Dask, whose memory limit is near", now - idle
        return None

    def _hanging_at(self, places: Sequence[str]) -> Cause | None:
        """A disk or a store that does not answer one of the workers. They are asked by a thread, because the call waits
        for the slowest of them."""
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._ask_workers, args=(list(places),), daemon=True)
            self._asking.start()
        return self._hanging

    def _ask_workers(self, places: Sequence[str]) -> None:
        found: Cause | None = None
        with contextlib.suppress(Exception):  # the next answer counts
            for worker, silent in sorted(self._client.run(silent_places, places, on_error="ignore").items()):
                place = silent_place(silent)
                if place is not None:
                    found = f"worker {worker}: {place[0]} does not answer", time.monotonic() - place[1]
        self._hanging = found

    def _identity(self, workers: int) -> Any:
        """The scheduler's information about itself and this many of its workers; -1: all. Raises TargetError."""
        found = _limited(lambda: self._client.scheduler_info(n_workers=workers), _CONNECT_SECONDS)
        if not found or isinstance(found[0], BaseException):
            raise _lost()
        return found[0]

    def stop(self, *, at_once: bool) -> None:
        if not at_once and self._client.status == "running":  # the cluster may be gone, or a worker may have stopped
            _limited(lambda: self._client.run(close_workers), _CONNECT_SECONDS)
        if self._order is not None:
            with contextlib.suppress(MigrateError):
                remove_marks(self._order)
        if self._is_ours:
            with contextlib.suppress(Exception):
                self._client.close(timeout=2)


def _named(workers: Sequence[str]) -> str:
    more = f" and {len(workers) - 1:,} more have" if len(workers) > 1 else " has"
    return f"worker {min(workers)}{more}"


def _lost() -> TargetError:
    return TargetError(
        "the Dask scheduler is lost; finished sources are in the journal, and the same command does the rest"
    )


def _package_loader() -> Callable[[], None]:
    """A function that is pickled by value, so that it can run where this package is missing."""

    def load() -> None:
        import importlib

        importlib.import_module("migrate.batch.preflight")

    return load


_marked_runs: set[str] = set()
"""The runs for which this worker has written its mark. One mark for each run is enough."""


def _named_task(
    work: Work, own: Mapping[str, str], order: WorkOrder, task: Task
) -> tuple[str, str, list[JournalEntry]]:
    """Runs on the worker. Returns the worker's address, the mark that it writes into the target, and the entries of the
    task. `own` are the versions of the command."""
    worker: str = _distributed().get_worker().address
    mark = f"{order.run}-{abs(hash(worker)):x}"
    if order.run not in _marked_runs:
        check_report(worker, examine_worker(order, (), mark), own)
        _marked_runs.add(order.run)
    try:
        return worker, mark, work(order, task)
    except TargetError as error:  # perhaps a fault of this machine only, such as a full disk
        raise type(error)(f"worker {worker}: {error.message}") from error


# --- connecting --------------------------------------------------------------------------------------------------


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as exc:
        raise UsageError("--scheduler needs Dask: pip install 'docker-legacy-migrate[dask]'") from exc


def _connect(scheduler: str) -> Any:
    distributed = _distributed()
    # The client logs every attempt to reconnect. A lost scheduler gives one line of this program instead.
    for name in ["distributed", *logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    keywords: dict[str, Any] = {"set_as_default": False}
    address: str | None = scheduler
    file: str | None = None
    if scheduler == FROM_CONFIGURATION:
        config: Any = importlib.import_module("dask.config")
        address, file = config.get("scheduler-address", None), config.get("scheduler-file", None)
        if not address and not file:
            raise UsageError(
                "--scheduler auto: Dask's configuration names no scheduler; set DASK_SCHEDULER_ADDRESS, or give one"
            )
    elif "://" not in scheduler and (scheduler.endswith(".json") or os.path.isfile(scheduler)):
        address, file = None, scheduler
    given = str(address or file or "")
    named = f"--scheduler {scheduler}" if given == scheduler else f"--scheduler {scheduler} ({given})"
    if address or not file:
        keywords["address"] = address
    else:
        keywords["scheduler_file"] = file
    # The destructor of a client that could not connect would wait and write a message. `stop` closes all others.
    silent = type("Client", (distributed.Client,), {"__del__": lambda self: None})

    def connect() -> Any:
        began = time.monotonic()
        _check_address(named, str(address) if address or not file else _address_in(named, str(file)))
        return silent(**keywords, timeout=max(1.0, began + _CONNECT_SECONDS - 1.0 - time.monotonic()))

    return _in_time(connect, named)


def _address_in(named: str, file: str) -> str:
    """The address in a scheduler file. Dask itself would wait for a file that does not exist."""
    try:
        with open(file, "rb") as stream:
            return str(json.loads(stream.read(_FILE_BYTES))["address"])
    except FileNotFoundError as exc:
        raise UsageError(f"{named}: there is no such scheduler file") from exc
    except OSError as exc:
        raise UsageError(f"{named}: the scheduler file cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise UsageError(
            f"{named}: is no scheduler file: it has no address; `dask scheduler --scheduler-file FILE` writes one"
        ) from exc


def _check_address(named: str, address: str) -> None:
    """Raises UsageError for a text that is not an address, and for a web server, such as the dashboard, with which the
    client would wait without end."""
    scheme, separator, place = address.partition("://")
    host, _, port = (place if separator else address).rstrip("/").rpartition(":")
    if scheme in ("http", "https"):
        raise UsageError(
            f"{named}: is the address of a web server, such as the cluster's dashboard; a scheduler's begins with"
            " tcp:// or tls://, and its port is 8786 by default"
        )
    if (not separator or scheme in ("tcp", "tls")) and not (host and port.isdecimal() and int(port) < _PORTS):
        raise UsageError(f"{named}: is no address of a scheduler, such as tcp://HOST:8786 or tls://HOST:8786")
    if scheme == "tls" or not port.isdecimal():
        return
    try:
        probe = socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS)
    except TimeoutError as exc:
        why = f"no connection within {_PROBE_SECONDS:.0f} s"
        raise UsageError(f"{named}: no Dask scheduler answers there ({why})") from exc
    except OSError:  # perhaps a scheduler that has not started yet, which the client waits for
        return
    with contextlib.suppress(OSError), probe:
        probe.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            if probe.recv(1):
                return  # a scheduler sends its data first, and would log an error about the request below
        probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if probe.recv(5) == b"HTTP/":
            raise UsageError(
                f"{named}: a web server answers there, such as the cluster's dashboard; the scheduler itself listens at"
                " another port, 8786 by default"
            )


def _in_time(connect: Callable[[], Any], named: str) -> Any:
    """The result of `connect`, with a time limit: the timeout of the client does not cover every silent peer, nor the
    time until a host is found."""
    found = _limited(connect, _CONNECT_SECONDS)
    if not found:
        raise UsageError(f"{named}: no Dask scheduler answers there within {_CONNECT_SECONDS:.0f} s")
    if isinstance(found[0], Exception) and not isinstance(found[0], MigrateError):
        # Dask raises any type, such as AssertionError for a truncated scheduler file
        why = " ".join(str(found[0]).split()) or type(found[0]).__name__
        raise UsageError(f"{named}: no Dask scheduler answers there ({why})") from found[0]
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _limited(call: Callable[[], Any], seconds: float) -> list[Any]:
    """The result of a call or its error, in a list, which is empty if the call takes longer."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:  # noqa: BLE001 - for the caller
            found.append(error)

    thread = threading.Thread(target=run, name="dask-call", daemon=True)
    thread.start()
    thread.join(seconds)
    return found
