"""The thin pool: superblock, device details and the mappings of each device.

Source of the format: Linux, drivers/md/dm-thin-metadata.c. The mapping tree has two levels: device id to the root of
that device's own tree, there virtual block to `data block << 24 | time`.
"""

from __future__ import annotations

import struct
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final

from msgspec import Struct, field

from migrate.errors import DamagedError, MissingLayerError, SourceError, UnsupportedError
from migrate.storage.thin.btree import BLOCK_SIZE, Loss, ReadsBlocks, block_checksum, walk_leaves

SUPERBLOCK_MAGIC: Final = 27022010
SUPERBLOCK_CSUM_XOR: Final = 160774
SECTOR: Final = 512
MAX_DEVICE_ID: Final = 0xFFFFFF
_VERSIONS: Final = (1, 2)
_NEEDS_CHECK: Final = 1
_SMALLEST_BLOCK: Final = 128  # sectors: 64 KiB
_LARGEST_BLOCK: Final = 2 * 1024 * 1024  # sectors: 1 GiB
_TIME_BITS: Final = 24
_SUPERBLOCK = struct.Struct("<IIQ16sQIIQQ128s128sQQIIQIII")
_DETAILS = struct.Struct("<QQII")


class Superblock(Struct, frozen=True, kw_only=True):
    """The pool's superblock. `block_size`: of the data device, in bytes. `sound` is False for a torn superblock, whose
    faults are in `problems`."""

    uuid: uuid.UUID
    version: int
    time: int
    transaction_id: int
    data_mapping_root: int
    device_details_root: int
    block_size: int
    needs_check: bool
    sound: bool
    problems: tuple[str, ...] = ()


class DeviceDetails(Struct, frozen=True):
    device_id: int
    mapped_blocks: int
    transaction_id: int
    creation_time: int
    snapshotted_time: int


class DeviceMap(Struct):
    """The mapping of one thin device, as runs of blocks that are neighbours both in the device and in the pool.

    `starts`, `targets` and `lengths` have one number for each run, in blocks, ascending by start and without overlap.
    `losses` are ranges whose mapping is damaged: their content is unknown, and not zero.
    """

    starts: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)

    @property
    def mapped_blocks(self) -> int:
        return sum(self.lengths)

    def add(self, block: int, target: int) -> None:
        if self.starts:
            run = self.lengths[-1]
            if block == self.starts[-1] + run and target == self.targets[-1] + run:
                self.lengths[-1] = run + 1
                return
        self.starts.append(block)
        self.targets.append(target)
        self.lengths.append(1)

    def find(self, block: int) -> tuple[int | None, int]:
        """(pool block, or None if unmapped; number of blocks for which this holds). Raises the error of a loss."""
        for loss in self.losses:
            if loss.first <= block < loss.end:
                raise DamagedError(f"the mapping of block {block} is lost: {loss.error}") from loss.error
        at = bisect_right(self.starts, block) - 1
        if at >= 0 and block < self.starts[at] + self.lengths[at]:
            inside = block - self.starts[at]
            return self.targets[at] + inside, self.lengths[at] - inside
        # Unmapped up to the next run or the next loss.
        ends = [loss.first for loss in self.losses if loss.first > block]
        if at + 1 < len(self.starts):
            ends.append(self.starts[at + 1])
        return None, (min(ends) - block) if ends else (1 << 64) - block

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Every (virtual block, pool block)."""
        for start, target, length in zip(self.starts, self.targets, self.lengths, strict=True):
            for inside in range(length):
                yield start + inside, target + inside


class ThinPool:
    """The metadata device of a pool. The superblock is read at once, everything else when it is needed.

    Raises DamagedError if the superblock is damaged and does not lead to valid trees.
    """

    def __init__(self, metadata: ReadsBlocks) -> None:
        self._metadata = metadata
        self.superblock = read_superblock(metadata)
        if not self.superblock.sound:
            # A torn superblock is used only if it leads to two valid trees with the same devices.
            (details, lost_details), (roots, lost_roots) = self._details, self._roots
            doubts = [str(loss.error) for loss in (*lost_details, *lost_roots)]
            if not doubts and details.keys() != roots.keys():
                doubts = ["the trees of details and of mappings name other devices"]
            if doubts:
                raise DamagedError(
                    f"the thin pool's superblock is torn ({'; '.join(self.superblock.problems)}) and does not lead to "
                    f"sound trees either: {doubts[0]}"
                )

    @cached_property
    def _details(self) -> tuple[dict[int, DeviceDetails], list[Loss]]:
        found: dict[int, DeviceDetails] = {}
        losses: list[Loss] = []
        for part in walk_leaves(self._metadata, self.superblock.device_details_root, _DETAILS.size):
            if isinstance(part, Loss):
                losses.append(part)
                continue
            for device_id, fields in zip(part.keys, _DETAILS.iter_unpack(part.values), strict=True):
                found[device_id] = DeviceDetails(device_id, *fields)
        return found, losses

    @cached_property
    def _roots(self) -> tuple[dict[int, int], list[Loss]]:
        found: dict[int, int] = {}
        losses: list[Loss] = []
        for part in walk_leaves(self._metadata, self.superblock.data_mapping_root, 8):
            if isinstance(part, Loss):
                losses.append(part)
                continue
            found.update(zip(part.keys, part.numbers(), strict=True))
        return found, losses

    @property
    def devices(self) -> Mapping[int, DeviceDetails]:
        """Device ID → details, for the readable part of the details tree."""
        return self._details[0]

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems of the pool as a whole, one line each."""
        losses = [*self._details[1], *self._roots[1]]
        return (*self.superblock.problems, *(str(loss.error) for loss in losses))

    def details(self, device_id: int) -> DeviceDetails:
        """MissingLayerError if the pool has no such device, DamagedError if a damaged part of the tree may have it."""
        found, losses = self._details
        if device_id in found:
            return found[device_id]
        raise _absent(device_id, losses)

    def read_map(self, device_id: int) -> DeviceMap:
        """The mappings of one device. Their damaged ranges are in `losses`."""
        roots, losses = self._roots
        if device_id not in roots:
            raise _absent(device_id, losses)
        device_map = DeviceMap()
        for part in walk_leaves(self._metadata, roots[device_id], 8):
            if isinstance(part, Loss):
                device_map.losses.append(part)
                continue
            for block, value in zip(part.keys, part.numbers(), strict=True):
                device_map.add(block, value >> _TIME_BITS)
        return device_map


