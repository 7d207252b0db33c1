"""Blocks that are made of other blocks: a part of them, or several pieces; and blocks as a seekable file."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import BinaryIO, Final

from migrate.blobio.stream import SeekableStream
from migrate.errors import DamagedError
from migrate.storage.blocks import Blocks

_ZEROS: Final = bytes(1024 * 1024)

_END: Final = 1 << 63


class BlocksPart(Blocks):
    """`size` bytes of other blocks from `start`: a partition, or a file in one piece. Does not close the other
    blocks."""

    def __init__(self, blocks: Blocks, start: int, size: int) -> None:
        self.blocks = blocks
        self.start = start
        self.size = size

    def read_into(self, view: memoryview, offset: int, /) -> None:
        # Without this check, a damaged file system would read bytes of the next partition.
        require_inside(offset, len(view), self.size)
        self.blocks.read_into(view, self.start + offset)

    def read_at(self, offset: int, size: int, /) -> bytes:
        require_inside(offset, size, self.size)
        return self.blocks.read_at(self.start + offset, size)


class PieceMap:
    """The pieces of a file and their places in its blocks, in bytes, ascending and without overlap. Gaps are zeros.

    Three arrays, because a sparse file of a terabyte has millions of pieces.
    """

    def __init__(self) -> None:
        self.starts = array("Q")
        self.lengths = array("Q")
        self.offsets = array("Q")

    def add(self, start: int, length: int, offset: int) -> None:
        """Adds a piece behind the last one. ValueError if it overlaps or precedes that one, or if a number is negative
        or too large."""
        if max(start, length, offset) >= _END or min(start, length, offset) < 0:
            raise ValueError(f"a piece at byte {start:,} of {length:,} bytes is at {offset:,}, beyond any file")
        if self.starts and start < self.starts[-1] + self.lengths[-1]:
            raise ValueError(f"a piece at byte {start:,} overlaps the one before")
        # GNU tar writes an empty piece at the end of a file that ends with a hole.
        if length:
            self.starts.append(start)
            self.lengths.append(length)
            self.offsets.append(offset)

    def find(self, position: int) -> tuple[int | None, int]:
        """(offset in the blocks, None in a gap; bytes for which this holds, -1 for all that follow)."""
        at = bisect_right(self.starts, position) - 1
        if at >= 0 and position < self.starts[at] + self.lengths[at]:
            inside = position - self.starts[at]
            return self.offsets[at] + inside, self.lengths[at] - inside
        return None, self.starts[at + 1] - position if at + 1 < len(self.starts) else -1


class _ComposedBlocks(Blocks, ABC):
    """Blocks whose bytes are those of other blocks, or zeros. Does not close the other blocks."""

    @abstractmethod
    def find(self, position: int, /) -> tuple[Blocks | None, int, int]:
        """(other blocks, None for zeros; the place in them; bytes for which this holds, -1 for all that follow)."""

    def read_into(self, view: memoryview, offset: int, /) -> None:
        require_inside(offset, len(view), self.size)
        done = 0
        while done < len(view):
            blocks, place, room = self.find(offset + done)
            part = view[done:] if room < 0 else view[done : done + room]
            if blocks is None:
                fill_with_zeros(part)
            else:
                blocks.read_into(part, place)
            done += len(part)

    def read_at(self, offset: int, size: int, /) -> bytes:
        require_inside(offset, size, self.size)
        blocks, place, room = self.find(offset)
        if blocks is not None and size <= room:
            return blocks.read_at(place, size)
        return super().read_at(offset, size)


class PiecedBlocks(_ComposedBlocks):
    """A file of `size` bytes whose pieces are in other blocks."""

    def __init__(self, blocks: Blocks, pieces: PieceMap, size: int) -> None:
        self.blocks = blocks
        self.pieces = pieces
        self.size = size

    def find(self, position: int, /) -> tuple[Blocks | None, int, int]:
        place, room = self.pieces.find(position)
        return (None, 0, room) if place is None else (self.blocks, place, room)


class JoinedBlocks(_ComposedBlocks):
    """`size` bytes that consist of parts of other blocks. Gaps are zeros.

    `parts`: (start here, length, blocks, start there), ascending and without overlap.
    """

    def __init__(self, parts: Sequence[tuple[int, int, Blocks, int]], size: int) -> None:
        self.size = size
        self._parts = list(parts)
        self._starts = [part[0] for part in parts]
        for (start, length, _, _), following in pairwise(self._parts):
            if start + length > following[0]:
                raise DamagedError(f"two parts overlap at byte {following[0]:,}")

    def find(self, position: int, /) -> tuple[Blocks | None, int, int]:
        at = bisect_right(self._starts, position) - 1
        if at >= 0:
            start, length, blocks, there = self._parts[at]
            if position - start < length:
                return blocks, there + position - start, length - (position - start)
        return None, 0, self._starts[at + 1] - position if at + 1 < len(self._starts) else -1


class StripedBlocks(_ComposedBlocks):
    """Stripes of `unit` bytes, in turn from each of the `columns`: (blocks, start in them)."""

    def __init__(self, columns: Sequence[tuple[Blocks, int]], unit: int, size: int) -> None:
        self.size = size
        self._columns = columns
        self._unit = unit

    def find(self, position: int, /) -> tuple[Blocks | None, int, int]:
        stripe, inside = divmod(position, self._unit)
        row, column = divmod(stripe, len(self._columns))
        blocks, start = self._columns[column]
        return blocks, start + row * self._unit + inside, self._unit - inside


class BlocksStream(SeekableStream):
    """Blocks as a seekable file, for one thread. A read is short only at the end. Does not close the blocks."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks.size)
        self._blocks = blocks

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def read_block(self, limit: int, /) -> bytes:
        count = max(0, min(limit, self._size - self._position))
        content = self._blocks.read_at(self._position, count) if count else b""
        self._position += count
        return content

    def read_view(self, view: memoryview, /) -> int:
        count = max(0, min(len(view), self._size - self._position))
        if count:
            self._blocks.read_into(view[:count], self._position)
        self._position += count
        return count


def open_blocks(blocks: Blocks) -> BinaryIO:
    return BlocksStream(blocks).as_binary()


def require_inside(offset: int, size: int, end: int) -> None:
    if offset < 0 or offset + size > end:
        raise DamagedError(f"bytes {offset:,} to {offset + size:,} are beyond the end at {end:,}")


def fill_with_zeros(view: memoryview) -> None:
    # Copied from one constant, since `bytes(len(view))` would need as much memory again.
    for start in range(0, len(view), len(_ZEROS)):
        part = view[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]
