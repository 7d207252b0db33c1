"""Lists the entries of a layer's tar while the layer is hashed."""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from isal.isal_zlib import crc32

from migrate.errors import DamagedError, LimitError, TruncatedError
from migrate.tar.entries import TarEntry, TarScanner
from migrate.tar.names import below_root

CHECKED_ENTRIES: Final = 1_000_000
"""Limit of the entries of one layer. The check needs half a kilobyte of memory for each."""
_PACKED_ENTRIES: Final = 10_000
_CAPABILITY: Final = "security.capability"
_WITHOUT_CONTENT: Final = frozenset(b"123456")
_ID_BITS: Final = 0xFFFF_FFFF


class ListedEntry(NamedTuple):
    """One entry. `path` and the `link` of a hard link are relative and clean; `kind` is the typeflag, `0` also for NUL.

    `size` is None for a sparse file, whose content is in pieces in the tar; `crc` is the CRC-32 of the content.
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


class TarListing(TarScanner):
    """A TarObserver. `entries` may be called after `finish`.

    `problem`: why the tar cannot be read here, None if it can. With a problem, nothing can be checked.
    """

    def __init__(self) -> None:
        super().__init__("")
        self.problem: str | None = None
        self._entries: list[tuple[object, ...]] = []
        self._packed: list[bytes] = []
        self._count = 0
        self._crc = 0
        self._current: tuple[object, ...] = ()

    def feed(self, block: memoryview, /) -> None:
        if self.problem is None:
            try:
                super().feed(block)
            except (DamagedError, LimitError, TruncatedError) as error:
                self.problem = self.problem or f"entry {self._count + 1}{error.message}"

    def finish(self) -> None:
        if self.problem is None and self._inside:
            self._end_entry()
        self._pack()

    def entries(self) -> Iterator[ListedEntry]:
        """The entries in the order of the tar."""
        for packed in self._packed:
            yield from map(ListedEntry._make, marshal.loads(zlib.decompress(packed)))

    def on_entry(self, entry: TarEntry) -> None:
        kind = bytes((entry.kind,))
        has_content = entry.kind not in _WITHOUT_CONTENT
        capability = next((value for key, value in entry.xattrs if key == _CAPABILITY), None)
        self._crc = 0
        # The size of a sparse entry is that of its stored pieces, and not that of the file. The link of a hard link is
        # a path in the tar, that of a symbolic link is any text.
        self._current = (
            below_root(entry.name),
            kind,
            entry.mode,
            _owner(entry.uid),
            _owner(entry.gid),
            None if self.is_sparse else entry.size if has_content else 0,
            below_root(entry.link) if kind == b"1" else entry.link,
            (entry.major, entry.minor),
            capability,
        )

    def on_content(self, piece: memoryview) -> None:
        self._crc = crc32(piece, self._crc)

    def on_end(self) -> None:
        self._entries.append((*self._current, self._crc))
        self._count += 1
        if len(self._entries) >= _PACKED_ENTRIES:
            self._pack()
        if self._count >= CHECKED_ENTRIES:
            self.problem = f"it has more than the limit of {CHECKED_ENTRIES:,} entries"
            raise LimitError(self.problem)  # caught in `feed`, which then reads no further

    def _pack(self) -> None:
        """Packs the entries until they are needed. This takes a tenth of the memory."""
        self._packed.append(zlib.compress(marshal.dumps(self._entries), 1))
        self._entries = []


def _owner(number: int) -> int:
    """The owner of a file after chown(2) with `number`: 32 bits of it. -1 does not change the owner, which is root."""
    number &= _ID_BITS
    return 0 if number == _ID_BITS else number
