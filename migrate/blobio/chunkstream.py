"""A binary stream over pieces that a generator makes as they are asked for."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from typing import BinaryIO, cast

_ALL = 1024 * 1024


class ChunkStream(io.RawIOBase):
    """Reads the pieces one after the other; `read` and `readinto` give less than asked for only at the end.

    What making a piece raises comes out of the read that needed the next piece. Closing closes a generator.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target):
            if not self._rest and not self._next_piece():
                break
            part = self._rest[: len(target) - filled]
            target[filled : filled + len(part)] = part
            self._rest = self._rest[len(part) :]
            filled += len(part)
        return filled

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_ALL), b""))
        parts: list[memoryview] = []
        wanted = size
        while wanted > 0:
            if not self._rest and not self._next_piece():
                break
            part = self._rest[:wanted]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        if isinstance(self._pieces, Generator):
            self._pieces.close()
        super().close()

    def _next_piece(self) -> bool:
        for piece in self._pieces:
            if piece:
                self._rest = memoryview(piece)
                return True
        return False


def open_chunks(pieces: Iterator[bytes]) -> BinaryIO:
    """`pieces` as a stream."""
    return cast(BinaryIO, ChunkStream(pieces))
