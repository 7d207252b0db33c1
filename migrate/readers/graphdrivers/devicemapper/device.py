"""A thin device as a seekable, read-only block view. What no snapshot ever wrote reads as zeros and costs no input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from migrate.blobio.stream import ByteStream
from migrate.errors import DamagedError

if TYPE_CHECKING:
    from migrate.readers.graphdrivers.devicemapper.pool import DeviceMap
    from migrate.storage.blocks import Blocks

_ZEROS: Final = bytes(1024 * 1024)
_PAGE: Final = 16 * 1024
_MOST_PAGES: Final = 1024


class ThinDevice(ByteStream):
    """`size` in bytes, as Docker activated the device; `block_size` is the pool's.

    `read_into` and `read_at` take a position and may be called from any thread; the methods of a file share one.
    Neighbouring blocks that also lie side by side in the pool are read in one go. Errors are SourceError: DamagedError
    where a mapping is lost or bytes beyond the device are asked for, TruncatedError where the data image ends early.
    """

    def __init__(self, data: Blocks, device_map: DeviceMap, block_size: int, size: int) -> None:
        super().__init__()
        self.data = data
        self.device_map = device_map
        self.block_size = block_size
        self.size = size
        self._position = 0

    def read_into(self, view: memoryview, offset: int) -> None:
        if offset < 0 or offset + len(view) > self.size:
            raise DamagedError(f"bytes {offset:,} to {offset + len(view):,} lie beyond the device's {self.size:,}")
        done = 0
        while done < len(view):
            target, room = self._locate(offset + done)
            part = view[done : done + min(room, len(view) - done)]
            if target is None:
                _fill_with_zeros(part)
            else:
                self.data.read_into(part, target)
            done += len(part)

    def read_at(self, offset: int, size: int) -> bytes:
        if offset >= 0 and offset + size <= self.size:
            target, room = self._locate(offset)
            if target is not None and size <= room:
                return self.data.read_at(target, size)
        content = bytearray(size)
        self.read_into(memoryview(content), offset)
        return bytes(content)

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

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def read_view(self, view: memoryview, /) -> int:
        count = max(0, min(len(view), self.size - self._position))
        self.read_into(view[:count], self._position)
        self._position += count
        return count


class PagedReader:
    """Small reads of metadata through a bounded cache of pages, so that neighbouring inodes cost one read."""

    def __init__(self, device: ThinDevice) -> None:
        self._device = device
        self._pages: dict[int, bytes] = {}
        self.size = device.size

    def read_at(self, offset: int, size: int) -> bytes:
        first, inside = divmod(offset, _PAGE)
        if offset < 0 or offset + size > self.size:
            raise DamagedError(f"bytes {offset:,} to {offset + size:,} lie beyond the device's {self.size:,}")
        if inside + size <= _PAGE:
            return self._page(first)[inside : inside + size]
        return self._device.read_at(offset, size)

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is None:
            page = self._device.read_at(number * _PAGE, min(_PAGE, self.size - number * _PAGE))
            if len(self._pages) >= _MOST_PAGES:  # plain and safe between threads; a refill costs little
                self._pages.clear()
            self._pages[number] = page
        return page


def _fill_with_zeros(view: memoryview) -> None:
    for start in range(0, len(view), len(_ZEROS)):
        part = view[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]
