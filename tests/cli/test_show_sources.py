"""`show` and `export` of what is no layout: the image as `convert` would write it, and nothing left behind."""

from __future__ import annotations

import gzip
import re
import tarfile
from pathlib import Path

import pytest

from tests.archives import V1Archive
from tests.command import migrate

KINDS = ("plain", "gzip", "registry-storage", "layout")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shelf")
    archive = V1Archive()
    archive.layer("base")
    archive.tag("team/web", "1.0", archive.layer("web", "base"))
    archive.tag("team/web", "2.0", archive.layer("other"))
    (place / "plain").write_bytes(archive.build())
    (place / "gzip").write_bytes(gzip.compress(archive.build()))
    assert migrate("convert", place / "plain", place / "layout").code == 0
    assert migrate("convert", place / "plain", f"registry-storage:{place / 'registry-storage'}").code == 0
    return place


def shown(source: Path, *options: str) -> str:
    done = migrate("show", source, "team/web:1.0", *options)
    assert done.code == 0, done.err
    return done.out


PARTS = [["--json"], ["--config", "--raw"], ["--history"], ["--layers"], ["--files"]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS, ids=[part[0] for part in PARTS])
def test_the_image_is_that_of_the_conversion(kind: str, part: list[str], shelf: Path) -> None:
    expected, found = shown(shelf / "layout", *part), shown(shelf / kind, *part)
    if kind == "registry-storage":  # which has other IDs for the same layers
        expected, found = (re.sub(r"legacy ID .*", "", text) for text in (expected, found))
    assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_export_reads_them_too(kind: str, shelf: Path, tmp_path: Path) -> None:
    done = migrate("export", shelf / kind, "team/web:1.0", "-o", tmp_path / "web.tar")
    assert done.code == 0, done.err
    with tarfile.open(tmp_path / "web.tar") as opened:
        assert {"base.txt", "web.txt"} <= set(opened.getnames())


def test_nothing_is_left_behind(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = sorted(path.name for path in shelf.iterdir())
    shown(shelf / "plain")
    assert migrate("show", shelf / "plain", "nothing").code == 2
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in shelf.iterdir()) == before
