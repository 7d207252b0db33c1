"""A table of very many short keys, such as digests, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from migrate.model.digest import Digest

_ROWS_A_BUCKET: Final = 24
"""On average, at most. More take less memory and a longer time to search."""
_SIZE_BYTES: Final = 8
DIGEST_BYTES: Final = 32


class PackedTable:
    """Keys of one length with rows of one length, both in bytes. A key may have several rows, which keep their order.

    A dict takes some 250 bytes for each digest; this table takes some ten bytes more than the key and the row. It takes
    one or two microseconds to find a key. One thread at a time may use it.
    """

    __slots__ = ("_buckets", "_key", "_length", "_mask", "_width")

    def __init__(self, key: int, row: int = 0) -> None:
        self._key = key
        self._width = key + row
        self._length = 0
        self._mask = 0
        self._buckets = [bytearray()]

    def __len__(self) -> int:
        """The number of rows."""
        return self._length

    def __contains__(self, key: bytes) -> bool:
        # `hash` differs between processes, so that nobody can make keys that are all in one bucket.
        bucket = self._buckets[hash(key) & self._mask]
        at = bucket.find(key)
        return at >= 0 and (not at % self._width or self._find(bucket, key, at) >= 0)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """All (key, row), in any order."""
        for bucket in self._buckets:
            for start in range(0, len(bucket), self._width):
                middle = start + self._key
                yield bytes(bucket[start:middle]), bytes(bucket[middle : start + self._width])

    def get(self, key: bytes) -> bytes | None:
        """The first row of a key; None if it has no row."""
        bucket = self._buckets[hash(key) & self._mask]
        at = bucket.find(key)
        if at % self._width:  # also for -1
            at = self._find(bucket, key, at) if at >= 0 else -1
        return bytes(bucket[at + self._key : at + self._width]) if at >= 0 else None

    def rows(self, key: bytes) -> list[bytes]:
        """The rows of a key, in the order in which they were added."""
        bucket = self._buckets[hash(key) & self._mask]
        at = bucket.find(key)
        if at < 0:
            return []
        at = self._find(bucket, key, at)
        found: list[bytes] = []
        while at >= 0:
            end = at + self._width
            found.append(bytes(bucket[at + self._key : end]))
            at = self._find(bucket, key, end)
        return found

    def add(self, key: bytes, row: bytes = b"") -> None:
        """Adds a row, also if the key has some already."""
        self._buckets[hash(key) & self._mask] += key + row
        self._length += 1
        if self._length > self._mask * _ROWS_A_BUCKET:
            self._grow()

    def remove(self, key: bytes, row: bytes = b"") -> None:
        """Removes the first row of a key that begins with `row`, if there is one."""
        bucket = self._buckets[hash(key) & self._mask]
        start = key + row
        at = bucket.find(start)
        if at >= 0 and (at := self._find(bucket, start, at)) >= 0:
            del bucket[at : at + self._width]
            self._length -= 1

    def replace(self, key: bytes, row: bytes) -> None:
        """Makes `row` the only row of a key that has at most one."""
        self.remove(key)
        self.add(key, row)

    def _grow(self) -> None:
        old = self._buckets
        self._mask = 4 * len(old) - 1
        self._buckets = [bytearray() for _ in range(4 * len(old))]
        for number, bucket in enumerate(old):
            old[number] = bytearray()  # so that there are never two copies of all
            for start in range(0, len(bucket), self._width):
                row = bytes(bucket[start : start + self._width])
                self._buckets[hash(row[: self._key]) & self._mask] += row

    def _find(self, bucket: bytearray, start: bytes, at: int) -> int:
        """The place of the first row from `at` on that starts with these bytes; -1 if there is none."""
        at = bucket.find(start, at)
        while at > 0 and at % self._width:  # bytes of two rows look like a key
            at = bucket.find(start, at + 1)
        return at


def packed_digest(digest: Digest) -> bytes:
    """The 32 bytes of a digest."""
    return bytes.fromhex(digest.hex)


def unpacked_digest(raw: bytes) -> Digest:
    return Digest(raw.hex())


def packed_size(size: int) -> bytes:
    """A number of bytes for a row."""
    return size.to_bytes(_SIZE_BYTES)


def unpacked_size(raw: bytes) -> int:
    return int.from_bytes(raw)
