"""Pools of workers on this machine, processes or threads, and the choice of a pool."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import threading
from collections.abc import Collection
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait as wait_for
from multiprocessing.util import Finalize
from typing import Any

from msgspec import Struct

from migrate.batch.journal import JournalEntry
from migrate.batch.plan import Task
from migrate.batch.task import WorkOrder, close_workers, run_task
from migrate.batch.worker_pool import Work, WorkerPool
from migrate.blobio.processes import end_at_once, leave_signals_to_main_process
from migrate.errors import TargetError, UsageError


class PoolRequest(Struct, frozen=True, kw_only=True):
    """The workers to use: `client` if given, else `scheduler` if given, else `executor` (`processes` or `threads`)."""

    executor: str = "processes"
    workers: int = 1
    scheduler: str | None = None
    client: Any = None


# --- processes ---------------------------------------------------------------------------------------------------


class ProcessPool(WorkerPool):
    """Processes of this machine. They are forked from a server process that has imported the modules and has no
    threads, so that they start fast and inherit no locks."""

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
                end_at_once(processes)

    def _open(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            workers, mp_context=self._context, initializer=_begin_process, initargs=gc.get_threshold()
        )


def _begin_process(*gc_thresholds: int) -> None:
    """Prepares a worker process. It collects garbage as seldom as the coordinator does."""
    gc.set_threshold(*gc_thresholds)
    leave_signals_to_main_process()
    Finalize(None, close_workers, exitpriority=10)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker with its coordinator. If that was killed, the worker would wait for a task without end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


# --- executors ---------------------------------------------------------------------------------------------------


class ExecutorPool(WorkerPool):
    """An executor of `concurrent.futures`: threads of this process, or an executor of the caller, which is not closed.

    Threads start at once, but a source that kills the process ends the run.
    """

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
        except RuntimeError as error:  # its processes have died, or it was shut down
            raise TargetError(
                f"the executor takes no more tasks ({error}); finished sources are in the journal, and the same call"
                " with a new executor continues"
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
    """The pool for a batch. Raises UsageError for a cluster that cannot be reached, or a client of another type."""
    client = request.client
    if client is not None:
        # a Dask client, a Dask cluster, or an executor of `concurrent.futures`: the caller closes it
        if isinstance(client, Executor):
            return ExecutorPool(client, getattr(client, "_max_workers", None) or os.cpu_count() or 1, is_ours=False)
        if hasattr(client, "scheduler_address") or hasattr(client, "nthreads"):
            from migrate.batch.dask_pool import DaskPool

            if hasattr(client, "nthreads"):
                return DaskPool(client)
            distributed: Any = importlib.import_module("distributed")
            return DaskPool(distributed.Client(client, set_as_default=False), is_ours=True)
        raise UsageError(f"client: {type(client).__name__} is not a Dask client, a Dask cluster or an executor")
    if request.scheduler is not None:
        from migrate.batch.dask_pool import DaskPool

        return DaskPool.connect(request.scheduler)
    if request.executor == "threads":
        return ExecutorPool(ThreadPoolExecutor(request.workers, thread_name_prefix="batch"), request.workers)
    return ProcessPool(request.workers)
