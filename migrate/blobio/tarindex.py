"""Where the members of a tar archive lie, found by their headers alone and in one pass.

Dialects: v7, ustar (prefix), GNU (long names and links `L` `K`, base-256 numbers) and pax (`x`, `g`). Sparse members
are refused by name. Sources: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from zlib import adler32

from migrate.blobio import limits
from migrate.errors import DamagedError, LimitError, TruncatedError, UnsupportedError

BLOCK = 512
_ZERO = bytes(BLOCK)
_WINDOW = 64 * 1024
_CHECKSUM_FIELD = slice(148, 156)


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


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `offset` and `size` are its content's place in the archive, in bytes; `name` as the header has it."""

    name: str
    kind: MemberKind
    offset: int
    size: int
    link: str
    mtime: int


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
    return len(block) == BLOCK and (block == _ZERO or checksum_is_right(block))


def checksum_is_right(header: bytes) -> bool:
    """Unsigned sum, or the signed one that some old tars wrote."""
    try:
        stated = parse_number(header[_CHECKSUM_FIELD])
    except ValueError:
        return False
    # The low half of adler32 is one more than the sum of the bytes modulo 65521, by one call into C.
    if (adler32(header[156:BLOCK], adler32(header[:148])) - 1 + 256 - stated) & 0xFFFF == 0 and stated < 65_521:
        return True
    unsigned = 256 + sum(header[:148]) + sum(header[156:BLOCK])
    if stated == unsigned:
        return True
    high = sum(byte >= 128 for byte in header[:148]) + sum(byte >= 128 for byte in header[156:BLOCK])
    return stated == unsigned - 256 * high


def parse_number(text: bytes) -> int:
    """An octal number field, or base-256 where the first bit is set. ValueError for anything else."""
    if text[0] & 0x80:
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        return value - (1 << (8 * len(text) - 1)) if text[0] & 0x40 else value
    digits = text.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError(f"not an octal number: {digits!r}")
    return int(digits, 8)


def parse_pax(content: bytes, what: str) -> dict[str, bytes]:
    """The records of a pax header (`<length> <key>=<value>\\n`), values raw. DamagedError for a malformed one."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(content):
        space = content.find(b" ", position, position + 20)
        length = content[position:space] if space > 0 else b""
        end = position + int(length) if length.isdigit() else 0
        record = content[space + 1 : end - 1]
        key, equals, value = record.partition(b"=")
        if end <= space or end > len(content) or content[end - 1 : end] != b"\n" or not equals:
            raise DamagedError(f"{what}: malformed pax record at byte {position}")
        records[key.decode("utf-8", "surrogateescape")] = value
        position = end
    return records


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
        if not header.strip(b"\0"):
            return  # the end marker, or what a cut left of it: no member is lost
        if len(header) < BLOCK:
            raise TruncatedError(f"{what}: ends in the middle of a header, at byte {position}")
        where = f"{what}: header at byte {position}"
        if not checksum_is_right(header):
            raise DamagedError(f"{where}: wrong checksum")
        size = overrides.size if overrides.size is not None else _size(header, where)
        content = position + BLOCK
        kind = header[156:157]
        if kind in b"LKxgX" and kind:
            _read_override(window, overrides, kind, content, _size(header, where), where)
            position = content + _padded(_size(header, where))
            continue
        if kind == b"S":
            raise UnsupportedError(f"{where}: sparse member {_text(header[:100])!r} (repack with tar without --sparse)")
        member = _member(header, kind, overrides, content, size)
        yield member
        has_content = kind not in (b"1", b"2", b"3", b"4", b"5", b"6")
        position = content + (_padded(size) if has_content else 0)
        overrides = _Overrides()
    raise TruncatedError(f"{what}: ends without the end-of-archive marker, so members may be lost")


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
    try:
        mtime = parse_number(header[136:148])
    except ValueError:
        mtime = 0
    return Member(_text(name), member_kind, content, size, _text(link), mtime)


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
