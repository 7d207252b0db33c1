"""What a batch needs of its workers, wherever they run.

A pool starts new workers after a death, and distinguishes the death of a worker from a failure of its task.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future

from migrate.batch.journal import JournalEntry
from migrate.batch.plan import Plan, Task
from migrate.batch.task import WorkOrder
from migrate.batch.waits import SILENT_SECONDS, Cause, silent_place, silent_places
from migrate.model.progress import Progress

Work = Callable[[WorkOrder, Task], list[JournalEntry]]


class WorkerPool(ABC):
    """Workers that run tasks."""

    @property
    def isolates(self) -> bool:
        """True if `submit_alone` gives a task a worker of its own while other tasks run."""
        return False

    @property
    @abstractmethod
    def workers(self) -> int:
        """The number of tasks that run at the same time."""

    @property
    def backlog(self) -> int:
        """The largest number of unfinished tasks: those that run, and as many that wait."""
        return 2 * self.workers

    def prove(self, order: WorkOrder, plan: Plan, progress: Progress) -> None:  # noqa: B027 - for remote workers
        """Checks the workers before the first task. Raises UsageError or TargetError for one that cannot do the
        work."""

    def watch(self, places: Sequence[str], idle: float, progress: Progress) -> Cause | None:
        """Called repeatedly while tasks are unfinished. None has ended for `idle` seconds; `places` are some of their
        sources, and the target. Returns the reason if it is a fault. Raises TargetError if the pool is lost."""
        del progress
        place = silent_place(silent_places(places)) if idle >= SILENT_SECONDS / 4 else None
        return None if place is None else (f"{place[0]} does not answer", time.monotonic() - place[1])

    @abstractmethod
    def submit(self, order: WorkOrder, task: Task, /, avoid: Collection[str] = ()) -> Future[list[JournalEntry]]:
        """Submits a task, and starts workers if needed. `avoid`: workers that get the task only if there is no
        other."""

    @abstractmethod
    def submit_alone(self, order: WorkOrder, task: Task, /) -> Future[list[JournalEntry]]:
        """Submits a task to a worker with no other task, because the worker may die. At most one such task at a
        time."""

    @abstractmethod
    def deaths(self, error: BaseException, /) -> int:
        """The number of workers that died at the task; 0 if the task itself failed with `error`."""

    @abstractmethod
    def stop(self, *, at_once: bool) -> None:
        """Ends the workers; with `at_once` within a second, even if they are busy."""
