from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from migrate.batch.journal import Entry, JournalWriter, RecordReader, is_running, iter_lines, journal_paths, pack_record
from migrate.batch.ledger import Ledger
from migrate.batch.plan import Identity, Outcome, Shard
from migrate.batch.records import SourceRecord
from migrate.errors import TargetError


def entry(name: str, outcome: Outcome = Outcome.CONVERTED, order: int = 0, recipe: str = "r") -> Entry:
    return Entry(
        source=name,
        identity=Identity(10, "mtime 5"),
        recipe=recipe,
        order=order,
        outcome=outcome,
        type="docker-archive",
        content="sha256:0",
        figures={"images": 1},
        seconds=0.5,
        packed=pack_record(SourceRecord(type="docker-archive", warnings=(name,))),
        error="chain" if outcome is Outcome.FAILED else None,
        message='no "record":" here' if outcome is Outcome.FAILED else None,
    )


def write(state: Path, *entries: Entry, shard: Shard | None = None) -> Path:
    journal = JournalWriter(state, shard)
    for each in entries:
        journal.append(each)
    journal.close()
    return journal.path


def test_a_line_is_json_with_the_figures_first_and_the_record_last(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar"), entry("/b\udcff.tar", Outcome.FAILED, 1))
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["source"] for line in lines] == ["/a.tar", "/b\udcff.tar"]
    assert [line["outcome"] for line in lines] == ["converted", "failed"]
    assert {"size", "mark", "content", "recipe", "order", "images", "seconds", "finished"} <= lines[0].keys()
    assert list(lines[0])[-1] == "record"


def test_records_are_read_by_place(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar"), entry("/b.tar", Outcome.FAILED))
    reader = RecordReader()
    found = {line.fields["source"]: reader.read(line.place, "x") for line in iter_lines(path)}
    reader.close()
    assert {name: record.warnings for name, record in found.items()} == {"/a.tar": ("/a.tar",), "/b.tar": ("/b.tar",)}


@pytest.mark.parametrize("length", [1, 1_000, 100_000])
def test_records_of_any_size_come_back(tmp_path: Path, length: int) -> None:
    record = SourceRecord(type="docker-archive", warnings=("w" * length,))
    path = write(tmp_path, replace(entry("/a.tar"), packed=pack_record(record)))
    assert path.stat().st_size < 20_000
    reader = RecordReader()
    assert [reader.read(line.place, "x") for line in iter_lines(path)] == [record]
    reader.close()


@pytest.mark.parametrize("kept", range(1, 400, 7))
def test_a_torn_last_line_is_passed_over_and_ended(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path, entry("/a.tar"))
    whole = path.stat().st_size
    write(tmp_path, entry("/b.tar"))
    path.write_bytes(path.read_bytes()[: whole + kept])
    torn = path.stat().st_size < whole * 2
    assert [line.fields["source"] for line in iter_lines(path)] == (["/a.tar"] if torn else ["/a.tar", "/b.tar"])
    write(tmp_path, entry("/c.tar"))
    assert [line.fields["source"] for line in iter_lines(path)][-1] == "/c.tar"


@pytest.mark.parametrize(
    "garbage", [b"\0\0\0\n", b"{}\n", b"[1]\n", b'{"source":1}\n', b'{"source":"/x"}\n', b"\xff}\n"]
)
def test_lines_that_are_none_are_passed_over(tmp_path: Path, garbage: bytes) -> None:
    path = write(tmp_path, entry("/a.tar"))
    path.write_bytes(garbage + path.read_bytes() + garbage)
    assert list(Ledger.read(tmp_path).sources) == ["/a.tar"]


def test_a_damaged_record_is_a_target_error(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar"))
    (line,) = iter_lines(path)
    path.write_bytes(path.read_bytes().replace(b'"record":"', b'"record":"!!!'))
    reader = RecordReader()
    with pytest.raises(TargetError, match="damaged"):
        reader.read(line.place, "/a.tar")
    reader.close()


def test_one_run_at_a_time_writes_a_journal(tmp_path: Path) -> None:
    first = JournalWriter(tmp_path, None)
    assert is_running(first.path)
    with pytest.raises(TargetError, match="another run"):
        JournalWriter(tmp_path, None)
    JournalWriter(tmp_path, Shard(1, 2)).close()
    first.close()
    assert not is_running(first.path)


def test_the_last_line_of_a_source_counts(tmp_path: Path) -> None:
    write(tmp_path, entry("/a.tar", Outcome.FAILED), entry("/b.tar", order=1))
    write(tmp_path, entry("/a.tar"), shard=None)
    write(tmp_path, entry("/c.tar", order=2), shard=Shard(2, 3))
    assert [path.name for path in journal_paths(tmp_path)] == ["journal-2-of-3.jsonl", "journal.jsonl"]
    ledger = Ledger.read(tmp_path)
    assert list(ledger.in_order()) == ["/a.tar", "/b.tar", "/c.tar"]
    assert ledger.finished()["/a.tar"].outcome is Outcome.CONVERTED
    assert ledger.outcomes()[Outcome.CONVERTED] == ["/a.tar", "/b.tar", "/c.tar"]


def test_only_records_of_closed_generations_are_settled(tmp_path: Path) -> None:
    write(tmp_path, entry("/a.tar"), entry("/b.tar"))
    assert Ledger.read(tmp_path).settled(["/a.tar"]) == []
    journal = JournalWriter(tmp_path, None)
    journal.note({"merged": "now"})
    journal.append(entry("/a.tar"))
    journal.close()
    ledger = Ledger.read(tmp_path)
    assert [generation for _, generation in ledger.settled(["/a.tar"])] == [0, 0]
    (source,) = ledger.merge_sources(["/a.tar", "/gone.tar"])
    assert source.generation == 1
