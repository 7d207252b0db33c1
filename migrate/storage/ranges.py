"""An object of a bucket as a stream that fetches several ranges at once.

One connection to an object store uses only a part of the network's capacity, and a store accepts many connections. The
memory is bounded, whatever the size of the object.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from migrate.blobio.stopping import check_stop
from migrate.blobio.stream import SeekableStream

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

RANGE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one request. With smaller requests more time is spent waiting, and stores charge for each request."""
UNDER_WAY: Final = 6
"""Number of ranges that are fetched at once, and held in memory."""


class RangeStream(SeekableStream):
    """An object of `size` bytes, of which `fetch(start, end)` gives a part in any thread. Each time that reading
    reaches the next range, more ranges are fetched ahead, so that reading the beginning alone needs one request.

    Raises OSError for a range of another length, and any error of `fetch`.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(size)
        self._fetch = fetch
        self._threads: ThreadPoolExecutor | None = None
        self._ranges: deque[tuple[int, Future[bytes]]] = deque()
        """(start, range), ascending. The first range is being read."""
        self._ahead = 1

    def read_block(self, limit: int, /) -> bytes:
        check_stop()
        if self._position >= self._size:
            return b""
        while self._ranges and self._ranges[0][0] + RANGE_BYTES <= self._position:
            self._ranges.popleft()
            self._ahead = min(2 * self._ahead, UNDER_WAY)
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor  # which loads logging; few runs read a bucket

            self._threads = ThreadPoolExecutor(UNDER_WAY, thread_name_prefix="ranges")
        while len(self._ranges) < self._ahead:
            start = self._ranges[-1][0] + RANGE_BYTES if self._ranges else self._position
            if start >= self._size:
                break
            self._ranges.append((start, self._threads.submit(self._whole, start)))
        start, future = self._ranges[0]
        block = future.result()
        at = self._position - start
        part = block if at == 0 and limit >= len(block) else block[at : at + limit]
        self._position += len(part)
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        super().seek(offset, whence)
        if self._ranges and not 0 <= self._position - self._ranges[0][0] <= len(self._ranges) * RANGE_BYTES:
            self._forget()
        return self._position

    def close(self) -> None:
        if not self.closed:
            self._forget()
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _whole(self, start: int) -> bytes:
        end = min(start + RANGE_BYTES, self._size)
        block = self._fetch(start, end)
        if len(block) != end - start:  # the object was changed, or the store ignores ranges
            raise OSError(f"got {len(block):,} of {end - start:,} bytes from byte {start:,} on")
        return block

    def _forget(self) -> None:
        for _, future in self._ranges:
            future.cancel()
        self._ranges.clear()
        self._ahead = 1
