"""Blobs of many gzip members or zstd frames are ordinary layers to every peer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.archives import V1Archive, layer_json, legacy_id
from tests.command import migrate
from tests.peers import DockerEngine, need, run
from tests.unit.rehash.sources import make_tar

pytestmark = pytest.mark.peer

SIZES = (2_500_000, 3, 1_800_000)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = V1Archive()
    document = layer_json(legacy_id("base"), os="linux", architecture="amd64")
    archive.tag("large", "1", archive.layer("base", tar=make_tar(1, SIZES), raw=document))
    path = tmp_path_factory.mktemp("source") / "archive.tar"
    path.write_bytes(archive.build())
    return path


def converted(source: Path, target: Path, *options: str) -> Path:
    """Returns the path of the only layer's blob."""
    result = migrate("convert", *options, source, target)
    assert result.code == 0, result.err
    report = json.loads((target / "migration-report.json").read_bytes())
    digest: str = report["images"][0]["layers"][0]["blob_digest"]
    return target / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_docker_unpacks_every_member(source: Path, engine: DockerEngine, tmp_path: Path) -> None:
    engine.remove_all()
    converted(source, tmp_path / "out")
    engine.load(run("tar", "-C", tmp_path / "out", "-c", ".").stdout)
    tree = engine.export("large:1")
    assert [len(tree[f"dir/1-{number}"][-1]) for number in range(3)] == list(SIZES)  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_and_umoci_unpack_every_member(source: Path, compression: str, tmp_path: Path) -> None:
    need("skopeo", "umoci")
    converted(source, tmp_path / "out", "--format", "oci", "--compression", compression)
    layout, flat = f"oci:{tmp_path / 'out'}:large:1", f"{tmp_path / 'flat'}:x"
    copy = ["skopeo", "--insecure-policy", "copy", "-q"]
    run(*copy, "--dest-compress-format", "gzip", layout, f"dir:{tmp_path / 'dir'}")
    if compression == "zstd":  # which umoci 0.4 does not know
        return
    run(*copy, layout, f"oci:{flat}")
    run("umoci", "unpack", "--image", flat, tmp_path / "bundle")
    files = tmp_path / "bundle" / "rootfs" / "dir"
    assert [(files / f"1-{number}").stat().st_size for number in range(3)] == list(SIZES)


def test_the_tools_and_python_read_the_blobs(source: Path, tmp_path: Path) -> None:
    need("gzip", "zstd")
    tar = make_tar(1, SIZES)
    packed = converted(source, tmp_path / "gzip")
    assert packed.read_bytes().count(bytes.fromhex("1f8b08000000000000ff")) > 1
    assert gzip.decompress(packed.read_bytes()) == tar == run("gzip", "-dc", stdin=packed.read_bytes()).stdout
    run("gzip", "-t", stdin=packed.read_bytes())
    packed = converted(source, tmp_path / "zstd", "--format", "oci", "--compression", "zstd")
    assert run("zstd", "-dc", stdin=packed.read_bytes()).stdout == tar
    run("zstd", "-tq", stdin=packed.read_bytes())
