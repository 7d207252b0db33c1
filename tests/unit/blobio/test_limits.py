"""The limits as docs/reference/guarantees.md states them: a change of one has to be meant."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from migrate.blobio import limits
from migrate.errors import LimitError

GUARANTEES = Path(__file__).resolve().parents[3] / "docs" / "reference" / "guarantees.md"


def test_every_limit_is_stated_in_the_guarantees_with_its_value() -> None:
    stated = dict(re.findall(r"^\| `([A-Z_]+)` \| ([0-9,]+) ", GUARANTEES.read_text(), re.MULTILINE))
    named = {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    assert named == {name: int(value.replace(",", "")) for name, value in stated.items()}


def test_reading_up_to_a_limit() -> None:
    assert limits.read_limited(io.BytesIO(b"12345"), 5, "it") == b"12345"
    with pytest.raises(LimitError, match="it: larger than the limit of 4 bytes"):
        limits.read_limited(io.BytesIO(b"12345"), 4, "it")


class _Asked(io.RawIOBase):
    """A raw stream of `size` bytes, given in pieces of 100,000 at most, that keeps what it was asked for."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.sizes: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        self.sizes.append(size)
        piece = b"x" * min(self.left, size, 100_000)
        self.left -= len(piece)
        return piece


def test_a_large_limit_makes_no_room_for_more_than_the_document_takes() -> None:
    stream = _Asked(300_000)
    assert len(limits.read_limited(cast(BinaryIO, stream), limits.REPORT_BYTES, "it")) == 300_000
    assert max(stream.sizes) <= 300_000
    with pytest.raises(LimitError):
        limits.read_limited(cast(BinaryIO, _Asked(300_000)), 299_999, "it")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0", 0),
        (b"17", 17),
        (b"0" * 6000 + b"8", 8),
        (b"0" * 6000, 0),
        (b"9223372036854775807", 9_223_372_036_854_775_807),
        (b"9223372036854775808", None),
        (b"9" * 6000, None),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b" 1", None),
        (b"1_0", None),
        ("²".encode(), None),
    ],
)
def test_whole_numbers_are_digits_of_64_bits(text: bytes, value: int | None) -> None:
    assert limits.parse_whole(text) == value


def test_a_whole_number_over_its_own_bound() -> None:
    assert (limits.parse_whole(b"5", 5), limits.parse_whole(b"6", 5)) == (5, None)
