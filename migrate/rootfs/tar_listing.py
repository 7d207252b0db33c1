"""What stands in a layer's tar, taken down while the layer is hashed."""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from isal.isal_zlib import crc32

from migrate.blobio.limits import TAR_HEADER_BYTES, parse_whole
from migrate.tar.header import is_name_prefix

CHECKED_ENTRIES: Final = 1_000_000
"""Entries of one layer. To check it takes half a kilobyte for each."""
_PACKED_ENTRIES: Final = 10_000
_BLOCK: Final = 512
_ZERO: Final = bytes(_BLOCK)
_WITHOUT_CONTENT: Final = frozenset(b"123456")
_EXTENDED: Final = frozenset(b"xgLK")
_CAPABILITY: Final = b"SCHILY.xattr.security.capability"


class TarEntry(NamedTuple):
    """One entry. `path` and a hard link's `link` are relative and cleaned; `kind` is the typeflag, `0` for NUL too.

    `size` is None for a sparse file, whose content stands there in pieces; `crc` is the CRC-32 of the content.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int | None
    link: bytes
    device: tuple[int, int]
    capability: bytes | None
    crc: int


class TarListing:
    """Fills TarObserver. `entries` may be read once `finish` was called.

    `problem` says where the tar stops making sense to this reader, if it does: then nothing can be checked by it.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._entries: list[tuple[object, ...]] = []
        self._packed: list[bytes] = []
        self._count = 0
        self._partial = bytearray()
        self._content = 0
        self._padding = 0
        self._crc = 0
        self._extended: bytearray | None = None
        self._extended_kind = 0
        self._pax: dict[bytes, bytes] = {}
        self._current: tuple[object, ...] | None = None
        self._ended = False

    def feed(self, block: memoryview) -> None:
        position, length = 0, len(block)
        while position < length and not self._ended:
            if self._content:
                taken = min(self._content, length - position)
                self._take_content(block[position : position + taken])
            elif self._padding:
                taken = min(self._padding, length - position)
                self._padding -= taken
            elif self._partial or length - position < _BLOCK:
                taken = min(_BLOCK - len(self._partial), length - position)
                self._partial += block[position : position + taken]
                if len(self._partial) == _BLOCK:
                    header, self._partial = bytes(self._partial), bytearray()
                    self._take_header(header)
            else:
                taken = _BLOCK
                self._take_header(bytes(block[position : position + _BLOCK]))
            position += taken

    def finish(self) -> None:
        self._close_entry()
        self._pack()

    def entries(self) -> Iterator[TarEntry]:
        """In the order of the tar."""
        for packed in self._packed:
            yield from map(TarEntry._make, marshal.loads(zlib.decompress(packed)))

    def _pack(self) -> None:
        """A tenth of the memory, for the time until the entries are looked at."""
        self._packed.append(zlib.compress(marshal.dumps(self._entries), 1))
        self._entries = []

    def _take_content(self, part: memoryview) -> None:
        if self._extended is not None:
            self._extended += part
        else:
            self._crc = crc32(part, self._crc)
        self._content -= len(part)
        if not self._content and self._extended is not None:
            extended, self._extended = bytes(self._extended), None
            try:
                self._take_extended(extended)
            except ValueError as error:
                self._give_up(error)

    def _take_header(self, header: bytes) -> None:
        if header == _ZERO:
            self._ended = True
            return
        self._close_entry()
        try:
            kind, size = header[156], _number(header[124:136])
            if kind in _EXTENDED:
                self._begin_extended(kind, size)
            else:
                self._begin_entry(header, kind, size)
        except ValueError as error:
            self._give_up(error)

    def _give_up(self, error: ValueError) -> None:
        self.problem = f"entry {self._count + 1}: {error}"
        self._ended = True

    def _begin_extended(self, kind: int, size: int) -> None:
        if size > TAR_HEADER_BYTES:
            raise ValueError(f"an extended header of {size:,} bytes")
        self._content, self._padding = size, -size % _BLOCK
        self._extended, self._extended_kind = bytearray() if size else None, kind

    def _take_extended(self, content: bytes) -> None:
        if self._extended_kind == ord("L"):
            self._pax[b"path"] = content.partition(b"\0")[0]
        elif self._extended_kind == ord("K"):
            self._pax[b"linkpath"] = content.partition(b"\0")[0]
        elif self._extended_kind == ord("x"):
            self._pax.update(_pax_records(content))

    def _begin_entry(self, header: bytes, kind: int, size: int) -> None:
        pax, self._pax = self._pax, {}
        name = pax.get(b"path") or _name(header)
        size = _whole(pax[b"size"]) if b"size" in pax else size
        if kind == 0:
            kind = ord("5") if name.endswith(b"/") else ord("0")
        has_content = kind not in _WITHOUT_CONTENT
        link = pax.get(b"linkpath") or header[157:257].partition(b"\0")[0]
        self._content, self._padding = (size, -size % _BLOCK) if has_content else (0, 0)
        is_sparse = kind == ord("S") or any(key.startswith(b"GNU.sparse.") for key in pax)
        self._crc = 0
        self._current = (
            cleaned(name),
            bytes((kind,)),
            _number(header[100:108]),
            _whole(pax[b"uid"]) if b"uid" in pax else _number(header[108:116]),
            _whole(pax[b"gid"]) if b"gid" in pax else _number(header[116:124]),
            None if is_sparse else size if has_content else 0,
            cleaned(link) if kind == ord("1") else link,
            (_number(header[329:337]), _number(header[337:345])) if kind in b"34" else (0, 0),
            pax.get(_CAPABILITY),
        )

    def _close_entry(self) -> None:
        if self._current is None:
            return
        self._entries.append((*self._current, self._crc))
        self._current = None
        self._count += 1
        if len(self._entries) >= _PACKED_ENTRIES:
            self._pack()
        if self._count >= CHECKED_ENTRIES:
            self.problem = f"it has more than the limit of {CHECKED_ENTRIES:,} entries"
            self._ended = True


def cleaned(name: bytes) -> bytes:
    """A name relative to the root, without empty parts, `.` and `..` (which never leads above the root)."""
    if not name.startswith((b"/", b".")) and b"//" not in name and b"/." not in name:
        return name.rstrip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    if not header[345] or not is_name_prefix(header[257:265], header[345:500]):
        return name
    return header[345:500].partition(b"\0")[0] + b"/" + name


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    text = field.strip(b" \0").partition(b"\0")[0]
    return int(text, 8) if text else 0


def _whole(text: bytes) -> int:
    value = parse_whole(text)
    if value is None:
        raise ValueError(f"no number, or too large: {text[:40]!r}")
    return value


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(content):
        digits, space, _ = content[position : position + 20].partition(b" ")
        end = position + int(digits)
        if not space or end <= position or end > len(content):
            raise ValueError("a damaged pax record")
        key, _, value = content[position + len(digits) + 1 : end - 1].partition(b"=")
        yield key, value
        position = end
