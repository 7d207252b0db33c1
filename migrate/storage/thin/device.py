"""A thin device as blocks. What no snapshot ever wrote reads as zeros and costs no input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from migrate.storage.blocks import Blocks
from migrate.storage.pieces import fill_with_zeros, require_inside

if TYPE_CHECKING:
    from migrate.storage.thin.pool import DeviceMap


class ThinDevice(Blocks):
    """`size` in bytes, as Docker activated the device; `block_size` is the pool's.

    Neighbouring blocks that also lie side by side in the pool are read in one go. Errors are SourceError: DamagedError
    where a mapping is lost or bytes beyond the device are asked for, TruncatedError where the data image ends early.
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
        """Where the byte lies in the pool, None if unmapped. Equal positions in two snapshots are one byte."""
        return self._locate(offset)[0]

    def mapped_ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what is mapped, ascending; the rest of the device is zeros or, in a loss, unknown."""
        for start, length in zip(self.device_map.starts, self.device_map.lengths, strict=True):
            offset = start * self.block_size
            if offset < self.size:
                yield offset, min(length * self.block_size, self.size - offset)

    def _locate(self, offset: int) -> tuple[int | None, int]:
        block, inside = divmod(offset, self.block_size)
        target, count = self.device_map.find(block)
        room = count * self.block_size - inside
        return (None if target is None else target * self.block_size + inside), room
