"""Every entry of a tar with all its metadata, in one pass over the headers: for a tar of a directory tree.

Dialects as in `index`, and sparse files in each of the four forms that GNU tar and bsdtar write: GNU's own, and pax
0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files"). Extended attributes in the records of star and GNU tar
(`SCHILY.xattr.<name>`, raw) and of libarchive (`LIBARCHIVE.xattr.<name, percent-encoded>`, base64).
"""

from __future__ import annotations

import binascii
import os
import re
import stat
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from struct import Struct
from typing import Final, NamedTuple

from deflate import adler32

from migrate.blobio import limits
from migrate.errors import DamagedError, LimitError, SourceError, TruncatedError, UnsupportedError
from migrate.tar.header import (
    BLOCK,
    CONTENT_FREE,
    EXTENDED,
    Announced,
    checksum_is_right,
    header_name,
    iter_pax,
    known_adlers,
    parse_number,
)
from migrate.tar.index import Damage, LoneBlockError, Window, find_rest, padded

HARD_LINK: Final = ord("1")
_SPARSE: Final = ord("S")
_TYPES: Final[Mapping[int, int]] = {
    ord("0"): stat.S_IFREG,
    0: stat.S_IFREG,
    ord("7"): stat.S_IFREG,
    _SPARSE: stat.S_IFREG,
    HARD_LINK: 0,
    ord("2"): stat.S_IFLNK,
    ord("3"): stat.S_IFCHR,
    ord("4"): stat.S_IFBLK,
    ord("5"): stat.S_IFDIR,
    ord("D"): stat.S_IFDIR,  # a folder in GNU tar's incremental format, with a list of names as content
    ord("6"): stat.S_IFIFO,
}
_SYMLINK: Final = ord("2")
_PSEUDO: Final = EXTENDED | frozenset(b"X")  # the X is the pax header of Solaris's tar
_VOLUME_LABEL: Final = ord("V")
_GLOBAL: Final = ord("g")
_PAX: Final = b"xX"
_head: Final = Struct("124x12s12x8sB355x").unpack
"""header → size, checksum, type flag."""
_LINK: Final = slice(157, 257)
_fields: Final = Struct("100x8s8s8s12x12s9x100s72x8s8s155x12x").unpack
"""header → mode, uid, gid, mtime, link, device's major and minor number."""
_OWNER_MASK: Final = 0xFFFFFFFF
_LONGEST_TIME: Final = 1 << 40
_TIME: Final = re.compile(rb"(-?)(\d{1,13})(?:\.(\d*))?")
_SCHILY, _LIBARCHIVE = "SCHILY.xattr.", "LIBARCHIVE.xattr."
_GNU_PIECES: Final = slice(386, 482)
_SPARSE_PIECES: Final = 4_000_000
"""Limit of the pieces of one sparse file."""
_MOST_KNOWN: Final = 50_000
_known_numbers: Final[dict[bytes, int]] = {}
"""Cache of parsed number fields: the same modes, owners, times and sizes occur often."""
_NO_XATTRS: Final[Mapping[bytes, bytes]] = {}
_NOTHING: Final = Announced()


class Record(NamedTuple):
    """One entry. `path` is clean, b"" for the root; None if the name leads out of the tar.

    `mode` includes the file type. It is 0 for a hard link, whose file is `link`, as in the header. `offset`: the place
    of the content in the tar. `pieces` of a sparse file: start and length alternately, in bytes of the file; the bytes
    of the pieces follow each other from `offset` on.
    """

    path: bytes | None
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: int
    link: bytes
    offset: int
    xattrs: Mapping[bytes, bytes]
    pieces: array[int] | None


def iter_records(window: Window, what: str) -> Iterator[Record | Damage]:
    """The entries in the tar's order, and each damage. `window` is read from front to back.

    If a header is damaged, its size gives the place of the next header, if there is one. Otherwise the next header is
    searched whose name has the same first component as an earlier entry: so no entry of a tar inside this tar is used.
    """
    tops: set[bytes] = set()

    def is_expected(header: bytes) -> bool:
        path = clean_path(header_name(header))
        # A pseudo-entry has an invented name.
        return header[156] in _PSEUDO or not tops or (path is not None and path.partition(b"/")[0] in tops)

    top: bytes | None = None
    position = 0
    while True:
        scan = _Scan(window, what, position)
        error: SourceError | None = None
        try:
            for found in scan:
                if isinstance(found, Record) and found.path and (top is None or not found.path.startswith(top)):
                    top = found.path.partition(b"/")[0]
                    tops.add(top)
                    top += b"/"
                yield found
        except (DamagedError, TruncatedError) as exc:
            error = exc
        damage: Damage | None = None
        if error is not None and scan.guess is not None:
            with suppress(SourceError):
                block = window.read(scan.guess, BLOCK)
                # Zeros may be the end marker.
                if len(block) == BLOCK and (not any(block) or checksum_is_right(block)):
                    damage = Damage(error, scan.guess)
        if damage is None:
            damage = find_rest(window, what, scan.behind, error, is_expected)
        if damage is not None:
            yield damage
        if damage is None or damage.resumed is None:
            return
        position = damage.resumed


