"""Finds out whether an XFS was unmounted. Its log is not replayed: without an unmount the file system is refused.

Source of the format: Linux, fs/xfs/libxfs/xfs_log_format.h; fs/xfs/xfs_log_recover.c (xlog_find_head,
xlog_check_unmount_rec). The log is a ring of 512-byte blocks. Each block begins with the number of the round in which
it was written (in a record's first block, after the magic), so the newest block is found by bisection.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from migrate.errors import DamagedError

LOG_BLOCK: Final = 512
_MAGIC: Final = b"\xfe\xed\xba\xbe"
_HEADER = struct.Struct(">4sIIIQQIII")
_SIZE_PLACE: Final = 320
_HEADER_COVERS: Final = 32 * 1024
_LONGEST_RECORD: Final = 256 * 1024
_UNMOUNT: Final = 0x20

ReadsLog = Callable[[int], bytes]
"""Block of the log → its 512 bytes."""


def was_unmounted(read: ReadsLog, length: int) -> bool:
    """True if an unmount was the last record of the log. `length`: in blocks. Reads two to thirty blocks, whatever the
    length. Raises DamagedError if there is no log."""
    newest, oldest = _round(read(0)), _round(read(length - 1))
    if newest == 0:
        raise DamagedError("the XFS log holds no record")
    head = length
    if newest != oldest:
        # Block `low` was written in the newest round, block `high` in the one before, or never.
        low, high = 0, length - 1
        while high - low > 1:
            middle = (low + high) // 2
            if _round(read(middle)) == newest:
                low = middle
            else:
                high = middle
        head = high
    return _ends_with_unmount(read, length, head)


def _round(block: bytes) -> int:
    return int.from_bytes(block[4:8] if block[:4] == _MAGIC else block[:4], "big")


def _ends_with_unmount(read: ReadsLog, length: int, head: int) -> bool:
    """True if the last record before `head` is an unmount, and ends at `head`."""
    for back in range(1, min(length, _LONGEST_RECORD // LOG_BLOCK + 16) + 1):
        place = (head - back) % length
        block = read(place)
        if block[:4] == _MAGIC:
            _, _, version, size, _, _, _, _, operations = _HEADER.unpack_from(block)
            (longest,) = struct.unpack_from(">I", block, _SIZE_PLACE) if version & 2 else (0,)
            # A record of version 2 has more header blocks if it is longer than one header can describe.
            headers = max(1, -(-min(int(longest), _LONGEST_RECORD) // _HEADER_COVERS))
            reaches = headers + -(-size // LOG_BLOCK)
            operation = read((place + headers) % length)
            return operations == 1 and reaches == back and bool(operation[9] & _UNMOUNT)
    raise DamagedError("the XFS log holds no record before its head")
