"""A stream that calls a function with every block, and another one after the last block."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from migrate.blobio.stream import ByteStream, read_into


class ObservedStream(ByteStream):
    """Reads from `source`; calls `observe` with each block and `finish` once, after `size` bytes or at the end.

    An error of `finish` is raised by the `read` of the last block.
    """

    def __init__(
        self, source: BinaryIO, size: int, observe: Callable[[memoryview], object], finish: Callable[[], None]
    ) -> None:
        self._source = source
        self._left = size
        self._observe = observe
        self._finish: Callable[[], None] | None = finish

    def read_view(self, view: memoryview, /) -> int:
        count = read_into(self._source, view)
        block = view[:count]
        if len(block):
            self._observe(block)
            self._left -= len(block)
        ended = self._left <= 0 or (not len(block) and len(view) > 0)
        if ended and self._finish is not None:
            finish, self._finish = self._finish, None
            finish()
        return count
