"""Checks a layer's tar while it is read: whether it is empty, complete, and read in the same way by all programs.

Follows Go's `archive/tar`, which decides what Docker accepts: header checksums signed or unsigned, sizes in octal or
base-256, pax and GNU long-name records, no content behind links, directories and devices, and an end that may lack its
marker. POSIX.1-2017 (`pax`) and the GNU tar manual describe the format.

The check sees every byte of every layer, as sha256 does, so a plain header must take about a microsecond only.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from itertools import repeat
from typing import Final

from deflate import adler32
from msgspec import Struct, field

from migrate.blobio.limits import TAR_HEADER_BYTES, parse_whole
from migrate.errors import DamagedError, LimitError, TruncatedError
from migrate.tar.header import (
    BLOCK,
    CONTENT_FREE,
    EXTENDED,
    FIELD_ENDS,
    REGULAR,
    ZERO_BLOCK,
    Announced,
    adler_for,
    checksum_is_right,
    header_name,
    known_adlers,
    parse_number,
    parse_pax,
    read_fields,
)
from migrate.tar.names import below_root, go_clean

_ZEROS: Final = bytes(1024 * 1024)
_UNSET_SIZES: Final = frozenset((0, 0o77777777777))
"""The ustar sizes that writers use if the real size is in the pax record, because it does not fit the field."""
_SIMPLE_KINDS: Final = CONTENT_FREE | {REGULAR}
_UNPACKED_KINDS: Final = _SIMPLE_KINDS | {0}
"""The types that Docker's pkg/archive (createTarFile) unpacks. A global pax header is ignored."""
_PAX_NUMBER: Final = rb"[+-]?0*[0-9]{1,18}"
_GOOD_VALUES: Final = {
    **dict.fromkeys(("uid", "gid"), _PAX_NUMBER),
    **dict.fromkeys(("mtime", "atime", "ctime"), _PAX_NUMBER + rb"(?:\.[0-9]*)?"),
}
"""Values that Go's archive/tar accepts (reader.go, mergePAX; strconv.go, parsePAXTime)."""
_PAX_TEXTS: Final = frozenset(("path", "linkpath", "uname", "gname"))
_LONG_NAME: Final = ord("L")
_LONG_LINK: Final = ord("K")
_KEPT_NAME_BYTES: Final = 8 * 1024 * 1024
"""Limit of the bytes of names that are kept for one layer, so that a flag can name an entry."""
_SHOWN_BYTES: Final = 100
_NEWLINE_AS_SLASH: Final = bytes.maketrans(b"\n", b"/")

FLAG_SIZES: Final = "conflicting-sizes"
"""A pax record and the ustar header give an entry different sizes."""
FLAG_LINK_SIZE: Final = "size-without-content"
"""A directory, link or device has a size: some readers skip that many bytes, Docker does not."""
FLAG_AFTER_END: Final = "bytes-after-end"
"""Bytes other than zero follow the end-of-archive marker."""
FLAG_PATH_FORMS: Final = "path-forms"
"""One path occurs in different forms, such as `a` and `./a`."""
FLAG_AFTER_STREAM: Final = "bytes-after-compressed"
"""Bytes follow the gzip stream of the layer. gzip ignores them, Go (and so Docker) refuses the layer."""
FLAG_REFUSED: Final = "entries-docker-refuses"
"""Docker refuses the layer: an entry has an unsupported type or pax record, no name, or the path of an earlier entry
(tar-split, which Docker >= 1.8 uses: "duplicates of file paths not supported"); or a malformed pax header ends the
tar."""


class TarFacts(Struct, frozen=True, kw_only=True):
    """The result of a check. `size` in bytes; `empty`: only zeros, or no bytes at all; `flags`: sorted `FLAG_` values.

    `flagged`: pairs of a flag and its first entry, as text for a message.
    """

    size: int
    empty: bool
    flags: tuple[str, ...]
    flagged: tuple[tuple[str, str], ...] = ()