def clean_path(name: bytes) -> bytes | None:
    """`./a//b/` → `a/b`, `/a` → `a`; None for a name with `..`, and for one that is longer than any path."""
    if name.startswith(b"./"):
        name = name[2:]
    name = name.rstrip(b"/")
    if b"/." in name or b"//" in name or name[:1] in (b".", b"/"):
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            return None
        name = b"/".join(parts)
    return name if len(name) <= limits.PATH_BYTES else None


class _Scan:
    """The entries from `position` to the end marker. After the end, or an error, `behind` is the place to continue the
    search at, and `guess` the place where the next header should be, if it is known."""

    def __init__(self, window: Window, what: str, position: int) -> None:
        self._window = window
        self._what = what
        self._position = position
        self.behind = position
        self.guess: int | None = None

    def __iter__(self) -> Iterator[Record | Damage]:
        """Yields the entries. The place of an error is added to its message only here, and not passed to every
        function, because a backup of a store has a million headers."""
        read, what = self._window.read, self._what
        position = self._position
        announced, extended = _NOTHING, b""
        lost: SourceError | None = None  # a damaged extended header: the next entry has another name or size
        while True:
            here, content = position, position + BLOCK
            self.behind, self.guess = content, None
            header = read(position, BLOCK)
            if len(header) < BLOCK:
                raise TruncatedError(f"{what}: ends without the end-of-archive marker, so entries may be lost")
            if not header[0] and not any(header):
                # The end mark is two blocks of zeros. A single one may be a header that was lost.
                if any(read(content, BLOCK)):
                    raise LoneBlockError(f"{what}: a single block of zeros at byte {position:,}, which ends no archive")
                return
            size_field, checksum, kind = _head(header)
            if known_adlers.get(checksum) != adler32(header) & 0xFFFF and not checksum_is_right(header):
                self._guess(header, kind, content)
                raise DamagedError(f"{what}: header at byte {position:,}: wrong checksum")
            try:
                # A size in a pax record is that of the file, and not that of another extended header between the two.
                stored = _stored_size(size_field, None if kind in _PSEUDO else announced.pax.get("size"))
            except DamagedError as exc:
                raise _placed(exc, what, here) from exc
            if kind in _PSEUDO or kind == _VOLUME_LABEL:
                position = content + padded(stored)
                try:
                    if kind != _VOLUME_LABEL and kind != _GLOBAL:
                        announced = Announced() if announced is _NOTHING else announced
                        announced.take(kind, found := self._read_extended(kind, content, stored), "an extended header")
                        extended = found if kind in _PAX else extended
                except (DamagedError, LimitError) as exc:
                    lost = _placed(exc, what, here)
                continue
            position = content + (0 if kind in CONTENT_FREE else padded(stored))
            fields = b""
            if kind == _SPARSE:
                fields, content = self._read_map(header, content)
                position = content + padded(stored)
            if lost is not None:
                yield Damage(lost, position)
            else:
                try:
                    record = self._record(header, kind, announced, extended, fields, content, stored)
                except (DamagedError, UnsupportedError, LimitError) as exc:
                    yield Damage(_placed(exc, what, here), position)
                else:
                    yield record
            if announced is not _NOTHING or lost is not None:
                announced, extended, lost = _NOTHING, b"", None

    def _guess(self, header: bytes, kind: int, content: int) -> None:
        try:
            stored = parse_number(header[124:136])
        except ValueError:
            return
        if 0 <= stored <= limits.STATED_BYTES and kind != _SPARSE:
            self.guess = content + (0 if kind in CONTENT_FREE else padded(stored))

    def _read_extended(self, kind: int, offset: int, size: int) -> bytes:
        most = limits.SPARSE_HEADER_BYTES if kind in _PAX else limits.TAR_HEADER_BYTES
        if size > most:
            raise LimitError(f"an extended header of {size:,} bytes; the limit is {most:,}")
        content = self._window.read(offset, size)
        if len(content) < size:
            raise TruncatedError(
                f"{self._what}: header at byte {offset - BLOCK:,}: ends in the middle of an extended header"
            )
        return content

    def _read_map(self, header: bytes, content: int) -> tuple[bytes, int]:
        """(the map of a sparse entry in GNU's format, the place of its content). Four pieces are in the header, 21 in
        each further block."""
        fields, more = [header[_GNU_PIECES]], header[482]
        while more:
            block = self._window.read(content, BLOCK)
            if len(block) < BLOCK:
                raise TruncatedError(f"{self._what}: ends in the middle of a sparse file's map")
            fields.append(block[:504])
            if len(fields) > _SPARSE_PIECES // 21:
                raise LimitError(f"{self._what}: a sparse file of more than {_SPARSE_PIECES:,} pieces")
            more = block[504]
            content += BLOCK
        return b"".join(fields), content

    def _record(
        self, header: bytes, kind: int, announced: Announced, extended: bytes, fields: bytes, content: int, stored: int
    ) -> Record:
        name = announced.name or header_name(header)
        if kind == HARD_LINK:  # the metadata are those of the file's own entry
            target = announced.link or header[_LINK].partition(b"\0")[0]
            return Record(clean_path(name), name, 0, 0, 0, 0, 0, 0, target, content, _NO_XATTRS, None)
        mode, uid, gid, mtime, link, major, minor = _fields(header)
        pax = announced.pax
        file_type = _TYPES.get(kind)
        if file_type is None:
            raise UnsupportedError(f"{name!r} is of the unknown type {chr(kind)!r}")
        if file_type == stat.S_IFREG and name.endswith(b"/"):
            file_type = stat.S_IFDIR  # the v7 format has no type flag for directories
        link = announced.link or link.partition(b"\0")[0] if kind == _SYMLINK else b""
        size = stored if file_type == stat.S_IFREG else 0
        pieces = None
        if kind == _SPARSE:
            size, pieces = _stored_size(header[483:495], None), _gnu_pieces(fields)
        elif b"GNU.sparse." in extended and announced.is_sparse:
            size, pieces, skipped = _pax_pieces(self._window, pax, extended, content, stored)
            content += skipped
            stored -= skipped
        if pieces is not None:
            _check_pieces(pieces, size, stored)
        rdev = 0
        if file_type in (stat.S_IFCHR, stat.S_IFBLK):
            rdev = os.makedev(_number(major) & 0xFFF, _number(minor) & 0xFFFFFFFF)
        return Record(
            clean_path(name),
            name,
            file_type | _number(mode) & 0o7777,
            _owner(pax["uid"]) if "uid" in pax else _number(uid) & _OWNER_MASK,
            _owner(pax["gid"]) if "gid" in pax else _number(gid) & _OWNER_MASK,
            size,
            _time(pax["mtime"]) if "mtime" in pax else _seconds(mtime),
            rdev,
            link,
            content,
            _xattrs(pax) if b".xattr." in extended else _NO_XATTRS,
            pieces,
        )


