"""Where tasks run: processes, threads or a Dask cluster, each behind `concurrent.futures.Executor`.

A pool is an executor that can be opened again after a death, and that distinguishes deaths from other failures.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait as wait_for
from multiprocessing.util import Finalize
from typing import Any

from msgspec import Struct

from migrate.batch.journal import JournalEntry
from migrate.batch.plan import Plan, Task
from migrate.batch.task import WorkOrder, close_workers, run_task
from migrate.errors import TargetError, UsageError
from migrate.model.progress import Progress

Work = Callable[[WorkOrder, Task], list[JournalEntry]]


class PoolRequest(Struct, frozen=True, kw_only=True):
    """Where tasks shall run: `client` before `scheduler` before `executor` (`processes` or `threads`)."""

    executor: str = "processes"
    workers: int = 1
    scheduler: str | None = None
    client: Any = None


class WorkerPool(ABC):
    """Where tasks run."""

    @property
    def isolates(self) -> bool:
        """True if a task that is submitted alone shares its worker with no other while others run."""
        return False

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many tasks run at once."""

    @property
    def backlog(self) -> int:
        """Tasks that may be submitted and not finished: what runs, and as much again."""
        return 2 * self.workers

    def prove(self, order: WorkOrder, plan: Plan, progress: Progress) -> None:  # noqa: B027 - for remote workers
        """Before the first task: raises UsageError or TargetError for a worker that cannot do the work."""

    def watch(self, waiting: int, progress: Progress) -> None:  # noqa: B027 - for remote workers
        """Called while `waiting` tasks are not finished. Raises TargetError once the pool is lost."""

    @abstractmethod
    def submit(self, order: WorkOrder, task: Task, /, avoid: Collection[str] = ()) -> Future[list[JournalEntry]]:
        """Opens the pool where needed. `avoid`: names of workers that shall not have the task, if there are others."""

    @abstractmethod
    def submit_alone(self, order: WorkOrder, task: Task, /) -> Future[list[JournalEntry]]:
        """On a worker whose death costs no other task. At most one such task runs at a time."""

    @abstractmethod
    def deaths(self, error: BaseException, /) -> int:
        """How many workers died under the task; 0 if the task itself failed."""

    @abstractmethod
    def stop(self, *, at_once: bool) -> None:
        """`at_once`: workers are ended within a second, in the middle of what they do."""


# --- processes ---------------------------------------------------------------------------------------------------


class ProcessPool(WorkerPool):
    """Fresh processes from a server that has only the imports: safe beside threads, and quick to start."""

    @property
    def isolates(self) -> bool:
        return True

    def __init__(self, workers: int, work: Work = run_task) -> None:
        self._workers = workers
        self._work = work
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["migrate.batch.task", "migrate.readers.docker_archive"])
        self._pool: ProcessPoolExecutor | None = None
        self._alone: ProcessPoolExecutor | None = None

    @property
    def workers(self) -> int:
        return self._workers

    def submit(self, order: WorkOrder, task: Task, /, avoid: Collection[str] = ()) -> Future[list[JournalEntry]]:
        del avoid
        try:
            self._pool = self._pool or self._open(self._workers)
            return self._pool.submit(self._work, order, task)
        except BrokenExecutor:
            self._pool = None
            return self.submit(order, task)

    def submit_alone(self, order: WorkOrder, task: Task, /) -> Future[list[JournalEntry]]:
        try:
            self._alone = self._alone or self._open(1)
            return self._alone.submit(self._work, order, task)
        except BrokenExecutor:
            self._alone = None
            return self.submit_alone(order, task)

    def deaths(self, error: BaseException, /) -> int:
        return int(isinstance(error, BrokenExecutor))

    def stop(self, *, at_once: bool) -> None:
        pools = [pool for pool in (self._pool, self._alone) if pool is not None]
        self._pool = self._alone = None
        for pool in pools:
            processes = list((getattr(pool, "_processes", None) or {}).values())
            pool.shutdown(wait=not at_once, cancel_futures=True)
            if at_once:
                # The target is safe against this at any instant; waiting for a worker in the middle of a layer is not
                # needed.
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.join(1)
                    if process.is_alive():
                        process.kill()

    def _open(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, mp_context=self._context, initializer=_begin_process)


def _begin_process() -> None:
    """Ctrl-C goes to every process of the terminal: the coordinator decides what follows from it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Finalize(None, close_workers, exitpriority=10)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose coordinator was killed would wait forever for its next task."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


# --- executors ---------------------------------------------------------------------------------------------------


class ExecutorPool(WorkerPool):
    """An executor of `concurrent.futures`: threads of this process, which have no start-up, but a source that kills the
    process kills the run; or one that the caller has opened, and closes."""

    def __init__(self, executor: Executor, workers: int, *, is_ours: bool = True, work: Work = run_task) -> None:
        self._workers = workers
        self._work = work
        self._executor = executor
        self._is_ours = is_ours

    @property
    def workers(self) -> int:
        return self._workers

    def submit(self, order: WorkOrder, task: Task, /, avoid: Collection[str] = ()) -> Future[list[JournalEntry]]:
        del avoid
        try:
            return self._executor.submit(self._work, order, task)
        except RuntimeError as error:  # its processes are lost, or it is shut down
            raise TargetError(
                f"the executor takes no more tasks ({error}); what is finished is in the journal, and the same call"
                " with a new one goes on from there"
            ) from error

    def submit_alone(self, order: WorkOrder, task: Task, /) -> Future[list[JournalEntry]]:
        return self.submit(order, task)

    def deaths(self, error: BaseException, /) -> int:
        return int(isinstance(error, BrokenExecutor))

    def stop(self, *, at_once: bool) -> None:
        if self._is_ours:
            self._executor.shutdown(wait=not at_once, cancel_futures=True)
        if not at_once:
            close_workers()


def open_pool(request: PoolRequest) -> WorkerPool:
    """The pool for a batch. UsageError for a cluster that cannot be reached, or a client of another kind."""
    client = request.client
    if client is not None:
        # A Dask client, a Dask cluster, or an executor of `concurrent.futures`, which stay the caller's.
        if isinstance(client, Executor):
            return ExecutorPool(client, getattr(client, "_max_workers", None) or os.cpu_count() or 1, is_ours=False)
        if hasattr(client, "scheduler_address") or hasattr(client, "nthreads"):
            from migrate.batch.dask_pool import DaskPool

            if hasattr(client, "nthreads"):
                return DaskPool(client)
            distributed: Any = importlib.import_module("distributed")
            return DaskPool(distributed.Client(client, set_as_default=False), is_ours=True)
        raise UsageError(f"client: {type(client).__name__} is no Dask client or cluster, and no executor")
    if request.scheduler is not None:
        from migrate.batch.dask_pool import DaskPool

        return DaskPool.connect(request.scheduler)
    if request.executor == "threads":
        return ExecutorPool(ThreadPoolExecutor(request.workers, thread_name_prefix="batch"), request.workers)
    return ProcessPool(request.workers)
