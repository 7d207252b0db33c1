"""The middle of a batch: tasks go to workers, what comes back goes into the journal.

Sources that lack layers of other sources are read once more when all were read.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.batch.executors import WorkerPool
from migrate.batch.journal import JournalEntry, JournalWriter, unpack_record
from migrate.batch.plan import Plan, SourceOutcome, Task, split
from migrate.batch.records import SourceRecord
from migrate.batch.task import WorkOrder, failed_entry
from migrate.errors import MigrateError, UsageError
from migrate.model.progress import Event, Progress

_STRIKES: Final = 2
"""So many workers may die on a source while they have nothing else; then it has failed."""
_TRIED_WORKERS: Final = 3
"""So many workers may fail to find a source that is there; then it has failed."""
_WAIT_SECONDS: Final = 0.5


class TaskRun(Struct):
    """Runs the tasks of a plan. `run` may be called once. `stage` is that of its events: in any but `batch` sources are
    read once more, and what becomes of them is not told, nor written down where their worker died."""

    order: WorkOrder
    plan: Plan
    pool: WorkerPool
    journal: JournalWriter
    progress: Progress
    stage: str = "batch"
    undecided: set[str] = field(default_factory=set)
    """Sources that lack layers, which others may have: their failures are not known yet."""
    _waiting: deque[Task] = field(default_factory=deque)
    _running: dict[Future[list[JournalEntry]], Task] = field(default_factory=dict)
    _suspects: deque[Task] = field(default_factory=deque)
    _alone: Future[list[JournalEntry]] | None = None
    _tries: Counter[str] = field(default_factory=Counter)
    """Workers that were given the source, until it has finished."""
    _strikes: Counter[str] = field(default_factory=Counter)
    """Those that died because of it, and not maybe because of another one."""
    _avoided: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def run(self) -> None:
        """Returns when every source has its line in the journal. Raises TargetError and KeyboardInterrupt; either
        leaves what is finished in the journal."""
        self.progress.emit(
            Event(kind="stage", stage=self.stage, total_bytes=self.plan.bytes, total_items=self.plan.sources)
        )
        self._waiting.extend(self.plan.tasks)
        try:
            while self._waiting or self._running or self._suspects:
                self._submit()
                done, _ = wait(self._running, _WAIT_SECONDS, FIRST_COMPLETED)
                for future in done:
                    self._take(future)
                self.journal.settle()
                self.pool.watch(len(self._running), self.progress)
        finally:
            self.journal.sync()

    def _submit(self) -> None:
        """Keeps every worker busy and the queue short, so that neither memory nor an interruption has to wait."""
        limit = self.pool.backlog
        while self._waiting and len(self._running) < limit:
            task = self._waiting.popleft()
            avoid = self._avoided.get(task.sources[0].location, ()) if len(task.sources) == 1 else ()
            self._note(task, self.pool.submit(self.order, task, avoid))
        if self._suspects and self._alone is None and (self.pool.isolates or not self._running):
            task = self._suspects.popleft()
            self._alone = self.pool.submit_alone(self.order, task)
            self._note(task, self._alone)

    def _note(self, task: Task, future: Future[list[JournalEntry]]) -> None:
        self._running[future] = task
        self._tries.update(source.location for source in task.sources)

    def _take(self, future: Future[list[JournalEntry]]) -> None:
        task = self._running.pop(future)
        alone = future is self._alone
        if alone:
            self._alone = None
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            self._finish(self._seen(task, future.result()))
        elif deaths := self.pool.deaths(error):
            self._suspect(task, deaths, alone=alone)
        elif isinstance(error, MigrateError) and error.scope != "run":
            self._finish(failed_entry(self.order, source, error.code, error.message) for source in task.sources)
        elif isinstance(error, ImportError):
            raise UsageError(f"a worker cannot load this package ({error}); install the same version everywhere")
        else:
            raise error

    def _suspect(self, task: Task, deaths: int, *, alone: bool) -> None:
        """Workers died, and every task that they may have held is under suspicion. Each of their sources is tried again
        by itself. Only what happens there counts against it: before, another source may have ended the worker."""
        for single in split(task):
            source = single.sources[0]
            self._tries[source.location] += deaths - 1
            if alone:
                self._strikes[source.location] += deaths
            strikes = self._strikes[source.location]
            if strikes < _STRIKES:
                self._suspects.append(single)
                self.progress.emit(
                    Event(kind="notice", name=source.location, message="a worker died; trying the source by itself")
                )
            else:
                message = f"{source.location}: {strikes} workers died on it (killed, out of memory, or crashed)"
                self._finish([failed_entry(self.order, source, "worker-died", message)])

    def _seen(self, task: Task, entries: Iterable[JournalEntry]) -> Iterator[JournalEntry]:
        """A source that a worker does not find, but that is here, is the worker's fault: it goes to another one."""
        candidates = {candidate.location: candidate for candidate in task.sources}
        for entry in entries:
            avoided = self._avoided[entry.source]
            if entry.absent and entry.worker is not None and os.path.lexists(entry.source):
                is_new = entry.worker not in avoided
                avoided.add(entry.worker)
                if is_new and len(avoided) < _TRIED_WORKERS:
                    message = f"worker {entry.worker} does not see it; trying another one"
                    self.progress.emit(Event(kind="notice", name=entry.source, message=message))
                    self._waiting.append(Task(task.number, (candidates[entry.source],)))
                    continue
                names = ", ".join(sorted(avoided))
                message = f"{entry.source}: is there, but not for the workers that were given it ({names})"
                entry = failed_entry(self.order, candidates[entry.source], "worker", message)
            yield entry

    def _finish(self, entries: Iterable[JournalEntry]) -> None:
        for entry in entries:
            tries = self._tries.pop(entry.source)
            is_first = self.stage == "batch"
            size = entry.identity.size or 0
            if is_first or entry.again:  # else no worker could read it once more, and its first reading counts
                self.journal.append(replace(entry, tries=max(entry.tries, tries)))
            self.progress.emit(Event(kind="advance", name=entry.source, bytes=size))
            if is_first and entry.missing:
                self.undecided.add(entry.source)
            elif is_first:
                record = unpack_record(entry.packed.encode("ascii"), entry.source, images=False, layers=False)
                emit_outcome(self.progress, entry.source, entry.outcome, entry.message, size, record)


def emit_outcome(
    progress: Progress, location: str, outcome: SourceOutcome, message: str | None, size: int, record: SourceRecord
) -> None:
    """Events of what became of a source."""
    if outcome is SourceOutcome.FAILED:
        for failure in record.failures:
            progress.emit(failure.event())
    event = Event(kind="finished", name=location, outcome=outcome.value, message=message or "", bytes=size)
    progress.emit(event)
