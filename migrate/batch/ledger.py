"""The content of all journals of a target: which sources are finished, and where their records are."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, overload

from msgspec import Struct, field, msgpack

from migrate.batch.journal import JOURNAL_NAME, Journals, Line, LinePlace
from migrate.batch.plan import Finished, SourceIdentity, SourceOutcome

Wants = Callable[[str, Finished], bool]
"""True if a line about the source fits the current run: the same options, and the source as it is now."""


class Known(Struct, frozen=True, gc=False):
    """The line of one source that is used. It was finished `seconds` after 1970 and took `duration` seconds."""

    finished: Finished
    place: LinePlace
    order: int
    generation: int
    message: str | None
    seconds: int
    is_wanted: bool = False
    is_own: bool = False
    is_completion: bool = False
    """The source was read again by a merge, with layers that it lacks and that shards have."""
    error: str | None = None
    images: int = 0
    failed: int = 0
    duration: float = 0.0
    worker: str | None = None
    tries: int = 1

    def replaces(self, other: Known) -> bool:
        """True if this line is used instead of the other. Lines of this run come first. Within a journal, the later
        line is newer. Of two journals, the one with more merges before the line is newer, or else the one with the
        later time, although the clocks of their machines may differ. What a merge read again comes after what a
        shard read of the same state of the source, whatever the clocks show: else each merge would read it again."""
        if self.is_own != other.is_own:
            return self.is_own
        if self.is_wanted != other.is_wanted:
            return self.is_wanted
        if self.place.journal == other.place.journal:
            return self.place.offset > other.place.offset
        is_same_state = self.generation == other.generation and self.finished.identity == other.finished.identity
        if is_same_state and self.is_completion != other.is_completion:
            return self.is_completion
        return (self.generation, self.seconds) >= (other.generation, other.seconds)


_OUTCOMES: Final = tuple(SourceOutcome)


class KnownSources(Mapping[str, Known]):
    """Sources by location, each made when it is asked for: as objects, 100,000 would take some 80 MB."""

    __slots__ = ("_numbers", "_rows", "_words")

    def __init__(self) -> None:
        self._rows: dict[str, bytes | Known] = {}
        self._numbers: dict[str, int] = {}
        """The numbers of the few different recipes and names of journals."""
        self._words: list[str] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, location: object) -> bool:
        return location in self._rows

    def __setitem__(self, location: str, known: Known) -> None:
        finished, place = known.finished, known.place
        row = (
            (finished.identity.size, finished.identity.mark),
            (self._number(finished.recipe), _OUTCOMES.index(finished.outcome)),
            (self._number(place.journal), place.offset, place.length),
            tuple(getattr(known, name) for name in Known.__struct_fields__[2:]),
        )
        try:
            self._rows[location] = msgpack.encode(row)
        except (UnicodeEncodeError, OverflowError):  # a text or a number that somebody else has written
            self._rows[location] = known

    def __getitem__(self, location: str) -> Known:
        row = self._rows[location]
        if not isinstance(row, bytes):
            return row
        (size, mark), (recipe, outcome), (journal, offset, length), rest = msgpack.decode(row)
        finished = Finished(SourceIdentity(size, mark), self._words[recipe], _OUTCOMES[outcome])
        return Known(finished, LinePlace(self._words[journal], offset, length), *rest)

    def same(self, locations: Iterable[str]) -> list[str]:
        """`locations`, as the strings that are in memory for these sources."""
        own = {location: location for location in self._rows}
        return [own.get(location, location) for location in locations]

    def _number(self, word: str) -> int:
        number = self._numbers.setdefault(word, len(self._words))
        if number == len(self._words):
            self._words.append(word)
        return number


class MergeSource(Struct, frozen=True, gc=False):
    """One source of the batch, by its line in the journal. `generation` is the number of merges before that line."""

    location: str
    place: LinePlace
    outcome: SourceOutcome
    generation: int
    message: str | None = None


class MergeSources(Sequence[MergeSource]):
    """The sources at `locations`, each made when it is asked for."""

    __slots__ = ("_known", "locations")

    def __init__(self, known: Mapping[str, Known], locations: Sequence[str]) -> None:
        self._known = known
        self.locations = locations

    def __len__(self) -> int:
        return len(self.locations)

    def __iter__(self) -> Iterator[MergeSource]:
        return map(self._at, self.locations)

    @overload
    def __getitem__(self, place: int, /) -> MergeSource: ...
    @overload
    def __getitem__(self, place: slice, /) -> MergeSources: ...
    def __getitem__(self, place: int | slice, /) -> MergeSource | MergeSources:
        if isinstance(place, slice):
            return MergeSources(self._known, self.locations[place])
        return self._at(self.locations[place])

    @property
    def are_sorted(self) -> bool:
        """True if they are in the order of the report."""
        return all(one < two for one, two in pairwise(self.locations))

    def in_order_of_report(self) -> MergeSources:
        return MergeSources(self._known, sorted(self.locations))

    def _at(self, location: str) -> MergeSource:
        known = self._known[location]
        return MergeSource(location, known.place, known.finished.outcome, known.generation, known.message)


class Ledger(Struct):
    """`runs` are the first lines of runs, by journal; `replaced` are records that a later line of their source
    replaces. `ends` has the number of bytes that were read of each journal."""

    sources: KnownSources = field(default_factory=KnownSources)
    replaced: list[tuple[LinePlace, int]] = field(default_factory=list)
    runs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    merges: int = 0
    _wants: Wants | None = None
    _own: LinePlace | None = None
    _closed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _taken: list[tuple[Mapping[str, int], frozenset[str]]] = field(default_factory=list)
    """For each merge: how far it read each journal, and the recipes of the sources that it used."""

    @classmethod
    def read(cls, journals: Journals, wants: Wants | None = None, own: LinePlace | None = None) -> Ledger:
        """Reads all journals. If a source has several lines, the newest one is used, but lines that `wants` accepts
        come before all others, and lines that this run wrote, from `own` on, before those.

        Raises TargetError.
        """
        ledger = cls(_wants=wants, _own=own)
        # Merges write their lines, also those about shards, into the journal that belongs to no shard. They are needed
        # to judge the lines of shards, so this journal is read first.
        for journal in sorted(journals.names(), key=lambda name: (name != JOURNAL_NAME, name)):
            for line in journals.iter_lines(journal):
                ledger.take(line)
        ledger._wants = None  # which may hold a row for each source
        return ledger

    def take(self, line: Line) -> None:
        self.ends[line.place.journal] = line.place.offset + line.place.length
        if line.is_source:
            self._take_source(line)
        elif "run" in line.fields:
            self.runs[line.place.journal] = line.fields
            self.lines[line.place.journal] = 0
        elif "merged" in line.fields:
            self.merges += 1
            ends = line.fields["journals"]
            self._taken.append((ends, frozenset(line.fields["recipes"])))
            for journal, end in ends.items():
                self._closed[journal].append(end)

    def _take_source(self, line: Line) -> None:
        fields = line.fields
        message = fields.get("message")
        if not fields.get("again"):
            self.lines[line.place.journal] = self.lines.get(line.place.journal, 0) + 1
        finished = line.finished()
        # The generation is the number of merges before this line. The lines of merges are in another journal than those
        # of shards, so it is computed from how far each merge has read this journal.
        closed = self._closed.get(line.place.journal, [])
        known = Known(
            finished=finished,
            place=line.place,
            order=fields["order"],
            generation=self.merges - (len(closed) - bisect_right(closed, line.place.offset)),
            message=message or None,
            seconds=fields["finished"],
            is_wanted=self._wants is not None and self._wants(fields["source"], finished),
            is_own=self._own is not None
            and line.place.journal == self._own.journal
            and line.place.offset >= self._own.offset,
            is_completion=line.place.journal == JOURNAL_NAME and fields.get("again", False),
            error=fields["error"],
            images=fields["images"],
            failed=fields["failed"],
            duration=fields["seconds"],
            worker=fields.get("worker"),
            tries=fields.get("tries", 1),
        )
        old = self.sources.get(fields["source"])
        if old is not None:
            known, old = (known, old) if known.replaces(old) else (old, known)
            self.replaced.append((old.place, old.generation))
        self.sources[fields["source"]] = known

    def finished(self) -> dict[str, Finished]:
        return {location: known.finished for location, known in self.sources.items()}

    def places(self, locations: Iterable[str]) -> dict[str, LinePlace]:
        return {location: self.sources[location].place for location in locations}

    def others(self, locations: Iterable[str]) -> list[tuple[LinePlace, int]]:
        """All records except the latest ones of `locations`. Their layers are still needed, because a merge may have
        chosen a blob of them, or a worker may have found it in the target."""
        own = set(locations)
        others = (self.sources[location] for location in self.sources if location not in own)
        return [*self.replaced, *((known.place, known.generation) for known in others)]

    def merge_sources(self, locations: Sequence[str]) -> MergeSources:
        """The finished sources of `locations`, in their order."""
        return MergeSources(self.sources, [location for location in locations if location in self.sources])

    def in_order(self) -> Iterator[str]:
        """All sources, in the order of the command line of their run."""
        return iter(sorted(self.sources, key=lambda location: (self.sources[location].order, location)))

    def current(self) -> list[str]:
        """The sources that were read with the options of a journal's latest run, in the same order."""
        recipes = {opening["recipe"] for opening in self.runs.values()}
        return [location for location in self.in_order() if self.sources[location].finished.recipe in recipes]

    def left_over(self) -> int:
        """The number of sources that were read with other options and are in no merge."""
        others = self.sources.keys() - set(self.current())
        left = 0
        for known in (self.sources[location] for location in others):
            journal, offset, recipe = known.place.journal, known.place.offset, known.finished.recipe
            left += not any(ends.get(journal, 0) > offset and recipe in recipes for ends, recipes in self._taken)
        return left

    def recipes(self, locations: Iterable[str]) -> list[str]:
        return sorted({self.sources[location].finished.recipe for location in locations if location in self.sources})

    def outcomes(self) -> dict[SourceOutcome, list[str]]:
        grouped: dict[SourceOutcome, list[str]] = {outcome: [] for outcome in SourceOutcome}
        for location in self.in_order():
            grouped[self.sources[location].finished.outcome].append(location)
        return grouped
