"""CRC-32C against its published check value and a plain bit-by-bit division."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from migrate.readers.graphdrivers.devicemapper.crc32c import crc32c, crc32c_register


def divided(content: bytes, register: int = 0xFFFFFFFF) -> int:
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register


def test_published_values() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@given(st.binary(max_size=700), st.integers(0, 0xFFFFFFFF))
def test_equals_plain_division(content: bytes, start: int) -> None:
    assert crc32c_register(content, start) == divided(content, start)


def test_a_whole_block() -> None:
    block = bytes(range(256)) * 16
    assert crc32c_register(block[4:]) == divided(block[4:])
