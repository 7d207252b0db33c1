"""Reads the stored bytes of a layer once, in order. They are counted, and hashed on request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, Final

from migrate.blobio.payload import Extent, Payload
from migrate.blobio.stream import ByteStream, read_into
from migrate.errors import MigrateError, SourceError, TruncatedError
from migrate.model.digest import Digest

_PEEK_BYTES: Final = 4096
_SMALL_BYTES: Final = 64 * 1024
"""An extent up to this size is read completely by `peek`."""
_COPY_BYTES: Final = 1024 * 1024


class StoredStream(ByteStream):
    """A payload's bytes as stored. An extent is read by position, so that threads may share its file.

    `tee`, if set, is called with every block. Raises TruncatedError if an extent's file ends too early, SourceError for
    errors of the operating system, and errors of the payload's own stream.
    """

    def __init__(self, payload: Payload, what: str) -> None:
        self._extent: Extent | None = payload.extent
        self._stream = payload.stream
        self._what = what
        self._peeked = b""
        self._sha256: Any = None
        self.tee: Callable[[memoryview], object] | None = None
        self.size = 0
        """Bytes handed out so far."""

    def peek(self, length: int) -> bytes:
        """The first bytes, which will be read again. Must be called before any read."""
        size = _PEEK_BYTES
        if self._extent is not None and self._extent.size <= _SMALL_BYTES:
            # A small file is read whole, so that one system call is enough.
            size = self._extent.size
        block = memoryview(bytearray(size))
        filled = self._fill(block, 0)
        while filled < length:
            count = self._fill(block[filled:], filled)
            if not count:
                break
            filled += count
        self._peeked = bytes(block[:filled])
        return self._peeked[:length]

    def whole_extent(self) -> bytes:
        """All bytes of a small extent, in one piece. Replaces all other reads."""
        assert self._extent is not None
        while len(self._peeked) < self._extent.size:
            block = memoryview(bytearray(self._extent.size - len(self._peeked)))
            self._peeked += block[: self._fill(block, len(self._peeked))]
        self.size = len(self._peeked)
        return self._peeked

    def start_digest(self) -> None:
        """Starts hashing. Must be called before the first read."""
        self._sha256 = hashlib.sha256()

    def digest(self) -> Digest | None:
        """The digest of all bytes read, None without `start_digest`."""
        return None if self._sha256 is None else Digest.of_hash(self._sha256)

    def read_view(self, view: memoryview, /) -> int:
        if self._peeked:
            count = min(len(self._peeked), len(view))
            view[:count] = self._peeked[:count]
            self._peeked = self._peeked[count:]
        else:
            count = self._fill(view, self.size)
        if count:
            self.size += count
            block = view[:count]
            if self._sha256 is not None:
                self._sha256.update(block)
            if self.tee is not None:
                self.tee(block)
        return count

    def copy_to(self, write: Callable[[memoryview], object], check_stop: Callable[[], None]) -> None:
        """Calls `write` with all bytes, block by block."""
        buffer = memoryview(bytearray(_COPY_BYTES))
        while count := self.fill(buffer):
            check_stop()
            write(buffer[:count])

    def _fill(self, view: memoryview, position: int) -> int:
        try:
            if self._extent is None:
                return read_into(self._stream, view)
            return self._read_extent(self._extent, view, position)
        except MigrateError:
            raise
        except OSError as exc:
            raise SourceError(f"{self._what}: cannot be read: {exc.strerror or exc}") from exc

    def _read_extent(self, extent: Extent, view: memoryview, position: int) -> int:
        wanted = min(len(view), extent.size - position)
        if wanted <= 0:
            return 0
        count = os.preadv(extent.fd, [view[:wanted]], extent.offset + position)
        if not count:
            raise TruncatedError(
                f"{self._what}: the file ends after {position:,} bytes of this layer; expected {extent.size:,}"
            )
        return count
