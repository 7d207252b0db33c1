"""The v1 layers of an archive and their parents, packed: an archive of many small images has hundreds of thousands."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, overload

from migrate.compose.chain import find_heads
from migrate.model.legacy import LegacyID
from migrate.readers.members import Members

_UNKNOWN: Final = 0
_NONE: Final = 1
_OTHER: Final = 2
"""The parent is no layer of the archive, or the layer itself is none."""
_FIRST: Final = 3
"""The parent at place 0; higher numbers are later places."""
NOWHERE: Final = -1
"""The place of an ID that is none of the layers."""


class V1Layers(Sequence[LegacyID]):
    """The IDs of all v1 layers, sorted; the place of each is its number here. An ID is made from the name of a member
    of its folder when it is asked for: as text in a list it would take ten times the memory."""

    def __init__(self, members: Members, ids: Iterable[str]) -> None:
        self._members = members
        self._numbers = array("I", (self._number(legacy_id) for legacy_id in sorted(ids)))
        self._places = array("I", bytes(4 * members.count))
        """The place of each member's layer, plus 1; 0 for a member of no layer."""
        for place, number in enumerate(self._numbers):
            self._places[number] = place + 1
        self._parents = array("I", bytes(4 * len(self._numbers)))
        self._others: dict[LegacyID, LegacyID | None] = {}
        """The parents that `_parents` cannot hold, by the ID of the child."""

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int, /) -> LegacyID: ...

    @overload
    def __getitem__(self, place: slice, /) -> list[LegacyID]: ...

    def __getitem__(self, place: int | slice, /) -> LegacyID | list[LegacyID]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        name = self._members.name(self._numbers[place])
        return LegacyID(name.rpartition("/")[0] or name)

    def __iter__(self) -> Iterator[LegacyID]:
        return map(self.__getitem__, range(len(self)))

    def __contains__(self, legacy_id: object) -> bool:
        return isinstance(legacy_id, str) and self.find(LegacyID(legacy_id)) != NOWHERE

    def __eq__(self, other: object) -> bool:
        return isinstance(other, V1Layers | list) and list(self) == list(other)

    def find(self, legacy_id: LegacyID) -> int:
        """The place of the layer, or NOWHERE."""
        number = self._members.number(f"{legacy_id}/json")
        if number is None:
            number = next(self._other_members(legacy_id), None)
        return NOWHERE if number is None else self._places[number] - 1

    def knows_parent(self, legacy_id: LegacyID, place: int) -> bool:
        """True if `set_parent` was called. `place`: that of the layer."""
        return legacy_id in self._others if place == NOWHERE else self._parents[place] != _UNKNOWN

    def parent(self, legacy_id: LegacyID, place: int) -> LegacyID | None:
        """The parent of a layer with a known one; None for a base."""
        value = _OTHER if place == NOWHERE else self._parents[place]
        if value >= _FIRST:
            return self[value - _FIRST]
        return self._others[legacy_id] if value == _OTHER else None

    def set_parent(self, legacy_id: LegacyID, place: int, parent: LegacyID | None) -> None:
        at = NOWHERE if parent is None else self.find(parent)
        if place != NOWHERE:
            self._parents[place] = _NONE if parent is None else _OTHER if at == NOWHERE else at + _FIRST
        if place == NOWHERE or (parent is not None and at == NOWHERE):
            self._others[legacy_id] = parent

    def heads(self) -> list[int]:
        """The places of the layers that are no parent (see `find_heads`), by the parents that are known."""
        return find_heads(array("q", (max(NOWHERE, value - _FIRST) for value in self._parents)))

    def _number(self, legacy_id: str) -> int:
        number = self._members.number(f"{legacy_id}/json")
        return next(self._other_members(legacy_id)) if number is None else number

    def _other_members(self, legacy_id: str) -> Iterator[int]:
        """The members that a layer without a json may have. A folder that could not be listed is the only one."""
        for name in (f"{legacy_id}/layer.tar", *([legacy_id] if legacy_id in self._members.unlisted else [])):
            if (number := self._members.number(name)) is not None:
                yield number
