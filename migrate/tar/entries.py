"""The entries of a tar stream: name, attributes, and content piece by piece.

Reads as Go's `archive/tar` and Docker do. An entry whose header cannot be read is a DamagedError. (`tar.inspector`
checks whether a layer's tar is complete and unambiguous.) Formats: POSIX.1-2017 `ustar` and `pax`, GNU tar's long
names.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any, Final, NamedTuple

from migrate.blobio.limits import TAR_HEADER_BYTES, WHOLE_NUMBER, parse_whole
from migrate.errors import DamagedError, LimitError, TruncatedError
from migrate.tar.header import (
    BLOCK,
    CONTENT_FREE,
    EXTENDED,
    ZERO_BLOCK,
    Announced,
    checksum_is_right,
    header_name,
    parse_number,
)

_FIELDS: Final = Struct("100x24s12s12s8xc100s88s167x").unpack
"""(mode, uid, gid), size, mtime, type flag, link, (magic, version, user, group, major, minor)."""
_XATTR: Final = "SCHILY.xattr."
_SPARSE: Final = ord("S")


class TarEntry(NamedTuple):
    """One entry. `kind` is the type flag, `ord("0")` also for regular files with the flag NUL; `mtime` is in seconds.

    Names are bytes as in the tar, with the final slash of a directory.
    """

    name: bytes
    kind: int
    size: int
    mode: int
    uid: int
    gid: int
    mtime: int
    link: bytes
    user: bytes
    group: bytes
    major: int
    minor: int
    xattrs: tuple[tuple[str, bytes], ...] = ()


class TarScanner:
    """Gets a tar in blocks of any size, and calls the three `on_` methods of a subclass.

    Raises DamagedError, TruncatedError and LimitError, whose messages begin with `what`.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._carry = b""
        self._content = 0  # bytes of the current entry that are not read yet
        self._padding = 0  # bytes behind it up to the next header
        self._inside = False  # between on_entry and on_end
        self._zero_blocks = 0
        self._sparse_map = False
        self._extended: bytearray | None = None
        self._extended_kind = 0
        self._announced = Announced()
        self.flag = b"0"
        """The current entry's type flag as in its header."""
        self.is_sparse = False
        """True if the current entry is a GNU sparse file. Its bytes in the tar are its content without the holes."""

    def on_entry(self, entry: TarEntry) -> None:
        """An entry begins."""

    def on_content(self, piece: memoryview) -> None:
        """A piece of a regular file's content, valid during the call only."""

    def on_end(self) -> None:
        """The entry has ended."""

    def feed(self, block: memoryview, /) -> None:
        position, length = 0, len(block)
        if self._carry:
            # A header that began in the last block.
            position = min(BLOCK - len(self._carry), length)
            header = self._carry + bytes(block[:position])
            if len(header) < BLOCK:
                self._carry = header
                return
            self._carry = b""
            self._take(header)
        # Two blocks of zeros are the end marker. Go reads nothing behind it.
        while self._zero_blocks < 2:
            if (self._content or self._padding or self._inside) and not self._sparse_map:
                position = self._pass(block, position, length)
                if self._content or self._padding:
                    return
            if position + BLOCK > length:
                self._carry = bytes(block[position:])
                return
            self._take(bytes(block[position : position + BLOCK]))
            position += BLOCK

    def finish(self) -> None:
        """Called at the end of the tar. Raises TruncatedError if it ends inside an entry."""
        if self._content or self._carry or self._sparse_map:
            raise TruncatedError(f"{self._what}: the tar ends inside an entry")
        if self._inside:
            self._end_entry()

    @property
    def is_announced(self) -> bool:
        """True if a pax header or a long name was read whose entry has not come yet."""
        return bool(self._announced)

    def _pass(self, block: memoryview, position: int, length: int) -> int:
        if self._content:
            end = min(position + self._content, length)
            piece = block[position:end]
            if self._extended is not None:
                self._extended += piece
            else:
                self.on_content(piece)
            self._content -= end - position
            position = end
        if not self._content:
            if self._extended is not None:
                self._end_extended(bytes(self._extended))
            elif self._inside:
                self._end_entry()
            step = min(self._padding, length - position)
            self._padding -= step
            position += step
        return position

    def _end_entry(self) -> None:
        self._inside = False
        self.on_end()

    def _take(self, header: bytes) -> None:
        if self._sparse_map:
            self._sparse_map = header[504] != 0
            return
        if header == ZERO_BLOCK:
            self._zero_blocks += 1
            return
        try:
            fields = _FIELDS(header)
            kind = fields[3][0] or 48
            size = _number(fields[1])
            if not 0 <= size <= WHOLE_NUMBER:
                raise ValueError("a negative or too large size")
            self._zero_blocks = 0
            if kind in EXTENDED:
                if size > TAR_HEADER_BYTES:
                    raise LimitError(
                        f"{self._what}: an extended tar header of {size:,} bytes, over the limit of "
                        f"{TAR_HEADER_BYTES:,}"
                    )
                self._extended, self._extended_kind = bytearray(), kind
                self._content, self._padding = size, -size % BLOCK
                if not size:
                    self._end_extended(b"")
            else:
                self._sparse_map = kind == _SPARSE and header[482] != 0  # the map continues in further blocks
                self._begin_entry(kind, size, header_name(header), fields)
        except ValueError as exc:
            if not checksum_is_right(header):
                # The checksum is computed only to explain an error. The inspector verifies those of all headers of a
                # layer.
                raise DamagedError(f"{self._what}: a tar header's checksum does not match") from exc
            raise DamagedError(f"{self._what}: a damaged tar header: {exc}") from exc

    def _begin_entry(self, kind: int, size: int, name: bytes, fields: tuple[bytes, ...]) -> None:
        owner, _, mtime, flag, link, origin = fields
        link = link.partition(b"\0")[0]
        mode, uid, gid = _owner(owner)
        user, group, major, minor = _origin(origin, kind in b"34")
        self.flag = flag
        self.is_sparse = kind == _SPARSE
        entry = TarEntry(name, kind, size, mode, uid, gid, _number(mtime), link, user, group, major, minor)
        if self._announced:
            announced, self._announced = self._announced, Announced()
            entry = _as_announced(entry, announced)
            self.is_sparse |= announced.is_sparse
        if flag == b"\0" and entry.name.endswith(b"/"):  # the v7 format has no type flag for directories
            entry = entry._replace(kind=53)
        if kind in CONTENT_FREE or entry.kind == 53:
            entry = entry._replace(size=0) if entry.size else entry
        self._content = entry.size
        self._padding = -entry.size % BLOCK
        self._inside = True
        self.on_entry(entry)
        if not self._content:
            self._end_entry()

    def _end_extended(self, content: bytes) -> None:
        self._extended = None
        self._announced.take(self._extended_kind, content, self._what)


