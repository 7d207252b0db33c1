"""Recognises the content of a volume by magic numbers, and opens the file system in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from migrate.errors import SourceError

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks
    from migrate.storage.filesystems.filesystem import FileSystem

_HEAD: Final = 0x10048
_MAGICS: Final[tuple[tuple[str, int, bytes], ...]] = (
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("ext4", 0x438, b"\x53\xef"),
    ("xfs", 0, b"XFSB"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("lvm", 0x218, b"LVM2 001"),
    ("lvm", 0x18, b"LVM2 001"),
    ("md", 0x0, b"\xfc\x4e\x2b\xa9"),
    ("md", 0x1000, b"\xfc\x4e\x2b\xa9"),
    ("swap", 0xFF6, b"SWAPSPACE2"),
    ("swap", 0xFF6, b"SWAP-SPACE"),
    ("ntfs", 3, b"NTFS    "),
    ("bitlocker", 3, b"-FVE-FS-"),
    ("exfat", 3, b"EXFAT   "),
    ("fat", 0x36, b"FAT1"),
    ("fat", 0x52, b"FAT32"),
    ("iso9660", 0x8001, b"CD001"),
    ("squashfs", 0, b"hsqs"),
    ("reiserfs", 0x10034, b"ReIsEr"),
    ("jfs", 0x8000, b"JFS1"),
    ("f2fs", 0x400, b"\x10\x20\xf5\xf2"),
    ("erofs", 0x400, b"\xe2\xe1\xf5\xe0"),
    ("udf", 0x8001, b"BEA01"),
    ("apfs", 0x20, b"NXSB"),
    ("bcache", 0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
)
"""(kind, place, magic). The file systems that are read come first, then encryption, LVM and RAID, which may contain
one."""
_ZFS_MAGIC: Final = 0x00BAB10C
_ZFS_LABEL: Final = range(128 * 1024, 256 * 1024, 1024)


def probe_kind(blocks: Blocks) -> str | None:
    """`ext4` (also for ext2 and ext3), `xfs` or `btrfs`; the name of another known content, which is not read here;
    None for unknown content.
    """
    head = blocks.read_at(0, min(blocks.size, _HEAD))
    for kind, place, magic in _MAGICS:
        if head[place : place + len(magic)] == magic:
            return kind
    return "zfs" if _is_zfs(blocks) else "md" if _is_old_md(blocks) else None


def open_file_system(blocks: Blocks, kind: str) -> FileSystem:
    """Opens an `ext4` or `xfs`. The journal of an ext4 that was not unmounted is replayed in memory."""
    if kind == "xfs":
        from migrate.storage.filesystems.xfs import Xfs

        return Xfs(blocks)
    from migrate.storage.filesystems.ext4 import Ext4

    file_system = Ext4(blocks)
    return file_system.recovered() if file_system.needs_recovery else file_system


def _is_zfs(blocks: Blocks) -> bool:
    """True if one of the uberblocks in the first label has the magic, in either byte order."""
    if blocks.size < _ZFS_LABEL.stop:
        return False
    ring = blocks.read_at(_ZFS_LABEL.start, _ZFS_LABEL.stop - _ZFS_LABEL.start)
    magics = {_ZFS_MAGIC.to_bytes(8, "little"), _ZFS_MAGIC.to_bytes(8, "big")}
    return any(ring[at : at + 8] in magics for at in range(0, len(ring), 1024))


def _is_old_md(blocks: Blocks) -> bool:
    """True for a RAID member with its superblock at the end: version 0.90 has it in the last whole 64 KiB, version 1.0
    at 8 KiB before the end, rounded down to 4 KiB."""
    places = ((blocks.size & ~0xFFFF) - 0x10000, (blocks.size - 0x2000) & ~0xFFF)
    try:
        return any(place > 0 and blocks.read_at(place, 4) == b"\xfc\x4e\x2b\xa9" for place in places)
    except SourceError:
        return False
