"""What a layer's tar tells while it streams by: is it empty, whole, and the same to every reader?

Follows Go's `archive/tar`, because that decides what Docker accepts: header checksums signed or unsigned, sizes in
octal or base-256, pax and GNU long-name records, no content behind links, directories and devices, and an end that
may lack its marker. POSIX.1-2017 (`pax`) and the GNU tar manual describe the format.

The scan runs beside sha256 on every byte of every layer, so a plain header costs about a microsecond.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final

from deflate import adler32

from migrate.blobio.limits import TAR_HEADER_BYTES, parse_whole
from migrate.errors import DamagedError, LimitError, TruncatedError
from migrate.tar.header import (
    BLOCK,
    CONTENT_FREE,
    EXTENDED,
    FIELD_ENDS,
    REGULAR,
    ZERO_BLOCK,
    adler_for,
    checksum_is_right,
    known_adlers,
    parse_number,
    parse_pax,
    read_fields,
)

_ZEROS: Final = bytes(1024 * 1024)
_UNSET_SIZES: Final = frozenset((0, 0o77777777777))
"""What writers put into the ustar size when only the pax record can hold the number."""
_SIMPLE_KINDS: Final = CONTENT_FREE | {REGULAR}
_UNPACKED_KINDS: Final = _SIMPLE_KINDS | {0}
"""What Docker's pkg/archive (createTarFile) makes files of; a global pax header is passed over."""
_PAX_NUMBER: Final = rb"[+-]?0*[0-9]{1,18}"
_GOOD_VALUES: Final = {
    **dict.fromkeys(("uid", "gid"), _PAX_NUMBER),
    **dict.fromkeys(("mtime", "atime", "ctime"), _PAX_NUMBER + rb"(?:\.[0-9]*)?"),
}
"""Values that Go's archive/tar takes (reader.go, mergePAX; strconv.go, parsePAXTime)."""
_PAX_TEXTS: Final = frozenset(("path", "linkpath", "uname", "gname"))
_LONG_NAME: Final = ord("L")
_LONG_LINK: Final = ord("K")
_NAME_BYTES: Final = 100
_NEWLINE_AS_SLASH: Final = bytes.maketrans(b"\n", b"/")

