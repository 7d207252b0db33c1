"""Archives whose manifest.json does not lead to all that is there: every command gives the same images."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.model.digest import Digest
from tests.archives import V1Archive, build_tar, layer_tar, link
from tests.cli.test_partial_archives import modern
from tests.command import migrate

Members = list[tuple[str, bytes | tarfile.TarInfo]]


def ready(*tars: bytes) -> Members:
    """Layers in folders 0/, 1/, …; only the documents, without any layer."""
    diff_ids = [str(Digest.of(tar)) for tar in tars]
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    layers = [f"{number}/layer.tar" for number in range(len(tars))]
    entry = {"Config": "c.json", "RepoTags": ["app:1"], "Layers": layers}
    return [("c.json", json.dumps(config).encode()), ("manifest.json", json.dumps([entry]).encode())]


def dangling() -> bytes:
    tar = layer_tar("one")
    return build_tar([("0/layer.tar", tar), link("1/layer.tar", "../gone/layer.tar"), *ready(tar, tar)])


def left_out() -> bytes:
    tar = layer_tar("one")
    return build_tar([("0/layer.tar", tar), *ready(tar, tar)])


def without_empty(size: int) -> Callable[[], bytes]:
    tar = layer_tar("one")
    return lambda: build_tar([("0/layer.tar", tar), *ready(tar, bytes(size))])


SHAPES = {
    "a link to nothing": dangling,
    "a layer left out": left_out,
    "no empty tar": without_empty(1024),
    "no empty tar of GNU tar": without_empty(10_240),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_command_reads_it(shape: str, tmp_path: Path) -> None:
    source, target = tmp_path / "a.tar", tmp_path / "t"
    source.write_bytes(SHAPES[shape]())
    assert migrate("convert", source, target).code == 0
    assert migrate("batch", source, tmp_path / "b", "-j", "1", "--executor", "threads").code == 0
    assert (tmp_path / "b" / "index.json").read_bytes() == (target / "index.json").read_bytes()
    listed = json.loads(migrate("inspect", source, "--json").out)
    assert "app:1" in [name for row in listed["images"] for name in row["references"]]
    assert listed["failures"] == []
    shown = [json.loads(migrate("show", place, "app:1", "--json").out)["image_id"] for place in (source, target)]
    assert shown[0] == shown[1]
    for number, place in enumerate((source, target)):
        assert migrate("export", place, "app:1", "-o", tmp_path / str(number)).code == 0
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_inspect_fails_what_convert_fails(tmp_path: Path) -> None:
    part = modern(tmp_path / "part.tar", "base", "top", without=("base",))
    runs = [migrate(command, part) for command in ("plan", "inspect")]
    assert [run.code for run in runs] == [4, 4]
    assert all("/layer.tar is missing" in run.err for run in runs)


def test_inspect_lists_what_salvage_reads(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("hidden", "1", archive.layer("base"))
    tar = layer_tar("one")
    with tarfile.open(fileobj=io.BytesIO(archive.build())) as old:
        members: Members = [(one.name, old.extractfile(one).read()) for one in old if one.isreg()]  # type: ignore[union-attr]
    source = tmp_path / "a.tar"
    source.write_bytes(build_tar([*members, ("0/layer.tar", tar), *ready(tar)]))
    for options, names in (([], {"app:1"}), (["--salvage"], {"app:1", "hidden:1"})):
        listed = json.loads(migrate("inspect", source, "--json", *options).out)
        planned = json.loads(migrate("plan", source, "--report", "-", *options).out)
        found = [{name for row in document["images"] for name in row["references"]} for document in (listed, planned)]
        assert found == [names, names]


def test_a_folder_of_manifests_is_no_damaged_archive(tmp_path: Path) -> None:
    """Its manifest.json is none of `docker save`."""
    folder = tmp_path / "dir"
    folder.mkdir()
    tar = layer_tar("one")
    (config, _) = ready(tar)
    assert isinstance(config[1], bytes)
    blobs = {"config": config[1], "layer": gzip.compress(tar, mtime=0)}
    types = {"config": "container.image.v1+json", "layer": "image.rootfs.diff.tar.gzip"}
    described = {
        name: {"mediaType": f"application/vnd.docker.{types[name]}", "size": len(blob), "digest": str(Digest.of(blob))}
        for name, blob in blobs.items()
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": described["config"],
        "layers": [described["layer"]],
    }
    for blob in blobs.values():
        (folder / Digest.of(blob).hex).write_bytes(blob)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    assert "no image other" in migrate("show", folder, "other").err
    assert "no image other" in migrate("export", folder, "other", "-o", tmp_path / "e.tar").err