def _gnu_pieces(fields: bytes) -> array[int]:
    """The pieces of a map in GNU's format: start and length, number fields of twelve bytes. An empty pair ends the
    map."""
    pieces = array("Q")
    for at in range(0, len(fields), 24):
        start, length = fields[at : at + 12], fields[at + 12 : at + 24]
        if not start.strip(b"\0 ") and not length.strip(b"\0 "):
            break
        pieces.append(_stored_size(start, None))
        pieces.append(_stored_size(length, None))
    return pieces


def _pax_pieces(
    window: Window, pax: Mapping[str, bytes], extended: bytes, content: int, stored: int
) -> tuple[int, array[int], int]:
    """(size of the file, its pieces, bytes of the map at the beginning of the content). Pax 1.0 has the map in the
    content, 0.1 in one record, 0.0 in one record for each number."""
    size = _whole(pax.get("GNU.sparse.realsize") or pax.get("GNU.sparse.size"))
    if pax.get("GNU.sparse.major") == b"1":
        numbers, skipped = _read_number_lines(window, content, stored)
        return size, _as_pieces(numbers), skipped
    if "GNU.sparse.map" in pax:
        numbers = [_whole(number) for number in pax["GNU.sparse.map"].split(b",")]
        return size, _as_pieces(numbers), 0
    keys = ("GNU.sparse.offset", "GNU.sparse.numbytes")
    numbers = [_whole(value) for key, value in iter_pax(extended, "an extended header") if key in keys]
    return size, _as_pieces(numbers), 0