FLAG_SIZES: Final = "conflicting-sizes"
"""A pax record and the ustar header give an entry different sizes."""
FLAG_LINK_SIZE: Final = "size-without-content"
"""A directory, link or device states a size: some readers skip that many bytes, Docker does not."""
FLAG_AFTER_END: Final = "bytes-after-end"
"""Bytes other than zero follow the end-of-archive marker."""
FLAG_PATH_FORMS: Final = "path-forms"
"""One path stands twice in different forms, such as `a` and `./a`."""
FLAG_REFUSED: Final = "entries-docker-refuses"
"""An entry of a type, or with a pax record, at which Docker stops unpacking the layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarFacts:
    """`size` in bytes; `empty`: nothing but zeros, or no bytes at all; `flags` sorted, of the `FLAG_` names above."""

    size: int
    empty: bool
    flags: tuple[str, ...]


class TarInspector:
    """Takes a tar block by block, of any sizes. Raises DamagedError, TruncatedError and LimitError.

    `what` begins every error's text.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._size = 0
        self._carry = b""
        self._skip = 0  # bytes of content and padding before the next header
        self._padding = 0  # how many of them are padding
        self._zero_blocks = 0
        self._entries = 0
        self._flags: set[str] = set()
        self._extended: _ExtendedHeader | None = None
        self._pax_size: int | None = None
        self._pax_is_refused = False
        self._long_name: bytes | None = None
        self._sparse_map = False
        self._paths = _PathForms()

    def feed(self, block: memoryview) -> None:
        length = len(block)
        self._size += length
        position = 0
        if self._carry:
            position = BLOCK - len(self._carry)
            self._carry += bytes(block[:position])
            if len(self._carry) < BLOCK:
                return
            header, self._carry = self._carry, b""
            self._take(header)
        while True:
            if self._skip:
                position = self._pass_content(block, position, length)
                if self._skip:
                    return
            if self._zero_blocks == 2:
                self._after_end(block[position:])
                return
            if position + BLOCK > length:
                self._carry = bytes(block[position:])
                return
            if self._is_plain_state():
                position = self._pass_plain_entries(block, position, length)
                if self._skip or position + BLOCK > length:
                    continue
            self._take(bytes(block[position : position + BLOCK]))
            position += BLOCK

    def _is_plain_state(self) -> bool:
        """True where nothing that came before has a say in how the next header is read."""
        waits = self._pax_size is not None or self._pax_is_refused or self._long_name is not None
        return not (waits or self._sparse_map or self._zero_blocks)

    def _pass_plain_entries(self, block: memoryview, position: int, length: int) -> int:
        """The short way over ordinary headers: stops before the first that needs `_take`. Same reading, less work."""
        names: list[bytes] = []
        last = length - BLOCK
        size = 0
        long_name: bytes | None = None
        adler_of = known_adlers.get
        try:
            while position <= last:
                name, field, end, stated, kind, prefix = read_fields(block, position)
                if (
                    (adler_of(stated) or adler_for(stated)) != adler32(block[position : position + BLOCK]) & 0xFFFF
                    or end not in FIELD_ENDS
                    or not field.isdigit()
                ):
                    break
                size = int(field, 8)
                if kind != REGULAR and (size or kind not in _SIMPLE_KINDS):
                    if kind != _LONG_NAME or not 0 < size <= BLOCK or position + BLOCK > last:
                        break
                    position += BLOCK
                    long_name = bytes(block[position : position + size]).partition(b"\0")[0]
                    size = 0
                    position += BLOCK
                    continue
                if long_name is not None:
                    name, long_name = long_name, None
                elif prefix:
                    name = self._name(bytes(block[position : position + BLOCK]))
                names.append(name)
                position += BLOCK + size + (-size & 511)
        except ValueError:  # a size with an 8 or a 9
            pass
        self._entries += len(names)
        self._paths.add_fields(names)
        self._long_name = long_name
        if position > length:
            self._padding = -size % BLOCK
            self._skip = position - length
            return length
        return position

    def finish(self) -> TarFacts:
        """The tar is over. TruncatedError if it stops within an entry or a header."""
        if self._carry:
            raise TruncatedError(f"{self._what}: the tar ends inside a header, at byte {self._size:,}")
        if self._skip > self._padding:
            missing = self._skip - self._padding
            raise TruncatedError(
                f"{self._what}: the tar ends inside an entry, at byte {self._size:,}; {missing:,} more belong to it"
            )
        if self._sparse_map:
            raise TruncatedError(f"{self._what}: the tar ends inside a sparse map, at byte {self._size:,}")
        if self._paths.collide():
            self._flags.add(FLAG_PATH_FORMS)
        empty = not self._entries and FLAG_AFTER_END not in self._flags
        return TarFacts(size=self._size, empty=empty, flags=tuple(sorted(self._flags)))

    def _pass_content(self, block: memoryview, position: int, length: int) -> int:
        taken = min(self._skip, length - position)
        if self._extended is not None:
            self._extended.content += block[position : position + taken]
        self._skip -= taken
        if not self._skip and self._extended is not None:
            extended, self._extended = self._extended, None
            self._apply(extended)
        return position + taken

    def _after_end(self, rest: memoryview) -> None:
        for start in range(0, len(rest), len(_ZEROS)):
            part = rest[start : start + len(_ZEROS)]
            if part != _ZEROS[: len(part)]:
                self._flags.add(FLAG_AFTER_END)
                return

    def _take(self, header: bytes) -> None:
        if self._sparse_map:
            self._sparse_map = header[504] != 0
            return
        if header == ZERO_BLOCK:
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            raise DamagedError(f"{self._what}: a tar header follows a single block of zeros")
        self._check_sum(header)
        kind = header[156]
        size = self._size_in(header)
        if kind in EXTENDED:
            self._begin_extended(kind, size)
            return
        self._entries += 1
        if kind not in _UNPACKED_KINDS or self._pax_is_refused:
            self._flags.add(FLAG_REFUSED)
            self._pax_is_refused = False
        if self._pax_size is not None:
            if size not in _UNSET_SIZES and size != self._pax_size:
                self._flags.add(FLAG_SIZES)
            size = self._pax_size
            self._pax_size = None
        if size < 0 and kind not in CONTENT_FREE:  # Go looks at the sign only where content could follow
            raise DamagedError(f"{self._what}: a tar header's size is negative")
        name = self._name(header)
        self._paths.add(name)
        if size and (kind in CONTENT_FREE or (kind == 0 and name.endswith(b"/"))):
            self._flags.add(FLAG_LINK_SIZE)
            return
        if kind == 83 and header[482]:  # 'S', an old GNU sparse file whose map goes on in blocks of its own
            self._sparse_map = True
        self._padding = -size % BLOCK
        self._skip = size + self._padding

    def _check_sum(self, header: bytes) -> None:
        if checksum_is_right(header):
            return
        if not self._entries and self._size <= len(_ZEROS):
            raise DamagedError(f"{self._what}: not a tar (its first header has no valid checksum)")
        raise DamagedError(f"{self._what}: a tar header's checksum does not match, after {self._entries:,} entries")

    def _size_in(self, header: bytes) -> int:
        try:
            size = parse_number(header[124:136])
        except ValueError as exc:
            raise DamagedError(f"{self._what}: a tar header's size is {exc}") from exc
        if not -(1 << 63) <= size < 1 << 63:
            raise DamagedError(f"{self._what}: a tar header's size is too large")
        return size

    def _name(self, header: bytes) -> bytes:
        if self._long_name is not None:
            name, self._long_name = self._long_name, None
            return name
        end = header.find(b"\0", 0, _NAME_BYTES)
        name = header[: _NAME_BYTES if end < 0 else end]
        if header[345] and header[257:263] == b"ustar\0":
            return header[345:500].partition(b"\0")[0] + b"/" + name
        return name

    def _begin_extended(self, kind: int, size: int) -> None:
        if size < 0:
            raise DamagedError(f"{self._what}: a tar header's size is negative")
        if size > TAR_HEADER_BYTES:
            raise LimitError(
                f"{self._what}: an extended tar header of {size:,} bytes, over the limit of {TAR_HEADER_BYTES:,}"
            )
        self._padding = -size % BLOCK
        self._skip = size + self._padding
        self._extended = _ExtendedHeader(kind, size)
        if not size:
            extended, self._extended = self._extended, None
            self._apply(extended)

    def _apply(self, extended: _ExtendedHeader) -> None:
        content = bytes(extended.content[: extended.size])
        if extended.kind == _LONG_NAME:
            self._long_name = content.partition(b"\0")[0]
            return
        if extended.kind == _LONG_LINK:
            return
        records = parse_pax(content, self._what)
        size = records.get("size")
        if extended.kind == ord("g"):
            self._entries += 1
            if size is not None:  # Go ignores it, Python's tarfile does not
                self._flags.add(FLAG_SIZES)
            return
        if any(b"\0" in value if key in _PAX_TEXTS else "\0" in key for key, value in records.items()):
            self._flags.add(FLAG_REFUSED)  # Go: strconv.go, validPAXRecord
        self._pax_is_refused = not all(map(_is_good, records.keys(), records.values()))  # the last header counts
        self._pax_size = None
        if size is not None:
            number = parse_whole(size[size[:1] in (b"+", b"-") :])
            if number is None:
                raise DamagedError(f"{self._what}: a pax record's size is no number, or too large: {size[:40]!r}")
            self._pax_size = -number if size[:1] == b"-" else number
        self._long_name = records.get("GNU.sparse.name", records.get("path", self._long_name))


