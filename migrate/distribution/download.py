"""A blob that is downloaded: a stream that continues after a broken connection."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

from migrate.blobio.compression import detect_compression
from migrate.blobio.limits import STATED_BYTES, parse_whole
from migrate.blobio.stream import ByteStream
from migrate.distribution.retries import PAUSES, SLOW_ANSWERS
from migrate.errors import TruncatedError

if TYPE_CHECKING:
    import httpx

_PROGRESS: Final = 1024 * 1024
"""Bytes that have to come after a broken connection before it is forgotten: a server that hangs up after each byte
would otherwise be tried forever."""
_AGAIN: Final = (200, 206, 416)
"""Answers to a request for the rest of a blob."""
_RANGE: Final = re.compile(r"(?:bytes\s+)?(\d{1,19})-")
"""docker-registry 0.9 leaves out the unit."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_BLOCK: Final = 1024 * 1024
_HEAD: Final = 4096
"""Bytes of an answer that show whether what is compressed in it is compressed itself."""


def stated_length(answer: httpx.Response) -> int | None:
    """`Content-Length`; None without one, and for one that no blob can have, or that does not count beside chunks."""
    if "Transfer-Encoding" in answer.headers:
        return None
    return parse_whole(answer.headers.get("Content-Length", "").encode(), STATED_BYTES)


class BlobDownload(ByteStream):
    """Reads the answer of `request(accept=…, headers=…)`; when the connection breaks it requests the rest, once for
    each pause.

    The pauses begin anew after each _PROGRESS bytes.

    Where the answer is 200 all the same it holds the whole blob, and what is known already is passed over: a server
    may ignore `Range` (RFC 9110, 14.2). Where it is 416, the whole blob is requested.

    A server that compresses what is compressed already (`Content-Encoding`, though nobody accepts it) has that taken
    off.

    `size`: of the whole blob, where an answer that ends with its connection states none.

    Raises TruncatedError if the rest never comes, and what `request` raises.
    """

    def __init__(
        self,
        request: Callable[..., httpx.Response],
        what: str,
        sleep: Callable[[float], object],
        size: int | None = None,
    ) -> None:
        self._request = request
        self._what = what
        self._sleep = sleep
        self._offset = 0
        self._known = 0
        self._answer = self._connect(0)
        self._is_decoded = False
        self.size = None
        if not _is_coded(self._answer):
            self.size = stated_length(self._answer)
            if self.size is None and "Transfer-Encoding" not in self._answer.headers:
                self.size = size
        self._blocks = self._iter_blocks()
        self._broken_at = 0
        self._breaks = self._slow = 0
        self._rest = memoryview(b"")

    def is_empty(self) -> bool:
        """Whether nothing is left to read; waits for the next bytes."""
        if not len(self._rest):
            self._rest = memoryview(self._next_block())
        return not len(self._rest)

    def read_view(self, view: memoryview, /) -> int:
        if self.is_empty():
            return 0
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
            # Connects again after a pause, or raises TruncatedError.
            if self._offset - self._broken_at >= _PROGRESS:
                self._breaks = self._slow = 0
            self._broken_at = self._offset
            if self._breaks == len(PAUSES) or self._slow >= SLOW_ANSWERS:
                raise TruncatedError(f"{self._what}: the connection broke again and again: {reason}")
            self._sleep(PAUSES[self._breaks])
            self._breaks += 1
            self._answer.close()
            self._answer = self._connect(0 if self._is_decoded else self._offset)
            if self._answer.status_code == 416:
                self._answer.close()
                self._answer = self._connect(0)
            self._known = self._offset - self._first_byte()
            self._blocks = self._iter_blocks()

    def _connect(self, offset: int) -> httpx.Response:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return self._request(accept=_AGAIN if offset else (200,), headers=headers)

    def _first_byte(self) -> int:
        """The place in the blob where the present answer begins. TruncatedError where that is behind what is there."""
        if self._answer.status_code == 200:
            return 0
        stated = _RANGE.match(self._answer.headers.get("Content-Range", ""))
        first = self._offset if stated is None else int(stated[1])
        if first > self._offset:
            raise TruncatedError(f"{self._what}: goes on at byte {first:,}, where {self._offset:,} are there")
        return first

    def _next_new(self) -> bytes:
        """The next block, without what is known; empty at the end."""
        for block in self._blocks:
            new, self._known = block[self._known :], max(0, self._known - len(block))
            if new:
                return new
        return b""

    def _iter_blocks(self) -> Iterator[bytes]:
        """The body as it is sent, without a compression that only the transfer has.

        Registries that keep layers in object storage state `Content-Encoding: gzip` of layers that are gzip
        themselves: that is the layer's own. Where what is under it is compressed as well, it is the transfer's.
        """
        blocks = self._answer.iter_raw()
        if not _is_coded(self._answer):
            yield from blocks
            return
        head = b""
        for block in blocks:
            head += block
            if len(head) >= _HEAD:
                break
        self._is_decoded = detect_compression(_first_decoded(head)) != "none"
        yield from _decoded(chain((head,), blocks)) if self._is_decoded else chain((head,), blocks)


def _is_coded(answer: httpx.Response) -> bool:
    return answer.headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip")


def _first_decoded(head: bytes) -> bytes:
    with suppress(zlib.error):
        return zlib.decompressobj(_GZIP).decompress(head, _HEAD)
    return b""


def _decoded(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Raises httpx.RemoteProtocolError, as for a connection that breaks."""
    import httpx

    decoder = zlib.decompressobj(_GZIP)
    try:
        for block in blocks:
            while block:
                yield decoder.decompress(block, _BLOCK)
                block = decoder.unconsumed_tail
    except zlib.error as exc:
        raise httpx.RemoteProtocolError(str(exc)) from exc
    if not decoder.eof:
        raise httpx.RemoteProtocolError("the compressed answer has no end")
