"""XFS, versions 4 and 5, on any blocks.

Source of the format: "XFS Algorithms & Data Structures" (xfs.org); Linux, fs/xfs/libxfs/xfs_format.h, xfs_da_format.h.
All integers are big-endian. `xfs_extents` reads extents, `xfs_attributes` attributes, `xfs_log` the state of the log.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from migrate.errors import DamagedError, LimitError, UnsupportedError
from migrate.storage.filesystems import xfs_log
from migrate.storage.filesystems.dissection import open_dissected
from migrate.storage.filesystems.filesystem import (
    DIRECTORY_BYTES,
    FOREIGN,
    LINK_BYTES,
    Directory,
    FileExtent,
    Inode,
    check_name,
    collect_names,
    naming,
    sorted_names,
)
from migrate.storage.filesystems.paged import PagedReader
from migrate.storage.filesystems.xfs_attributes import parse_shortform, read_leaves
from migrate.storage.filesystems.xfs_extents import LOCAL, XfsSpace, check_sum, read_piece
from migrate.storage.pieces import open_blocks

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks

_FTYPE, _SPINODES, _META_UUID, _BIGTIME, _NREXT64, _EXCHRANGE = 0x1, 0x2, 0x4, 0x8, 0x20, 0x40
_KNOWN = _FTYPE | _SPINODES | _META_UUID | _BIGTIME | _NREXT64 | _EXCHRANGE
_FTYPE_V4: Final = 0x200
_REALTIME: Final = 1
_FLAG2_BIGTIME, _FLAG2_NREXT64 = 0x8, 0x10
_INODE_MAGIC: Final = b"IN"
_INODE = struct.Struct(">2sHBBHIII20xQ8xQ")
"""magic, mode, version, format, old link count, uid, gid, link count; modification time; size"""
_BIGTIME_EPOCH: Final = 1 << 31
_BLOCK_MAGICS: Final = (b"XD2B", b"XDB3")
_DATA_MAGICS: Final = (b"XD2D", b"XDD3")
_LINK_MAGIC: Final = b"XSLM"
_LINK_HEADER: Final = 56
_SUPERBLOCK_SUM, _INODE_SUM, _DIRECTORY_SUM, _LINK_SUM = 224, 100, 4, 12


class Xfs:
    """An XFS file system. Unknown features that change how names or contents are found are refused."""

    kind = "xfs"
    doubt: str | None = None  # a file system that was in use is refused

    def __init__(self, device: Blocks) -> None:
        opened = open_dissected("xfs", "XFS", open_blocks(device))
        superblock = opened.sb
        self.device = device
        self._pages = PagedReader(device)
        self._space = XfsSpace(
            pages=self._pages,
            block_size=int(opened.block_size),
            blocks=int(superblock.sb_dblocks),
            group_blocks=int(superblock.sb_agblocks),
            group_count=int(superblock.sb_agcount),
            group_bits=int(superblock.sb_agblklog),
            version=int(opened.version),
        )
        self._block_size = self._space.block_size
        self._v5 = self._space.version == 5
        if self._v5:
            check_sum(device.read_at(0, int(superblock.sb_sectsize)), _SUPERBLOCK_SUM, "the XFS superblock")
        self._inodes_bits = int(superblock.sb_inopblog)
        self._inode_size = int(superblock.sb_inodesize)
        self._directory_block = self._block_size << int(superblock.sb_dirblklog)
        self.root = int(superblock.sb_rootino)
        # With the feature ftype, a directory's entry has the type of its file. Version 4 has a flag for it in another
        # field.
        features = superblock.sb_features_incompat & _FTYPE if self._v5 else superblock.sb_features2 & _FTYPE_V4
        self._has_type = bool(features)
        self._check(int(superblock.sb_features_incompat) if self._v5 else 0)
        self._check_log(int(superblock.sb_logstart), int(superblock.sb_logblocks))

    def _check(self, features: int) -> None:
        space, unknown = self._space, features & ~_KNOWN
        if space.version not in (4, 5) or unknown:
            raise UnsupportedError(f"XFS version {space.version} uses features that are not read ({unknown:#x})")
        # Every later address is computed from these fields, and version 4 has no checksum of them.
        if not 512 <= space.block_size <= 65536 or not 256 <= self._inode_size <= space.block_size:
            raise DamagedError(
                f"the XFS superblock names blocks of {space.block_size} and inodes of {self._inode_size} bytes"
            )
        if self._inode_size << self._inodes_bits != space.block_size or self._directory_block > 65536:
            raise DamagedError("the XFS superblock contradicts itself in its inodes or its directory blocks")
        if space.group_bits > 31 or not 0 < space.group_blocks <= 1 << space.group_bits:
            raise DamagedError(f"the XFS superblock names allocation groups of {space.group_blocks:,} blocks")
        if space.blocks * space.block_size > self.device.size:
            raise DamagedError(
                f"the XFS superblock names {space.blocks:,} blocks of {space.block_size:,} bytes, the device has "
                f"{self.device.size:,} bytes"
            )

    def _check_log(self, start: int, blocks: int) -> None:
        if not start:
            raise UnsupportedError("the XFS log is on another device")
        first = self._space.offset(start, "the XFS log")
        size = xfs_log.LOG_BLOCK
        with naming("the XFS log"):
            clean = xfs_log.was_unmounted(
                lambda at: self._pages.read_at(first + at * size, size), blocks * self._block_size // size
            )
        if not clean:
            raise UnsupportedError(
                "the XFS file system was in use when the store was copied, and its log was not replayed: activate the "
                "pool once on a copy and mount the device, or copy the store again after Docker was stopped"
            )

    def read_inode(self, number: int) -> Inode:
        raw = self._pages.read_at(self.inode_offset(number), self._inode_size)
        try:
            return self._decode(number, raw, f"XFS inode {number}")
        except FOREIGN as exc:
            raise DamagedError(f"XFS inode {number}: cannot be understood: {exc}") from exc

    def inode_offset(self, number: int) -> int:
        block, index = number >> self._inodes_bits, number & ((1 << self._inodes_bits) - 1)
        return self._space.offset(block, f"XFS inode {number}") + index * self._inode_size

    def _decode(self, number: int, raw: bytes, where: str) -> Inode:
        magic, mode, version, _, old_links, uid, gid, new_links, stamp, size = _INODE.unpack_from(raw)
        if magic != _INODE_MAGIC:
            raise DamagedError(f"{where}: its magic is {magic!r}")
        if version >= 3:
            check_sum(raw, _INODE_SUM, where)
            claimed = int.from_bytes(raw[152:160], "big")
            if claimed != number:
                raise DamagedError(f"{where}: has the inode number {claimed}")
        # Version 1 of the inode counts links in 16 bits, in another field (di_onlink).
        links = new_links if version > 1 else old_links
        if not mode or not links:
            raise DamagedError(f"{where}: has a name but is deleted")
        return Inode(
            number=number,
            mode=mode,
            uid=uid,
            gid=gid,
            size=size,
            mtime_ns=_mtime(stamp, version >= 3 and bool(_flags2(raw) & _FLAG2_BIGTIME)),
            rdev=_rdev(raw) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
            nlink=links,
            raw=raw,
        )

    def read_directory(self, inode: Inode) -> Directory:
        where = f"XFS directory {inode.number}"
        if inode.size > DIRECTORY_BYTES:
            raise LimitError(f"{where}: {inode.size:,} bytes, over the limit of {DIRECTORY_BYTES:,} (DIRECTORY_BYTES)")
        with naming(where):
            if _format(inode) == LOCAL:
                return self._shortform(inode, where)
            blocks = self._directory_blocks(inode)
            names = collect_names((entry for block in blocks for entry in self._entries(block, where)), where)
            found = {name: number for name, number in names if name in (b".", b"..")}
            if found[b"."] != inode.number:
                raise DamagedError(f"{where}: has the inode number {found[b'.']}")
            return Directory(found[b".."], sorted_names([entry for entry in names if entry[0] not in found], where))

    def _shortform(self, inode: Inode, where: str) -> Directory:
        """A directory in its inode: number of entries, number of entries with 8-byte inode numbers, parent; then for
        each entry length, offset, name, type, inode number."""
        fork = self._data_fork(inode)[: inode.size]
        count, wide = fork[0], fork[1]
        width = 8 if wide else 4
        parent, at = int.from_bytes(fork[2 : 2 + width], "big"), 2 + width
        names = []
        for _ in range(count):
            length = fork[at]
            name = check_name(fork[at + 3 : at + 3 + length], where)
            at += 3 + length + self._has_type
            if at + width > len(fork):
                raise DamagedError(f"{where}: an entry reaches beyond the inode")
            names.append((name, int.from_bytes(fork[at : at + width], "big")))
            at += width
        return Directory(parent, sorted_names(names, where))

    def _directory_blocks(self, inode: Inode) -> Iterator[bytes]:
        """The blocks with entries. There may be gaps between them. Indexes are beyond the directory's size."""
        extents, size = self.read_extents(inode), self._directory_block
        starts = {
            at
            for extent in extents
            for at in range(extent.start // size * size, min(extent.start + extent.length, inode.size), size)
        }
        for start in sorted(starts):
            block = read_piece(self._pages, extents, start, size)
            if block is not None:
                yield block

    def _entries(self, block: bytes, where: str) -> Iterator[tuple[bytes, int]]:
        magic = block[:4]
        if magic not in _BLOCK_MAGICS + _DATA_MAGICS:
            raise DamagedError(f"{where}: a block with the magic {magic!r}")
        at, end = (64 if self._v5 else 16), len(block)
        if self._v5:
            check_sum(block, _DIRECTORY_SUM, f"{where}: one of its blocks")
        if magic in _BLOCK_MAGICS:
            # A directory of one block has its index at the end of the block, with the number of index entries behind
            # it.
            end -= 8 + 8 * int.from_bytes(block[-8:-4], "big")
        while at < end:
            # The tag of unused room, with its length.
            if block[at : at + 2] == b"\xff\xff":
                length = int.from_bytes(block[at + 2 : at + 4], "big")
                if not length or length % 8:
                    raise DamagedError(f"{where}: a gap of {length} bytes")
                at += length
                continue
            number, length = struct.unpack_from(">QB", block, at)
            name = check_name(block[at + 9 : at + 9 + length], where)
            at += (9 + length + self._has_type + 2 + 7) & ~7
            if at > end:
                raise DamagedError(f"{where}: an entry reaches beyond its block")
            yield name, number

    def read_link(self, inode: Inode) -> bytes:
        where = f"XFS symbolic link {inode.number}"
        if inode.size > LINK_BYTES:
            raise LimitError(f"{where}: {inode.size:,} bytes, over the limit of {LINK_BYTES:,} (LINK_BYTES)")
        with naming(where):
            if _format(inode) == LOCAL:
                return self._data_fork(inode)[: inode.size]
            target = b""
            for extent in self.read_extents(inode):
                length = min(extent.length, LINK_BYTES + self._block_size)
                block = self._pages.read_at(extent.offset, length)
                if self._v5:  # each extent has a header with the length of its part of the target
                    if block[:4] != _LINK_MAGIC:
                        raise DamagedError(f"{where}: a block with the magic {block[:4]!r}")
                    check_sum(block, _LINK_SUM, where)
                    block = block[_LINK_HEADER : _LINK_HEADER + int.from_bytes(block[8:12], "big")]
                target += block
            if len(target) < inode.size:
                raise DamagedError(f"{where}: {inode.size - len(target):,} of its bytes are not stored")
            return target[: inode.size]

    def read_xattrs(self, inode: Inode) -> Mapping[bytes, bytes]:
        where = f"the extended attributes of XFS inode {inode.number}"
        with naming(where):
            # di_forkoff: the place of the attribute fork, in units of 8 bytes; 0 if there is none.
            offset = inode.raw[82] * 8
            fork = inode.raw[_fork_start(inode.raw) + offset :] if offset else b""
            if not fork:
                return {}
            kind = inode.raw[83]
            if kind == LOCAL:
                return dict(parse_shortform(fork, where))
            count = int.from_bytes(inode.raw[76:80] if _has_large_counts(inode) else inode.raw[80:82], "big")
            extents = self._space.fork_extents(fork, kind, count, where)
            if not extents:  # the kernel has made the fork, and no attribute in it
                return {}
            size = self._block_size
            return dict(
                read_leaves(lambda block: read_piece(self._pages, extents, block * size, size), self._v5, where)
            )

    def read_extents(self, inode: Inode) -> Sequence[FileExtent]:
        where = f"XFS inode {inode.number}"
        if _format(inode) == LOCAL and not stat.S_ISREG(inode.mode):
            return ()
        with naming(where):
            flags = int.from_bytes(inode.raw[90:92], "big")
            if flags & _REALTIME and stat.S_ISREG(inode.mode):
                raise UnsupportedError(f"{where}: its content is on a realtime device, which is not read")
            count = int.from_bytes(inode.raw[24:32] if _has_large_counts(inode) else inode.raw[76:80], "big")
            return self._space.fork_extents(self._data_fork(inode), _format(inode), count, where)

    def _data_fork(self, inode: Inode) -> bytes:
        start, offset = _fork_start(inode.raw), inode.raw[82] * 8
        return inode.raw[start : start + offset] if offset else inode.raw[start:]


def _fork_start(raw: bytes) -> int:
    return 176 if raw[4] >= 3 else 100


def _format(inode: Inode) -> int:
    return inode.raw[5]


def _flags2(raw: bytes) -> int:
    return int.from_bytes(raw[120:128], "big")


def _has_large_counts(inode: Inode) -> bool:
    return inode.raw[4] >= 3 and bool(_flags2(inode.raw) & _FLAG2_NREXT64)


def _mtime(stamp: int, bigtime: bool) -> int:
    """Nanoseconds since 1970. Stored are two signed 32-bit words, or with the bigtime flag nanoseconds since 1901."""
    if bigtime:
        return stamp - _BIGTIME_EPOCH * 1_000_000_000
    seconds = stamp >> 32
    return (seconds - (1 << 32) if seconds >= 1 << 31 else seconds) * 1_000_000_000 + (stamp & 0xFFFFFFFF)


def _rdev(raw: bytes) -> int:
    """The device number, in System V's form: 14 bits major, 18 bits minor."""
    start = _fork_start(raw)
    number = int.from_bytes(raw[start : start + 4], "big")
    return os.makedev(number >> 18, number & 0x3FFFF)
