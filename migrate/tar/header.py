"""The 512 bytes before every entry of a tar: their numbers, and the checksum over them.

POSIX.1-2017 (`pax`, "ustar Interchange Format") and the GNU tar manual describe the format. A layer has tens of
thousands of headers, and all of them pass here; so what nearly every writer writes is read in few steps.
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
"""Hard link, symlink, character device, block device, directory, fifo: nothing follows, whatever the size is."""
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
"""What GNU tar writes for each entry of a backup, a million times. Nothing here reads the two last times."""
_MOST_KNOWN: Final = 50_000
known_adlers: Final[dict[bytes, int]] = {}
"""`adler_for` of the checksum fields that were seen so far."""


def header_adler(header: bytes | memoryview) -> int:
    """The low half of adler32: one more than the sum of the bytes, modulo 65521, by one call into C."""
    return adler32(header) & 0xFFFF


def adler_for(field: bytes) -> int:
    """What `header_adler` is if the header's checksum `field` is right; -1 where the field does not begin with six
    octal digits and a NUL, as nearly every writer fills it."""
    digits = field[:6]
    if not digits.isdigit() or field[6]:
        return -1
    try:
        expected = (int(digits, 8) - 8 * 32 + header_adler(field)) % _ADLER_MODULUS
    except ValueError:
        return -1
    if len(known_adlers) < _MOST_KNOWN:
        known_adlers[field] = expected
    return expected


def checksum_is_right(header: bytes) -> bool:
    """The sum of all bytes with the checksum itself read as eight spaces; unsigned, or signed as some old tars have it.

    False also where the field holds no number.
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
    """An octal number field, or GNU's base-256 (first bit set, big-endian, two's complement). ValueError for others."""
    if text[0] & 0x80:
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        return value - (1 << (8 * len(text) - 1)) if text[0] & 0x40 else value
    digits = text.strip(b" \0").partition(b"\0")[0]  # as Go's archive/tar does it (strconv.go, parseOctal)
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError(f"not an octal number: {digits!r}")
    return int(digits, 8)


def is_name_prefix(magic: bytes, prefix: bytes) -> bool:
    """Whether the field `prefix` holds the beginning of the name; `magic` is the header from its magic on.

    Go before 1.8 wrote a prefix into headers with GNU's magic, where two times belong; later Go sees it, so does this.
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
    """The entry's name as the header alone has it, with the ustar prefix where there is one."""
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500]
    if prefix[0] and is_name_prefix(header[257:265], prefix):
        return prefix.partition(b"\0")[0] + b"/" + name
    return name


class Announced(msgspec.Struct):
    """What the pseudo-entries before a header have instead of it.

    As in Go's archive/tar (reader.go, next): of two pax headers the last one alone counts, and a GNU long name or link
    wins over a pax record, whichever of them comes first. GNU tar and bsdtar never write both.
    """

    gnu_name: bytes = b""
    gnu_link: bytes = b""
    pax: Mapping[str, bytes] = msgspec.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.gnu_name or self.gnu_link or self.pax)

    def take(self, kind: int, content: bytes, what: str) -> None:
        """The content of a pseudo-entry. DamagedError for a malformed pax header.

        A global pax header names no single entry, and Docker passes over it.
        """
        if kind == ord("L"):
            self.gnu_name = content.partition(b"\0")[0]
        elif kind == ord("K"):
            self.gnu_link = content.partition(b"\0")[0]
        elif kind in b"xX":  # X is Solaris's
            self.pax = parse_pax(content, what)

    @property
    def name(self) -> bytes | None:
        """A sparse file's own name is in a record of its own; `path` then is one that GNU tar made up."""
        pax = self.pax
        return self.gnu_name or (pax.get("GNU.sparse.name") or pax.get("path") if pax else None)

    @property
    def link(self) -> bytes | None:
        return self.gnu_link or self.pax.get("linkpath")

    @property
    def is_sparse(self) -> bool:
        return any(key.startswith("GNU.sparse.") for key in self.pax)


def parse_pax(content: bytes, what: str) -> dict[str, bytes]:
    """The records of a pax header (`<length> <key>=<value>\\n`), values raw. DamagedError for a malformed one.

    One without a value has no effect, as Go's archive/tar reads it (reader.go, mergePAX), nor does one before it.
    """
    usual = _USUAL_RECORDS(content)
    if usual is not None:
        link_length, link, path_length, path, time_length, time = usual.groups()
        if (
            (link is None or int(link_length) == len(link_length) + len(link) + 11)
            and (path is None or int(path_length) == len(path_length) + len(path) + 7)
            and (time is None or int(time_length) == len(time_length) + len(time) + 8)
        ):
            records = (("linkpath", link), ("path", path), ("mtime", time))
            return {key: value for key, value in records if value is not None}
    return {key: value for key, value in dict(iter_pax(content, what)).items() if value}


def iter_pax(content: bytes, what: str) -> Iterator[tuple[str, bytes]]:
    """All records in order; those of a sparse file in its first pax form repeat their keys."""
    position = 0
    while position < len(content):
        space = content.find(b" ", position, position + 20)
        length = content[position:space] if space > 0 else b""
        end = position + int(length) if length.isdigit() else 0
        record = content[space + 1 : end - 1]
        key, equals, value = record.partition(b"=")
        if end <= space or end > len(content) or content[end - 1 : end] != b"\n" or not equals or not key:
            raise DamagedError(f"{what}: malformed pax record at byte {position}")
        yield key.decode("utf-8", "surrogateescape"), value
        position = end
