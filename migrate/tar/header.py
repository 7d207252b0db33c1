"""The header of a tar entry: its numbers, and the checksum over its 512 bytes.

POSIX.1-2017 (`pax`, "ustar Interchange Format") and the GNU tar manual describe the format. A layer has tens of
thousands of headers, so the form that nearly all writers use is read in few steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Final

import msgspec
from deflate import adler32

from migrate.errors import DamagedError

BLOCK: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK)
REGULAR: Final = ord("0")
CONTENT_FREE: Final = frozenset(b"123456")
"""Hard link, symlink, character device, block device, directory, fifo: no content follows, whatever the size field
has."""
EXTENDED: Final = frozenset(b"xgLK")
FIELD_ENDS: Final = frozenset(b"\0 ")

read_fields: Final = Struct("100s24x11sB12x8sB188xB166x").unpack_from
"""(buffer, offset) → name, size and the byte behind it, checksum, type flag, first byte of the prefix."""

_ADLER_MODULUS: Final = 65_521
_CHECKSUM: Final = slice(148, 156)
_OCTAL: Final = re.compile(rb"[0-7]+")
_USUAL_RECORDS: Final = re.compile(
    rb"(?:(\d{1,5}) linkpath=([^\n]+)\n)?(?:(\d{1,5}) path=([^\n]+)\n)?(?:(\d\d) mtime=([\d.]+)\n)?"
    rb"(?:30 [ac]time=\d{10}\.\d{9}\n|29 [ac]time=\d{10}\.\d{8}\n|28 [ac]time=\d{10}\.\d{7}\n)*"
).fullmatch
"""The records that GNU tar writes for each entry in pax format, in its order. atime and ctime are not used here."""
_MOST_KNOWN: Final = 50_000
known_adlers: Final[dict[bytes, int]] = {}
"""Cache of `adler_for`, by checksum field."""


def header_adler(header: bytes | memoryview) -> int:
    """The low half of adler32, which is the sum of the bytes plus 1, modulo 65521. Summing in Python is slower."""
    return adler32(header) & 0xFFFF


def adler_for(field: bytes) -> int:
    """The `header_adler` of a header whose checksum is `field`; -1 if the field is not six octal digits and a NUL, the
    form of nearly all writers."""
    digits = field[:6]
    if not digits.isdigit() or field[6]:
        return -1
    try:
        # The checksum counts its own field as eight spaces.
        expected = (int(digits, 8) - 8 * 32 + header_adler(field)) % _ADLER_MODULUS
    except ValueError:
        return -1
    if len(known_adlers) < _MOST_KNOWN:
        known_adlers[field] = expected
    return expected


def checksum_is_right(header: bytes) -> bool:
    """True if the checksum is the sum of all bytes, with the checksum's own field as eight spaces. As in Go, the bytes
    may also be summed as signed numbers, as some old tars do.

    False also if the field is no number.
    """
    field = header[_CHECKSUM]
    if (known_adlers.get(field) or adler_for(field)) == header_adler(header):
        return True
    try:
        stated = parse_number(field)
    except ValueError:
        return False
    rest = header[: _CHECKSUM.start] + header[_CHECKSUM.stop :]
    unsigned = sum(rest) + 8 * 32
    return stated in (unsigned, unsigned - 256 * sum(byte >= 128 for byte in rest))


def parse_number(text: bytes) -> int:
    """A number field: octal, or GNU's base-256 (first bit set, big-endian, two's complement). ValueError for others."""
    if text[0] & 0x80:
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        return value - (1 << (8 * len(text) - 1)) if text[0] & 0x40 else value
    digits = text.strip(b" \0").partition(b"\0")[0]  # as Go's archive/tar (strconv.go, parseOctal)
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError(f"not an octal number: {digits!r}")
    return int(digits, 8)


def is_name_prefix(magic: bytes, prefix: bytes) -> bool:
    """True if the field `prefix` is the beginning of the name. `magic`: the header from its magic on.

    In a header with GNU's magic the field has two times. Go before 1.8 wrote a prefix there all the same, and later Go
    recognises it (archive/tar, reader.go, readHeader).
    """
    if magic.startswith(b"ustar\0"):
        return True
    if not magic.startswith(b"ustar  \0"):
        return False
    times = (prefix[:12].strip(b" \0"), prefix[12:24].strip(b" \0"))
    if all(not time or time[0] & 0x80 or _OCTAL.fullmatch(time) for time in times):
        return False
    return prefix.partition(b"\0")[0].isascii()


def header_name(header: bytes) -> bytes:
    """The entry's name in the header, with its ustar prefix if it has one."""
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500]
    if prefix[0] and is_name_prefix(header[257:265], prefix):
        return prefix.partition(b"\0")[0] + b"/" + name
    return name


