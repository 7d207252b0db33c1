"""The partitions of a disk: GPT and MBR, with logical partitions.

Source of the formats: UEFI specification 2.10, chapter 5; Linux, block/partitions/msdos.c. All integers are
little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from migrate.errors import SourceError

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks

_SECTOR: Final = 512
_GPT_SECTORS: Final = (512, 4096)
_GPT = struct.Struct("<8sIII4xQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")
_MOST_GPT_ENTRIES: Final = 1_024
_MBR_ENTRY = struct.Struct("<B3xB3xII")
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_PROTECTIVE: Final = 0xEE
_MOST_LOGICAL: Final = 256


class Partition(Struct, frozen=True):
    """A partition. `number` as Linux numbers it, `start` and `size` in bytes. `is_cut`: its end is beyond the end of
    the disk, and `size` is the size of the part on the disk."""

    number: int
    start: int
    size: int
    is_cut: bool = False


class PartitionTable(Struct, frozen=True):
    scheme: str
    partitions: tuple[Partition, ...]
    problem: str | None = None


def read_partitions(disk: Blocks) -> PartitionTable | None:
    """The partition table of a disk; None if there is none. `problem` is set if the table was damaged and its copy was
    read."""
    if disk.size < 2 * _SECTOR:
        return None
    # GPT first: a disk with GPT also has an MBR, with one partition over the whole disk.
    mbr = disk.read_at(0, _SECTOR)
    for sector in _GPT_SECTORS:
        table = _read_gpt(disk, sector)
        if table is not None:
            return table
    if mbr[510:512] != b"\x55\xaa":
        return None
    entries = [_MBR_ENTRY.unpack_from(mbr, 446 + at * 16) for at in range(4)]
    used = [entry for entry in entries if entry[1] and entry[3]]
    if not used or any(status & 0x7F for status, *_ in entries) or any(kind == _PROTECTIVE for _, kind, *_ in used):
        # The boot sector of a file system has the same signature. An MBR for GPT alone has no real partitions.
        return None
    if any(start * _SECTOR >= disk.size for *_, start, _ in used):
        return None
    return PartitionTable("MBR", tuple(_iter_mbr(disk, entries)))


def _iter_mbr(disk: Blocks, entries: list[tuple[int, ...]]) -> Iterator[Partition]:
    for number, (_, kind, start, count) in enumerate(entries, start=1):
        if kind and count and kind not in _EXTENDED:
            yield _cut(disk, number, start * _SECTOR, count * _SECTOR)
    number = 5
    for _, kind, start, _ in entries:
        if kind in _EXTENDED:
            for logical in _iter_logical(disk, start * _SECTOR):
                yield _cut(disk, number, *logical)
                number += 1


def _iter_logical(disk: Blocks, extended: int) -> Iterator[tuple[int, int]]:
    """The logical partitions: a chain of sectors, each with one partition and the place of the next sector. The chain
    ends at a damaged sector."""
    seen: set[int] = set()
    place = extended
    while place not in seen and len(seen) < _MOST_LOGICAL and place + _SECTOR <= disk.size:
        seen.add(place)
        raw = disk.read_at(place, _SECTOR)
        if raw[510:512] != b"\x55\xaa":
            return
        (_, kind, start, count), (_, following_kind, following, _) = (
            _MBR_ENTRY.unpack_from(raw, 446),
            _MBR_ENTRY.unpack_from(raw, 462),
        )
        if kind and count and kind not in _EXTENDED:
            yield place + start * _SECTOR, count * _SECTOR
        if following_kind not in _EXTENDED:
            return
        # Relative to the extended partition; the partition itself is relative to its own sector.
        place = extended + following * _SECTOR


def _read_gpt(disk: Blocks, sector: int) -> PartitionTable | None:
    """The table at the beginning of the disk, or its copy at the end if the first one is damaged."""
    if disk.size < 3 * sector:
        return None
    last = (disk.size // sector - 1) * sector
    for place in (sector, last):
        try:
            partitions = _read_gpt_at(disk, sector, place)
        except (SourceError, struct.error):
            partitions = None
        if partitions is not None:
            problem = None if place == sector else "the partition table is damaged; its copy at the disk's end is read"
            return PartitionTable("GPT", partitions, problem)
    return None


def _read_gpt_at(disk: Blocks, sector: int, place: int) -> tuple[Partition, ...] | None:
    raw = disk.read_at(place, sector)
    magic, _, size, crc, here, _, _, _, _, entries, count, entry_size, entries_crc = _GPT.unpack_from(raw)
    # The header has its own sector number. With another sector size than that of the disk, this number does not match.
    if magic != b"EFI PART" or not 92 <= size <= sector or here * sector != place:
        return None
    # The checksum is computed with zeros in its own field (UEFI specification, 5.3.2).
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc:
        return None
    if not 0 < count <= _MOST_GPT_ENTRIES or not 128 <= entry_size <= 4096:
        return None
    table = disk.read_at(entries * sector, count * entry_size)
    if zlib.crc32(table) != entries_crc:
        return None
    found = []
    for number in range(count):
        kind, _, first, last, _, _ = _GPT_ENTRY.unpack_from(table, number * entry_size)
        if any(kind) and first <= last and first * sector < disk.size:
            found.append(_cut(disk, number + 1, first * sector, (last - first + 1) * sector))
    return tuple(found)


def _cut(disk: Blocks, number: int, start: int, size: int) -> Partition:
    room = max(0, disk.size - start)
    return Partition(number, start, min(size, room), size > room)
