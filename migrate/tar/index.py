"""The places of the members of a tar archive, found in one pass over their headers.

Dialects: v7, ustar (prefix), GNU (long names and links `L` `K`, base-256 numbers) and pax (`x`, `g`). Sparse members
are refused. Sources: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import Struct, field

from migrate.blobio import limits
from migrate.blobio.compression import detect_compression
from migrate.errors import DamagedError, LimitError, SourceError, TruncatedError, UnsupportedError
from migrate.tar.header import (
    BLOCK,
    CONTENT_FREE,
    FIELD_ENDS,
    REGULAR,
    ZERO_BLOCK,
    Announced,
    checksum_is_right,
    header_adler,
    header_name,
    known_adlers,
    parse_number,
    read_fields,
)
from migrate.tar.members import Member, MemberKind, MemberList

_WINDOW = 64 * 1024
_PAGE = 4096
_BEHIND_END = 16 * 1024 * 1024
"""Members are searched up to so many bytes behind an end marker, which may be a sector that a rescue tool filled with
zeros."""
_COMPRESSED = (
    "{what}: {kind} data begins at byte {place:,}, behind the archive's end, perhaps another archive: "
    "cut it off into a file of its own, and name that as a source, too"
)
_OTHER_TAR = (
    "{what}: what follows the archive's end, at byte {place:,}, is no tar, but has tar headers from byte {other:,} on:"
    " perhaps another archive whose beginning is damaged"
)


_REFUSED = {
    b"S": "sparse member {!r} (repack with tar without --sparse)",
    b"M": "the rest of {!r}, which begins in another volume (unpack all volumes with `tar -xM -f FIRST -f SECOND`, and "
    "convert the folder)",
}
_KINDS = {
    b"0": MemberKind.FILE,
    b"\0": MemberKind.FILE,
    b"7": MemberKind.FILE,
    b"1": MemberKind.HARDLINK,
    b"2": MemberKind.SYMLINK,
    b"5": MemberKind.DIRECTORY,
}


IsExpected = Callable[[str], bool]
"""True for a name that a member of such an archive can have. Behind damage it distinguishes members' headers from
headers inside a layer."""


class Damage(Struct, frozen=True):
    """A damaged place. `resumed`: the byte of the next valid header, None if there is none.

    `is_end`: the place may be the end of an archive with another one behind it, and then it is no damage.
    """

    error: SourceError
    resumed: int | None = None
    is_end: bool = False

    @property
    def message(self) -> str:
        rest = "what follows is lost" if self.resumed is None else f"reading continues at byte {self.resumed:,}"
        return f"{self.error.message}; {rest}"


class TarIndex(Struct):
    """All members in archive order. `sound`: the number of members before the first damage, None if there is none."""

    members: MemberList = field(default_factory=MemberList)
    damages: list[Damage] = field(default_factory=list)
    sound: int | None = None
    places: list[int] = field(default_factory=list)
    """For each damage behind which reading continued, the number of members before it. These damages come first in
    `damages`."""

    def without_damage(self, found: Iterator[Member | Damage]) -> Iterator[Member]:
        """The members that `iter_members` yields. Damage is added to the index; the caller adds the members."""
        for one in found:
            if isinstance(one, Damage):
                self.damages.append(one)
                self.places.append(len(self.members))
                self.sound = len(self.members) if self.sound is None else self.sound
            else:
                yield one


class Window(Protocol):
    def read(self, offset: int, length: int, /) -> bytes:
        """`length` bytes at `offset` of the archive, fewer only at its end."""


def index_tar(fd: int, what: str, is_expected: IsExpected | None = None) -> TarIndex:
    """Reads the headers of the tar in `fd`, and no content.

    An archive that is cut off between two members has no end marker, which is damage, too. Members before damage are
    valid. Behind a damaged header, the next header with a name for which `is_expected` is true is searched; without
    `is_expected` the rest is left out. A member whose content ends beyond the end of the file is listed with its full
    size, and reading it is a TruncatedError. Raises LimitError over ARCHIVE_MEMBERS.
    """
    index = TarIndex()
    try:
        for member in index.without_damage(iter_members(FileWindow(fd, what), what, is_expected)):
            index.members.append(member)
    except (DamagedError, TruncatedError, UnsupportedError) as error:
        index.damages.append(Damage(error))
    return index


def has_member(head: bytes, is_expected: IsExpected) -> bool:
    """True if the header of a member is in `head`, the first bytes of a file whose first header is damaged."""
    resumed, _ = _find_header(HeadWindow(head), 0, _by_name(is_expected), len(head), "head")
    return resumed is not None


def looks_like_tar(head: bytes) -> bool:
    """True if `head` starts with a valid tar header, or with an end marker."""
    block = head[:BLOCK]
    return len(block) == BLOCK and (block == ZERO_BLOCK or checksum_is_right(block))


def begins_tar(head: bytes) -> bool:
    """True if `head` starts with a valid tar header. False for an end marker: a damaged tar or a disk may start with
    zeros."""
    return looks_like_tar(head) and any(head[:BLOCK])


class HeadWindow:
    """The first bytes of a tar."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]


