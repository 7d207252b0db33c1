"""Layer tars that tests build entry by entry, with headers that no writer of today makes."""

from __future__ import annotations

import io
import tarfile

Entry = tuple[str, int]


def tar_of(*entries: Entry | tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for entry in entries:
            if isinstance(entry, tuple):
                name, size = entry
                entry = tarfile.TarInfo(name)
                entry.size = size
            tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    return out.getvalue()


def with_checksum(header: bytes, *, signed: bool = False) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:]
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in blank)
    return header[:148] + b"%06o\0 " % total + header[156:]


def edited(content: bytes, place: int, new: bytes, *, signed: bool = False) -> bytes:
    """The tar with `new` in its first header, and a checksum that fits."""
    header = content[:place] + new + content[place + len(new) : 512]
    return with_checksum(header, signed=signed) + content[512:]


def typed(name: str, kind: bytes, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.size = size
    return entry


def _of_type(kind: bytes) -> bytes:
    entry = typed("a", kind)
    entry.linkname = "b"
    return tar_of(("b", 5), entry)


def _with_record(key: str, value: str) -> bytes:
    entry = typed("a", tarfile.REGTYPE, 5)
    entry.pax_headers = {key: value}
    return tar_of(entry, format=tarfile.PAX_FORMAT)


def _with_two_headers(record: str) -> bytes:
    """`record` stands in a pax header that another one follows."""
    entry = typed("a", tarfile.REGTYPE, 5)
    entry.pax_headers = {"comment": "the second"}
    key, _, value = record.partition("=")
    return _with_record(key, value)[:1024] + tar_of(entry, format=tarfile.PAX_FORMAT)


_TYPES = {b"0123456g\0": False, b"7SVDMA8 \xff": True}
_RECORDS = [
    ("mtime", "1.5", False),
    ("mtime", "-1.", False),
    ("mtime", "", False),
    ("mtime", ".5", True),
    ("mtime", "noon", True),
    ("atime", "1.5x", True),
    ("uid", "+1000", False),
    ("gid", "99999999999999999999", True),
    ("gid", "wheel", True),
    ("path", "a\0b", True),
    ("uname", "a\0b", True),
    ("comment", "a\0b", False),
    ("com\0ment", "a", True),
    ("size", "", False),
]
ODD_ENTRIES: dict[str, tuple[bytes, bool]] = {
    **{f"type {kind:#x}": (_of_type(bytes([kind])), no) for kinds, no in _TYPES.items() for kind in kinds},
    **{f"{record} replaced": (_with_two_headers(record), False) for record in ("mtime=noon", "size=3")},
    "path=a\0b replaced": (_with_two_headers("path=a\0b"), True),
    **{f"{key}={value}": (_with_record(key, value), no) for key, value, no in _RECORDS},
}
"""Layers, and whether Docker stops at one of their entries."""