def _absent(device_id: int, losses: list[Loss]) -> SourceError:
    for loss in losses:
        if loss.first <= device_id < loss.end:
            return DamagedError(f"thin device {device_id} cannot be found: {loss.error}")
    return MissingLayerError(f"the thin pool has no device {device_id}")


def read_superblock(metadata: ReadsBlocks) -> Superblock:
    """The superblock in block 0. A wrong checksum is only a problem of the result (`sound`).

    Raises DamagedError if the block is no superblock, and UnsupportedError if it is of a later format.
    """
    raw = metadata.read_at(0, BLOCK_SIZE)
    values = _SUPERBLOCK.unpack_from(raw)
    csum, flags, number, uuid_bytes, magic, version, time, transaction = values[:8]
    mappings, details, sectors = values[11:14]
    incompatible = values[18]
    if magic != SUPERBLOCK_MAGIC:
        raise DamagedError(f"no thin-pool metadata: its magic is {magic} instead of {SUPERBLOCK_MAGIC}")
    torn = []
    computed = block_checksum(raw, SUPERBLOCK_CSUM_XOR)
    if csum != computed:
        torn.append(f"the superblock's checksum is {csum:#010x}, its content gives {computed:#010x}")
    if number != 0:
        torn.append(f"the superblock has the block number {number}")
    if not _SMALLEST_BLOCK <= sectors <= _LARGEST_BLOCK or sectors % _SMALLEST_BLOCK:
        raise DamagedError(f"the thin pool's block size of {sectors} sectors is impossible")
    if version not in _VERSIONS:
        raise UnsupportedError(f"the thin pool's metadata are of version {version}, which is not known")
    if incompatible:
        raise UnsupportedError(f"the thin pool uses features that are not known (incompat {incompatible:#x})")
    needs_check = bool(flags & _NEEDS_CHECK)
    problems = [*torn, "the thin pool is marked as needing a check (thin_check)"] if needs_check else torn
    return Superblock(
        uuid=uuid.UUID(bytes=uuid_bytes),
        version=version,
        time=time,
        transaction_id=transaction,
        data_mapping_root=mappings,
        device_details_root=details,
        block_size=sectors * SECTOR,
        needs_check=needs_check,
        sound=not torn,
        problems=tuple(problems),
    )
