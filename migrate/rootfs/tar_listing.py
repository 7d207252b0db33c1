"""The entries of a layer's tar, taken down while the layer is hashed."""

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
"""Entries of one layer. To check it takes half a kilobyte for each."""
_PACKED_ENTRIES: Final = 10_000
_CAPABILITY: Final = "security.capability"
_WITHOUT_CONTENT: Final = frozenset(b"123456")
_ID_BITS: Final = 0xFFFF_FFFF


class ListedEntry(NamedTuple):
    """One entry. `path` and a hard link's `link` are relative and cleaned; `kind` is the typeflag, `0` for NUL too.

    `size` is None for a sparse file, whose content is in the tar in pieces; `crc` is the CRC-32 of the content.
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
    """Fills TarObserver. `entries` may be read once `finish` was called.

    `problem` is where the tar stops making sense to this reader, if it does: then nothing can be checked by it.
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
        """In the order of the tar."""
        for packed in self._packed:
            yield from map(ListedEntry._make, marshal.loads(zlib.decompress(packed)))

    def on_entry(self, entry: TarEntry) -> None:
        kind = bytes((entry.kind,))
        has_content = entry.kind not in _WITHOUT_CONTENT
        capability = next((value for key, value in entry.xattrs if key == _CAPABILITY), None)
        self._crc = 0
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
            raise LimitError(self.problem)  # caught in feed, and ends the scan

    def _pack(self) -> None:
        """A tenth of the memory, for the time until the entries are looked at."""
        self._packed.append(zlib.compress(marshal.dumps(self._entries), 1))
        self._entries = []


def _owner(number: int) -> int:
    """The owner that chown(2) gives for `number`: 32 bits of it, and -1 leaves the one that made the file, root."""
    number &= _ID_BITS
    return 0 if number == _ID_BITS else number
