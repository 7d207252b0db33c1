"""Downloads a blob as a stream that continues after a broken connection."""

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
"""After so many further bytes, a broken connection no longer counts. With a smaller number, a server that closes the
connection after each byte would be tried forever."""
_AGAIN: Final = (200, 206, 416)
"""Status of answers to a request for the rest of a blob."""
_RANGE: Final = re.compile(r"(?:bytes\s+)?(\d{1,19})-")
"""docker-registry 0.9 omits the unit."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_BLOCK: Final = 1024 * 1024
_HEAD: Final = 4096
"""Bytes of an answer that are decompressed to find out whether its content is compressed itself."""


def stated_length(answer: httpx.Response) -> int | None:
    """`Content-Length`; None if it is missing or impossible, and for a chunked answer, for which it has no meaning."""
    if "Transfer-Encoding" in answer.headers:
        return None
    return parse_whole(answer.headers.get("Content-Length", "").encode(), STATED_BYTES)


class BlobDownload(ByteStream):
    """Reads the answer of `request(accept=…, headers=…)`. When the connection breaks, the rest is requested, once after
    each pause. The pauses start again after _PROGRESS bytes.

    If the answer to that is 200, it has the whole blob, since a server may ignore `Range` (RFC 9110, 14.2), and the
    bytes that were read already are skipped. If it is 416, the whole blob is requested.

    If a server compresses a blob that is compressed already (`Content-Encoding`, although the request does not accept
    it), the outer compression is removed.

    `size`: the size of the whole blob, for an answer without a length.

    Raises TruncatedError if the rest cannot be read, and the errors of `request`.
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
        # With a content coding, Content-Length is the size of the coded bytes, and not of the file.
        if not _is_coded(self._answer):
            self.size = stated_length(self._answer)
            if self.size is None and "Transfer-Encoding" not in self._answer.headers:
                self.size = size
        self._blocks = self._iter_blocks()
        self._broken_at = 0
        self._breaks = self._slow = 0
        self._rest = memoryview(b"")

    def is_empty(self) -> bool:
        """True at the end. Waits for the next bytes."""
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
                reason = f"got {self._offset:,} of {self.size:,} bytes"
            except httpx.TransportError as exc:
                if self.size is not None and self._offset >= self.size:
                    return b""  # for the rest of a blob, docker-registry 0.9 states one byte too many
                reason = str(exc) or type(exc).__name__
                self._slow += isinstance(exc, httpx.ReadTimeout)
            # Connects again after a pause, or raises TruncatedError.
            if self._offset - self._broken_at >= _PROGRESS:
                self._breaks = self._slow = 0
            self._broken_at = self._offset
            if self._breaks == len(PAUSES) or self._slow >= SLOW_ANSWERS:
                raise TruncatedError(f"{self._what}: the connection broke several times: {reason}")
            self._sleep(PAUSES[self._breaks])
            self._breaks += 1
            self._answer.close()
            # A range is one of the bytes as they are sent. If these are decompressed here, the place to continue at is
            # not known, and everything is requested again.
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
        """The offset in the blob of the current answer's first byte. TruncatedError if bytes before it are missing."""
        if self._answer.status_code == 200:
            return 0
        stated = _RANGE.match(self._answer.headers.get("Content-Range", ""))
        first = self._offset if stated is None else int(stated[1])
        if first > self._offset:
            raise TruncatedError(f"{self._what}: continues at byte {first:,}, but only {self._offset:,} were read")
        return first

    def _next_new(self) -> bytes:
        """The next block, without the bytes that were read before; b"" at the end."""
        for block in self._blocks:
            new, self._known = block[self._known :], max(0, self._known - len(block))
            if new:
                return new
        return b""

    def _iter_blocks(self) -> Iterator[bytes]:
        """The body without a compression of the transfer.

        Registries on object storage send `Content-Encoding: gzip` for layers that are stored as gzip: then it is the
        layer's own compression. If the decompressed content is compressed as well, it is that of the transfer.
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
        decoded = b""
        with suppress(zlib.error):
            decoded = zlib.decompressobj(_GZIP).decompress(head, _HEAD)
        self._is_decoded = detect_compression(decoded) != "none"
        yield from _decoded(chain((head,), blocks)) if self._is_decoded else chain((head,), blocks)


def _is_coded(answer: httpx.Response) -> bool:
    return answer.headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip")


def _decoded(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The decompressed bytes. Raises httpx.RemoteProtocolError, as for a broken connection."""
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
