"""`show` and `export` of what is no layout: the image as `convert` would write it, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.model.digest import Digest
from tests.archives import V1Archive, layer_tar, legacy_id
from tests.command import migrate
from tests.registry_content import RegistryContent

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


def hidden_by_manifest(place: Path) -> Path:
    """The image that only `repositories` names, behind a manifest.json of another one."""
    archive = V1Archive()
    archive.tag("team/web", "1.0", archive.layer("web"))
    tar = layer_tar("other")
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))]}})
    entry = {"Config": "c.json", "RepoTags": ["other:1"], "Layers": ["other.tar"]}
    rest = [("other.tar", tar), ("c.json", config.encode()), ("manifest.json", json.dumps([entry]).encode())]
    place.write_bytes(archive.build(rest))
    return place


def wrong_parent(place: Path) -> Path:
    content = RegistryContent()
    manifest = json.loads(content.schema1("base", "top"))
    top = json.loads(manifest["history"][0]["v1Compatibility"])
    manifest["history"][0]["v1Compatibility"] = json.dumps({**top, "parent": legacy_id("another")})
    content.add("team/web", "1.0", json.dumps(manifest).encode())
    return content.write_tree(place)


def wrong_diff_id(place: Path) -> Path:
    content = RegistryContent()
    manifest = json.loads(content.schema2("base"))
    config = json.loads(content.blobs[manifest["config"]["digest"]])
    config["rootfs"]["diff_ids"] = [str(Digest.of(b"another"))]
    raw = json.dumps(config).encode()
    manifest["config"] |= {"digest": content.blob(raw), "size": len(raw)}
    content.add("team/web", "1.0", json.dumps(manifest).encode())
    return content.write_tree(place)


@pytest.mark.parametrize("build", [hidden_by_manifest, wrong_parent, wrong_diff_id])
@pytest.mark.parametrize("command", ["show", "export"])
def test_what_only_salvage_reads_is_named_with_the_way_to_it(
    build: Callable[[Path], Path], command: str, tmp_path: Path
) -> None:
    source = build(tmp_path / "source")
    command_text = f"`migrate convert --salvage {source} LAYOUT`"
    advice = f"{command_text} converts the readable part, which `migrate show LAYOUT` then shows"
    done = migrate(command, source, "team/web:1.0")
    assert done.code in (2, 4) and done.errors[0].endswith(advice)
    assert len(done.errors) == 1
    absent = migrate(command, source, "team/web:2.0")
    assert absent.code == 2 and "--salvage" not in absent.err


def test_the_way_leads_to_it(tmp_path: Path) -> None:
    source = hidden_by_manifest(tmp_path / "source")
    assert migrate("convert", "--salvage", source, tmp_path / "layout").code == 0
    assert migrate("show", tmp_path / "layout", "team/web:1.0").code == 0
