"""`migrate gc`: what nothing names goes, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from migrate.model.options import ConvertOptions
from migrate.writers.oci_layout import OciLayout
from tests.archives import V1Archive, layer_json, legacy_id
from tests.command import migrate


def archive(path: Path, layer: str, created: str, *names: str) -> Path:
    built = V1Archive()
    built.layer("shared")
    identity = built.layer(layer, raw=layer_json(legacy_id(layer), legacy_id("shared"), created=created))
    for name in names:
        built.tag(name, "1", identity)
    path.write_bytes(built.build())
    return path


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Two images claim `app:1`; the older one is there without a name, and so is one that never had any."""
    archive(tmp_path / "old.tar", "old", "2013-01-01T00:00:00Z", "app")
    archive(tmp_path / "new.tar", "new", "2014-01-01T00:00:00Z", "app")
    archive(tmp_path / "none.tar", "none", "2014-01-01T00:00:00Z")
    done = migrate("convert", *(tmp_path / f"{name}.tar" for name in ("old", "new", "none")), tmp_path / "out", "-q")
    assert done.code == 0, done.err
    return tmp_path / "out"


def blobs(layout: Path) -> set[str]:
    return set(os.listdir(layout / "blobs" / "sha256"))


def test_untagged_images_go_and_the_map_keeps_them(layout: Path) -> None:
    (layout / "blobs" / "sha256" / ("ab" * 32)).write_bytes(b"left by a run that was ended")
    before = {path: path.read_bytes() for path in layout.rglob("*") if path.is_file() and ".migrate" not in path.parts}
    dry = migrate("gc", layout, "--dry-run")
    assert dry.code == 0, dry.err
    assert "2 images and 7 blobs would be removed" in dry.out
    assert legacy_id("old")[:12] in dry.out
    assert before == {
        path: path.read_bytes() for path in layout.rglob("*") if path.is_file() and ".migrate" not in path.parts
    }

    done = migrate("gc", layout)
    assert (done.code, done.out) == (0, dry.out.replace("would be removed", "removed")), done.err
    assert len(blobs(layout)) == 4  # two layers, config, manifest
    assert migrate("verify", layout).code == 0
    rows = {row["legacy_id"]: row for row in migrate("map", layout, "--json").json()["images"]}
    assert {name: rows[legacy_id(name)].get("removed", False) for name in ("old", "new", "none")} == {
        "old": True,
        "new": False,
        "none": True,
    }
    assert "gc" in migrate("find", layout, "app:1").out
    again = migrate("gc", layout)
    assert (again.code, again.out) == (0, "0 images and 0 blobs removed: 0 B\n")


def test_a_removed_image_comes_back_by_converting_it_again(layout: Path, tmp_path: Path) -> None:
    assert migrate("gc", layout).code == 0
    assert migrate("convert", tmp_path / "none.tar", layout, "-q").code == 0
    (row,) = migrate("map", layout, legacy_id("none"), "--json").json()["images"]
    assert "removed" not in row
    assert migrate("verify", layout).code == 0


def test_nothing_goes_while_a_run_is_at_work(layout: Path) -> None:
    before = blobs(layout)
    running = OciLayout(layout, ConvertOptions())
    try:
        done = migrate("gc", layout)
    finally:
        running.close()
    assert done.code == 5
    assert "another run is using it" in done.errors[0]
    assert blobs(layout) == before


def test_nothing_goes_where_a_named_image_is_damaged(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())["manifests"]
    (named,) = [entry for entry in index if entry.get("annotations")]
    (layout / "blobs" / "sha256" / named["digest"][7:]).write_bytes(b"{}")
    before = blobs(layout)
    for options in ([], ["--dry-run"]):
        done = migrate("gc", layout, *options)
        assert done.code == 3
        assert named["digest"] in done.errors[0]
    assert blobs(layout) == before


@pytest.mark.parametrize("what", ["absent", "empty", "archive", "other"])
def test_what_is_no_layout(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if what == "archive":
        archive(tmp_path / "a.tar", "a", "2014-01-01T00:00:00Z", "a")
        assert migrate("convert", tmp_path / "a.tar", f"oci-archive:{path}", "-q").code == 0
    elif what != "absent":
        path.mkdir()
        if what == "other":
            (path / "file").write_text("x")
    done = migrate("gc", path)
    assert done.code in (2, 4)
    assert len(done.errors) == 1
    if path.is_dir():
        assert os.listdir(path) == (["file"] if what == "other" else [])
        shutil.rmtree(path)
