"""`migrate map`: several words, lists, cells for spreadsheets, and old pins in text files."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.archives import V1Archive
from tests.command import migrate


def rows_of(target: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = migrate("map", target, "--json").json()["images"]
    return rows


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    archive = V1Archive()
    archive.tag("old/app", "1.0", archive.layer("app"))
    archive.tag("old/db", "latest", archive.layer("db"))
    (tmp_path / "a.tar").write_bytes(archive.build())
    done = migrate("convert", tmp_path / "a.tar", tmp_path / "out", "--rename", "^old/=new/")
    assert done.code == 0, done.err
    return tmp_path / "out"


def test_several_words_and_a_list(converted: Path, tmp_path: Path) -> None:
    rows = rows_of(converted)
    ids = [row["legacy_id"] for row in rows]
    assert len(ids) == 2
    found = migrate("map", converted, ids[1], ids[0][:12], "--json").json()["images"]
    assert [row["legacy_id"] for row in found] == [ids[1], ids[0]]
    (tmp_path / "ids.txt").write_text(f"# pinned\n\n{ids[0][:12]}  web server\n{ids[1]}\n")
    assert migrate("map", converted, "--from", tmp_path / "ids.txt", "--json").json()["images"] == rows
    assert migrate("map", converted, "--from", "-", "--csv", stdin=ids[0].encode()).out.count("\n") == 2


def test_every_word_that_is_not_found_is_named(converted: Path) -> None:
    result = migrate("map", converted, "ffffffffffff", "nothing:1", "new/app:1.0")
    assert result.code == 2
    assert "ffffffffffff" in result.err
    assert "nothing:1" in result.err


def test_cells_are_no_formulas_and_hold_no_escapes(tmp_path: Path) -> None:
    names = ["=cmd()", "+1", "-1", "@x", "a\x1b[31m", "b\u202ec"]
    archive = V1Archive()
    for name in names:
        archive.tag(name, "1", archive.layer(name))
    (tmp_path / "a.tar").write_bytes(archive.build())
    assert migrate("convert", tmp_path / "a.tar", tmp_path / "out").code in (0, 3)
    out = migrate("map", "--csv", tmp_path / "out").out
    assert "\x1b" not in out
    assert "\u202e" not in out
    cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@")]
    assert "'=cmd():1" in cells


FILES = {
    "docker-compose.yml": "version: '2'\nservices:\n  app:\n    image: {name}\n  db:\n    image: \"{db}\"\n",
    "app.service": "[Service]\nExecStart=/usr/bin/docker run --rm {short} /bin/app --id {full}\n",
    "pod.yaml": "spec:\n  containers:\n  - name: app\n    image: docker.io/{name}\n    imagePullPolicy: Never",
    "run.sh": "#!/bin/sh\nIMAGE={full}\r\ndocker run -d {name} # {short}\n\xff caf\xe9\n",
}


def test_text_files_there_and_back(converted: Path, tmp_path: Path) -> None:
    app = next(row for row in rows_of(converted) if "old/app:1.0" in row["references"])
    old = {"name": "old/app:1.0", "db": "old/db", "short": app["legacy_id"][:12], "full": app["legacy_id"]}
    image_id = app["image_id"][7:]
    new = {"name": "new/app:1.0", "db": "new/db", "short": image_id[:12], "full": image_id}
    paths = []
    for name, text in FILES.items():
        path = tmp_path / name
        path.write_bytes(text.format(**old).encode("latin-1"))
        paths.append(path)
    paths[3].chmod(0o755)
    before = [path.read_bytes() for path in paths]
    expected = [text.format(**new).replace("docker.io/", "").encode("latin-1") for text in FILES.values()]

    diff = subprocess.run(
        [sys.executable, "-m", "migrate", "map", str(converted), "--rewrite", *FILES],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    assert [path.read_bytes() for path in paths] == before
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in paths:
        shutil.copy2(path, copies)
    subprocess.run(["git", "apply", "-p0"], input=diff.stdout, check=True, cwd=copies)
    assert [(copies / path.name).read_bytes() for path in paths] == expected

    written = migrate("map", converted, "--rewrite", "--in-place", *paths)
    assert written.code == 0, written.err
    assert written.out == ""
    assert [path.read_bytes() for path in paths] == expected
    assert paths[3].stat().st_mode & 0o777 == 0o755
    again = migrate("map", converted, "--rewrite", *paths)
    assert (again.code, again.out) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "a.tar", "out", "copies"])


@pytest.mark.parametrize("wrong", ["absent", "folder", "binary"])
def test_no_file_is_written_where_one_cannot_be_read(wrong: str, converted: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_text("image: old/app:1.0\n")
    bad = tmp_path / "bad"
    if wrong == "folder":
        bad.mkdir()
    elif wrong == "binary":
        bad.write_bytes(b"\0\1")
    result = migrate("map", converted, "--rewrite", "--in-place", good, bad)
    assert result.code == 2
    assert str(bad) in result.errors[0]
    assert good.read_text() == "image: old/app:1.0\n"


@pytest.mark.parametrize("options", [["--in-place"], ["--rewrite"], ["--rewrite", "--json", "f"], ["--json", "--csv"]])
def test_options_that_do_not_fit(options: list[str], converted: Path) -> None:
    result = migrate("map", converted, *options)
    assert result.code == 2
    assert json.dumps(result.errors)
