"""`batch --account`: one row for each source, whose sums are those of the exit code and of the report."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from tests.archives import layer_tar
from tests.command import migrate
from tests.roots import RootBuilder, write
from tests.shelves import archive, write_shelf

ODD = [
    b"=1+1.tar",
    b"-x.tar",
    b"@sum.tar",
    b"caf\xe9.tar",
    rb"caf\xe9.tar",
    b"two\nlines.tar",
    b'a,"b".tar',
    b"\x1b[2J.tar",
]


def read_account(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def file_of(row: dict[str, str]) -> bytes:
    return unquote_to_bytes(row["uri"].removeprefix("file://"))


def damaged_root(path: Path) -> None:
    """A layer whose recorded checksums are those of another tar."""
    root = RootBuilder(path, "vfs")
    write(root.add("base") / "base.txt", b"BASE")
    root.add_tar_split("base", layer_tar("base.txt", content=b"base"))
    root.tag({"app": {"1": "base"}})


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return write_shelf(tmp_path / "shelf", apps=1, builds=2)


def report_of(target: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((target / "migration-report.json").read_bytes())
    return report


def test_every_source_has_a_row_and_the_sums_are_those_of_the_report(shelf: Path, tmp_path: Path) -> None:
    damaged_root(shelf / "root")
    options: list[str | Path] = ["-q", "--account", tmp_path / "account.csv", shelf]
    dry = migrate("batch", "--dry-run", *options, tmp_path / "out")
    planned = read_account(tmp_path / "account.csv")
    done = migrate("batch", *options, tmp_path / "out")
    rows = read_account(tmp_path / "account.csv")
    assert (dry.code, done.code) == (3, 3)
    stable = ("source", "uri", "outcome", "error", "reason", "images", "failed", "bytes", "tries")
    assert [[row[name] for name in stable] for row in planned] == [[row[name] for name in stable] for row in rows]
    outcomes = {Path(row["source"]).name: row["outcome"] for row in rows}
    assert outcomes == {
        **dict.fromkeys(("0.tar", "1.tar", "packed.tar.gz"), "converted"),
        "cut.tar": "failed",
        "readme.txt": "skipped",
        "root": "damaged",
    }
    report = report_of(tmp_path / "out")
    assert sum(int(row["images"]) for row in rows) == report["totals"]["images"]
    assert sum(int(row["failed"]) for row in rows) == len(report["failures"])
    for row in rows:
        path = Path(row["source"])
        assert row["bytes"] == ("" if path.is_dir() else str(path.stat().st_size))
        assert float(row["seconds"]) >= 0
        assert row["tries"] == "1"
        assert bool(row["reason"]) == (row["outcome"] != "converted")
    in_report = {source["location"]: source for source in report["sources"]}
    for row in rows:
        source = in_report[row["source"]]
        assert source["outcome"] == row["outcome"]
        assert (source.get("error", ""), source.get("reason", "")) == (row["error"], row["reason"])
    again = migrate("batch", *options, tmp_path / "out")
    assert again.code == 3
    assert read_account(tmp_path / "account.csv") == rows


def test_outcomes_of_convert_are_those_of_batch(shelf: Path, tmp_path: Path) -> None:
    (shelf / "readme.txt").unlink()
    damaged_root(shelf / "root")
    files = sorted([*shelf.rglob("*.tar"), *shelf.glob("*.gz"), shelf / "root"])
    assert migrate("convert", "-q", *files, tmp_path / "one").code == 3
    assert migrate("batch", "-q", *files, tmp_path / "two").code == 3
    one, two = report_of(tmp_path / "one")["sources"], report_of(tmp_path / "two")["sources"]
    assert one == two
    assert {source["outcome"] for source in one} == {"converted", "damaged", "failed"}


def test_odd_names_are_safe_cells_and_lead_back_to_their_files(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for number, name in enumerate(ODD):
        with open(os.path.join(os.fsencode(shelf), name), "wb") as stream:
            stream.write(archive("app", number) if number % 2 else b"text")
    names = sorted(os.listdir(shelf))
    done = migrate("batch", "-q", "--account", tmp_path / "account.csv", "--", *names, "../out", cwd=shelf)
    assert done.code == 0, done.err
    rows = read_account(tmp_path / "account.csv")
    assert {file_of(row) for row in rows} == {os.path.join(os.fsencode(shelf), name) for name in ODD}
    text = (tmp_path / "account.csv").read_text("utf-8")
    assert text.replace("\n", "").isprintable()
    assert text.count("\n") == len(ODD) + 1
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_shards_and_their_merge(shelf: Path, tmp_path: Path) -> None:
    account = tmp_path / "account.csv"
    parts = []
    for number in (1, 2):
        migrate("batch", "-q", "--account", account, "--shard", f"{number}/2", shelf, tmp_path / "out")
        parts += read_account(account)
    assert migrate("batch", "-q", "--merge", "--account", account, tmp_path / "out").code == 3
    merged = read_account(account)
    assert sorted(row["uri"] for row in parts) == sorted(row["uri"] for row in merged)
    assert sum(row["outcome"] == "failed" for row in merged) == 1


def test_failures_that_the_merge_finds_are_in_the_account_and_the_lists(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(archive("app", number))
    done = migrate(
        *("batch", "--on-conflict", "fail", "--account", tmp_path / "account.csv"),
        *("--failed-list", tmp_path / "failed", tmp_path / "0.tar", tmp_path / "1.tar", tmp_path / "out"),
    )
    assert done.code == 3
    rows = read_account(tmp_path / "account.csv")
    failed = [row["source"] for row in rows if row["outcome"] == "failed"]
    assert failed
    assert (tmp_path / "failed").read_text().splitlines() == failed
    assert f"sources {len(failed)} failed\n" in done.out