def _read_number_lines(window: Window, content: int, stored: int) -> tuple[list[int], int]:
    """The numbers of a pax 1.0 map and its size in bytes. The map is a line with the number of pieces, then one line
    for each start and each length, filled up to a whole block."""
    text, read = b"", 0
    numbers: list[int] = []
    wanted = 1
    while len(numbers) < wanted:
        if read >= stored:
            raise DamagedError("the map of a sparse file is longer than what is stored of it")
        text += window.read(content + read, BLOCK)
        read += BLOCK
        # The last line may continue in the next block.
        *lines, text = text.split(b"\n")
        # A number is shorter than a block. Without this check, content without line ends would be read into memory
        # whole.
        if len(text) > BLOCK:
            raise DamagedError("the map of a sparse file holds no numbers")
        numbers.extend(_whole(line) for line in lines[: wanted - len(numbers) if numbers else None])
        if wanted == 1 and numbers:
            wanted = 1 + 2 * numbers[0]
            del numbers[wanted:]
            if numbers[0] > _SPARSE_PIECES:
                raise LimitError(f"a sparse file of more than {_SPARSE_PIECES:,} pieces")
    return numbers[1:], read


def _as_pieces(numbers: Sequence[int]) -> array[int]:
    if len(numbers) % 2:
        raise DamagedError(f"the map of a sparse file has {len(numbers)} numbers")
    return array("Q", numbers)


def _check_pieces(pieces: array[int], size: int, stored: int) -> None:
    end = 0
    for start, length in zip(pieces[::2], pieces[1::2], strict=True):
        if start < end or start + length > size:
            raise DamagedError(f"the pieces of a sparse file overlap or are outside its {size:,} bytes")
        end = start + length
    if sum(pieces[1::2]) > stored:
        raise DamagedError(f"the pieces of a sparse file have more bytes than the {stored:,} that are stored")


def _xattrs(pax: Mapping[str, bytes]) -> Mapping[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if key.startswith(_SCHILY):
            found[os.fsencode(key[len(_SCHILY) :])] = value
        elif key.startswith(_LIBARCHIVE):
            from urllib.parse import unquote_to_bytes  # few tars have such records

            # libarchive writes base64 without padding.
            try:
                plain = binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
            except (binascii.Error, ValueError) as exc:
                raise DamagedError(f"the record {key!r} is not base64") from exc
            # libarchive writes each attribute in both forms. The SCHILY form has its plain bytes.
            found.setdefault(unquote_to_bytes(os.fsencode(key[len(_LIBARCHIVE) :])), plain)
    return found or _NO_XATTRS


def _placed(error: SourceError, what: str, position: int) -> SourceError:
    return type(error)(f"{what}: header at byte {position:,}: {error.message}")


def _stored_size(field: bytes, stated: bytes | None) -> int:
    """The number of bytes behind the header, by the pax record `stated` if there is one, else by the header's field."""
    size = _number(field) if stated is None else _whole(stated)
    if not 0 <= size <= limits.STATED_BYTES:
        raise DamagedError(f"the impossible size {size}")
    return size


def _number(field: bytes) -> int:
    value = _known_numbers.get(field)
    if value is None:
        try:
            value = parse_number(field)
        except ValueError as exc:
            raise DamagedError(f"{exc}") from exc
        if len(_known_numbers) < _MOST_KNOWN:
            _known_numbers[field] = value
    return value


def _whole(text: bytes | None) -> int:
    value = None if text is None else limits.parse_whole(text, limits.STATED_BYTES)
    if value is None:
        raise DamagedError(f"{text!r} instead of a number")
    return value


def _owner(stated: bytes) -> int:
    """An owner's number in a pax record, as the kernel's unsigned 32 bits: -2, `nobody` on some systems, is
    4294967294."""
    value = limits.parse_whole(stated.removeprefix(b"-"))
    if value is None:
        raise DamagedError(f"the owner {stated[:40]!r}")
    return (-value if stated.startswith(b"-") else value) & _OWNER_MASK


def _seconds(field: bytes) -> int:
    value = _number(field)
    if abs(value) > _LONGEST_TIME:
        raise DamagedError(f"the impossible time {value}")
    return value * 1_000_000_000


def _time(text: bytes) -> int:
    """Decimal seconds with any number of digits behind the point → nanoseconds."""
    match = _TIME.fullmatch(text)
    if match is None or int(match[2]) > _LONGEST_TIME:
        raise DamagedError(f"the time {text[:40]!r}")
    value = int(match[2]) * 1_000_000_000 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -value if match[1] else value
