"""Numbers as people read them."""

from __future__ import annotations

import pytest

from migrate.report.units import count, format_seconds, format_share, format_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_999, "10.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (4_310_000, "4.31 MB"),
        (10**12, "1.00 TB"),
        (5 * 10**18, "5.00 EB"),
        (10**22, "10000 EB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


def test_exact_sizes() -> None:
    assert format_size(4_310_000, exact=True) == "4,310,000 B"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 10, "0 %"),
        (5, 0, "0 %"),
        (1, 100_000, "0.1 %"),
        (42, 1000, "4.2 %"),
        (1, 2, "50 %"),
        (99_999, 100_000, "99.9 %"),
        (10, 10, "100 %"),
    ],
)
def test_shares_never_say_nothing_or_all_for_some(part: int, whole: int, text: str) -> None:
    assert format_share(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3_599, "59 min 59 s"),
        (7_500, "2 h 05 min"),
        (100_000, "1 d 03 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_counts() -> None:
    assert [count(1, "image"), count(0, "image"), count(2_000, "copy", "copies")] == [
        "1 image",
        "0 images",
        "2,000 copies",
    ]
