"""A binary stream of pieces that a generator makes when they are needed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import BinaryIO

from migrate.blobio.stream import ByteStream


class ChunkStream(ByteStream):
    """Reads the pieces one after the other. Reads are short only at the end.

    An error of the generator is raised by the read that needs the next piece. Closing the stream closes the generator.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read_view(self, target: memoryview, /) -> int:
        filled = 0
        while filled < len(target):
            if not self._rest and not self._next_piece():
                break
            part = self._rest[: len(target) - filled]
            target[filled : filled + len(part)] = part
            self._rest = self._rest[len(part) :]
            filled += len(part)
        return filled

    def read_block(self, limit: int, /) -> bytes:
        parts: list[memoryview] = []
        while limit > 0:
            if not self._rest and not self._next_piece():
                break
            part = self._rest[:limit]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            limit -= len(part)
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
    return ChunkStream(pieces).as_binary()
