"""ext2, ext3 and ext4 on any blocks.

Source of the format: Linux, Documentation/filesystems/ext4/; fs/ext4/ext4.h. All integers are little-endian.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from migrate.errors import DamagedError, LimitError, UnsupportedError
from migrate.storage.filesystems.dissection import open_dissected
from migrate.storage.filesystems.ext4_sums import Ext4Sums
from migrate.storage.filesystems.filesystem import (
    DIRECTORY_BYTES,
    FILE_EXTENTS,
    FOREIGN,
    LINK_BYTES,
    XATTR_BYTES,
    Directory,
    FileExtent,
    Inode,
    check_name,
    collect_names,
    naming,
    sorted_names,
)
from migrate.storage.filesystems.journal import replay_journal
from migrate.storage.filesystems.paged import PagedReader
from migrate.storage.pieces import open_blocks

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks

ROOT_INODE: Final = 2
_FILETYPE, _RECOVER, _META_BG, _EXTENTS, _64BIT, _MMP, _FLEX_BG = 0x2, 0x4, 0x10, 0x40, 0x80, 0x100, 0x200
_EA_INODE, _CSUM_SEED, _LARGEDIR, _INLINE_DATA, _ENCRYPT, _CASEFOLD = 0x400, 0x2000, 0x4000, 0x8000, 0x10000, 0x20000
# With the features of encryption and of attributes in inodes of their own, single files or attributes are not read.
_KNOWN = (
    (_FILETYPE | _RECOVER | _META_BG | _EXTENTS | _64BIT | _MMP | _FLEX_BG)
    | (_EA_INODE | _CSUM_SEED | _LARGEDIR | _INLINE_DATA | _ENCRYPT | _CASEFOLD)
)  # fmt: skip
_HAS_JOURNAL, _SPARSE_SUPER2 = 0x4, 0x200
_RO_SPARSE_SUPER, _RO_BIGALLOC = 0x1, 0x200
_STATE_UNMOUNTED, _STATE_ERRORS = 1, 2
_REPLAYED: Final = "was in use when it was copied; its journal was replayed in memory"
_INCOMPLETE: Final = "names may be missing; `e2fsck -f` on a copy of the file system finds them"
_OLD_INODE_SIZE: Final = 128
_INODE_EXTENTS, _INODE_INLINE, _INODE_ENCRYPTED = 0x80000, 0x10000000, 0x800
_EXTENT_MAGIC: Final = 0xF30A
_MOST_DEPTH: Final = 5
_UNWRITTEN: Final = 0x8000
_XATTR_MAGIC: Final = b"\0\0\x02\xea"
_MAP: Final = slice(40, 100)
"""The block map or extent tree in an inode (i_block); of inline content, its first bytes."""
_SYSTEM: Final = 7
_PREFIXES: Final = {1: b"user.", 4: b"trusted.", 6: b"security."}
_INODE = struct.Struct("<HHIIIiIHHIII60sIIIIHHHH")
"""mode, uid, size, four times, gid, links, blocks, flags, version, block map, generation, attributes, size's high half,
obsolete, blocks' and attributes' high halves, uid's and gid's"""
_EXTENT = struct.Struct("<IHHI")
_ENTRY = struct.Struct("<IHBB")
_XATTR_ENTRY = struct.Struct("<BBHIII")


class Ext4:
    """An ext2, ext3 or ext4 file system. Unknown features that change how names or contents are found are refused."""

    kind = "ext4"
    root = ROOT_INODE

    def __init__(self, device: Blocks) -> None:
        opened = open_dissected("extfs", "ExtFS", open_blocks(device))
        self.device = device
        self._pages = PagedReader(device)
        self._block_size = int(opened.block_size)
        self._block_count = int(opened.block_count)
        self._groups_offset = int(opened.groups_offset)
        superblock = opened.sb
        self._sums = Ext4Sums(device.read_at(1024, 1024), superblock)
        self._inode_count = int(superblock.s_inodes_count)
        self._inodes_per_group = int(superblock.s_inodes_per_group)
        self._inode_size = int(superblock.s_inode_size) if superblock.s_rev_level else _OLD_INODE_SIZE
        self._wide = bool(superblock.s_feature_incompat & _64BIT) and superblock.s_desc_size >= 64
        self._descriptor_size = int(superblock.s_desc_size) if self._wide else 32
        self._tables: dict[int, int] = {}
        self._superblock = superblock
        self._journal_inode = int(superblock.s_journal_inum)
        self._mounted = int(superblock.s_mtime)
        self.needs_recovery = bool(superblock.s_feature_incompat & _RECOVER)
        self.doubt: str | None = None
        # The kernel sets this when it finds damage and goes on.
        if superblock.s_state & _STATE_ERRORS:
            self.doubt = f"holds errors that the kernel found: {_INCOMPLETE}"
        elif not superblock.s_feature_compat & _HAS_JOURNAL and not superblock.s_state & _STATE_UNMOUNTED:
            self.doubt = f"was in use when it was copied, and has no journal: {_INCOMPLETE}"
        self._check_features(superblock)

    def recovered(self) -> Ext4:
        """The file system after a replay of its journal, in memory."""
        if not self._journal_inode:
            raise UnsupportedError("the ext4 journal was not replayed, and is on another device")
        # The inode and the blocks of the journal's file do not change while the file system is in use, so that they can
        # be read before the replay.
        journal = self.read_extents(self.read_inode(self._journal_inode))
        replayed = Ext4(replay_journal(self.device, journal, self._block_size, self._mounted))
        replayed.doubt = "; ".join(filter(None, (_REPLAYED, replayed.doubt)))
        return replayed

    def _check_features(self, superblock: Any) -> None:
        unknown = int(superblock.s_feature_incompat) & ~_KNOWN
        # Incompatible features change the structures on disk. Of the others only bigalloc changes where contents are.
        if unknown or superblock.s_feature_ro_compat & _RO_BIGALLOC:
            raise UnsupportedError(f"the ext4 file system uses features that are not read (incompat {unknown:#x})")
        if not (_OLD_INODE_SIZE <= self._inode_size <= self._block_size) or self._inode_size & (self._inode_size - 1):
            raise DamagedError(f"the ext4 superblock names an inode size of {self._inode_size}")
        if not 1024 <= self._block_size <= 65536 or self._block_count * self._block_size > self.device.size:
            raise DamagedError(
                f"the ext4 superblock names {self._block_count:,} blocks of {self._block_size:,} bytes, the device has "
                f"{self.device.size:,} bytes"
            )

    def read_inode(self, number: int) -> Inode:
        raw = self._pages.read_at(self.inode_offset(number), self._inode_size)
        try:
            inode = _decode(number, raw)
            self._sums.check_inode(number, raw)
            return inode
        except FOREIGN as exc:
            raise DamagedError(f"ext4 inode {number}: cannot be understood: {exc}") from exc

    def inode_offset(self, number: int) -> int:
        if not 1 <= number <= self._inode_count:
            raise DamagedError(f"ext4 inode {number}: the file system has only {self._inode_count:,} inodes")
        group, index = divmod(number - 1, self._inodes_per_group)
        table = self._tables.get(group)
        if table is None:
            raw = self._pages.read_at(self._descriptor_offset(group), self._descriptor_size)
            self._sums.check_group(group, raw)
            # bg_inode_table_lo; with the feature 64bit the upper half is in bg_inode_table_hi.
            block = int.from_bytes(raw[8:12], "little")
            if self._wide:
                block |= int.from_bytes(raw[40:44], "little") << 32
            table = self._tables[group] = self._block_offset(block, f"ext4 group {group}")
        return table + index * self._inode_size

    def _descriptor_offset(self, group: int) -> int:
        """Where the descriptor of a group is. With meta_bg, as resize2fs makes it, each block of descriptors from
        `s_first_meta_bg` on is in the first of its own groups, behind a copy of the superblock if there is one
        (fs/ext4/super.c, descriptor_loc)."""
        superblock = self._superblock
        number, index = divmod(group, self._block_size // self._descriptor_size)
        if not superblock.s_feature_incompat & _META_BG or number < superblock.s_first_meta_bg:
            return self._groups_offset + group * self._descriptor_size
        first = group - index
        block = superblock.s_first_data_block + first * superblock.s_blocks_per_group + self._has_superblock(first)
        return self._block_offset(int(block), f"ext4 group {group}") + index * self._descriptor_size

    def _has_superblock(self, group: int) -> bool:
        """True for a group that begins with a copy of the superblock (ext4_bg_has_super)."""
        superblock = self._superblock
        if superblock.s_feature_compat & _SPARSE_SUPER2:
            return group == 0 or group in tuple(superblock.s_backup_bgs)
        if group <= 1 or not superblock.s_feature_ro_compat & _RO_SPARSE_SUPER:
            return True
        return any(group == base ** round(math.log(group, base)) for base in (3, 5, 7))

    def read_directory(self, inode: Inode) -> Directory:
        where = f"ext4 directory {inode.number}"
        if inode.size > DIRECTORY_BYTES:
            raise LimitError(f"{where}: {inode.size:,} bytes, over the limit of {DIRECTORY_BYTES:,} (DIRECTORY_BYTES)")
        with naming(where):
            _refuse_encrypted(inode, where)
            inline = self._inline_extents(inode, where)
            blocks = self._directory_blocks(inode, where) if inline is None else self._inline_blocks(inline)
            names = collect_names((entry for block in blocks for entry in self._entries(block, where)), where)
            found = {name: number for name, number in names if name in (b".", b"..")}
            if inline is not None:  # the parent's number is in place of the two entries
                found |= {b".": inode.number, b"..": int.from_bytes(inode.raw[40:44], "little")}
            parent = found[b".."]
            if found[b"."] != inode.number:
                raise DamagedError(f"{where}: has the inode number {found[b'.']}")
            return Directory(parent, sorted_names([entry for entry in names if entry[0] not in found], where))

    def _directory_blocks(self, inode: Inode, where: str) -> Iterator[bytes]:
        covered = 0
        for extent in self.read_extents(inode):
            length = max(0, min(extent.length, inode.size - extent.start))
            for start in range(0, length, self._block_size):
                block = self._pages.read_at(extent.offset + start, self._block_size)
                self._sums.check_directory(inode.number, inode.raw, block, where)
                yield block
            covered += length
        if covered < inode.size:
            raise DamagedError(f"{where}: {inode.size - covered:,} of its bytes are not stored")

    def _inline_blocks(self, extents: Sequence[FileExtent]) -> Iterator[bytes]:
        """The entries of an inline directory: those in the inode's map, behind the parent, and those in the
        attribute."""
        for extent in extents:
            skipped = 0 if extent.start else 4
            yield self._pages.read_at(extent.offset + skipped, extent.length - skipped)

    def _inline_extents(self, inode: Inode, where: str) -> list[FileExtent] | None:
        """The places of content that is in the inode: 60 bytes in place of the block map, the rest in the attribute
        `system.data` (Documentation/filesystems/ext4/inlinedata.rst). None for other inodes."""
        if not _flags(inode) & _INODE_INLINE:
            return None
        place = self.inode_offset(inode.number)
        room = _MAP.stop - _MAP.start
        extents = [FileExtent(0, min(inode.size, room), place + _MAP.start)]
        if inode.size > room:
            body = _extra_body(inode.raw)
            start, size = _inline_rest(body, where)
            if inode.size - room > size or start + size > len(body):
                raise DamagedError(f"{where}: {inode.size:,} bytes, of which {room + size} are in the inode")
            extents.append(FileExtent(room, inode.size - room, place + len(inode.raw) - len(body) + start))
        return extents

    def _entries(self, block: bytes, where: str) -> Iterator[tuple[bytes, int]]:
        at = 0
        while at < len(block):
            number, length, name_length, _ = _ENTRY.unpack_from(block, at)
            # With blocks of 64 KiB, an entry over the whole block has a length that does not fit 16 bits: 0 or 65535
            # means it (fs/ext4/ext4.h, ext4_rec_len_from_disk).
            length = length if 0 < length < 65535 else 65536 if len(block) == 65536 else length
            if length < 8 + name_length or length % 4 or at + length > len(block):
                raise DamagedError(f"{where}: an entry of {length} bytes at byte {at} of a block")
            if number:
                yield check_name(block[at + 8 : at + 8 + name_length], where), number
            at += length

    def read_link(self, inode: Inode) -> bytes:
        where = f"ext4 symbolic link {inode.number}"
        if inode.size > LINK_BYTES:
            raise LimitError(f"{where}: {inode.size:,} bytes, over the limit of {LINK_BYTES:,} (LINK_BYTES)")
        with naming(where):
            _refuse_encrypted(inode, where)
            if _is_fast_link(inode):
                return inode.raw[40 : 40 + inode.size]
            pieces = [self._pages.read_at(extent.offset, extent.length) for extent in self.read_extents(inode)]
            target = b"".join(pieces)[: inode.size]
            if len(target) != inode.size:
                raise DamagedError(f"{where}: {inode.size - len(target):,} of its bytes are not stored")
            return target

    def read_xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        if len(inode.raw) == _OLD_INODE_SIZE and not any(inode.raw[104:108]) and not any(inode.raw[118:120]):
            # The common case first: when two layers are compared, the attributes of all their files are read.
            return {}
        where = f"the extended attributes of ext4 inode {inode.number}"
        found: dict[bytes, bytes] = {}
        with naming(where):
            body = _extra_body(inode.raw)
            if body[:4] == _XATTR_MAGIC:
                found.update(_xattrs(body, first=4, base=4, where=where))
            block = int.from_bytes(inode.raw[104:108], "little") | int.from_bytes(inode.raw[118:120], "little") << 32
            if block:
                raw = self._pages.read_at(self._block_offset(block, where), self._block_size)
                if raw[:4] != _XATTR_MAGIC:
                    raise DamagedError(f"{where}: block {block} holds none")
                self._sums.check_attributes(block, raw, where)
                found.update(_xattrs(raw, first=32, base=0, where=where))
        return found

    def read_extents(self, inode: Inode) -> Sequence[FileExtent]:
        where = f"ext4 inode {inode.number}"
        if stat.S_ISLNK(inode.mode) and _is_fast_link(inode):
            return ()
        with naming(where):
            _refuse_encrypted(inode, where)
            if (inline := self._inline_extents(inode, where)) is not None:
                return inline
            mapped = (
                self._walk_extents(inode, where) if _flags(inode) & _INODE_EXTENTS else self._walk_map(inode, where)
            )
            return self._joined(mapped, where)

    def _joined(self, mapped: Iterator[tuple[int, int, int]], where: str) -> list[FileExtent]:
        """(first block in the file, count, block on the device), ascending → extents. Neighbours are joined."""
        size = self._block_size
        joined: list[FileExtent] = []
        end = 0
        for start, count, block in mapped:
            if start * size < end:
                raise DamagedError(f"{where}: two of its extents hold block {start}")
            end = (start + count) * size
            # Both the first and the last block of the extent must be on the device.
            offset = self._block_offset(block, where)
            self._block_offset(block + count - 1, where)
            last = joined[-1] if joined else None
            if last and last.start + last.length == start * size and last.offset + last.length == offset:
                joined[-1] = FileExtent(last.start, last.length + count * size, last.offset)
            else:
                joined.append(FileExtent(start * size, count * size, offset))
            if len(joined) > FILE_EXTENTS:
                raise LimitError(f"{where}: more than {FILE_EXTENTS:,} extents (FILE_EXTENTS)")
        return joined

    def _walk_extents(self, inode: Inode, where: str) -> Iterator[tuple[int, int, int]]:
        seen: set[int] = set()
        # Bytes 40 to 100 of the inode (i_block) are the root of the tree.
        waiting: list[tuple[bytes, int | None]] = [(inode.raw[40:100], None)]
        while waiting:
            node, depth = waiting.pop()
            entries, depth = _extent_entries(node, depth, where)
            if depth == 0:
                yield from ((start, count, block) for start, count, block in entries if count)
                continue
            children = []
            for _, _, block in entries:
                # A damaged tree can name a node above it, which would be an endless walk.
                if block in seen:
                    raise DamagedError(f"{where}: extent block {block} is at two places of the tree")
                seen.add(block)
                child = self._pages.read_at(self._block_offset(block, where), self._block_size)
                self._sums.check_extents(inode.number, inode.raw, child, where)
                children.append((child, depth - 1))
            waiting.extend(reversed(children))

    def _walk_map(self, inode: Inode, where: str) -> Iterator[tuple[int, int, int]]:
        """The block map of ext2 and ext3: twelve blocks, then blocks of pointers with one, two and three levels."""
        pointers = struct.unpack_from("<15I", inode.raw, 40)
        last = -(-inode.size // self._block_size)
        seen: set[int] = set()
        for at, block in enumerate(pointers[:12]):
            if block and at < last:
                yield at, 1, block
        start, fan = 12, self._block_size // 4
        for level, block in enumerate(pointers[12:], start=1):
            yield from self._walk_pointers(block, level, start, last, seen, where)
            start += fan**level

    def _walk_pointers(
        self, block: int, level: int, start: int, last: int, seen: set[int], where: str
    ) -> Iterator[tuple[int, int, int]]:
        # A pointer of 0 is a hole, of one block or of all blocks below it.
        if not block or start >= last:
            return
        if level == 0:
            yield start, 1, block
            return
        if block in seen:
            raise DamagedError(f"{where}: pointer block {block} is at two places of the map")
        seen.add(block)
        raw = self._pages.read_at(self._block_offset(block, where), self._block_size)
        span = (self._block_size // 4) ** (level - 1)
        for at, pointer in enumerate(struct.unpack(f"<{len(raw) // 4}I", raw)):
            yield from self._walk_pointers(pointer, level - 1, start + at * span, last, seen, where)

    def _block_offset(self, block: int, where: str) -> int:
        if not 0 < block < self._block_count:
            raise DamagedError(f"{where}: names block {block}, the file system has {self._block_count:,}")
        return block * self._block_size


def _extent_entries(node: bytes, depth: int | None, where: str) -> tuple[list[tuple[int, int, int]], int]:
    """The entries of a node of the extent tree: (file block, count, device block). The count in an index node is 1."""
    magic, count, most, level = struct.unpack_from("<HHHH", node)
    fits = (len(node) - 12) // 12
    if magic != _EXTENT_MAGIC or count > most or most > fits or level > _MOST_DEPTH:
        raise DamagedError(f"{where}: no extent tree ({count} of {most} entries at level {level})")
    # Only the root, which is in the inode, may be without entries: the kernel removes any other node with its last
    # entry.
    if depth is not None and (level != depth or not count):
        raise DamagedError(f"{where}: an extent node of level {level} with {count} entries under level {depth + 1}")
    entries = []
    for start, length, high, low in _EXTENT.iter_unpack(node[12 : 12 + count * 12]):
        if level:  # an index node: file block, low 32 bits of the child, high 16 bits
            low, high = length | high << 16, low & 0xFFFF
            length = 1
        elif length > _UNWRITTEN:  # allocated and never written: zeros
            length = 0
        entries.append((start, length, low | high << 32))
    if any(entries[at][0] >= entries[at + 1][0] for at in range(count - 1)):
        raise DamagedError(f"{where}: its extents do not ascend")
    return entries, level


def _decode(number: int, raw: bytes) -> Inode:
    mode, uid, size, _, _, seconds, _, gid, links, _, _, _, _, _, _, size_high, _, _, _, uid_high, gid_high = (
        _INODE.unpack_from(raw)
    )
    if not mode or not links:
        raise DamagedError(f"ext4 inode {number}: has a name but is deleted")
    kind = stat.S_IFMT(mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):  # of other types, this word is not the high half of the size
        size |= size_high << 32
    return Inode(
        number=number,
        mode=mode,
        uid=uid | uid_high << 16,
        gid=gid | gid_high << 16,
        size=size,
        mtime_ns=_mtime(seconds, raw),
        rdev=_rdev(raw) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        nlink=links,
        # Inodes are kept in memory. Without attributes in it, the rest of an inode is not needed.
        raw=raw if _extra_body(raw)[:4] == _XATTR_MAGIC else raw[:_OLD_INODE_SIZE],
    )


def _refuse_encrypted(inode: Inode, where: str) -> None:
    """Raises UnsupportedError for an inode whose content, names or target are encrypted."""
    if _flags(inode) & _INODE_ENCRYPTED:
        raise UnsupportedError(f"{where}: is encrypted, which is not read")


def _inline_rest(body: bytes, where: str) -> tuple[int, int]:
    """(offset in `body`, size) of the attribute `system.data`."""
    for index, name, offset, value_inode, size in _xattr_entries(body, 4) if body[:4] == _XATTR_MAGIC else ():
        if (index, name, value_inode) == (_SYSTEM, b"data", 0):
            return 4 + offset, size
    raise DamagedError(f"{where}: the rest of its content is not in the inode")


def _is_fast_link(inode: Inode) -> bool:
    """True for a symbolic link whose target is in the inode, in place of extents."""
    return inode.size < 60 and not _flags(inode) & _INODE_EXTENTS


def _flags(inode: Inode) -> int:
    return int.from_bytes(inode.raw[32:36], "little")


def _extra_size(raw: bytes) -> int:
    """The size of the inode's own fields behind the first 128 bytes (i_extra_isize)."""
    if len(raw) <= _OLD_INODE_SIZE:
        return 0
    size = int.from_bytes(raw[128:130], "little")
    if size % 4 or size > len(raw) - _OLD_INODE_SIZE:
        raise DamagedError(f"the inode claims {size} extra bytes of {len(raw) - _OLD_INODE_SIZE}")
    return size


