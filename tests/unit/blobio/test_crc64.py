from __future__ import annotations

import random

import pytest

from migrate.blobio import crc64
from tests.roots import crc64_bit_by_bit

SIZES = [*range(40), 63, 64, 65, 127, 128, 129, 1000, 4095, 4096]


def _bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", 0), (b"123456789", 0xB90956C775A41001), (b"hello\n", 0x614C3EEEE2D81000)]
)
def test_known_values(content: bytes, expected: int) -> None:
    assert crc64.crc64_iso(content) == expected
    assert crc64._crc64_by_folding(content) == expected


@pytest.mark.parametrize("size", SIZES)
def test_folding_is_the_textbook_division(size: int) -> None:
    assert crc64._crc64_by_folding(_bytes(size)) == crc64_bit_by_bit(_bytes(size))


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_001])
def test_both_implementations_agree_on_large_blocks(size: int) -> None:
    assert crc64._crc64_by_folding(_bytes(size)) == crc64.crc64_iso(_bytes(size))


def test_blocks_add_up() -> None:
    whole = _bytes(100_003)
    for cut in (0, 1, 7, 8, 50_000, 100_003):
        assert crc64._crc64_by_folding(whole[cut:], crc64._crc64_by_folding(whole[:cut])) == crc64.crc64_iso(whole)
        assert crc64.crc64_iso(whole[cut:], crc64.crc64_iso(whole[:cut])) == crc64.crc64_iso(whole)
