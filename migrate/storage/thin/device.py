"""A thin device as blocks. Blocks that were never written are zeros, and need no reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from migrate.storage.blocks import Blocks
from migrate.storage.pieces import fill_with_zeros, require_inside

if TYPE_CHECKING:
    from migrate.storage.thin.pool import DeviceMap


class ThinDevice(Blocks):
    """`size` in bytes, as Docker activated the device; `block_size` is the pool's.

    Neighbouring blocks that are also neighbours in the pool are read with one read. Errors are SourceError:
    DamagedError for a lost mapping and for bytes beyond the device, TruncatedError if the data image ends too early.
    """

    def __init__(self, data: Blocks, device_map: DeviceMap, block_size: int, size: int) -> None:
        self.data = data
        self.device_map = device_map
        self.block_size = block_size
        self.size = size

    def read_into(self, view: memoryview, offset: int) -> None:
        require_inside(offset, len(view), self.size)
        done = 0
        while done < len(view):
            target, room = self._locate(offset + done)
            part = view[done : done + min(room, len(view) - done)]
            if target is None:
                fill_with_zeros(part)
            else:
                self.data.read_into(part, target)
            done += len(part)

    def read_at(self, offset: int, size: int) -> bytes:
        if offset >= 0 and offset + size <= self.size:
            target, room = self._locate(offset)
            if target is not None and size <= room:
                return self.data.read_at(target, size)
        return super().read_at(offset, size)

    def pool_position(self, offset: int) -> int | None:
        """The place of a byte in the pool, None if unmapped. Equal places in two snapshots are the same byte."""
        return self._locate(offset)[0]

    def mapped_ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of each mapped range, ascending. The rest of the device is zeros, or unknown in a loss."""
        for start, length in zip(self.device_map.starts, self.device_map.lengths, strict=True):
            offset = start * self.block_size
            if offset < self.size:
                yield offset, min(length * self.block_size, self.size - offset)

    def _locate(self, offset: int) -> tuple[int | None, int]:
        block, inside = divmod(offset, self.block_size)
        target, count = self.device_map.find(block)
        room = count * self.block_size - inside
        return (None if target is None else target * self.block_size + inside), room
