"""Writes tar headers exactly as Docker does, which means as Go 1.5's archive/tar, with which Docker 1.10 was built.

The format is ustar with three extensions: base-256 for numbers that do not fit (and then GNU's magic in this and every
later header of the archive), a ustar prefix if the only problem is a long ASCII name, and pax records for the rest:
names and targets that are too long or not ASCII, and `SCHILY.xattr.*`. Go used the daemon's process ID in the name of a
pax entry, and wrote its records in random order. Here the ID is 0 and the order is sorted, as in Go 1.6.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Final, NamedTuple

from migrate.tar.header import BLOCK

END: Final = bytes(2 * BLOCK)
_NAME, _PREFIX = 100, 155
_LAST_SECOND_NS = ((1 << 33) - 1) * 10**9
_NO_XATTRS: Mapping[bytes, bytes] = {}

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO, PAX, NUL = (
    b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"x", b"\0",
)  # fmt: skip


class TarHeader(NamedTuple):
    """One header. `mode` includes the file type, as in Docker's headers. The `name` of a directory ends with a
    slash."""

    name: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    typeflag: bytes = NUL
    link_name: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = _NO_XATTRS


class HeaderEncoder:
    """Encodes the headers of one archive, in order. `pax_entries` counts the entries with a pax header, whose bytes
    differ between runs of Docker."""

    def __init__(self) -> None:
        self.pax_entries = 0
        self._used_binary = False

    def encode(self, header: TarHeader) -> bytes:
        """One block, or several if the entry needs a pax header."""
        records: dict[bytes, bytes] = {}
        name, prefix = self._text(header.name, b"path", records), b""
        link = self._text(header.link_name, b"linkpath", records)
        # A prefix is used only if the name is the only value that does not fit.
        if not name and set(records) == {b"path"} and (split := _split_name(header.name)):
            prefix, name = split
            records.clear()
        block = self._block(header, name, prefix, link)
        records.update((b"SCHILY.xattr." + key, value) for key, value in header.xattrs.items())
        if not records:
            return block
        self.pax_entries += 1
        # The header of the pax entry is encoded after the main header, as in Go. So a base-256 number in the main
        # header changes the magic of both.
        return self._pax_entry(header, records) + block

    def _text(self, value: bytes, keyword: bytes, records: dict[bytes, bytes]) -> bytes:
        if len(value) <= _NAME and value.isascii():
            return value
        records[keyword] = value
        return b""

    def _block(self, header: TarHeader, name: bytes, prefix: bytes, link: bytes) -> bytes:
        # Go 1.5 writes 0 for a time that does not fit 11 octal digits (archive/tar/writer.go, minTime and maxTime).
        seconds = header.mtime_ns // 10**9 if 0 <= header.mtime_ns <= _LAST_SECOND_NS else 0
        major, minor = header.device
        numbers = (
            b"%07o\0" % header.mode
            + self._number(header.uid, 8)
            + self._number(header.gid, 8)
            + self._number(header.size, 12)
            + self._number(seconds, 12)
        )
        devices = self._number(major, 8) + self._number(minor, 8)
        magic = b"ustar  \0" if self._used_binary else b"ustar\x0000"
        front = name.ljust(_NAME, b"\0") + numbers
        rear = (
            header.typeflag + link.ljust(_NAME, b"\0") + magic + bytes(64) + devices + prefix.ljust(_PREFIX + 12, b"\0")
        )
        # The checksum is computed with eight spaces in its own field.
        return b"%b%06o\0 %b" % (front, sum(front) + sum(rear) + 8 * 32, rear)

    def _number(self, value: int, width: int) -> bytes:
        digits = b"%o" % value
        if len(digits) < width:
            return digits.rjust(width - 1, b"0") + b"\0"
        self._used_binary = True
        binary = bytearray((value % (1 << (8 * width))).to_bytes(width, "big"))
        binary[0] |= 0x80
        return bytes(binary)

    def _pax_entry(self, header: TarHeader, records: Mapping[bytes, bytes]) -> bytes:
        body = b"".join(_pax_record(key, records[key]) for key in sorted(records))
        directory, base = posixpath.split(header.name)
        name = posixpath.join(directory, b"PaxHeaders.0", base).rstrip(b"/")
        name = bytes(byte for byte in name if byte < 0x80)[:_NAME]
        pseudo = TarHeader(name=name, size=len(body), mtime_ns=header.mtime_ns, typeflag=PAX)
        return self._block(pseudo, name, b"", b"") + body + padding(len(body))


def padding(size: int) -> bytes:
    """The zeros between content of `size` bytes and the next header."""
    return bytes(-size % BLOCK)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) of a long ASCII name, split at the slash that Go uses; None if the parts do not fit the fields."""
    if not name.isascii():
        return None
    # As splitUSTARPath in Go's archive/tar (writer.go).
    length = len(name)
    if length > _PREFIX + 1:
        length = _PREFIX + 1
    elif name.endswith(b"/"):
        length -= 1
    cut = name.rfind(b"/", 0, length)
    rest = len(name) - cut - 1
    if cut <= 0 or cut > _PREFIX or not 0 < rest <= _NAME:
        return None
    return name[:cut], name[cut + 1 :]


def _pax_record(key: bytes, value: bytes) -> bytes:
    message = key + b"=" + value
    size = len(message) + 2
    # The length of a record includes its own digits, which may add one more.
    size += len(str(size))
    record = b"%d %b\n" % (size, message)
    return record if len(record) == size else b"%d %b\n" % (len(record), message)