class Announced(msgspec.Struct):
    """The values of the pseudo-entries before a header (pax header, GNU long name), which replace those of the header.

    As in Go's archive/tar (reader.go, next): of two pax headers only the last one counts, and a GNU long name or link
    has priority over a pax record, whichever comes first. GNU tar and bsdtar never write both.
    """

    gnu_name: bytes = b""
    gnu_link: bytes = b""
    pax: Mapping[str, bytes] = msgspec.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.gnu_name or self.gnu_link or self.pax)

    def take(self, kind: int, content: bytes, what: str) -> None:
        """Takes the content of a pseudo-entry. Raises DamagedError for a malformed pax header.

        A global pax header is ignored, as in Docker.
        """
        if kind == ord("L"):
            self.gnu_name = content.partition(b"\0")[0]
        elif kind == ord("K"):
            self.gnu_link = content.partition(b"\0")[0]
        elif kind in b"xX":  # X is Solaris's
            self.pax = parse_pax(content, what)

    @property
    def name(self) -> bytes | None:
        """The entry's name. A sparse file has it in `GNU.sparse.name`, and an invented one in `path`."""
        pax = self.pax
        return self.gnu_name or (pax.get("GNU.sparse.name") or pax.get("path") if pax else None)

    @property
    def link(self) -> bytes | None:
        return self.gnu_link or self.pax.get("linkpath")

    @property
    def is_sparse(self) -> bool:
        return any(key.startswith("GNU.sparse.") for key in self.pax)


def parse_pax(content: bytes, what: str) -> dict[str, bytes]:
    """The records of a pax header (`<length> <key>=<value>\\n`), with raw values. Raises DamagedError for a malformed
    one.

    As in Go's archive/tar (reader.go, mergePAX), a record without a value removes an earlier one of the same key.
    """
    usual = _USUAL_RECORDS(content)
    if usual is not None:
        link_length, link, path_length, path, time_length, time = usual.groups()
        if (
            # The pattern does not prove that the lengths are right.
            (link is None or int(link_length) == len(link_length) + len(link) + 11)
            and (path is None or int(path_length) == len(path_length) + len(path) + 7)
            and (time is None or int(time_length) == len(time_length) + len(time) + 8)
        ):
            records = (("linkpath", link), ("path", path), ("mtime", time))
            return {key: value for key, value in records if value is not None}
    return {key: value for key, value in dict(iter_pax(content, what)).items() if value}


def iter_pax(content: bytes, what: str) -> Iterator[tuple[str, bytes]]:
    """All records in order. A sparse file in pax form 0.0 has several records of the same key."""
    position = 0
    while position < len(content):
        # A length has few digits. Without a bound, each search would go through all that follows, if there is no space.
        space = content.find(b" ", position, position + 20)
        length = content[position:space] if space > 0 else b""
        end = position + int(length) if length.isdigit() else 0
        record = content[space + 1 : end - 1]
        key, equals, value = record.partition(b"=")
        if end <= space or end > len(content) or content[end - 1 : end] != b"\n" or not equals or not key:
            raise DamagedError(f"{what}: malformed pax record at byte {position}")
        yield key.decode("utf-8", "surrogateescape"), value
        position = end
