"""Scans a layer for `plan --deep`: lists its entries in little memory, while the layer is hashed.

Contents are compared by XXH3-128 (xxHash). It is not safe against an attacker, but the analysis decides nothing. Two
layers have an equal content sum if their TarSums are equal (moby `pkg/tarsum`, version 1: the header of every entry
without its time, its attributes and its content, in any order).
"""

from __future__ import annotations

import itertools
from array import array
from typing import TYPE_CHECKING

from migrate.errors import MigrateError
from migrate.tar.entries import TarEntry, TarScanner
from migrate.tar.names import below_root

if TYPE_CHECKING:
    from xxhash import xxh3_128

_WORD = (1 << 128) - 1
_DIRECTORY = 53
DIRECTORY_CONTENT = -2
"""The number in place of a content for directories; -1 for links, devices and empty files."""


class Vocabulary:
    """Numbers for paths and contents, the same in every layer of a run. May be used from several threads.

    The numbers depend on the order in which threads request them, so no output may depend on them.
    """

    def __init__(self) -> None:
        self.paths: dict[bytes, int] = {}
        self.contents: dict[bytes, int] = {}
        self._next = itertools.count()

    def path(self, name: bytes) -> int:
        number = self.paths.get(name)
        return self.paths.setdefault(name, next(self._next)) if number is None else number

    def content(self, digest: bytes) -> int:
        number = self.contents.get(digest)
        return self.contents.setdefault(digest, next(self._next)) if number is None else number


class ScannedLayer:
    """The entries of a layer, as parallel arrays. `contents` are numbers of the vocabulary, negative for no content.

    `content_sum` is equal for layers with equal entries, whatever their times; `timed_sum` if their times are equal,
    too.
    """

    __slots__ = ("content_sum", "contents", "paths", "sizes", "timed_sum")

    def __init__(self) -> None:
        self.paths = array("i")
        self.contents = array("i")
        self.sizes = array("q")
        self.content_sum = 0
        self.timed_sum = 0


_NO_ENTRY = TarEntry(b"", 0, 0, 0, 0, 0, 0, b"", b"", b"", 0, 0)


class LayerScan(TarScanner):
    """A `TarObserver`. A tar that it cannot read stays unscanned, without an error for the layer."""

    def __init__(self, vocabulary: Vocabulary, room: EntryRoom) -> None:
        super().__init__("layer")
        from xxhash import xxh3_128, xxh3_128_digest, xxh3_128_intdigest

        self._new_sum = xxh3_128
        self._digest_of = xxh3_128_digest
        self._sum_of = xxh3_128_intdigest
        self._vocabulary = vocabulary
        self._room = room
        self._layer = ScannedLayer()
        self._entry = _NO_ENTRY
        self._digest = b""
        self._sum_so_far: xxh3_128 | None = None
        self._failed = False
        self.layer: ScannedLayer | None = None

    def feed(self, block: memoryview, /) -> None:
        if self._failed:
            return
        try:
            super().feed(block)
        except MigrateError:  # the rehasher reads the same bytes, and raises the error
            self._failed = True

    def finish(self) -> None:
        if self._failed:
            return
        try:
            super().finish()
        except MigrateError:
            return
        self.layer = self._layer

    def on_entry(self, entry: TarEntry) -> None:
        if not self._room.take():
            self._failed = True
        self._entry = entry
        self._digest = b""
        self._sum_so_far = None

    def on_content(self, piece: memoryview) -> None:
        if len(piece) == self._entry.size:  # nearly every file is in one piece
            self._digest = self._digest_of(piece)
        elif self._sum_so_far is None:
            self._sum_so_far = self._new_sum(piece)
        else:
            self._sum_so_far.update(piece)

    def on_end(self) -> None:
        layer, vocabulary = self._layer, self._vocabulary
        name, kind, size, mode, uid, gid, mtime, link, user, group, major, minor, xattrs = self._entry
        content = self._digest if self._sum_so_far is None else self._sum_so_far.digest()
        header = b"%b\0%b\0%b\0%b\0%d %d %d %d %d %d %d %b" % (
            *(name, link, user, group, kind, size, mode, uid, gid, major, minor),
            repr(xattrs).encode() if xattrs else b"",
        )
        value = self._sum_of(header + content)
        # A sum does not depend on the order of the entries.
        layer.content_sum = (layer.content_sum + value) & _WORD
        layer.timed_sum = (layer.timed_sum + value * (2 * mtime + 1)) & _WORD
        layer.paths.append(vocabulary.path(below_root(name)))
        layer.sizes.append(size)
        if content:
            layer.contents.append(vocabulary.content(content))
        else:
            layer.contents.append(DIRECTORY_CONTENT if kind == _DIRECTORY else -1)


class EntryRoom:
    """The number of entries that a run may still remember: some 30 bytes each, besides the distinct names and
    contents."""

    def __init__(self, entries: int) -> None:
        self.left = entries
        self.exhausted = False

    def take(self) -> bool:
        self.left -= 1
        self.exhausted |= self.left < 0
        return self.left >= 0
