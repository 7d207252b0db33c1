"""Checksums and numbers of tar headers, as writers of every era spell them."""

from __future__ import annotations

import tarfile

import pytest

from migrate.tar.header import BLOCK, adler_for, checksum_is_right, header_adler, parse_number


def header_of(name: str, size: int = 0) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)[:BLOCK]


def with_field(header: bytes, field: bytes) -> bytes:
    return header[:148] + field + header[156:]


def total(header: bytes) -> int:
    return sum(header[:148]) + sum(header[156:]) + 256


@pytest.mark.parametrize("spelling", ["%06o\0 ", "%06o \0", "%07o\0", "%7o\0", "%6o\0 ", "%08o", " %05o \0"])
def test_a_checksum_is_right_however_it_is_spelled(spelling: str) -> None:
    header = header_of("usr/bin/python", 12345)
    assert checksum_is_right(with_field(header, (spelling % total(header)).encode()))


@pytest.mark.parametrize("spelling", ["%06o\0 ", "%07o\0"])
@pytest.mark.parametrize("step", [-1, 1, 8, 4096])
def test_a_wrong_checksum_is_seen(spelling: str, step: int) -> None:
    header = header_of("usr/bin/python", 12345)
    assert not checksum_is_right(with_field(header, (spelling % (total(header) + step)).encode()))


@pytest.mark.parametrize(
    "field", [b"\0" * 8, b" " * 8, b"99999999", b"88888\0  ", b"nnnnnnnn", b"\xff" * 8, b"-00001\0 "]
)
def test_a_field_without_the_number_is_wrong(field: bytes) -> None:
    assert not checksum_is_right(with_field(header_of("a"), field))


def test_a_header_of_high_bytes_goes_over_the_modulus() -> None:
    """Its sum is more than 65,521, so the low half of adler32 has gone round once."""
    header = b"\xfe" * 100 + header_of("")[100:257] + b"\xfe" * 243 + bytes(12)
    signed = total(header) - 256 * 343
    assert total(header) > 65_521
    assert checksum_is_right(with_field(header, b"%06o\0 " % total(header)))
    assert checksum_is_right(with_field(header, b"%06o\0 " % signed)) is (signed >= 0)
    assert not checksum_is_right(with_field(header, b"%06o\0 " % (total(header) - 1)))


def test_no_header_has_the_adler_of_an_unknown_field() -> None:
    assert adler_for(b"nnnnnnnn") == -1
    assert header_adler(bytes(BLOCK)) >= 0


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"0000017\0", 15), (b"\0 17 \0\0\0", 15), (b"17\x0099\0\0\0", 15), (b"\0" * 8, 0), (b"\x80\0\0\0\0\0\1\0", 256)],
)
def test_numbers_are_read_as_go_reads_them(field: bytes, value: int) -> None:
    assert parse_number(field) == value


@pytest.mark.parametrize(
    "field", [b"1 7\0\0\0\0\0", b"\t17\0\0\0\0\0", b"0o17\0\0\0\0", b"1_7\0\0\0\0\0", b"18\0\0\0\0\0\0"]
)
def test_what_go_refuses_is_no_number(field: bytes) -> None:
    with pytest.raises(ValueError, match=r"octal|invalid literal"):
        parse_number(field)
