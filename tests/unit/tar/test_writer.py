"""Header bytes of Docker's fallback tar: the vectors of docs/formats/docker-root.md, and readers of other people."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import Any

import pytest

from migrate.tar import writer as tarwriter
from migrate.tar.writer import END, HeaderEncoder, TarHeader, padding

TIME = 1_400_000_000 * 10**9
HOSTNAME = b"hello\n" + padding(6)


def _encode(*parts: TarHeader | bytes) -> bytes:
    encoder = HeaderEncoder()
    return b"".join(part if isinstance(part, bytes) else encoder.encode(part) for part in parts) + END


def _file(name: bytes, size: int = 0, **fields: Any) -> TarHeader:
    return TarHeader(name, 0o100644, size=size, mtime_ns=TIME, typeflag=b"0")._replace(**fields)


VECTORS = {
    "de122f27a12f73169496137fc3af618746998d305e2fd714a52279524ad0592d": (
        TarHeader(b"etc/", 0o40755, mtime_ns=TIME, typeflag=b"5"),
        _file(b"etc/hostname", 6),
        HOSTNAME,
    ),
    "31b90b09993c7fb8adfd9ee21e8afec398dd843991da7c5031718b9a4c194a60": (
        TarHeader(b"dev/null", 0o20666, mtime_ns=TIME, typeflag=b"3", device=(1, 3)),
        TarHeader(b"etc/", 0o40755, mtime_ns=TIME, typeflag=b"5"),
        TarHeader(b"etc/hard", 0o100644, mtime_ns=TIME, typeflag=b"1", link_name=b"etc/hostname"),
        _file(b"etc/hostname", 6),
        HOSTNAME,
        TarHeader(b"etc/link", 0o120777, mtime_ns=TIME, typeflag=b"2", link_name=b"hostname"),
    ),
    "528c3c94e920610edffcdc899c933231eba1a89946478e39b600b116f15ac719": (
        TarHeader(b"etc/", 0o40755, mtime_ns=TIME, typeflag=b"5"),
        TarHeader(b"etc/.wh.passwd", mtime_ns=TIME),
    ),
    "36b51a05f55ea3536ab7dfc4671ef327029eca026c632067add5f9de7fe8b19c": (
        _file(b"a" * 60 + b"/" + b"b" * 60, uid=3_000_000),
    ),
}


@pytest.mark.parametrize("digest", VECTORS)
def test_vectors(digest: str) -> None:
    assert hashlib.sha256(_encode(*VECTORS[digest])).hexdigest() == digest


@pytest.mark.parametrize(
    "name",
    [
        b"a",
        b"a" * 100,
        b"a" * 101,
        b"d/" * 60 + b"f",
        b"d" * 155 + b"/" + b"f" * 100,
        b"d" * 156 + b"/" + b"f" * 100,
        b"d" * 100 + b"/",
        b"d" * 99 + b"/" + b"e" * 99 + b"/",
        "grün/ünï".encode(),
        b"\xff\xfe",
    ],
)
def test_any_name_is_read_back(name: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(_encode(_file(name)))) as archive:
        (member,) = archive.getmembers()
    assert member.name.encode("utf-8", "surrogateescape").rstrip(b"/") == name.rstrip(b"/")


def test_long_targets_and_capabilities_become_pax_records() -> None:
    encoder = HeaderEncoder()
    link = TarHeader(b"l", 0o120777, typeflag=b"2", link_name=b"t" * 101)
    capable = _file(b"f", xattrs={b"security.capability": b"\1\0\0\2\0"})
    raw = encoder.encode(link) + encoder.encode(capable) + END
    assert encoder.pax_entries == 2
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        first, second = archive.getmembers()
    assert first.linkname == "t" * 101
    assert second.pax_headers["SCHILY.xattr.security.capability"] == "\1\0\0\2\0"
    assert b"PaxHeaders.0/l" in raw


def test_a_pax_record_counts_its_own_length_even_where_that_adds_a_digit() -> None:
    for length in range(80, 1100):
        raw = tarwriter._pax_record(b"path", b"x" * length)
        assert int(raw.split(b" ")[0]) == len(raw)


@pytest.mark.parametrize("time", [-1, -(10**9), (1 << 33) * 10**9, ((1 << 33) - 1) * 10**9 + 1])
def test_times_outside_eleven_octal_digits_are_zero(time: int) -> None:
    assert HeaderEncoder().encode(_file(b"f", mtime_ns=time))[136:148] == b"0" * 11 + b"\0"


def test_the_last_time_that_fits_and_fractions_are_cut() -> None:
    encoder = HeaderEncoder()
    assert encoder.encode(_file(b"f", mtime_ns=((1 << 33) - 1) * 10**9))[136:148] == b"7" * 11 + b"\0"
    assert encoder.encode(_file(b"f", mtime_ns=1_999_999_999))[136:148] == b"0" * 10 + b"1\0"


def test_large_numbers_are_base_256_and_leave_gnus_magic_in_all_later_headers() -> None:
    encoder = HeaderEncoder()
    first = encoder.encode(_file(b"a", uid=0o7777777))
    large = encoder.encode(_file(b"b", uid=0o7777777 + 1, gid=1 << 31))
    later = encoder.encode(_file(b"c"))
    assert first[257:265] == b"ustar\x0000"
    assert large[257:265] == later[257:265] == b"ustar  \0"
    assert large[108:116] == b"\x80" + (0o7777777 + 1).to_bytes(7, "big")
    size = encoder.encode(_file(b"d", 1 << 33))
    assert size[124:136] == b"\x80" + (1 << 33).to_bytes(11, "big")