def _extra_body(raw: bytes) -> bytes:
    """The bytes behind the inode's own fields: attributes, if they begin with their magic."""
    size = _extra_size(raw)
    return raw[_OLD_INODE_SIZE + size :] if size else b""


def _mtime(seconds: int, raw: bytes) -> int:
    """Nanoseconds since 1970. Seconds are signed. The extra word has two more high bits of them, for times after 2038,
    and thirty bits of nanoseconds."""
    if _extra_size(raw) < 12:
        return seconds * 1_000_000_000
    extra = int.from_bytes(raw[136:140], "little")
    return (seconds + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)


def _rdev(raw: bytes) -> int:
    """The device number: the old form in the first word (8 bits each), or the new form in the second word (12 bits
    major, 20 bits minor)."""
    old, new = struct.unpack_from("<II", raw, 40)
    if old:
        return os.makedev(int(old) >> 8 & 0xFF, int(old) & 0xFF)
    return os.makedev((new & 0xFFF00) >> 8, (new & 0xFF) | (new >> 12 & 0xFFF00))


def _xattrs(raw: bytes, *, first: int, base: int, where: str) -> Iterator[tuple[bytes, bytes]]:
    """(name, value) of the entries from `first`; values are at `base` + offset. ACLs are left out: their form on disk
    is not that of getxattr(2)."""
    for index, name, offset, value_inode, size in _xattr_entries(raw, first):
        prefix = _PREFIXES.get(index)
        if prefix is None:
            continue
        if value_inode or size > XATTR_BYTES:
            raise UnsupportedError(f"{where}: {(prefix + name)!r} is kept outside of the inode, which is not read")
        value = raw[base + offset : base + offset + size]
        if len(value) != size:
            raise DamagedError(f"{where}: {(prefix + name)!r} reaches beyond its block")
        yield prefix + name, value


def _xattr_entries(raw: bytes, at: int) -> Iterator[tuple[int, bytes, int, int, int]]:
    """(number of the prefix, name, offset of the value, its inode if it is not here, its size) of the entries from
    `at`."""
    while raw[at : at + 4] not in (b"\0\0\0\0", b""):
        length, index, offset, value_inode, size, _ = _XATTR_ENTRY.unpack_from(raw, at)
        end = at + _XATTR_ENTRY.size + length
        if end > len(raw):
            raise DamagedError(f"the name of an attribute at byte {at} reaches beyond its block")
        yield index, raw[end - length : end], offset, value_inode, size
        at = (end + 3) & ~3
