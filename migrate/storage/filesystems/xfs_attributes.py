"""Extended attributes of XFS, in the inode or in a tree of blocks.

Source of the format: Linux, fs/xfs/libxfs/xfs_da_format.h. All integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from migrate.errors import DamagedError, LimitError
from migrate.storage.filesystems.filesystem import XATTR_BYTES
from migrate.storage.filesystems.xfs_extents import check_sum

_LEAF_MAGICS: Final = (0xFBEE, 0x3BEE)
_NODE_MAGICS: Final = (0xFEBE, 0x3EBE)
_FLAG_LOCAL, _FLAG_ROOT, _FLAG_SECURE, _FLAG_PARENT, _FLAG_INCOMPLETE = 0x1, 0x2, 0x4, 0x8, 0x80
_SUM: Final = 12
"""The offset of the checksum in leaves, nodes and remote values of version 5."""
_REMOTE_MAGIC: Final = b"XARM"
_REMOTE_HEADER: Final = 56
_ENTRY = struct.Struct(">IHBB")
_MOST_LEAVES: Final = 100_000

ReadsBlock = Callable[[int], bytes | None]
"""Number of a block in the attribute fork, from 0 → the block; None if nothing is stored there."""


def parse_shortform(fork: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Attributes in the inode: total size u16, count u8, padding u8, then name length, value length, flags, both."""
    at = 4
    for _ in range(fork[2]):
        name_length, value_length, flags = fork[at : at + 3]
        at += 3
        name, value = fork[at : at + name_length], fork[at + name_length : at + name_length + value_length]
        at += name_length + value_length
        if at > len(fork):
            raise DamagedError(f"{where}: {name!r} reaches beyond the inode")
        yield from _named(flags, name, value)


def read_leaves(read_block: ReadsBlock, v5: bool, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Attributes in blocks. The first leaf is found along the left edge of the tree, the others by the links of
    leaves."""
    seen: set[int] = set()
    number = 0
    while True:
        if number in seen or len(seen) > _MOST_LEAVES:
            raise DamagedError(f"{where}: block {number} is at two places")
        seen.add(number)
        block = read_block(number)
        if block is None:
            raise DamagedError(f"{where}: block {number} is not stored")
        if v5:
            check_sum(block, _SUM, f"{where}: block {number}")
        following, _, magic = struct.unpack_from(">IIH", block)
        if magic in _NODE_MAGICS:
            # The entries (hash, block) of a node follow its header. The first entry leads to the leftmost child.
            (number,) = struct.unpack_from(">I", block, (64 if v5 else 16) + 4)
            continue
        if magic not in _LEAF_MAGICS:
            raise DamagedError(f"{where}: block {number} has the magic {magic:#x}")
        yield from _leaf_entries(block, read_block, v5, where)
        if not following:
            return
        number = following


def _leaf_entries(block: bytes, read_block: ReadsBlock, v5: bool, where: str) -> Iterator[tuple[bytes, bytes]]:
    (count,) = struct.unpack_from(">H", block, 56 if v5 else 12)
    first = 80 if v5 else 32
    for at in range(first, first + count * _ENTRY.size, _ENTRY.size):
        _, place, flags, _ = _ENTRY.unpack_from(block, at)
        if flags & _FLAG_LOCAL:
            value_length, name_length = struct.unpack_from(">HB", block, place)
            name = block[place + 3 : place + 3 + name_length]
            value = block[place + 3 + name_length : place + 3 + name_length + value_length]
        else:
            value_block, value_length, name_length = struct.unpack_from(">IIB", block, place)
            name = block[place + 9 : place + 9 + name_length]
            if flags & _FLAG_INCOMPLETE:
                # The kernel sets this flag while it writes the value, and ignores an attribute that has it.
                continue
            value = _remote_value(read_block, value_block, value_length, v5, where)
        if len(name) != name_length or len(value) != value_length:
            raise DamagedError(f"{where}: {name!r} reaches beyond its block")
        yield from _named(flags, name, value)


def _remote_value(read_block: ReadsBlock, number: int, length: int, v5: bool, where: str) -> bytes:
    if length > XATTR_BYTES:
        raise LimitError(f"{where}: {length:,} bytes, over the limit of {XATTR_BYTES:,} (XATTR_BYTES)")
    value = b""
    while len(value) < length:
        block = read_block(number)
        if block is None or (v5 and block[:4] != _REMOTE_MAGIC):
            raise DamagedError(f"{where}: block {number} holds no value")
        # In version 5, each block of a value begins with a header, which has a checksum.
        if v5:
            check_sum(block, _SUM, f"{where}: block {number}")
        value += block[_REMOTE_HEADER:] if v5 else block
        number += 1
    return value[:length]


def _named(flags: int, name: bytes, value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name as for getxattr(2), value). ACLs are left out: they are stored in another form, under `trusted.`."""
    if flags & (_FLAG_INCOMPLETE | _FLAG_PARENT):
        return
    prefix = b"trusted." if flags & _FLAG_ROOT else b"security." if flags & _FLAG_SECURE else b"user."
    if not name.startswith(b"SGI_ACL_"):
        yield prefix + name, value
