"""The places of blocks and of files' extents in XFS.

Source of the format: "XFS Algorithms & Data Structures", "Data Extents"; Linux, fs/xfs/libxfs/xfs_format.h
(xfs_bmbt_rec, xfs_bmdr_block). All integers are big-endian.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from fastcrc import crc32
from msgspec import Struct

from migrate.errors import DamagedError, LimitError
from migrate.storage.filesystems.filesystem import FILE_EXTENTS, FileExtent
from migrate.storage.filesystems.paged import PagedReader

LOCAL, EXTENTS, BTREE = 1, 2, 3
"""The formats of a fork: content in the inode, extents in the inode, a tree of extents."""
_MAGICS: Final = (b"BMAP", b"BMA3")
_MOST_LEVELS: Final = 9
_NODE_SUM: Final = 64


class XfsSpace(Struct, frozen=True, kw_only=True):
    """The allocation groups of the file system. The bits above the lowest `group_bits` of a block's number are its
    group."""

    pages: PagedReader
    block_size: int
    blocks: int
    group_blocks: int
    group_count: int
    group_bits: int
    version: int

    def offset(self, block: int, where: str) -> int:
        """Block number (group in the high bits, block in the group in the low bits) → offset on the device."""
        group, inside = block >> self.group_bits, block & ((1 << self.group_bits) - 1)
        linear = group * self.group_blocks + inside
        if group >= self.group_count or inside >= self.group_blocks or linear >= self.blocks:
            raise DamagedError(f"{where}: names block {block:#x}, which the file system does not have")
        return linear * self.block_size

    def fork_extents(self, fork: bytes, kind: int, count: int, where: str) -> list[FileExtent]:
        """The extents of a fork with the format `kind`. `count`: their number, if they are in the inode itself."""
        if kind == EXTENTS:
            if count * 16 > len(fork):
                raise DamagedError(f"{where}: {count:,} extents do not fit its {len(fork)} bytes")
            records: Iterator[bytes] = iter([fork[: count * 16]])
        elif kind == BTREE:
            records = self._walk_btree(fork, where)
        else:
            raise DamagedError(f"{where}: has no extents (format {kind})")
        return self._joined(records, where)

    def _joined(self, records: Iterator[bytes], where: str) -> list[FileExtent]:
        size = self.block_size
        joined: list[FileExtent] = []
        end = 0
        for block_of_records in records:
            for high, low in struct.iter_unpack(">QQ", block_of_records):
                # 128 bits: 1 for an unwritten extent, 54 for the block in the file, 52 for the block on the device, 21
                # for the length.
                start, count, block = high >> 9 & (1 << 54) - 1, low & (1 << 21) - 1, (high & 0x1FF) << 43 | low >> 21
                if not count or start * size < end:
                    raise DamagedError(f"{where}: its extents overlap or are empty at block {start}")
                end = (start + count) * size
                if high >> 63:  # allocated and never written: zeros
                    continue
                offset = self.offset(block, where)
                if self.offset(block + count - 1, where) != offset + (count - 1) * size:
                    raise DamagedError(f"{where}: an extent leaves its allocation group")
                joined.append(FileExtent(start * size, count * size, offset))
                if len(joined) > FILE_EXTENTS:
                    raise LimitError(f"{where}: more than {FILE_EXTENTS:,} extents (FILE_EXTENTS)")
        return joined

    def _walk_btree(self, fork: bytes, where: str) -> Iterator[bytes]:
        """The records of the leaves, in order. The root is in the inode: level, count, keys, pointers."""
        level, count = struct.unpack_from(">HH", fork)
        most = (len(fork) - 4) // 16
        if not 0 < level <= _MOST_LEVELS or count > most:
            raise DamagedError(f"{where}: an extent tree of level {level} with {count} of {most} entries")
        # The pointers begin behind the room for `most` keys, not behind the keys in use.
        pointers = struct.unpack_from(f">{count}Q", fork, 4 + most * 8)
        seen: set[int] = set()
        waiting = [(pointer, level - 1) for pointer in reversed(pointers)]
        while waiting:
            block, level = waiting.pop()
            if block in seen:
                raise DamagedError(f"{where}: extent block {block:#x} is at two places of the tree")
            seen.add(block)
            content, children = self._read_btree_node(block, level, where)
            if level == 0:
                yield content
            waiting.extend((child, level - 1) for child in reversed(children))

    def _read_btree_node(self, block: int, level: int, where: str) -> tuple[bytes, tuple[int, ...]]:
        raw = self.pages.read_at(self.offset(block, where), self.block_size)
        found, count = struct.unpack_from(">HH", raw, 4)
        header = 72 if self.version == 5 else 24
        most = (len(raw) - header) // 16
        if raw[:4] not in _MAGICS or found != level or not 0 < count <= most:
            raise DamagedError(f"{where}: block {block:#x} is no extent node of level {level}")
        if self.version == 5:
            check_sum(raw, _NODE_SUM, f"{where}: extent block {block:#x}")
        if level == 0:
            return raw[header : header + count * 16], ()
        return b"", struct.unpack_from(f">{count}Q", raw, header + most * 8)


def check_sum(raw: bytes, place: int, where: str) -> None:
    """Checks the CRC-32C at `place` of a version 5 block. It covers the block with zeros at `place`. DamagedError."""
    computed = crc32.iscsi(raw[:place] + bytes(4) + raw[place + 4 :])
    if computed != int.from_bytes(raw[place : place + 4], "little"):
        raise DamagedError(f"{where}: its checksum does not match its content")


def read_piece(pages: PagedReader, extents: Sequence[FileExtent], start: int, size: int) -> bytes | None:
    """`size` bytes of a file from `start`, which may be in several extents; None if nothing is stored there."""
    pieces = []
    at = max(0, bisect_right(extents, start, key=lambda extent: extent.start) - 1)
    while at < len(extents) and extents[at].start < start + size:
        extent = extents[at]
        first, end = max(start, extent.start), min(start + size, extent.start + extent.length)
        if first < end:
            pieces.append(pages.read_at(extent.offset + first - extent.start, end - first))
        at += 1
    found = b"".join(pieces)
    if found and len(found) != size:
        raise DamagedError(f"bytes {start:,} to {start + size:,} are stored only in part")
    return found or None
