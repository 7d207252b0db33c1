"""Streams over a piece of a file, read by position. Any number of them can share one descriptor."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO, Final

from migrate.blobio.payload import Extent
from migrate.blobio.stream import ByteStream
from migrate.errors import SourceError, TruncatedError

_COMPARED_BYTES: Final = 256 * 1024
"""Two blocks of this size stay in a core's cache between reading and comparing."""
_NOT_FROM_DISK: Final = getattr(os, "RWF_NOWAIT", 0)


class ExtentStream(ByteStream):
    """`size` bytes of `fd` from `offset`. `what` names the place in errors.

    Raises TruncatedError if the file ends too early, SourceError if it cannot be read. Does not close `fd`.
    """

    def __init__(self, fd: int, offset: int, size: int, what: str) -> None:
        self._fd = fd
        self._position = offset
        self._start = offset
        self._end = offset + size
        self._what = what

    def read_view(self, view: memoryview, /) -> int:
        wanted = min(len(view), self._end - self._position)
        if wanted == 0:
            return 0
        try:
            count = os.preadv(self._fd, [view[:wanted]], self._position)
        except OSError as error:
            raise SourceError(
                f"{self._what}: cannot be read at byte {self._position - self._start:,}: {error.strerror}"
            ) from error
        if count == 0:
            there, wanted = self._position - self._start, self._end - self._start
            raise TruncatedError(f"{self._what}: the file ends after {there:,} of {wanted:,} bytes")
        self._position += count
        return count


def open_extent(fd: int, offset: int, size: int, what: str) -> BinaryIO:
    return ExtentStream(fd, offset, size, what).as_binary()


def same_bytes(unread: Extent, read: Extent, check_stop: Callable[[], None]) -> bool | None:
    """True if two extents have the same bytes, False if they differ. `read` was read earlier in the run.

    None if the comparison is not cheap, because `read` is no longer in the page cache, and if an extent cannot be read.
    Comparing takes a fraction of the time of hashing only if both are in memory.
    """
    if not _NOT_FROM_DISK or unread.size != read.size:
        return None
    mine, theirs = bytearray(_COMPARED_BYTES), bytearray(_COMPARED_BYTES)
    left, right = memoryview(mine), memoryview(theirs)
    position = 0
    while position < unread.size:
        check_stop()
        count = min(_COMPARED_BYTES, unread.size - position)
        try:
            if os.preadv(unread.fd, [left[:count]], unread.offset + position) < count:
                return None
            if os.preadv(read.fd, [right[:count]], read.offset + position, _NOT_FROM_DISK) < count:
                return None
        except OSError:
            return None
        if mine != theirs:  # behind `count` both buffers have equal bytes of the blocks before
            return False
        position += count
    return True
