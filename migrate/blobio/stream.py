"""The base of all raw byte streams. A subclass implements one of two methods, and gets the others."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_ALL = 1024 * 1024


class ByteStream(io.RawIOBase):
    """A readable stream. A subclass implements `read_block`, or `read_view` if it can read into a buffer."""

    def readable(self) -> bool:
        return True

    def read_block(self, limit: int, /) -> bytes:
        """Up to `limit` bytes; b"" only at the end. `limit` is more than 0."""
        buffer = bytearray(limit)
        count = self.read_view(memoryview(buffer))
        return bytes(buffer) if count == limit else bytes(buffer[:count])

    def read_view(self, view: memoryview, /) -> int:
        """Reads into the beginning of `view` and returns the number of bytes; 0 only at the end, or for an empty
        view."""
        if not len(view):
            return 0
        block = self.read_block(len(view))
        view[: len(block)] = block
        return len(block)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        return self.read_block(size) if size else b""

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read_block(_ALL), b""))

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self.read_view(memoryview(buffer).cast("B"))

    def fill(self, buffer: memoryview) -> int:
        """Reads until `buffer` is full or the stream ends; returns the number of bytes."""
        filled = 0
        while filled < len(buffer):
            count = self.read_view(buffer[filled:])
            if not count:
                break
            filled += count
        return filled

    def as_binary(self) -> BinaryIO:
        """The stream with the type that the rest of the program uses. For `typing`, RawIOBase is no BinaryIO."""
        return cast(BinaryIO, self)


class SeekableStream(ByteStream):
    """A stream of `_size` bytes with a position of its own, `_position`, that reading moves."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position


def read_into(stream: BinaryIO, view: memoryview) -> int:
    """Calls `readinto` once. All binary files have it, but the type `BinaryIO` does not."""
    return cast(io.RawIOBase, stream).readinto(view) or 0
