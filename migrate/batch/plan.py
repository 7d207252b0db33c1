"""Which work a batch has: from a list of candidates to tasks. Pure, and the same on every machine.

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
"""Small sources share a task until they make this many bytes; a larger source is a task of its own."""
TASK_SOURCES: Final = 128
_TASKS_PER_WORKER: Final = 8
"""So many tasks a worker at least, while there are enough sources: the last ones must not wait for one long task."""


class SourceOutcome(StrEnum):
    """What became of one source. `failed` has at least one failure; its other images are converted all the same."""

    CONVERTED = "converted"
    FAILED = "failed"
    SKIPPED = "skipped"


class SourceIdentity(Struct, frozen=True):
    """By what a source is still the one that was read: its size in bytes (None for directories) and a mark
    of its last change (a file's mtime in ns, an object's ETag, the digest of a directory's listing)."""

    size: int | None
    mark: str


class Loan(Struct, frozen=True):
    """What the rest of a batch has of what a source lacks: v1 layers, by the source to read them from, and layers that
    are in the target already. Layers that only earlier runs put into the target are not in it."""

    layers: Mapping[LegacyID, str] = field(default_factory=dict)
    contents: tuple[HashedLayer, ...] = ()


class Candidate(Struct, frozen=True):
    """One thing that may be a source. `order` is its place in the command line's expansion; `unfit`: why it is
    none that can be opened. `loan` is for a source that was read before, by itself."""

    location: str
    identity: SourceIdentity
    order: int
    unfit: str | None = None
    loan: Loan | None = None


class Finished(Struct, frozen=True):
    """What the journal has about a source: where it was, how it was read (`recipe`), what became of it."""

    identity: SourceIdentity
    recipe: str
    outcome: SourceOutcome


class Task(Struct, frozen=True):
    """Sources that one worker converts, one after the other."""

    number: int
    sources: tuple[Candidate, ...]


class Plan(Struct, frozen=True):
    """`tasks` are to be run; `done` are in the journal already, with the outcome that they had."""

    tasks: tuple[Task, ...]
    done: Mapping[str, SourceOutcome] = field(default_factory=dict)

    @property
    def sources(self) -> int:
        return sum(len(task.sources) for task in self.tasks)

    @property
    def bytes(self) -> int:
        return sum(candidate.identity.size or 0 for task in self.tasks for candidate in task.sources)


class Shard(Struct, frozen=True):
    """Part `number` of `count`, from 1. A source belongs to a shard by its location, whatever else is on the list."""

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
    """Tasks for what is not finished yet. A source counts as finished if it has not changed since, and was read with
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
    """One task for each source of `task`: after the death of its worker, to learn which source it was."""
    for candidate in task.sources:
        yield Task(task.number, (candidate,))
