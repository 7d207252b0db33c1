"""A blob on its way here: a stream that goes on where a broken connection left it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from migrate.blobio.limits import STATED_BYTES, parse_whole
from migrate.blobio.stream import ByteStream
from migrate.distribution.retries import SLOW_ANSWERS
from migrate.errors import TruncatedError

if TYPE_CHECKING:
    import httpx

_PROGRESS: Final = 1024 * 1024
"""Bytes that have to come after a broken connection before it is forgotten: a server that hangs up after each byte
would otherwise be tried for ever."""


def stated_length(answer: httpx.Response) -> int | None:
    """`Content-Length`; None without one, and for one that no blob can have."""
    return parse_whole(answer.headers.get("Content-Length", "").encode(), STATED_BYTES)


class BlobDownload(ByteStream):
    """Reads the answer of `request(offset)`; when the connection breaks it requests the rest, once for each pause.

    The pauses begin anew after each _PROGRESS bytes.

    Where the answer is 200 all the same it holds the whole blob, and what is known already is passed over: a server
    may ignore `Range` (RFC 9110, 14.2).

    `size`: of the whole blob, where an answer that ends with its connection states none.

    Raises TruncatedError if the rest never comes, and what `request` raises.
    """

    def __init__(
        self,
        request: Callable[[int], httpx.Response],
        what: str,
        sleep: Callable[[float], object],
        pauses: Sequence[float],
        size: int | None = None,
    ) -> None:
        self._request = request
        self._what = what
        self._sleep = sleep
        self._pauses = pauses
        self._offset = 0
        self._known = 0
        self._answer = request(0)
        self.size = stated_length(self._answer)
        if self.size is None and "Transfer-Encoding" not in self._answer.headers:
            self.size = size
        self._broken_at = 0
        self._breaks = self._slow = 0
        self._blocks = self._answer.iter_raw()
        self._rest = memoryview(b"")

    def read_view(self, view: memoryview, /) -> int:
        if not len(self._rest):
            self._rest = memoryview(self._next_block())
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._answer.close()
        super().close()

    def _next_block(self) -> bytes:
        import httpx

        while True:
            try:
                block = self._next_new()
                if block or self.size is None or self._offset >= self.size:
                    self._offset += len(block)
                    return block
                reason = f"{self._offset:,} of {self.size:,} bytes came"
            except httpx.TransportError as exc:
                if self.size is not None and self._offset >= self.size:
                    return b""  # docker-registry 0.9 states one byte more than it has where it goes on
                reason = str(exc) or type(exc).__name__
                self._slow += isinstance(exc, httpx.ReadTimeout)
            self._go_on(reason)

    def _go_on(self, reason: str) -> None:
        """Connects again after a pause, or raises TruncatedError."""
        if self._offset - self._broken_at >= _PROGRESS:
            self._breaks = self._slow = 0
        self._broken_at = self._offset
        if self._breaks == len(self._pauses) or self._slow >= SLOW_ANSWERS:
            raise TruncatedError(f"{self._what}: the connection broke again and again: {reason}")
        self._sleep(self._pauses[self._breaks])
        self._breaks += 1
        self._answer.close()
        self._answer = self._request(self._offset)
        self._known = self._offset if self._answer.status_code == 200 else 0
        self._blocks = self._answer.iter_raw()

    def _next_new(self) -> bytes:
        """The next block, without what is known; empty at the end."""
        for block in self._blocks:
            new, self._known = block[self._known :], max(0, self._known - len(block))
            if new:
                return new
        return b""
