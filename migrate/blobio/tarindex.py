"""Where the members of a tar archive lie, found by their headers alone and in one pass.

Dialects: v7, ustar (prefix), GNU (long names and links `L` `K`, base-256 numbers) and pax (`x`, `g`). Sparse members
are refused by name. Sources: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from migrate.blobio import limits
from migrate.blobio.tarheader import (
    BLOCK,
    CONTENT_FREE,
    FIELD_ENDS,
    REGULAR,
    ZERO_BLOCK,
    checksum_is_right,
    parse_number,
    parse_pax,
    read_fields,
)
from migrate.errors import DamagedError, LimitError, TruncatedError, UnsupportedError

_WINDOW = 64 * 1024


class MemberKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    OTHER = "other"


_KINDS = {
    b"0": MemberKind.FILE,
    b"\0": MemberKind.FILE,
    b"7": MemberKind.FILE,
    b"1": MemberKind.HARDLINK,
    b"2": MemberKind.SYMLINK,
    b"5": MemberKind.DIRECTORY,
}


class Member(NamedTuple):
    """One entry. `offset` and `size` are its content's place in the archive, in bytes; `name` as the header has it.

    (A tuple, because an archive of many small images has tens of thousands.)
    """

    name: str
    kind: MemberKind
    offset: int
    size: int
    link: str


@dataclass(slots=True)
class TarIndex:
    """All members in archive order. `damage` says where and why the headers stop making sense, if they do."""

    members: list[Member] = field(default_factory=list)
    damage: DamagedError | TruncatedError | UnsupportedError | None = None


class Window(Protocol):
    def read(self, offset: int, length: int, /) -> bytes:
        """`length` bytes at `offset` of the archive, fewer only where it ends."""


def index_tar(fd: int, what: str) -> TarIndex:
    """Scans the headers of the tar in `fd`. Content is never read.

    An archive cut off between two members has no end marker; this is damage, too. What follows a damaged header cannot
    be trusted and is left out; what stands before it is good. A member whose content reaches over the end of the file
    is listed with its full size, and reading it is a TruncatedError. Raises LimitError over ARCHIVE_MEMBERS.
    """
    index = TarIndex()
    try:
        index.members.extend(iter_members(_FileWindow(fd, what), what))
    except (DamagedError, TruncatedError, UnsupportedError) as damage:
        index.damage = damage
    return index


def looks_like_tar(head: bytes) -> bool:
    """True if `head` starts with a tar header whose checksum is right, or is an archive's end marker."""
    block = head[:BLOCK]
    return len(block) == BLOCK and (block == ZERO_BLOCK or checksum_is_right(block))