@lru_cache(65_536)
def _number(field: bytes) -> int:
    return parse_number(field)


@lru_cache(4_096)
def _owner(fields: bytes) -> tuple[int, int, int]:
    """(mode, uid, gid). Cached: a tar has few different ones."""
    return parse_number(fields[:8]), parse_number(fields[8:16]), parse_number(fields[16:])


@lru_cache(4_096)
def _origin(fields: bytes, is_device: bool) -> tuple[bytes, bytes, int, int]:
    """(user, group, major, minor)."""
    user, group = (fields[start : start + 32].partition(b"\0")[0] for start in (8, 40))
    if not is_device:
        return user, group, 0, 0
    return user, group, parse_number(fields[72:80]), parse_number(fields[80:88])


def _as_announced(entry: TarEntry, announced: Announced) -> TarEntry:
    """The entry with the values of the pax header or long name before it. Raises ValueError for a malformed number."""
    records = announced.pax
    texts = {
        "name": announced.name,
        "link": announced.link,
        "user": records.get("uname"),
        "group": records.get("gname"),
    }
    changes: dict[str, Any] = {field: value for field, value in texts.items() if value is not None}
    if "size" in records:
        changes["size"] = _whole(records["size"])
    for key in ("uid", "gid"):
        if key in records:
            changes[key] = _decimal(records[key])
    if "mtime" in records:
        changes["mtime"] = _decimal(records["mtime"].partition(b".")[0])
    xattrs = tuple(sorted((key[len(_XATTR) :], value) for key, value in records.items() if key.startswith(_XATTR)))
    if xattrs:
        changes["xattrs"] = xattrs
    return entry._replace(**changes)


def _decimal(text: bytes) -> int:
    return -_whole(text[1:]) if text[:1] == b"-" else _whole(text)


def _whole(text: bytes) -> int:
    value = parse_whole(text)
    if value is None:
        raise ValueError(f"no number, or too large: {text[:40]!r}")
    return value