@dataclass(slots=True)
class _ExtendedHeader:
    """A pax header or GNU long name on its way; `content` grows to `size` and the padding."""

    kind: int
    size: int
    content: bytearray = field(default_factory=bytearray)


class _PathForms:
    """Finds a path that stands twice in different forms, with eight bytes of memory per entry."""

    def __init__(self) -> None:
        self._plain = array("q")
        self._dotted = array("q")  # ./a
        self._rooted = array("q")  # /a
        self._odd = array("q")  # a//b, a/./b, a/../b
        self._odd_forms: dict[int, int] = {}
        self._odd_twice = False

    def add_fields(self, fields: list[bytes]) -> None:
        """Sorts the name fields of headers into forms: at once where all have the same, as in nearly every tar.

        A directory's slash at the end is no other form.
        """
        names = list(map(bytes.rstrip, fields, repeat(b"\0/")))
        text = b"\n" + b"\n".join(names)
        steps = text.translate(_NEWLINE_AS_SLASH)
        if b"\0" not in text and b"//" not in steps:
            if b"/." not in steps or not _has_other_forms(text):
                self._plain.extend(map(hash, names))
                return
            same = text.count(b"\n./") == len(names) == text.count(b"\n")
            if same and b"/./" not in text and b"/../" not in text:
                self._dotted.extend([hash(name[2:]) for name in names])
                return
        self._add_each(names)

    def _add_each(self, names: list[bytes]) -> None:
        for name in names:
            self.add(name.partition(b"\0")[0])  # behind a NUL stand bytes that no reader looks at

    def add(self, name: bytes) -> None:
        name = name.rstrip(b"/")
        if b"//" in name or b"/./" in name or b"/../" in name:
            clean = hash(_normalised(name))
            raw = hash(name)
            self._odd.append(clean)
            self._odd_twice |= self._odd_forms.setdefault(clean, raw) != raw
        elif name[:2] == b"./":
            self._dotted.append(hash(name[2:]))
        elif name[:1] == b"/":
            self._rooted.append(hash(name[1:]))
        else:
            self._plain.append(hash(name))

    def collide(self) -> bool:
        if not (self._dotted or self._rooted or self._odd):
            return False
        if self._odd_twice:
            return True
        groups = sorted((self._plain, self._dotted, self._rooted, self._odd), key=len)
        seen: set[int] = set()
        for group in groups[:-1]:
            if not seen.isdisjoint(group):
                return True
            seen.update(group)
        return not seen.isdisjoint(groups[-1])


def _is_good(key: str, value: bytes) -> bool:
    form = _GOOD_VALUES.get(key)
    return form is None or re.fullmatch(form, value) is not None


def _has_other_forms(text: bytes) -> bool:
    return b"\n./" in text or b"/./" in text or b"/../" in text


def _normalised(name: bytes) -> bytes:
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
