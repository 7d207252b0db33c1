"""The members of a tar archive, and a list of them that takes little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple, overload


class MemberKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    OTHER = "other"


_KINDS: Final = tuple(MemberKind)
_NUMBERS: Final = {kind: number for number, kind in enumerate(_KINDS)}


class Member(NamedTuple):
    """One entry. `offset` and `size` give the place of its content in the archive, in bytes; `name` is as in the
    header."""

    name: str
    kind: MemberKind
    offset: int
    size: int
    link: str


class MemberList(Sequence[Member]):
    """Members in archive order. They are kept packed and made when they are asked for, because an archive of many small
    images has a million of them: a `Member` takes 250 bytes, its row here 30, and its name without the folder."""

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self._bases = bytearray()
        """The last parts of all names, one behind the other; the ends of each are in `_base_ends`."""
        self._base_ends = array("Q", [0])
        self._folders = bytearray()
        """What is before the last part, with the `/`: once for all members in a row that have the same."""
        self._folder_ends = array("Q", [0])
        self._folder_of = array("I")
        self._kinds = bytearray()
        self._offsets = array("q")
        self._sizes = array("q")
        self._links: dict[int, str] = {}
        self._last_folder: str | None = None
        self.extend(members)

    def append(self, member: Member) -> None:
        name, kind, offset, size, link = member
        begin = name.rfind("/") + 1
        folder = name[:begin]
        if folder != self._last_folder:
            self._last_folder = folder
            self._folders += folder.encode("utf-8", "surrogateescape")
            self._folder_ends.append(len(self._folders))
        if link:
            self._links[len(self._kinds)] = link
        self._bases += name[begin:].encode("utf-8", "surrogateescape")
        self._base_ends.append(len(self._bases))
        self._folder_of.append(len(self._folder_ends) - 2)
        self._kinds.append(_NUMBERS[kind])
        self._offsets.append(offset)
        self._sizes.append(size)

    def extend(self, members: Iterable[Member]) -> None:
        for member in members:
            self.append(member)

    def __len__(self) -> int:
        return len(self._kinds)

    @overload
    def __getitem__(self, place: int, /) -> Member: ...

    @overload
    def __getitem__(self, place: slice, /) -> MemberList: ...

    def __getitem__(self, place: int | slice, /) -> Member | MemberList:
        if isinstance(place, slice):
            return MemberList(self[number] for number in range(*place.indices(len(self))))
        number = range(len(self))[place]
        return self.member(number, self.name(number))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemberList | list) and list(self) == list(other)

    def member(self, number: int, name: str) -> Member:
        """The member with this number, whose name is known."""
        kind = _KINDS[self._kinds[number]]
        return Member(name, kind, self._offsets[number], self._sizes[number], self._links.get(number, ""))

    def kind(self, number: int) -> MemberKind:
        return _KINDS[self._kinds[number]]

    def name(self, number: int) -> str:
        """The name of a member, without the rest of it."""
        ends, folder, folder_ends = self._base_ends, self._folder_of[number], self._folder_ends
        name = self._folders[folder_ends[folder] : folder_ends[folder + 1]]
        name += self._bases[ends[number] : ends[number + 1]]
        return name.decode("utf-8", "surrogateescape")

    def names(self) -> Iterator[str]:
        """The names of all members."""
        last, before = -1, ""
        for folder, (begin, end) in zip(self._folder_of, pairwise(self._base_ends), strict=True):
            if folder != last:
                last = folder
                text = self._folders[self._folder_ends[folder] : self._folder_ends[folder + 1]]
                before = text.decode("utf-8", "surrogateescape")
            yield before + self._bases[begin:end].decode("utf-8", "surrogateescape")
