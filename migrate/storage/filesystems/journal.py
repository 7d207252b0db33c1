"""The ext4 journal, replayed in memory. It has the last changes if the host crashed while the device was mounted.

Source of the format: Linux, fs/jbd2/recovery.c and include/linux/jbd2.h. All integers are big-endian. Nothing is
written: for each block with a newer content in the journal, that content is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from fastcrc import crc32
from msgspec import Struct

from migrate.errors import DamagedError, UnsupportedError
from migrate.storage.blocks import Blocks

if TYPE_CHECKING:
    from migrate.storage.filesystems.filesystem import FileExtent

_MAGIC: Final = b"\xc0\x3b\x39\x98"
_DESCRIPTOR, _COMMIT, _REVOKE = 1, 2, 5
_HEADER = struct.Struct(">4sII")
_INCOMPAT_64BIT, _INCOMPAT_CSUM_V2, _INCOMPAT_CSUM_V3 = 0x2, 0x8, 0x10
_KNOWN: Final = 0x1F
_ESCAPED, _SAME_UUID, _LAST_TAG = 1, 2, 8
_COMMIT_TIME: Final = 48


class _Tag(NamedTuple):
    """A block of the file system in a transaction: its number, whether its first word is escaped, and its recorded
    checksum. `mask` has the bits of the checksum that are recorded."""

    block: int
    escaped: bool
    checksum: int
    mask: int


class Replacement(Struct, frozen=True):
    """The place of a block's newest content. `escaped`: its first word is the journal's magic, stored as zeros."""

    offset: int
    escaped: bool


class ReplayedBlocks(Blocks):
    """Blocks as they are after a replay of the journal. `replaced`: block of the file system → its newest content."""

    def __init__(self, blocks: Blocks, replaced: Mapping[int, Replacement], unit: int) -> None:
        self.size = blocks.size
        self._blocks = blocks
        self._replaced = replaced
        self._unit = unit

    def read_into(self, view: memoryview, offset: int) -> None:
        self._blocks.read_into(view, offset)
        unit = self._unit
        for block in range(offset // unit, -(-(offset + len(view)) // unit)):
            place = self._replaced.get(block)
            if place is None:
                continue
            content = bytearray(self._blocks.read_at(place.offset, unit))
            # A block that begins with the journal's magic is stored with zeros instead, so that it is not taken for a
            # block of the journal (JBD2_FLAG_ESCAPE).
            if place.escaped:
                content[:4] = _MAGIC
            start = max(offset, block * unit)
            end = min(offset + len(view), (block + 1) * unit)
            view[start - offset : end - offset] = content[start - block * unit : end - block * unit]

    def replaces(self, offset: int) -> bool:
        """True if the byte at `offset` is read from the journal."""
        return offset // self._unit in self._replaced


def replay_journal(device: Blocks, journal: Sequence[FileExtent], unit: int, mounted: int) -> ReplayedBlocks:
    """`device` after a replay of its journal. `journal`: the extents of the journal's file; `unit`: the file system's
    block size; `mounted`: time of its last mount in seconds since 1970, since older transactions are of an earlier use.

    Raises DamagedError for a missing or damaged journal, UnsupportedError for unknown features.
    """
    return ReplayedBlocks(device, _Journal(device, journal, unit, mounted).replay(), unit)


def _commit_time(raw: bytes) -> int:
    """The time of a commit block, in seconds since 1970."""
    return int.from_bytes(raw[_COMMIT_TIME : _COMMIT_TIME + 8], "big")


def _damaged(sequence: int, what: str) -> DamagedError:
    return DamagedError(
        f"the ext4 journal: transaction {sequence} was committed, and {what}; names and contents may be missing. "
        "`e2fsck -f` on a copy of the file system repairs what it can"
    )


class _Journal:
    def __init__(self, device: Blocks, extents: Sequence[FileExtent], unit: int, mounted: int) -> None:
        self._newest = mounted
        self._device = device
        self._unit = unit
        self._blocks = [extent.offset + at for extent in extents for at in range(0, extent.length, unit)]
        raw = self._read(0)
        magic, kind, _ = _HEADER.unpack_from(raw)
        size, length, self._first, self._sequence, self._start = struct.unpack_from(">IIIII", raw, 12)
        if magic != _MAGIC or kind not in (3, 4) or size != unit:
            raise DamagedError("the ext4 journal has no superblock")
        if not 0 < self._first < length <= len(self._blocks) or self._start >= length:
            raise DamagedError(f"the ext4 journal claims {length:,} blocks and has {len(self._blocks):,}")
        self._length = length
        # A superblock of version 1 (kind 3) has no fields for features.
        features = struct.unpack_from(">I", raw, 40)[0] if kind == 4 else 0
        if features & ~_KNOWN:
            raise UnsupportedError(f"the ext4 journal uses features that are not read (incompat {features:#x})")
        self._wide = bool(features & _INCOMPAT_64BIT)
        self._v3 = bool(features & _INCOMPAT_CSUM_V3)
        self._summed = self._v3 or bool(features & _INCOMPAT_CSUM_V2)
        # All checksums of the journal begin with that of its UUID (struct journal_s, j_csum_seed).
        self._seed = crc32.iscsi(raw[48:64])

    def replay(self) -> dict[int, Replacement]:
        """Block → its newest committed content. A block that was freed later (revoked) keeps its content on the device.

        Raises DamagedError if a committed transaction cannot be replayed: names would be missing without it.
        """
        written: dict[int, tuple[int, Replacement]] = {}
        revoked: dict[int, int] = {}
        for number, (tags, revocations) in enumerate(self._transactions()):
            revoked.update(dict.fromkeys(revocations, number))
            written.update((block, (number, place)) for block, place in tags)
        return {block: place for block, (number, place) in written.items() if revoked.get(block, -1) < number}

    def _transactions(self) -> Iterator[tuple[list[tuple[int, Replacement]], list[int]]]:
        """Every committed transaction, in order. The first block without the expected header ends the log.

        A block with the expected header and a wrong checksum may be a rest of an earlier use of the log. Then the time
        of its commit block is before that of the last transaction (do_one_pass in recovery.c), and the log ends.
        Otherwise the transaction is damaged.
        """
        at, sequence, left = self._start, self._sequence, self._length
        tags: list[tuple[int, Replacement]] = []
        revocations: list[int] = []
        damage: str | None = None
        # The log is a ring of blocks. `left` is the number of blocks that were not visited, so that the walk ends after
        # one round.
        while at and left > 0:
            raw = self._read(at)
            magic, kind, found = _HEADER.unpack_from(raw)
            if magic != _MAGIC or found != sequence or kind not in (_DESCRIPTOR, _COMMIT, _REVOKE):
                break
            if not self._is_sound(kind, raw):
                damage = damage or f"block {at} of the log"
            if kind == _COMMIT:
                if damage and _commit_time(raw) < self._newest:
                    break
                if damage:
                    raise _damaged(sequence, f"{damage} does not have its recorded checksum")
                self._newest = max(self._newest, _commit_time(raw))
                yield tags, revocations
                tags, revocations, sequence = [], [], sequence + 1 & 0xFFFFFFFF
            at, left = self._following(at), left - 1
            if kind == _REVOKE:
                # r_count is the number of used bytes of the block, with its header of 16 bytes (struct
                # jbd2_journal_revoke_header_s).
                (used,) = struct.unpack_from(">I", raw, _HEADER.size)
                form = struct.Struct(">Q" if self._wide else ">I")
                begin, room = _HEADER.size + 4, min(used, len(raw)) - _HEADER.size - 4
                whole = raw[begin : begin + max(0, room) // form.size * form.size]
                revocations.extend(block for (block,) in form.iter_unpack(whole))
            for tag in self._tags(raw) if kind == _DESCRIPTOR else ():
                if self._summed:
                    # The checksum of a data block begins with the number of its transaction, so that an old block is
                    # not accepted.
                    computed = crc32.iscsi(sequence.to_bytes(4, "big") + self._read(at), self._seed) ^ 0xFFFFFFFF
                    if computed & tag.mask != tag.checksum:
                        damage = damage or f"block {at} of the log, for block {tag.block} of the file system,"
                tags.append((tag.block, Replacement(self._blocks[at], tag.escaped)))
                at, left = self._following(at), left - 1
        self._require_end(at, left, sequence)

    def _require_end(self, at: int, left: int, sequence: int) -> None:
        """Raises DamagedError if there are committed transactions behind the end of the log: a part of the log before
        them is damaged, or was written while the disk was being copied. (The kernel ignores them without an error.)"""
        while at and left > 0:
            magic, kind, found = _HEADER.unpack(self._device.read_at(self._blocks[at], _HEADER.size))
            # Sequence numbers wrap around at 32 bits; a difference below half of that is a later one.
            if magic == _MAGIC and kind == _COMMIT and (found - sequence & 0xFFFFFFFF) < 1 << 31:
                raw = self._read(at)
                if self._is_sound(kind, raw) and _commit_time(raw) >= self._newest:
                    raise _damaged(found, f"the log before it, from transaction {sequence} on, cannot be read")
            at, left = self._following(at), left - 1

    def _tags(self, raw: bytes) -> Iterator[_Tag]:
        """The tags of a descriptor block. A tag has 16 bytes with checksums of version 3; else 8, + 2 with version 2, +
        4 with 64-bit block numbers."""
        size = 16 if self._v3 else 8 + (2 if self._summed else 0) + (4 if self._wide else 0)
        at, end = _HEADER.size, len(raw) - (4 if self._summed else 0)
        while at + size <= end:
            low, flags = struct.unpack_from(">II", raw, at)
            high = struct.unpack_from(">I", raw, at + 8)[0] if self._wide else 0
            checksum = struct.unpack_from(">I", raw, at + 12)[0] if self._v3 else flags >> 16
            mask = 0xFFFFFFFF if self._v3 else 0xFFFF
            yield _Tag(low | high << 32, bool(flags & _ESCAPED), checksum, mask)
            if flags & _LAST_TAG:
                return
            # A tag without this flag is followed by a UUID.
            at += size + (0 if flags & _SAME_UUID else 16)

    def _is_sound(self, kind: int, raw: bytes) -> bool:
        """True if the checksum is right, or if the journal has none. Descriptors and revocations have it at their end,
        a commit block after its header."""
        if not self._summed:
            return True
        at = 16 if kind == _COMMIT else len(raw) - 4
        # jbd2 stores the checksum without the final complement.
        computed = crc32.iscsi(raw[:at] + b"\0\0\0\0" + raw[at + 4 :], self._seed) ^ 0xFFFFFFFF
        return computed == int.from_bytes(raw[at : at + 4], "big")

    def _following(self, at: int) -> int:
        return at + 1 if at + 1 < self._length else self._first

    def _read(self, block: int) -> bytes:
        return self._device.read_at(self._blocks[block], self._unit)
