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

from tests.archives import V1Archive, layer_json, layer_tar, legacy_id
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


# --- the map outlives the run ------------------------------------------------------------------------------------


def archive_of(path: Path, name: str, layer: str) -> Path:
    archive = V1Archive()
    repository, _, tag = name.partition(":")
    archive.tag(repository, tag, archive.layer(layer))
    path.write_bytes(archive.build())
    return path


def legacy_ids(target: Path | str) -> set[str]:
    return {row["legacy_id"] for row in rows_of(Path(target))}


KINDS = ["oci:out", "registry-storage:out"]


@pytest.mark.parametrize(("command", "kind"), [*(("convert", kind) for kind in KINDS), ("batch", "oci:out")])
def test_later_runs_add_and_take_nothing_away(command: str, kind: str, tmp_path: Path) -> None:
    a = archive_of(tmp_path / "a.tar", "one:1", "a")
    b = archive_of(tmp_path / "b.tar", "two:1", "b")
    out = tmp_path / "out"
    assert migrate(command, a, kind, "-q", cwd=tmp_path).code == 0
    first = rows_of(out)
    assert migrate(command, b, kind, "-q", cwd=tmp_path).code == 0
    both = rows_of(out)
    assert len(both) == 2
    assert [row for row in both if row in first] == first
    assert {row["sources"][0].rpartition("/")[2] for row in both} == {"a.tar", "b.tar"}
    assert {name for row in both for name in row["names"]} == {"one:1", "two:1"}
    assert migrate("verify", out).code == 0
    if kind.startswith("oci"):
        for row in both:
            assert row["image_id"] in migrate("show", out, row["legacy_id"][:12]).out


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_read_nothing_changes_nothing(kind: str, tmp_path: Path) -> None:
    a = archive_of(tmp_path / "a.tar", "one:1", "a")
    assert migrate("convert", a, kind, "-q", cwd=tmp_path).code == 0
    names = ("migration-map.json", "migration-report.json")
    before = [(tmp_path / "out" / name).read_bytes() for name in names]
    for source in ("typo.tar", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert migrate("convert", source, kind, "-q", cwd=tmp_path).code == 4
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == before


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_a_run_that_read_nothing_leaves_an_archive(kind: str, tmp_path: Path) -> None:
    a = archive_of(tmp_path / "a.tar", "one:1", "a")
    assert migrate("convert", a, f"{kind}:out.tar", "-q", cwd=tmp_path).code == 0
    before = (tmp_path / "out.tar").read_bytes()
    assert migrate("convert", "typo.tar", f"{kind}:out.tar", "-q", cwd=tmp_path).code == 4
    assert (tmp_path / "out.tar").read_bytes() == before


def test_the_map_of_archives_is_beside_their_reports(tmp_path: Path) -> None:
    for name in ("a", "b"):
        source = archive_of(tmp_path / f"{name}.tar", f"{name}:1", name)
        report = tmp_path / "reports" / f"{name}.json"
        report.parent.mkdir(exist_ok=True)
        assert (
            migrate("convert", source, f"docker-archive:{tmp_path}/new-{name}.tar", "--report", report, "-q").code == 0
        )
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["a.json", "b.json", "migration-map.json"]
    assert len(rows_of(tmp_path / "reports" / "migration-map.json")) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], ["--format", "oci"]),
        (["--empty-layers", "keep"], []),
        ([], ["--on-conflict", "keep-all", "--format", "oci"]),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_present_run_has_the_names_of_the_same_legacy_images(
    first: list[str], second: list[str], kind: str, tmp_path: Path
) -> None:
    archive = V1Archive()
    for number in range(6):
        archive.layer(f"base {number}")
        top = archive.layer(f"top {number}", f"base {number}", tar=bytes(1024))
        archive.tag("app", str(number), top)
    (tmp_path / "a.tar").write_bytes(archive.build())
    assert migrate("convert", "a.tar", kind, "-q", *first, cwd=tmp_path).code == 0
    again = migrate("convert", "a.tar", kind, *second, "-q", cwd=tmp_path)
    assert again.code == 0, again.err
    report = json.loads((tmp_path / "out" / "migration-report.json").read_text())
    assert report["conflicts"] == []
    assert sorted(name for image in report["images"] for name in image["names"]) == [f"app:{n}" for n in range(6)]
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 12
    now = {image["manifest_digest"] for image in report["images"]}
    assert {row["manifest_digest"] for row in rows if row["names"]} == now
    assert migrate("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("created", "names"),
    [("2014-01-01T00:00:00Z", []), ("2014-05-06T07:08:09Z", ["app:1"]), ("2015-01-01T00:00:00Z", ["app:1"])],
)
def test_another_image_with_the_same_random_id_is_a_conflict(created: str, names: list[str], tmp_path: Path) -> None:
    """An older one loses to what is there; one of the same time is taken for the same image, made in another way."""
    for name, content, time in (("a", "one", "2014-05-06T07:08:09Z"), ("b", "two", created)):
        built = V1Archive()
        raw = layer_json(legacy_id("x"), created=time)
        built.tag("app", "1", built.layer("x", raw=raw, tar=layer_tar(content)))
        (tmp_path / f"{name}.tar").write_bytes(built.build())
    for name in ("a", "b"):
        done = migrate("convert", f"{name}.tar", "out", "-q", cwd=tmp_path)
        assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "migration-report.json").read_text())
    assert [conflict["reference"] for conflict in report["conflicts"]] == ["app:1"]
    assert report["images"][0]["names"] == names
    assert migrate("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_a_run_that_read_nothing_leaves_no_spool_beside_an_archive(kind: str, tmp_path: Path) -> None:
    a = archive_of(tmp_path / "a.tar", "one:1", "a")
    assert migrate("convert", a, f"{kind}:{tmp_path / 'out.tar'}", "-q").code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    broken = V1Archive()
    broken.tag("two", "1", broken.layer("b", raw=b"no json"))
    (tmp_path / "b.tar").write_bytes(broken.build())
    before["b.tar"] = (tmp_path / "b.tar").read_bytes()
    for source in ("b.tar", "none.tar"):
        assert migrate("convert", tmp_path / source, f"{kind}:{tmp_path / 'out.tar'}", "-q").code == 4
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_target_without_a_map_gets_one_from_its_report(tmp_path: Path) -> None:
    assert migrate("convert", archive_of(tmp_path / "a.tar", "one:1", "a"), tmp_path / "out", "-q").code == 0
    (tmp_path / "out" / "migration-map.json").unlink()
    assert len(rows_of(tmp_path / "out")) == 1
    assert migrate("convert", archive_of(tmp_path / "b.tar", "two:1", "b"), tmp_path / "out", "-q").code == 0
    assert len(rows_of(tmp_path / "out")) == 2


def test_a_map_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    a = archive_of(tmp_path / "a.tar", "one:1", "a")
    assert migrate("convert", a, tmp_path / "out", "-q").code == 0
    (tmp_path / "out" / "migration-map.json").write_text('{"schema_version": 1, "images": [')
    done = migrate("convert", a, tmp_path / "out", "-q")
    assert done.code == 5
    assert "migration-map.json" in done.errors[0]
    assert (tmp_path / "out" / "migration-map.json").read_text() == '{"schema_version": 1, "images": ['
