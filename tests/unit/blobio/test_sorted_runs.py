"""Rows in a temporary file are those in memory, in the same order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from migrate.blobio import sorted_runs
from migrate.blobio.sorted_runs import SortedRuns
from migrate.errors import TargetError

Row = tuple[int, str]
_decode = msgspec.msgpack.Decoder(list[Row]).decode


def _encode(rows: list[Row]) -> bytes | None:
    return None if any(text == "stays" for _, text in rows) else msgspec.msgpack.encode(rows)


def _runs(directory: str | None = None, expected: int = 0) -> SortedRuns[Row]:
    return SortedRuns("rows", directory, key=lambda row: row[0], encode=_encode, decode=_decode, expected=expected)


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_runs, "_ROWS_IN_MEMORY", 20)
    monkeypatch.setattr(sorted_runs, "_ROWS_A_RUN", 7)
    monkeypatch.setattr(sorted_runs, "_ROWS_A_BLOCK", 3)


def _random_rows(number: int) -> Iterator[Row]:
    choose = random.Random(number)
    for place in range(number):
        yield choose.randrange(10), choose.choice([f"row {place}", "stays", f"no text \udcff {place}"])


@pytest.mark.parametrize("number", [0, 1, 19, 20, 21, 100, 500])
def test_rows_come_in_the_order_of_their_keys(number: int) -> None:
    runs, rows = _runs(), list(_random_rows(number))
    for row in rows:
        runs.add(row)
    expected = sorted(rows, key=lambda row: row[0])  # a stable sort: equal keys keep their order
    assert list(runs) == expected == list(runs)
    assert (len(runs), bool(runs)) == (number, bool(number))


def test_rows_can_be_added_after_some_were_read() -> None:
    runs, rows = _runs(), list(_random_rows(60))
    for row in rows[:30]:
        runs.add(row)
    assert list(runs) == sorted(rows[:30], key=lambda row: row[0])
    for row in rows[30:]:
        runs.add(row)
    assert list(runs) == sorted(rows, key=lambda row: row[0])


def test_they_are_a_sequence() -> None:
    runs = _runs()
    rows = [(number, "row") for number in range(30)]
    for row in reversed(rows):
        runs.add(row)
    assert (runs[0], runs[29], runs[-1], runs[-30]) == (rows[0], rows[29], rows[29], rows[0])
    assert runs[3:6] == tuple(rows[3:6])
    assert runs == rows and rows == runs and runs == tuple(rows)
    assert runs != rows[1:] and runs != [*rows[1:], rows[0]] and runs != 1
    for place in (30, -31):
        with pytest.raises(IndexError):
            runs[place]


def test_few_rows_are_in_no_file(tmp_path: Path) -> None:
    runs = _runs(str(tmp_path / "nowhere"))
    for number in range(19):
        runs.add((number, "row"))
    with pytest.raises(TargetError, match="rows: cannot be kept in a temporary file"):
        runs.add((19, "row"))


@pytest.mark.parametrize(("expected", "in_file"), [(20, False), (21, True)])
def test_very_many_rows_are_in_a_file_from_the_start(expected: int, in_file: bool) -> None:
    runs, rows = _runs(expected=expected), list(_random_rows(expected))
    for row in rows[:10]:
        runs.add(row)
    assert runs.is_in_file is in_file
    for row in rows[10:]:
        runs.add(row)
    assert list(runs) == sorted(rows, key=lambda row: row[0])


def test_the_file_has_no_name(tmp_path: Path) -> None:
    runs = _runs(str(tmp_path))
    for row in _random_rows(100):
        runs.add(row)
    assert not list(tmp_path.iterdir())