class TarInspector:
    """Gets a tar in blocks of any size. Raises DamagedError, TruncatedError and LimitError.

    `what` is the beginning of every error's message.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._size = 0
        self._carry = b""
        self._skip = 0  # bytes of content and padding before the next header
        self._padding = 0  # the part of `_skip` that is padding
        self._zero_blocks = 0
        self._entries = 0
        self._flags: dict[str, str] = {}  # the flag, and the first entry that it is about
        self._extended: _ExtendedHeader | None = None
        self._pax_size: int | None = None
        self._pax_is_refused = False
        self._announced = Announced()
        self._sparse_map = False
        self._paths = _Paths()

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
                # Behind the end marker only zeros are expected: GNU tar fills its last record with them.
                for start in range(position, length, len(_ZEROS)):
                    part = block[start : start + len(_ZEROS)]
                    if part != _ZEROS[: len(part)]:
                        self._flag(FLAG_AFTER_END, None)
                        break
                return
            if position + BLOCK > length:
                self._carry = bytes(block[position:])
                return
            # The fast path is for headers without a pax header or anything else special before them.
            if not (self._announced or self._pax_is_refused or self._sparse_map or self._zero_blocks):
                position = self._pass_plain_entries(block, position, length)
                if self._skip or position + BLOCK > length:
                    continue
            self._take(bytes(block[position : position + BLOCK]))
            position += BLOCK

    def _pass_plain_entries(self, block: memoryview, position: int, length: int) -> int:
        """The fast path over ordinary headers. Stops before the first header that needs `_take`. The result is the
        same."""
        names: list[bytes] = []
        last = length - BLOCK
        size = 0
        long_name = b""
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
                # A GNU long name of one block is the only pseudo-entry of the fast path: GNU tar writes many.
                if kind != REGULAR and (size or kind not in _SIMPLE_KINDS):
                    if kind != _LONG_NAME or not 0 < size <= BLOCK or position + BLOCK > last:
                        break
                    position += BLOCK
                    long_name = bytes(block[position : position + size]).partition(b"\0")[0]
                    size = 0
                    position += BLOCK
                    continue
                if long_name:
                    name, long_name = long_name, b""
                elif prefix:
                    name = header_name(bytes(block[position : position + BLOCK]))
                names.append(name)
                position += BLOCK + size + (-size & 511)
        except ValueError:  # a size with an 8 or a 9
            pass
        self._entries += len(names)
        self._paths.add_fields(names)
        self._announced.gnu_name = long_name
        if position > length:
            self._padding = -size % BLOCK
            self._skip = position - length
            return length
        return position

    @property
    def has_ended(self) -> bool:
        """True after the end-of-archive marker."""
        return self._zero_blocks == 2

    def finish(self) -> TarFacts:
        """Called at the end of the tar. Raises TruncatedError if it ends inside an entry or a header."""
        if self._carry:
            raise TruncatedError(f"{self._what}: the tar ends inside a header, at byte {self._size:,}")
        if self._skip > self._padding:
            missing = self._skip - self._padding
            raise TruncatedError(
                f"{self._what}: the tar ends inside an entry, at byte {self._size:,}; {missing:,} more belong to it"
            )
        if self._sparse_map:
            raise TruncatedError(f"{self._what}: the tar ends inside a sparse map, at byte {self._size:,}")
        if self._extended is not None:
            # The tar ends in the padding of an extended header, without its entry. A malformed header is an error
            # elsewhere in a tar. Here no entry is lost, but Docker refuses the layer.
            try:
                self._apply(self._extended)
            except DamagedError as error:
                self._flag(FLAG_REFUSED, None, f"the tar ends behind a damaged header: {error.message}")
        if self._paths.collide():
            self._flag(FLAG_PATH_FORMS, self._paths.first_of_two(below_root))
        if self._paths.has_duplicates():
            self._flag(FLAG_REFUSED, self._paths.first_of_two(go_clean), "occurs twice")
        elif self._paths.has_nameless:
            self._flag(FLAG_REFUSED, None, "an entry has no name")
        empty = not self._entries and FLAG_AFTER_END not in self._flags
        flagged = tuple(sorted((flag, entry) for flag, entry in self._flags.items() if entry))
        return TarFacts(size=self._size, empty=empty, flags=tuple(sorted(self._flags)), flagged=flagged)

    def _flag(self, flag: str, name: bytes | None, reason: str = "") -> None:
        shown = "" if name is None else repr(name[:_SHOWN_BYTES].decode("utf-8", "backslashreplace"))
        self._flags.setdefault(flag, " ".join(filter(None, (shown, reason))))

    def _pass_content(self, block: memoryview, position: int, length: int) -> int:
        taken = min(self._skip, length - position)
        if self._extended is not None:
            self._extended.content += block[position : position + taken]
        self._skip -= taken
        if not self._skip and self._extended is not None:
            extended, self._extended = self._extended, None
            self._apply(extended)
        return position + taken

    def _take(self, header: bytes) -> None:
        if self._sparse_map:
            self._sparse_map = header[504] != 0
            return
        if header == ZERO_BLOCK:
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            # Go's archive/tar refuses this, too (reader.go, readHeader).
            raise DamagedError(f"{self._what}: a tar header follows a single block of zeros")
        if not checksum_is_right(header):
            # The first header: the layer is probably no tar at all.
            if not self._entries and self._size <= len(_ZEROS):
                raise DamagedError(f"{self._what}: not a tar (its first header has no valid checksum)")
            raise DamagedError(f"{self._what}: a tar header's checksum does not match, after {self._entries:,} entries")
        kind = header[156]
        size = self._size_in(header)
        if kind in EXTENDED:
            self._begin_extended(kind, size)
            return
        self._entries += 1
        name = self._announced.name or header_name(header)
        if kind not in _UNPACKED_KINDS:
            self._flag(FLAG_REFUSED, name, f"is of type {bytes((kind,))!r}")
        if self._pax_is_refused:
            self._flag(FLAG_REFUSED, name, "has a pax record that Docker refuses")
            self._pax_is_refused = False
        if self._pax_size is not None:
            if size not in _UNSET_SIZES and size != self._pax_size:
                self._flag(FLAG_SIZES, name)
            size = self._pax_size
            self._pax_size = None
        self._announced = Announced()
        if size < 0 and kind not in CONTENT_FREE:  # Go checks the sign only for entries with content
            raise DamagedError(f"{self._what}: a tar header's size is negative")
        self._paths.add(name)
        if size and (kind in CONTENT_FREE or (kind == 0 and name.endswith(b"/"))):
            self._flag(FLAG_LINK_SIZE, name)
            return
        if kind == 83 and header[482]:  # 'S': an old GNU sparse file whose map continues in further blocks
            self._sparse_map = True
        self._padding = -size % BLOCK
        self._skip = size + self._padding

    def _size_in(self, header: bytes) -> int:
        try:
            size = parse_number(header[124:136])
        except ValueError as exc:
            raise DamagedError(f"{self._what}: a tar header's size is {exc}") from exc
        if not -(1 << 63) <= size < 1 << 63:
            raise DamagedError(f"{self._what}: a tar header's size is too large")
        return size

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
        if extended.kind == ord("g"):
            self._entries += 1
            if "size" in parse_pax(content, self._what):  # Go ignores it, Python's tarfile does not
                self._flag(FLAG_SIZES, None)
            return
        self._announced.take(extended.kind, content, self._what)
        if extended.kind in (_LONG_NAME, _LONG_LINK):
            return
        records = self._announced.pax
        size = records.get("size")
        if any(b"\0" in value if key in _PAX_TEXTS else "\0" in key for key, value in records.items()):
            self._flag(FLAG_REFUSED, self._announced.name, "has a NUL in a pax record")  # strconv.go, validPAXRecord
        self._pax_is_refused = any(  # the last header counts
            key in _GOOD_VALUES and not re.fullmatch(_GOOD_VALUES[key], value) for key, value in records.items()
        )
        self._pax_size = None
        if size is not None:
            number = parse_whole(size[size[:1] in (b"+", b"-") :])
            if number is None:
                raise DamagedError(f"{self._what}: a pax record's size is no number, or too large: {size[:40]!r}")
            self._pax_size = -number if size[:1] == b"-" else number


class _ExtendedHeader(Struct):
    """A pax header or GNU long name that is being read; `content` grows to `size` and the padding."""

    kind: int
    size: int
    content: bytearray = field(default_factory=bytearray)


class _Paths:
    """Finds a path that occurs twice, in the same form or in two forms. Needs eight bytes for each entry, a hash of its
    name, and a bounded number of names."""

    def __init__(self) -> None:
        self.has_nameless = False
        self._names: list[bytes] = []  # lines of names, in the tar's order
        self._name_bytes = 0
        self._plain = array("q")
        self._dotted = array("q")  # ./a
        self._rooted = array("q")  # /a
        self._odd = array("q")  # a//b, a/./b, a/../b
        self._odd_clean: tuple[array[int], array[int]] = (array("q"), array("q"))  # cleaned: relative, absolute
        self._odd_forms: dict[int, int] = {}
        self._odd_twice = False

    def add_fields(self, fields: list[bytes]) -> None:
        """Sorts the name fields of headers by form; all at once if all have the same form, as in nearly every tar.

        The slash at the end of a directory's name makes no other form.
        """
        if not fields:
            return
        # One text of all names, because each search in it is one call for thousands of names.
        names = list(map(bytes.rstrip, fields, repeat(b"\0/")))
        text = b"\n" + b"\n".join(names)
        self._keep(text)
        steps = (text + b"\n").translate(_NEWLINE_AS_SLASH)
        if b"\0" not in text and b"//" not in steps:
            if b"/." not in steps or not (b"/./" in steps or b"/../" in steps):
                self._plain.extend(map(hash, names))
                return
            same = text.count(b"\n./") == len(names) == text.count(b"\n")
            if same and b"/./" not in text and b"/../" not in steps and not text.endswith((b"/.", b"/..")):
                self._dotted.extend([hash(name[2:]) for name in names])
                return
        for name in names:
            self._add(name.partition(b"\0")[0])  # all readers ignore the bytes behind a NUL

    def add(self, name: bytes) -> None:
        self._keep(b"\n" + name)
        self._add(name)

    def _keep(self, lines: bytes) -> None:
        if self._name_bytes < _KEPT_NAME_BYTES:
            self._name_bytes += len(lines)
            self._names.append(lines)

    def _add(self, name: bytes) -> None:
        if not name:
            self.has_nameless = True
            return
        name = name.rstrip(b"/")
        if b"//" in name or b"/./" in name or b"/../" in name or name.endswith((b"/.", b"/..")):
            clean = hash(below_root(name))
            self._odd_clean[name[:1] == b"/"].append(hash(go_clean(name)))
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
        # Two forms of one path have equal hashes in two groups. Duplicates in one group are no collision of forms.
        groups = sorted((self._plain, self._dotted, self._rooted, self._odd), key=len)
        seen: set[int] = set()
        for group in groups[:-1]:
            if not seen.isdisjoint(group):
                return True
            seen.update(group)
        return not seen.isdisjoint(groups[-1])

    def has_duplicates(self) -> bool:
        below = self._plain + self._dotted + self._odd_clean[0]
        rooted = self._rooted + self._odd_clean[1]
        return len(set(below)) < len(below) or len(set(rooted)) < len(rooted)

    def first_of_two(self, key: Callable[[bytes], bytes]) -> bytes | None:
        """The first kept name that equals an earlier one by `key`; None if there is none."""
        seen: dict[bytes, bytes] = {}
        for lines in self._names:
            for line in lines.split(b"\n")[1:]:
                name = line.partition(b"\0")[0].rstrip(b"/")
                path = key(name)
                if path in seen and (key is go_clean or seen[path] != name):
                    return name
                seen.setdefault(path, name)
        return None