class _FileWindow:
    """Reads by position; headers that lie close together cost one system call."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._what = what
        self._start = 0
        self._content = b""

    def read(self, offset: int, length: int) -> bytes:
        inside = offset - self._start
        if inside < 0 or inside + length > len(self._content):
            self._start, inside = offset, 0
            self._content = self._read_file(max(length, _WINDOW), offset)
            if len(self._content) < length:  # a short read ends at a sector that cannot be read, or at the end
                self._content += self._read_file(length - len(self._content), offset + len(self._content))
        return self._content[inside : inside + length]

    def _read_file(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise DamagedError(f"{self._what}: cannot be read at byte {offset:,}: {error.strerror}") from error


@dataclass(slots=True)
class _Overrides:
    """What the pseudo-entries before a header say instead of it."""

    name: bytes | None = None
    link: bytes | None = None
    size: int | None = None

    @property
    def is_empty(self) -> bool:
        return self.name is None and self.link is None and self.size is None


def iter_members(window: Window, what: str) -> Iterator[Member]:
    """The members in archive order, reading `window` from front to back. Errors are those that `index_tar` collects."""
    for number, member in enumerate(_scan(window, what), start=1):
        if number > limits.ARCHIVE_MEMBERS:
            raise LimitError(f"{what}: more than {limits.ARCHIVE_MEMBERS:,} members")
        yield member


def _scan(window: Window, what: str) -> Iterator[Member]:
    position = 0
    overrides = _Overrides()
    while header := window.read(position, BLOCK):
        content = position + BLOCK
        member = _plain_member(header, content)
        if member is not None and overrides.is_empty:
            yield member
            position = content + _padded(member.size)
            continue
        if not header.strip(b"\0"):
            return  # the end marker, or what a cut left of it: no member is lost
        if len(header) < BLOCK:
            raise TruncatedError(f"{what}: ends in the middle of a header, at byte {position}")
        where = f"{what}: header at byte {position}"
        if not checksum_is_right(header):
            raise DamagedError(f"{where}: wrong checksum")
        size = overrides.size if overrides.size is not None else _size(header, where)
        kind = header[156:157]
        if kind in b"LKxgX" and kind:
            _read_override(window, overrides, kind, content, _size(header, where), where)
            position = content + _padded(_size(header, where))
            continue
        if kind == b"S":
            raise UnsupportedError(f"{where}: sparse member {_text(header[:100])!r} (repack with tar without --sparse)")
        yield _member(header, kind, overrides, content, size)
        position = content + (0 if kind[0] in CONTENT_FREE else _padded(size))
        overrides = _Overrides()
    raise TruncatedError(f"{what}: ends without the end-of-archive marker, so members may be lost")


def _plain_member(header: bytes, content: int) -> Member | None:
    """The short way to a regular file without a prefix: what an archive of layers consists of, nearly always."""
    if len(header) < BLOCK:
        return None
    name, size, end, _, kind, prefix = read_fields(header)
    if kind != REGULAR or prefix or end not in FIELD_ENDS or not size.isdigit() or not checksum_is_right(header):
        return None
    name = name.partition(b"\0")[0]
    if name.endswith(b"/"):
        return None
    try:
        return Member(_text(name), MemberKind.FILE, content, int(size, 8), "")
    except ValueError:
        return None


def _member(header: bytes, kind: bytes, overrides: _Overrides, content: int, size: int) -> Member:
    name = overrides.name
    if name is None:
        name = header[:100].partition(b"\0")[0]
        prefix = header[345:500].partition(b"\0")[0]
        if prefix and header[257:263] == b"ustar\0":
            name = prefix + b"/" + name
    link = overrides.link if overrides.link is not None else header[157:257].partition(b"\0")[0]
    member_kind = _KINDS.get(kind, MemberKind.OTHER)
    if member_kind is MemberKind.FILE and kind != b"7" and name.endswith(b"/"):
        member_kind = MemberKind.DIRECTORY  # v7 wrote directories as files whose name ends in a slash
    return Member(_text(name), member_kind, content, size, _text(link))


def _read_override(window: Window, overrides: _Overrides, kind: bytes, offset: int, size: int, where: str) -> None:
    if kind == b"g":
        return  # global pax headers name no single member; Docker ignores them
    if size > limits.TAR_HEADER_BYTES:
        raise LimitError(f"{where}: an extended header of {size:,} bytes; the limit is {limits.TAR_HEADER_BYTES:,}")
    content = window.read(offset, size)
    if len(content) < size:
        raise TruncatedError(f"{where}: ends in the middle of an extended header")
    if kind == b"L":
        overrides.name = content.partition(b"\0")[0]
    elif kind == b"K":
        overrides.link = content.partition(b"\0")[0]
    else:
        _apply_pax(overrides, parse_pax(content, where), where)


def _apply_pax(overrides: _Overrides, records: dict[str, bytes], where: str) -> None:
    if any(key.startswith("GNU.sparse.") for key in records):
        raise UnsupportedError(f"{where}: sparse member in pax form (repack with tar without --sparse)")
    overrides.name = records.get("path", overrides.name)
    overrides.link = records.get("linkpath", overrides.link)
    size = records.get("size")
    if size is not None:
        if not size.isdigit() or len(size) > 18:
            raise DamagedError(f"{where}: pax size {size!r}")
        overrides.size = int(size)


def _size(header: bytes, where: str) -> int:
    try:
        size = parse_number(header[124:136])
    except ValueError as error:
        raise DamagedError(f"{where}: size is {error}") from error
    if size < 0 or size > 1 << 60:
        raise DamagedError(f"{where}: impossible size {size}")
    return size


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
