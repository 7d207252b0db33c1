"""`migrate export` and `find`, as a user runs them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.archives import V1Archive, layer_json, layer_tar, legacy_id
from tests.command import migrate


def archive(*, created: str = "2014-05-06T07:08:09Z", content: bytes = b"x") -> bytes:
    built = V1Archive()
    built.layer("base", tar=layer_tar("etc/a", "etc/b"))
    top = f"top {created}"
    built.layer(
        top,
        raw=layer_json(legacy_id(top), legacy_id("base"), created=created),
        tar=layer_tar("etc/.wh.a", "etc/c", content=content),
    )
    built.tag("team/web", "1.0", legacy_id(top))
    return built.build()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "a.tar"
    path.write_bytes(archive())
    return path


def names(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return sorted(opened.getnames())


@pytest.mark.parametrize(
    "options",
    [[], ["--format", "oci", "--compression", "zstd"], ["--compression", "none"]],
    ids=["gzip", "zstd", "none"],
)
def test_layers_of_every_compression(options: list[str], source: Path, tmp_path: Path) -> None:
    assert migrate("convert", source, tmp_path / "out", "-q", *options).code == 0
    done = migrate("export", tmp_path / "out", "team/web:1.0", "-o", tmp_path / "fs.tar")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert names((tmp_path / "fs.tar").read_bytes()) == ["etc/b", "etc/c"]
    piped = subprocess.run(
        [sys.executable, "-m", "migrate", "export", str(tmp_path / "out"), "team/web:1.0", "etc/c"],
        capture_output=True,
        check=True,
    )
    assert names(piped.stdout) == ["etc/c"]


def test_a_damaged_blob_gives_an_error_and_no_file(source: Path, tmp_path: Path) -> None:
    assert migrate("convert", source, tmp_path / "out", "-q").code == 0
    report = json.loads((tmp_path / "out" / "migration-report.json").read_text())
    digest = report["images"][0]["layers"][0]["blob_digest"][7:]
    blob = tmp_path / "out" / "blobs" / "sha256" / digest
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    (tmp_path / "fs.tar").write_bytes(b"before")
    done = migrate("export", tmp_path / "out", "team/web:1.0", "-o", tmp_path / "fs.tar")
    assert done.code == 3
    assert len(done.errors) == 1
    assert (tmp_path / "fs.tar").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fs.tar", "out"]


def test_what_is_not_there(source: Path, tmp_path: Path) -> None:
    assert migrate("convert", source, tmp_path / "out", "-q").code == 0
    assert migrate("export", tmp_path / "out", "team/web:2").code == 2
    done = migrate("export", tmp_path / "out", "team/web:1.0", "usr/nothing", "-o", tmp_path / "fs.tar")
    assert (done.code, "usr/nothing" in done.err) == (2, True)
    assert not (tmp_path / "fs.tar").exists()


def test_find_names_the_sources_and_why_others_lost(tmp_path: Path) -> None:
    for year in ("2013", "2014", "2015"):
        created = f"{year}-01-01T00:00:00Z"
        (tmp_path / f"{year}.tar").write_bytes(archive(created=created, content=year.encode()))
    sources = [tmp_path / f"{year}.tar" for year in ("2013", "2014", "2015")]
    assert migrate("convert", *sources, tmp_path / "out", "-q").code == 0
    found = migrate("find", tmp_path / "out", "team/web:1.0", "--json").json()["found"]
    assert [(row["has_it"], row["image"]["created"][:4]) for row in found] == [
        (True, "2015"),
        (False, "2014"),
        (False, "2013"),
    ]
    assert [Path(row["image"]["sources"][0]).name for row in found] == ["2015.tar", "2014.tar", "2013.tar"]
    assert "older" in found[1]["why"]
    then = migrate("find", tmp_path / "out", "team/web", "--as-of", "2014-06-01", "--json").json()["found"]
    assert [row["image"]["created"][:4] for row in then] == ["2014"]
    assert "2014.tar" in migrate("find", tmp_path / "out", "team/*", "--as-of", "2014-06-01", "--no-trunc").out
    for words in (["nothing"], ["team/web", "--as-of", "2012-01-01"], ["team/web", "--as-of", "spring"]):
        assert migrate("find", tmp_path / "out", *words).code == 2