class FileWindow:
    """Reads a file by position. Headers that are close together need one system call."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._what = what
        self._start = 0
        self._content = b""

    def read(self, offset: int, length: int) -> bytes:
        inside = offset - self._start
        if inside < 0 or inside + length > len(self._content):
            content = self._read_file(max(length, _WINDOW), offset)
            if len(content) < length:  # a read ends early at an unreadable sector, or at the end of the file
                content += self._read_file(length - len(content), offset + len(content))
            self._start, self._content, inside = offset, content, 0
        return self._content[inside : inside + length]

    def _read_file(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise _UnreadableError(f"{self._what}: cannot be read at byte {offset:,}: {error.strerror}") from error


class _UnreadableError(DamagedError):
    """A sector cannot be read. The bytes behind it may be readable."""


def iter_members(window: Window, what: str, is_expected: IsExpected | None = None) -> Iterator[Member | Damage]:
    """The members in archive order, and each damage. `window` is read from front to back.

    Damage with no further member behind it is raised.
    """
    count = 0
    position = 0
    while True:
        scan = _Scan(window, what, position)
        error: SourceError | None = None
        try:
            for member in scan:
                count += 1
                if count > limits.ARCHIVE_MEMBERS:
                    raise LimitError(f"{what}: more than {limits.ARCHIVE_MEMBERS:,} members")
                yield member
        except (DamagedError, UnsupportedError) as exc:
            if is_expected is None:
                raise
            error = exc
        if is_expected is None:
            return
        damage = find_rest(window, what, scan.behind, error, _by_name(is_expected))
        if damage is None:
            return
        if damage.error is error and damage.resumed is None:
            raise error
        yield damage
        if damage.resumed is None:
            return
        position = damage.resumed


class LoneBlockError(DamagedError):
    """A single block of zeros. An end marker has two."""


class _Scan:
    """The members from `position` to the end marker. After the end, or an error, `behind` is the place to continue
    at."""

    def __init__(self, window: Window, what: str, position: int) -> None:
        self._window = window
        self._what = what
        self._position = position
        self.behind = position

    def __iter__(self) -> Iterator[Member]:
        window, what, position = self._window, self._what, self._position
        announced = Announced()
        content = position
        try:
            while True:
                content = position + BLOCK
                header = window.read(position, BLOCK)
                # The common case without the parser of all dialects.
                member = _plain_member(header, content)
                if member is not None and not announced:
                    yield member
                    position = content + padded(member.size)
                    continue
                if not header:
                    raise TruncatedError(f"{what}: ends without the end-of-archive marker, so members may be lost")
                if not header.strip(b"\0"):
                    if window.read(content, BLOCK).strip(b"\0"):
                        raise LoneBlockError(
                            f"{what}: a single block of zeros at byte {position}, which ends no archive"
                        )
                    return  # the end marker, or its first block, if the file is cut there: no member is lost
                if len(header) < BLOCK:
                    raise TruncatedError(f"{what}: ends in the middle of a header, at byte {position}")
                where = f"{what}: header at byte {position}"
                if not checksum_is_right(header):
                    raise DamagedError(f"{where}: wrong checksum")
                kind = header[156:157]
                if kind in b"LKxgX" and kind:
                    size = _size(header, where)
                    position = content + padded(size)
                    extended, content = content, position
                    _read_announced(window, announced, kind[0], extended, size, where)
                    continue
                # The field has room for 8 GiB only; the size of a larger file is in a pax record, which replaces the
                # field.
                stated = _announced_size(announced, where)
                size = _size(header, where) if stated is None else stated
                if kind in _REFUSED:
                    name = _text(header[:100].partition(b"\0")[0])
                    raise UnsupportedError(f"{where}: {_REFUSED[kind].format(name)}")
                yield _member(header, kind, announced, content, size)
                position = content + (0 if kind[0] in CONTENT_FREE else padded(size))
                announced = Announced()
        finally:
            self.behind = content


def _skip_zeros(window: Window, position: int, end: int) -> tuple[int, bytes]:
    """(place of the first block that is not zeros, the block); the block is b"" if there is none before `end`."""
    while position < end:
        try:
            block = window.read(position, BLOCK)
        except _UnreadableError:
            # The kernel reads whole pages, so the page behind the unreadable one may be readable.
            position = (position // _PAGE + 1) * _PAGE
            continue
        if block.strip(b"\0") or not block:
            return position, block
        position += BLOCK
    return position, b""


def find_rest(
    window: Window, what: str, behind: int, error: SourceError | None, is_expected: Callable[[bytes], bool]
) -> Damage | None:
    """Where the headers of a tar go on behind `error` or, if that is None, behind an end marker. None for its end.

    `behind`: the place behind the last header. `is_expected`: True for a header that an entry of this tar can have, and
    not a file inside one of its entries.
    """
    is_end = error is None or isinstance(error, LoneBlockError)
    start, block, end = behind, b"", None
    if is_end:
        # What looks like the end may be a place that a rescue tool filled with zeros.
        end = behind + _BEHIND_END
        start, block = _skip_zeros(window, behind, end)
    if len(block) == BLOCK and checksum_is_right(block):
        resumed: int | None = start
    elif error is None and (kind := detect_compression(block)) != "none":
        return Damage(UnsupportedError(_COMPRESSED.format(what=what, kind=kind, place=start)), None, is_end)
    else:
        resumed, other = _find_header(window, start, is_expected, end if error is None else None, what)
        # Another tar behind the end: the user gets its place, since it may be a damaged second archive.
        if resumed is None and error is None and other is not None:
            return Damage(DamagedError(_OTHER_TAR.format(what=what, place=start, other=other)), None, is_end)
    if resumed is None:
        return None if error is None else Damage(error)
    if error is None:
        error = DamagedError(f"{what}: zeros at byte {behind - BLOCK:,}, where the archive does not end")
    return Damage(error, resumed, is_end)


def _by_name(is_expected: IsExpected) -> Callable[[bytes], bool]:
    return lambda header: is_expected(_text(header_name(header)))


def _find_header(
    window: Window, position: int, is_expected: Callable[[bytes], bool], end: int | None, what: str
) -> tuple[int | None, int | None]:
    """(place of the next expected header before `end`, place of the first other header); None for none.

    If an entry whose header is lost is a tar itself, the search goes through it from header to header, so that nothing
    in its files is taken for a header.
    """
    other: int | None = None
    while end is None or position < end:
        try:
            header = window.read(position, BLOCK)
        except _UnreadableError:
            position = (position // _PAGE + 1) * _PAGE
            continue
        if len(header) < BLOCK:
            break
        if header[257:262] == b"ustar" and checksum_is_right(header):
            if is_expected(header):
                return position, other
            other = position if other is None else other
            with contextlib.suppress(DamagedError):
                position += 0 if header[156] in CONTENT_FREE else padded(_size(header, what))
        position += BLOCK
    return None, other


def _plain_member(header: bytes, content: int) -> Member | None:
    """The member of a plain header: a regular file without a prefix, as most members are. None for any other header."""
    if len(header) < BLOCK:
        return None
    name, size, end, checksum, kind, prefix = read_fields(header)
    if kind != REGULAR or prefix or end not in FIELD_ENDS or not size.isdigit():
        return None
    if known_adlers.get(checksum) != header_adler(header) and not checksum_is_right(header):
        return None
    name = name.partition(b"\0")[0]
    if name.endswith(b"/"):
        return None
    # isdigit() accepts 8 and 9 as well; the parser of all dialects reports them.
    try:
        return Member(_text(name), MemberKind.FILE, content, int(size, 8), "")
    except ValueError:
        return None


def _member(header: bytes, kind: bytes, announced: Announced, content: int, size: int) -> Member:
    name = announced.name or header_name(header)
    link = announced.link or header[157:257].partition(b"\0")[0]
    member_kind = _KINDS.get(kind, MemberKind.OTHER)
    if member_kind is MemberKind.FILE and kind != b"7" and name.endswith(b"/"):
        member_kind = MemberKind.DIRECTORY  # the v7 format has no type flag for directories
    return Member(_text(name), member_kind, content, size, _text(link))


def _read_announced(window: Window, announced: Announced, kind: int, offset: int, size: int, where: str) -> None:
    if kind == ord("g"):
        return  # Docker ignores global pax headers
    if size > limits.TAR_HEADER_BYTES:
        raise LimitError(f"{where}: an extended header of {size:,} bytes; the limit is {limits.TAR_HEADER_BYTES:,}")
    content = window.read(offset, size)
    if len(content) < size:
        raise TruncatedError(f"{where}: ends in the middle of an extended header")
    announced.take(kind, content, where)
    if announced.is_sparse:
        raise UnsupportedError(f"{where}: sparse member in pax form (repack with tar without --sparse)")
    _announced_size(announced, where)


def _announced_size(announced: Announced, where: str) -> int | None:
    size = announced.pax.get("size")
    return None if size is None else _possible(limits.parse_whole(size), f"{size[:40]!r} in a pax record", where)


def _size(header: bytes, where: str) -> int:
    try:
        size = parse_number(header[124:136])
    except ValueError as error:
        raise DamagedError(f"{where}: size is {error}") from error
    return _possible(size, f"{size}", where)


def _possible(size: int | None, stated: str, where: str) -> int:
    if size is None or not 0 <= size <= limits.STATED_BYTES:
        raise DamagedError(f"{where}: impossible size {stated}")
    return size


def padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
