"""Records in a temporary file are those in memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from migrate.blobio import records
from migrate.blobio.records import Records
from migrate.errors import TargetError


@pytest.mark.parametrize("most", [10, 200, 1 << 20])
def test_records_are_those_of_a_dict(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_BYTES_IN_MEMORY", most)
    choose = random.Random(most)
    found, expected = Records("records", str(tmp_path), key=2), dict[bytes, list[bytes]]()
    for _ in range(1_000):
        key, record = choose.randbytes(2)[:1] * 2, choose.randbytes(choose.randrange(20))
        if key in expected and len(expected[key]) == 1 and choose.random() < 0.5:
            found.replace(key, record)
            expected[key] = [record]
        else:
            found.add(key, record)
            expected.setdefault(key, []).append(record)
        assert found.of(key) == expected[key] and key in found
    assert all(found.of(key) == rows for key, rows in expected.items())
    assert sorted(found) == sorted(record for rows in expected.values() for record in rows)
    assert b"no" not in found and found.of(b"no") == []
    assert not list(tmp_path.iterdir())  # the file has no name


def test_few_records_are_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_BYTES_IN_MEMORY", 10)
    found = Records("records", str(tmp_path / "nowhere"), key=1)
    found.add(b"a", b"0123456789")
    with pytest.raises(TargetError, match="records: cannot be kept in a temporary file"):
        found.add(b"b", b"0")
