"""Archives of Docker 1.10 and later with an oddity: what the engine loads is converted, to the engine's own image."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from migrate.model.reference import Reference
from tests.archives import Members, V1Archive, build_tar, layer_tar, link
from tests.command import migrate
from tests.layer_tars import ODD_ENTRIES
from tests.peers import DockerEngine, run

pytestmark = pytest.mark.peer

LAYERS = {"1": layer_tar("one"), "2": layer_tar("two")}


@pytest.fixture(autouse=True)
def clean(engine: DockerEngine) -> None:
    engine.remove_all()


def config_of(*layers: str, **members: Any) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "created": "2016-01-01T00:00:00Z",
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(LAYERS[name]).hexdigest()}" for name in layers],
        },
    }
    return json.dumps(document | members).encode()


def archive_of(config: bytes, *layers: str) -> bytes:
    row = {"Config": "c.json", "RepoTags": ["odd:1"], "Layers": [f"{name}/layer.tar" for name in layers]}
    files: Members = [(f"{name}/layer.tar", LAYERS[name]) for name in dict.fromkeys(layers)]
    return build_tar([("c.json", config), *files, ("manifest.json", json.dumps([row]).encode())])


def converted(archive: bytes, place: Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the report; the layout is clean, or absent where no image could be read."""
    (place / "odd.tar").write_bytes(archive)
    code = migrate("convert", place / "odd.tar", place / "out", "--report", place / "report.json").code
    if code == 4:
        assert not (place / "out").exists()
    else:
        assert migrate("verify", place / "out").code == 0
    report: dict[str, Any] = json.loads((place / "report.json").read_bytes())
    return code, report


def check_same(engine: DockerEngine, archive: bytes, place: Path) -> None:
    """Docker loads the archive and the layout made of it, and sees the same image."""
    engine.load(archive)
    own = engine.inspect("odd:1")["Id"]
    code, report = converted(archive, place)
    assert (code, [image["image_id"] for image in report["images"]]) == (0, [own])
    engine.remove_all()
    engine.load(run("tar", "-C", place / "out", "-c", ".").stdout)
    assert engine.inspect("odd:1")["Id"] == own


STEP = {"created": "2016-01-01T00:00:00Z"}


@pytest.mark.parametrize("history", [[STEP], [STEP, STEP | {"empty_layer": True}], [], None])
def test_a_history_shorter_than_the_layers_is_loaded(engine: DockerEngine, tmp_path: Path, history: Any) -> None:
    check_same(engine, archive_of(config_of("1", "2", history=history), "1", "2"), tmp_path)


def test_a_history_longer_than_the_layers_is_refused(engine: DockerEngine, tmp_path: Path) -> None:
    archive = archive_of(config_of("1", history=[STEP] * 3), "1")
    assert "too many non-empty layers in History section" in engine.load(archive, check=False)
    code, report = converted(archive, tmp_path)
    assert (code, report["images"]) == (4, [])
    assert [failure["references"] for failure in report["failures"]] == [["odd:1"]]
    assert "Docker refuses such a config" in report["failures"][0]["message"]


ODD_SPELLINGS: dict[str, list[tuple[bytes, bytes]]] = {
    "a number that no float holds": [(b'"architecture"', b'"foo":1e400,"architecture"')],
    "keys in other letters": [(b'"rootfs"', b'"RootFS"'), (b'"diff_ids"', b'"Diff_IDs"'), (b'"os"', b'"OS"')],
    "a lone surrogate and a byte that is not UTF-8": [(b'"config"', b'"comment":"\\ud800 \xe9","config"')],
    "a rootfs in two parts": [(b'"rootfs": {"type": "layers", ', b'"rootfs": {"type": "layers"}, "rootfs": {')],
}


@pytest.mark.parametrize("spelling", ODD_SPELLINGS)
def test_a_config_is_read_as_docker_reads_it(engine: DockerEngine, tmp_path: Path, spelling: str) -> None:
    config = config_of("1", "2")
    for old, new in ODD_SPELLINGS[spelling]:
        assert old in config
        config = config.replace(old, new)
    check_same(engine, archive_of(config, "1", "2"), tmp_path)


@pytest.mark.parametrize(
    "found",
    [
        link("2/layer.tar", "/1/layer.tar"),
        link("2/layer.tar", "../../../../1/layer.tar"),
        link("2/layer.tar", "/../gone/../1/layer.tar"),
        link("2/layer.tar", "/1/layer.tar", tarfile.LNKTYPE),
        link("2/layer.tar", "../1/layer.tar", tarfile.LNKTYPE),
        link("2", "/1"),
    ],
)
def test_links_stay_inside_the_archive(
    engine: DockerEngine, tmp_path: Path, found: tuple[str, tarfile.TarInfo]
) -> None:
    row = {"Config": "c.json", "RepoTags": ["odd:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}
    manifest = json.dumps([row]).encode()
    files: Members = [("c.json", config_of("1", "1")), ("1/layer.tar", LAYERS["1"]), found, ("manifest.json", manifest)]
    check_same(engine, build_tar(files), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "foo_bar.com/x",
        "foo.bar__baz/x/y",
        "docker.io_x/y",
        "foo_bar.com/" + "a" * 243,
        "foo_bar.com/" + "a" * 244,
        "foo_bar.com",
        "Foo_bar.com/x",
        "foo_bar:80/x",
        "foo..bar/x",
        "foo.-bar/x",
        "foo-.bar/x",
        "foo-.bar:80/x",
        "Foo.bar/x",
    ],
)
def test_a_name_is_valid_if_docker_takes_it(engine: DockerEngine, name: str) -> None:
    engine.load(archive_of(config_of("1"), "1"))
    refused = engine.docker("tag", "odd:1", f"{name}:1", check=False)
    assert Reference(name, "1").is_valid is (refused == "")
    if not refused:
        assert f"{name}:1" in engine.inspect("odd:1")["RepoTags"]


@pytest.mark.parametrize("name", ODD_ENTRIES)
def test_an_entry_is_flagged_if_docker_does_not_unpack_it(engine: DockerEngine, name: str) -> None:
    content, refused = ODD_ENTRIES[name]
    archive = V1Archive()
    archive.tag("entries", "1", archive.layer("entries", tar=content))
    engine.remove_all()
    engine.load(archive.build(), check=False)
    assert bool(engine.docker("images", "-q", "entries")) is not refused
