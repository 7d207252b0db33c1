"""Runs the tasks of a batch: gives them to workers, and writes the results into the journal."""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from itertools import islice
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.batch.journal import JournalEntry, JournalWriter, unpack_record
from migrate.batch.plan import Plan, SourceOutcome, Task, split
from migrate.batch.task import WorkOrder, failed_entry
from migrate.batch.waits import Silence, enter
from migrate.batch.worker_pool import WorkerPool
from migrate.errors import MigrateError, UsageError
from migrate.model.legacy import Failure
from migrate.model.progress import Event, Progress

_STRIKES: Final = 2
"""A source fails when this many workers have died at it while they had no other source."""
_TRIED_WORKERS: Final = 3
"""A source that exists fails when this many workers could not find it."""
_WAIT_SECONDS: Final = 0.5
_PLACES: Final = 4
"""Number of sources that are checked if no task ends."""


class TaskRun(Struct):
    """Runs the tasks of a plan; `run` may be called once. `stage` is the stage of its events. In other stages than
    `batch`, sources are read a second time: their outcomes are not emitted here, and if a worker dies, the result of
    the first time stays in the journal."""

    order: WorkOrder
    plan: Plan
    pool: WorkerPool
    journal: JournalWriter
    progress: Progress
    stage: str = "batch"
    undecided: set[str] = field(default_factory=set)
    """Sources that lack layers which other sources may have, so that their outcome is not known yet."""
    _waiting: deque[Task] = field(default_factory=deque)
    _running: dict[Future[list[JournalEntry]], Task] = field(default_factory=dict)
    _suspects: deque[Task] = field(default_factory=deque)
    _alone: Future[list[JournalEntry]] | None = None
    _tries: Counter[str] = field(default_factory=Counter)
    """Number of workers that got the source, until it is finished."""
    _strikes: Counter[str] = field(default_factory=Counter)
    """Number of workers that died while they had only this source."""
    _avoided: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _silence: Silence = field(default_factory=Silence)
    _untold: list[JournalEntry] = field(default_factory=list)

    def run(self) -> None:
        """Returns when every source has its line in the journal. Raises TargetError and KeyboardInterrupt; finished
        sources are in the journal then."""
        self.progress.emit(
            Event(kind="stage", stage=self.stage, total_bytes=self.plan.bytes, total_items=self.plan.sources)
        )
        self._waiting.extend(self.plan.tasks)
        try:
            while self._waiting or self._running or self._suspects:
                self._submit()
                enter(self.progress, "")
                # not longer than half a second, so that the journal is written and lost workers are noticed
                done, _ = wait(self._running, _WAIT_SECONDS, FIRST_COMPLETED)
                enter(self.progress, "writing the journal")
                for future in done:
                    self._take(future)
                self.journal.settle()
                self._tell()
                self._watch()
            self.journal.settle(at_once=True)  # a merge may take long, and be killed
            self._tell()
        finally:
            self.journal.sync()

    def _submit(self) -> None:
        """Submits as many tasks as keep all workers busy, and not more, so that results need little memory and an
        interruption is fast."""
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

    def _watch(self) -> None:
        enter(self.progress, "waiting for the workers")
        running = list(islice(self._running.values(), _PLACES))
        places = [task.sources[0].location for task in running if task.sources[0].unfit is None]
        if self.order.target is not None:
            places.append(self.order.target)
        cause = self.pool.watch(places, self._silence.seconds, self.progress)
        name = running[0].sources[0].location if running else ""
        self._silence.report(cause, len(self._running), name, self.progress)

    def _take(self, future: Future[list[JournalEntry]]) -> None:
        self._silence.end()
        # Four ends: the task is done, workers died at it, all its sources failed, or the run cannot continue.
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
        """Tries each source of a task at which workers died again, alone. Only deaths then count for the source:
        before, another source may have killed the worker."""
        for single in split(task):
            source = single.sources[0]
            self._tries[source.location] += deaths - 1  # `_note` has counted one of these workers
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
        """The entries of a task. A source that exists here, but that the worker did not find, is given to another
        worker: its machine may lack a mount."""
        candidates = {candidate.location: candidate for candidate in task.sources}
        for entry in entries:
            avoided = self._avoided[entry.source]
            # Only a worker of a cluster has a name; on this machine the source was removed during the run.
            if entry.absent and entry.worker is not None and os.path.lexists(entry.source):
                is_new = entry.worker not in avoided
                avoided.add(entry.worker)
                if is_new and len(avoided) < _TRIED_WORKERS:
                    message = f"worker {entry.worker} does not see it; trying another one"
                    self.progress.emit(Event(kind="notice", name=entry.source, message=message))
                    self._waiting.append(Task(task.number, (candidates[entry.source],)))
                    continue
                names = ", ".join(sorted(avoided))
                message = f"{entry.source}: exists, but these workers do not find it: {names}"
                entry = failed_entry(self.order, candidates[entry.source], "worker", message)
            yield entry

    def _finish(self, entries: Iterable[JournalEntry]) -> None:
        for entry in entries:
            tries = self._tries.pop(entry.source)
            is_first = self.stage == "batch"
            if is_first or entry.again:  # otherwise the second reading has failed, and the first result stays
                self.journal.append(replace(entry, tries=max(entry.tries, tries)))
            if is_first and entry.missing:
                self.undecided.add(entry.source)
            self._untold.append(entry)

    def _tell(self) -> None:
        """Emits what is done, as soon as a run after this one would find it done, too."""
        if not self.journal.is_kept:
            return
        for entry in self._untold:
            size = entry.identity.size or 0
            self.progress.emit(Event(kind="advance", name=entry.source, bytes=size))
            if self.stage == "batch" and entry.source not in self.undecided:
                failures: Sequence[Failure] = ()
                if entry.outcome is SourceOutcome.FAILED:
                    packed = entry.packed.encode("ascii")
                    failures = unpack_record(packed, entry.source, images=False, layers=False).failures
                emit_outcome(self.progress, entry.source, entry.outcome, entry.message, size, failures)
        self._untold.clear()


def emit_outcome(
    progress: Progress,
    location: str,
    outcome: SourceOutcome,
    message: str | None,
    size: int,
    failures: Iterable[Failure],
) -> None:
    """Emits the events for the outcome of a source."""
    if outcome is SourceOutcome.FAILED:
        for failure in failures:
            progress.emit(failure.event())
    event = Event(kind="finished", name=location, outcome=outcome.value, message=message or "", bytes=size)
    progress.emit(event)
