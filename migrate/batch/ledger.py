"""All journals of a target, read: what is finished, under which place, and in which generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate.batch.journal import Line, Place, iter_lines, journal_paths
from migrate.batch.merge import MergeSource
from migrate.batch.plan import Finished, Outcome


@dataclass(frozen=True, slots=True)
class Known:
    """The last line of one source."""

    finished: Finished
    place: Place
    order: int
    generation: int
    message: str | None


@dataclass(slots=True)
class Ledger:
    """`runs` are the opening lines of runs, by journal; `replaced` are records that newer lines stand for, in
    generations that a merge has closed."""

    sources: dict[str, Known] = field(default_factory=dict)
    replaced: list[tuple[Place, int]] = field(default_factory=list)
    runs: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    merges: int = 0

    @classmethod
    def read(cls, state: Path) -> Ledger:
        """Raises TargetError."""
        ledger = cls()
        for path in journal_paths(state):
            for line in iter_lines(path):
                ledger.take(line)
        return ledger

    def take(self, line: Line) -> None:
        if line.is_source:
            self._take_source(line)
        elif "run" in line.fields:
            self.runs[line.place.path] = line.fields
            self.lines[line.place.path] = 0
        elif "merged" in line.fields:
            self.merges += 1

    def _take_source(self, line: Line) -> None:
        fields = line.fields
        message = fields.get("message")
        known = Known(line.finished(), line.place, fields["order"], self.merges, str(message) if message else None)
        old = self.sources.get(fields["source"])
        if old is not None:
            self.replaced.append((old.place, old.generation))
        self.sources[fields["source"]] = known
        self.lines[line.place.path] = self.lines.get(line.place.path, 0) + 1

    def finished(self) -> dict[str, Finished]:
        return {location: known.finished for location, known in self.sources.items()}

    def settled(self, locations: Iterable[str]) -> list[tuple[Place, int]]:
        """Records outside `locations` that took part in an earlier merge: its choice of blobs stands."""
        own = set(locations)
        others = [(known.place, known.generation) for location, known in self.sources.items() if location not in own]
        return [(place, generation) for place, generation in (*self.replaced, *others) if generation < self.merges]

    def merge_sources(self, locations: Sequence[str]) -> list[MergeSource]:
        """Those of `locations` that are finished, in their order."""
        return [
            MergeSource(location, known.place, known.finished.outcome, known.generation, known.message)
            for location in locations
            if (known := self.sources.get(location)) is not None
        ]

    def in_order(self) -> Iterator[str]:
        """Every source, by its place on the command line of its run."""
        return iter(sorted(self.sources, key=lambda location: (self.sources[location].order, location)))

    def outcomes(self) -> dict[Outcome, list[str]]:
        grouped: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
        for location in self.in_order():
            grouped[self.sources[location].finished.outcome].append(location)
        return grouped
