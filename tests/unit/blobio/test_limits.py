"""The limits as docs/reference/guarantees.md states them: a change of one has to be meant."""

from __future__ import annotations

import io
import re
from pathlib import Path

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
