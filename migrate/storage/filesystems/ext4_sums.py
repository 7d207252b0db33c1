"""The checksums of ext4's metadata, if it was made with them (by default since e2fsprogs 1.43; those of groups
earlier).

Source of the format: Linux, Documentation/filesystems/ext4/checksums.rst; fs/ext4/super.c (ext4_group_desc_csum),
inode.c (ext4_inode_csum), namei.c (ext4_dirblock_csum, ext4_dx_csum), extents.c, xattr.c. All are CRC-32C, begun with
the file system's UUID and, for what belongs to an inode, its number and generation. Content has none.
"""

from __future__ import annotations

from typing import Any, Final

from fastcrc import crc16, crc32

from migrate.errors import DamagedError

_GROUP_SUMS, _METADATA_SUMS, _CSUM_SEED = 0x10, 0x400, 0x2000
_SUPERBLOCK_SUM: Final = 0x3FC
_GROUP_SUM: Final = 0x1E
_LOW, _HIGH = 0x7C, 0x82
_TAIL: Final = b"\0\0\0\0\x0c\0\0\xde"
"""The checksum of a directory's block is in an entry at its end: no inode, 12 bytes long, type 0xDE."""


class Ext4Sums:
    """Raises DamagedError for a wrong checksum. Checks nothing if the file system has no checksums."""

    def __init__(self, superblock: bytes, parsed: Any) -> None:
        features = int(parsed.s_feature_ro_compat)
        self._groups = bool(features & _GROUP_SUMS)
        self.are_kept = bool(features & _METADATA_SUMS)
        self._uuid = superblock[0x68:0x78]
        self._seed = crc32.iscsi(self._uuid)
        if not self.are_kept:
            return
        if int(parsed.s_feature_incompat) & _CSUM_SEED:
            self._seed = int.from_bytes(superblock[0x270:0x274], "little") ^ 0xFFFFFFFF
        if _kept(crc32.iscsi(superblock[:_SUPERBLOCK_SUM])) != superblock[_SUPERBLOCK_SUM:]:
            raise _wrong("the ext4 superblock")

    def check_group(self, number: int, raw: bytes) -> None:
        name = number.to_bytes(4, "little")
        if self.are_kept:
            found = crc32.iscsi(name + raw[:_GROUP_SUM] + b"\0\0" + raw[_GROUP_SUM + 2 :], self._seed) ^ 0xFFFFFFFF
        elif self._groups:
            found = crc16.modbus(self._uuid + name + raw[:_GROUP_SUM] + raw[_GROUP_SUM + 2 :])
        else:
            return
        if (found & 0xFFFF).to_bytes(2, "little") != raw[_GROUP_SUM : _GROUP_SUM + 2]:
            raise _wrong(f"ext4 group {number}")

    def check_inode(self, number: int, raw: bytes) -> None:
        """An inode with enough room has all four bytes of the checksum, others the lower two."""
        if not self.are_kept:
            return
        is_wide = len(raw) > 128 and int.from_bytes(raw[128:130], "little") >= 4
        rest = raw[_LOW + 2 : _HIGH] + b"\0\0" + raw[_HIGH + 2 :] if is_wide else raw[_LOW + 2 :]
        found = _kept(crc32.iscsi(raw[:_LOW] + b"\0\0" + rest, self._of(number, raw)))
        if found[:2] != raw[_LOW : _LOW + 2] or (is_wide and found[2:] != raw[_HIGH : _HIGH + 2]):
            raise _wrong(f"ext4 inode {number}")

    def check_extents(self, number: int, inode: bytes, block: bytes, where: str) -> None:
        """Checks a block of an extent tree. The checksum is behind the room for entries."""
        end = 12 + int.from_bytes(block[4:6], "little") * 12
        if self.are_kept and _kept(crc32.iscsi(block[:end], self._of(number, inode))) != block[end : end + 4]:
            raise _wrong(f"{where}: a block of its extent tree")

    def check_directory(self, number: int, inode: bytes, block: bytes, where: str) -> None:
        """Checks a block of a directory. A block of names has the checksum at its end. A block of a large directory's
        index has it behind the room for the index, and the checksum covers the used part of that room."""
        if not self.are_kept:
            return
        seed = self._of(number, inode)
        begin = _index_begin(block)
        if begin is None:
            is_right = block[-12:-4] == _TAIL and _kept(crc32.iscsi(block[:-12], seed)) == block[-4:]
        else:
            room, used = int.from_bytes(block[begin : begin + 2], "little"), block[begin + 2 : begin + 4]
            tail, end = begin + room * 8, begin + int.from_bytes(used, "little") * 8
            covered = block[:end] + block[tail : tail + 4] + bytes(4)
            is_right = _kept(crc32.iscsi(covered, seed)) == block[tail + 4 : tail + 8]
        if not is_right:
            raise _wrong(f"{where}: one of its blocks")

    def check_attributes(self, block: int, raw: bytes, where: str) -> None:
        covered = block.to_bytes(8, "little") + raw[:16] + bytes(4) + raw[20:]
        if self.are_kept and _kept(crc32.iscsi(covered, self._seed)) != raw[16:20]:
            raise _wrong(where)

    def _of(self, number: int, inode: bytes) -> int:
        return crc32.iscsi(number.to_bytes(4, "little") + inode[100:104], self._seed)


def _index_begin(block: bytes) -> int | None:
    """The offset of the index in a block that has one; None for a block of names.

    A block with an index looks to older kernels like one with an unused entry up to the end of the block, which
    identifies it."""
    whole = len(block) & 0xFFFF
    if int.from_bytes(block[4:6], "little") == whole:
        return 8
    is_top = block[4:6] == b"\x0c\0" and int.from_bytes(block[16:18], "little") == (whole - 12) & 0xFFFF
    return 32 if is_top else None


def _kept(crc: int) -> bytes:
    """The stored form of a checksum: ext4 stores CRC-32C without the final complement."""
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


def _wrong(what: str) -> DamagedError:
    return DamagedError(f"{what}: its checksum does not match its content; run `e2fsck -f` on a copy")
