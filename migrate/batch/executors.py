"""Where tasks run: processes, threads or a Dask cluster, each behind `concurrent.futures.Executor`.

A pool here is an executor that can be opened again after a death, and that knows deaths from other failures.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait as wait_for
from multiprocessing.util import Finalize
from typing import Any, Protocol

from migrate.batch.journal import Entry
from migrate.batch.plan import Task
from migrate.batch.task import WorkOrder, leave_desks, run_task
from migrate.errors import UsageError

Work = Callable[[WorkOrder, Task], list[Entry]]


class WorkerPool(Protocol):
    """`workers` tasks run at once; as many again may wait for them."""

    @property
    def workers(self) -> int: ...

    @property
    def isolates(self) -> bool:
        """True if a task that is submitted alone shares its worker with no other while others run."""

    def submit(self, order: WorkOrder, task: Task, /) -> Future[list[Entry]]:
        """Opens the executor where needed. Raises what `is_death` knows if it broke just now."""

    def submit_alone(self, order: WorkOrder, task: Task, /) -> Future[list[Entry]]:
        """On a worker whose death costs no other task. At most one such task runs at a time."""

    def is_death(self, error: BaseException, /) -> bool:
        """True if a worker died under the task, and not the task itself failed."""

    def stop(self, *, at_once: bool) -> None:
        """`at_once`: workers are ended within a second, in the middle of what they do."""


# --- processes ---------------------------------------------------------------------------------------------------


class ProcessPool:
    """Fresh processes from a server that has only the imports: safe beside threads, and quick to start."""

    isolates = True

    def __init__(self, workers: int, work: Work = run_task) -> None:
        self.workers = workers
        self._work = work
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["migrate.batch.task", "migrate.readers.docker_archive"])
        self._pool: ProcessPoolExecutor | None = None
        self._alone: ProcessPoolExecutor | None = None

    def submit(self, order: WorkOrder, task: Task, /) -> Future[list[Entry]]:
        try:
            self._pool = self._pool or self._open(self.workers)
            return self._pool.submit(self._work, order, task)
        except BrokenExecutor:
            self._pool = None
            return self.submit(order, task)

    def submit_alone(self, order: WorkOrder, task: Task, /) -> Future[list[Entry]]:
        try:
            self._alone = self._alone or self._open(1)
            return self._alone.submit(self._work, order, task)
        except BrokenExecutor:
            self._alone = None
            return self.submit_alone(order, task)

    def is_death(self, error: BaseException, /) -> bool:
        return isinstance(error, BrokenExecutor)

    def stop(self, *, at_once: bool) -> None:
        pools = [pool for pool in (self._pool, self._alone) if pool is not None]
        self._pool = self._alone = None
        for pool in pools:
            processes = list((getattr(pool, "_processes", None) or {}).values())
            pool.shutdown(wait=not at_once, cancel_futures=True)
            if at_once:
                _end(processes)

    def _open(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, mp_context=self._context, initializer=_begin_process)


def _end(processes: list[Any]) -> None:
    """The target is safe against this at any instant; waiting for a worker in the middle of a layer is not needed."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(1)
        if process.is_alive():
            process.kill()


def _begin_process() -> None:
    """Ctrl-C goes to every process of the terminal: the coordinator decides what follows from it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Finalize(None, leave_desks, exitpriority=10)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose coordinator was killed would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


# --- threads -----------------------------------------------------------------------------------------------------


class ThreadPool:
    """Threads of this process: no start-up, but a source that kills the process kills the run."""

    isolates = False

    def __init__(self, workers: int, work: Work = run_task) -> None:
        self.workers = workers
        self._work = work
        self._pool: Executor = ThreadPoolExecutor(workers, thread_name_prefix="batch")

    def submit(self, order: WorkOrder, task: Task, /) -> Future[list[Entry]]:
        return self._pool.submit(self._work, order, task)

    submit_alone = submit

    def is_death(self, error: BaseException, /) -> bool:
        del error
        return False

    def stop(self, *, at_once: bool) -> None:
        self._pool.shutdown(wait=not at_once, cancel_futures=True)
        if not at_once:
            leave_desks()


# --- Dask --------------------------------------------------------------------------------------------------------


class DaskPool:
    """A running Dask cluster, through the executor of `distributed`. UsageError if it cannot be reached."""

    isolates = False

    def __init__(self, scheduler: str, work: Work = run_task) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError as exc:
            raise UsageError("--scheduler needs Dask: pip install 'docker-legacy-migrate[dask]'") from exc
        self._work = work
        self._killed: type[BaseException] = distributed.KilledWorker
        try:
            self._client: Any = distributed.Client(scheduler, timeout="10s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as exc:
            raise UsageError(f"--scheduler {scheduler}: no Dask scheduler answers there ({exc})") from exc
        # A worker that dies costs its task one retry of the scheduler; `allowed-failures` there says how many.
        self._pool: Executor = self._client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        threads: int = sum(self._client.nthreads().values())
        return max(1, threads)

    def submit(self, order: WorkOrder, task: Task, /) -> Future[list[Entry]]:
        return self._pool.submit(self._work, order, task)

    submit_alone = submit

    def is_death(self, error: BaseException, /) -> bool:
        """A result that was lost with the worker that held it comes as an error of the executor itself."""
        return isinstance(error, (self._killed, CancelledError)) or _raised_in(error, "cfexecutor.py")

    def stop(self, *, at_once: bool) -> None:
        with contextlib.suppress(Exception):  # a cluster that is gone cannot be told anything
            self._pool.shutdown(wait=not at_once, cancel_futures=True)
        with contextlib.suppress(Exception):
            if not at_once:
                self._client.run(leave_desks)
            self._client.close(timeout=2)


def _raised_in(error: BaseException, name: str) -> bool:
    """True if the innermost frame of the error is in a file of that name."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and os.path.basename(trace.tb_frame.f_code.co_filename) == name


def open_pool(kind: str, workers: int, scheduler: str | None) -> WorkerPool:
    """`kind` is `processes` or `threads`; a scheduler's address goes before it."""
    if scheduler is not None:
        return DaskPool(scheduler)
    return ThreadPool(workers) if kind == "threads" else ProcessPool(workers)
