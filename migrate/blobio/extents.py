"""Streams over a piece of a file, read by position, so that any number of them share one descriptor."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, cast

from migrate.errors import SourceError, TruncatedError


class ExtentStream(io.RawIOBase):
    """`size` bytes of `fd` from `offset`. `what` names the place in errors.

    Raises TruncatedError where the file ends early and SourceError where it cannot be read. Does not own `fd`.
    """

    def __init__(self, fd: int, offset: int, size: int, what: str) -> None:
        self._fd = fd
        self._position = offset
        self._start = offset
        self._end = offset + size
        self._what = what

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
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
    return cast(BinaryIO, ExtentStream(fd, offset, size, what))
