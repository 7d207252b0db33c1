"""Divides the sources of a batch into tasks. Reads nothing, and gives the same result on every machine.

docs/howto/batch.md explains plan, run and merge.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct, field

from migrate.errors import UsageError
from migrate.model.image import HashedLayer
from migrate.model.legacy import LegacyID

TASK_BYTES: Final = 32 * 1024 * 1024
"""Small sources share a task up to this many bytes; a larger source has a task of its own."""
TASK_SOURCES: Final = 128
_TASKS_PER_WORKER: Final = 8
"""Smallest number of tasks for each worker, if there are enough sources, so that all workers end at the same time."""


class SourceOutcome(StrEnum):
    """The outcome of one source. `failed`: it has at least one failure; its other images are converted."""

    CONVERTED = "converted"
    FAILED = "failed"
    SKIPPED = "skipped"


class SourceIdentity(Struct, frozen=True, gc=False):
    """The state of a source, by which a change is noticed: its size in bytes (None for directories) and a mark of its
    last change (mtime of a file in ns, ETag of an object, digest of the listing of a directory)."""

    size: int | None
    mark: str


class Loan(Struct, frozen=True):
    """Layers for a source that lacks them: v1 layers, with the source to read them from, and layers of this batch that
    are in the target already. Layers that only earlier runs have stored are not included."""

    layers: Mapping[LegacyID, str] = field(default_factory=dict)
    contents: tuple[HashedLayer, ...] = ()


class Candidate(Struct, frozen=True):
    """A file or directory that may be a source. `order` is its position among all sources; `unfit` is the reason if it
    cannot be opened. `loan` is set if the source was read before and lacked layers."""

    location: str
    identity: SourceIdentity
    order: int
    unfit: str | None = None
    loan: Loan | None = None


class Finished(Struct, frozen=True, gc=False):
    """A source in the journal: its state, how it was read (`recipe`), and its outcome."""

    identity: SourceIdentity
    recipe: str
    outcome: SourceOutcome


class Task(Struct, frozen=True):
    """Sources that one worker converts, one after the other."""

    number: int
    sources: tuple[Candidate, ...]


class Plan(Struct, frozen=True):
    """`tasks` are to be run; `done` are the sources that are in the journal already, with their outcomes."""

    tasks: tuple[Task, ...]
    done: Mapping[str, SourceOutcome] = field(default_factory=dict)

    @property
    def sources(self) -> int:
        return sum(len(task.sources) for task in self.tasks)

    @property
    def bytes(self) -> int:
        return sum(candidate.identity.size or 0 for task in self.tasks for candidate in task.sources)


class Shard(Struct, frozen=True):
    """Part `number` of `count`, from 1. The shard of a source depends only on its location, not on the other
    sources."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text[:40]}: write it as I/N with 1 <= I <= N, such as 3/8")
        return cls(int(match[1]), int(match[2]))

    def holds(self, location: str) -> bool:
        digest = hashlib.sha256(location.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def plan_tasks(
    candidates: Sequence[Candidate],
    finished: Mapping[str, Finished],
    recipe: str,
    *,
    workers: int,
    retry_failed: bool = False,
) -> Plan:
    """Tasks for the sources that are not finished. A source is finished if it has not changed since, and was read with
    the same `recipe`; with `retry_failed` only if it did not fail."""
    open_: list[Candidate] = []
    done: dict[str, SourceOutcome] = {}
    for candidate in candidates:
        known = finished.get(candidate.location)
        is_same = known is not None and known.identity == candidate.identity and known.recipe == recipe
        if known is None or not is_same or (retry_failed and known.outcome is SourceOutcome.FAILED):
            open_.append(candidate)
        else:
            done[candidate.location] = known.outcome
    limit = max(1, min(TASK_SOURCES, len(open_) // (_TASKS_PER_WORKER * max(1, workers))))
    tasks = tuple(Task(number, sources) for number, sources in enumerate(_groups(open_, limit)))
    return Plan(tasks, done)


def _groups(candidates: Iterable[Candidate], limit: int) -> Iterator[tuple[Candidate, ...]]:
    group: list[Candidate] = []
    total = 0
    for candidate in candidates:
        size = candidate.identity.size
        weight = TASK_BYTES if size is None else size
        if group and (len(group) == limit or total + weight > TASK_BYTES):
            yield tuple(group)
            group, total = [], 0
        group.append(candidate)
        total += weight
    if group:
        yield tuple(group)


def split(task: Task) -> Iterator[Task]:
    """One task for each source of `task`, to find the source at which a worker died."""
    for candidate in task.sources:
        yield Task(task.number, (candidate,))
