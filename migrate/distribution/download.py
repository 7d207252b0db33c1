"""A blob on its way here: a stream that goes on where a broken connection left it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from migrate.errors import TruncatedError

if TYPE_CHECKING:
    import httpx


class BlobDownload(io.RawIOBase):
    """Reads the answer of `request(offset)`; when the connection breaks it asks for the rest, once for each pause.

    Where the answer is 200 all the same it holds the whole blob, and what is known already is passed over: a server
    may ignore `Range` (RFC 9110, 14.2).

    Raises TruncatedError if the rest never comes, and what `request` raises.
    """

    def __init__(
        self,
        request: Callable[[int], httpx.Response],
        what: str,
        sleep: Callable[[float], object],
        pauses: Sequence[float],
    ) -> None:
        self._request = request
        self._what = what
        self._sleep = sleep
        self._pauses = pauses
        self._offset = 0
        self._known = 0
        self._answer = request(0)
        length = self._answer.headers.get("Content-Length")
        self.size = int(length) if length and length.isdigit() else None
        self._blocks = self._answer.iter_raw(1024 * 1024)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        if not len(self._rest):
            self._rest = memoryview(self._next_block())
        view = memoryview(buffer).cast("B")
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

        for pause in (*self._pauses, None):
            try:
                block = self._next_new()
                if block or self.size is None or self._offset >= self.size:
                    self._offset += len(block)
                    return block
                reason = f"{self._offset:,} of {self.size:,} bytes came"
            except httpx.TransportError as exc:
                reason = str(exc) or type(exc).__name__
            if pause is None:
                break
            self._sleep(pause)
            self._answer.close()
            self._answer = self._request(self._offset)
            self._known = self._offset if self._answer.status_code == 200 else 0
            self._blocks = self._answer.iter_raw(1024 * 1024)
        raise TruncatedError(f"{self._what}: the connection broke again and again: {reason}")

    def _next_new(self) -> bytes:
        """The next block, without what is known; empty at the end."""
        for block in self._blocks:
            new, self._known = block[self._known :], max(0, self._known - len(block))
            if new:
                return new
        return b""
