"""Recorded checksums and sizes that disagree with the bytes: reported as damage, with exit code 3, and never exact."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.archives import V1Archive, layer_tar, legacy_id
from tests.command import migrate
from tests.roots import RootBuilder, identity, write
from tests.v1_registry import V1Tree, checksum_tarsum

BIT = 1


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_400_000_000
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def flip(path: Path, place: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= BIT
    write(path, bytes(content))


def root_with_tar_split(path: Path, driver: str = "vfs") -> RootBuilder:
    root = RootBuilder(path, driver)
    files = {"etc/one": b"first", "etc/two": b"second"}
    for name, content in files.items():
        write(root.add("base") / name if name == "etc/one" else root.tree("base") / name, content)
    root.add_tar_split("base", tar_of(files))
    write(root.add("sound") / "f", b"sound")
    root.tag({"app": {"1": "base"}, "sound": {"1": "sound"}})
    return root


def check_damage(source: Path, tmp_path: Path, layer: str, words: str) -> dict[str, Any]:
    """Every promise about a damaged layer: of the report, the terminal, the exit code, a dry run and `--strict`."""
    target = tmp_path / "target"
    run = migrate("convert", source, target)
    report = orjson.loads((target / "migration-report.json").read_bytes())
    assert (run.code, report["failures"]) == (3, [])
    damaged = {row["legacy_id"] for image in report["images"] for row in image["layers"] if row["damaged"]}
    assert damaged == {layer}
    for image in report["images"]:
        is_hit = any(row["damaged"] for row in image["layers"])
        assert image["exact"] is not is_hit or not is_hit
        assert any(layer in warning and "is damaged" in warning for warning in image["warnings"]) is is_hit
    (row,) = {r["legacy_id"]: r for image in report["images"] for r in image["layers"] if r["damaged"]}.values()
    assert words in row["note"]
    assert report["totals"]["damaged_layers"] == 1
    assert "damaged" in run.err + run.out and layer in run.err + run.out
    assert migrate("plan", source).code == 3
    assert migrate("verify", target).code == 0, "the target holds what was converted"
    strict = migrate("convert", "--strict", "--report", "-", source, tmp_path / "strict")
    (failure,) = (f for f in strict.json()["failures"] if f["layer"] == layer)
    assert (strict.code, failure["error"]) == (3, "not-exact")
    assert "is damaged" in failure["message"]
    batch = migrate("batch", source, tmp_path / "batch", "--report", "-")
    assert batch.code == 3
    assert [r["damaged"] for i in batch.json()["images"] for r in i["layers"] if r["legacy_id"] == layer] == [True]
    return dict(report)


@pytest.mark.parametrize("driver", ["vfs", "overlay", "aufs"])
def test_one_flipped_bit_in_a_file_of_a_docker_root(tmp_path: Path, driver: str) -> None:
    root = root_with_tar_split(tmp_path / "root", driver)
    flip(root.tree("base") / "etc/two", 3)
    check_damage(root.path, tmp_path, identity("base"), "etc/two has CRC-64")


@pytest.mark.parametrize("place", [4, 40, -3])
def test_tar_split_that_cannot_be_read(tmp_path: Path, place: int) -> None:
    root = root_with_tar_split(tmp_path / "root")
    metadata = root.path / "graph" / identity("base") / "tar-data.json.gz"
    content = bytearray(metadata.read_bytes())
    content[place] ^= 0x40
    metadata.write_bytes(bytes(content))
    if place == 4:  # the time of the gzip header, which nothing depends on
        assert migrate("plan", root.path).code == 0
    else:
        check_damage(root.path, tmp_path, identity("base"), "tar-split does not fit")


@pytest.mark.parametrize("metadata", [None, b""])
def test_a_layer_without_metadata_is_not_damaged(tmp_path: Path, metadata: bytes | None) -> None:
    """No metadata, and metadata that disagrees, are two things; a power cut leaves empty files."""
    root = root_with_tar_split(tmp_path / "root")
    path = root.path / "graph" / identity("base") / "tar-data.json.gz"
    path.unlink()
    if metadata is not None:
        path.write_bytes(metadata)
    run = migrate("plan", "--report", "-", root.path)
    assert run.code == 0
    assert not any(row["damaged"] for image in run.json()["images"] for row in image["layers"])


@pytest.mark.parametrize("driver", ["vfs", "overlay", "aufs"])
@pytest.mark.parametrize("with_tar_split", [True, False])
def test_a_layersize_that_is_not_that_of_the_files(tmp_path: Path, driver: str, with_tar_split: bool) -> None:
    root = root_with_tar_split(tmp_path / "root", driver)
    place = root.path / "graph" / identity("base")
    if not with_tar_split:
        (place / "tar-data.json.gz").unlink()
    (place / "layersize").write_text("11")
    assert migrate("plan", root.path).code == 0
    (place / "layersize").write_text("13")
    check_damage(root.path, tmp_path, identity("base"), "layersize records 13 bytes of files, and there are 11")


def test_layersize_may_count_symbolic_links_and_what_a_parent_holds_already(tmp_path: Path) -> None:
    """Docker's own ways of counting: damage is only what none of them gives."""
    root = RootBuilder(tmp_path / "root", "vfs")
    tree = root.add("base")
    write(tree / "f", b"12345")
    (tree / "link").symlink_to("12")
    again = root.add("again", "base")
    write(again / "f", b"12345")
    (again / "link").symlink_to("12")
    write(again / "g", b"new")
    for name, size in (("base", "7"), ("again", "8")):
        (root.path / "graph" / identity(name) / "layersize").write_text(size)
    run = migrate("plan", "--report", "-", root.path)
    assert run.code == 0
    (root.path / "graph" / identity("again") / "layersize").write_text("2")
    assert migrate("plan", root.path).code == 3


def test_an_archive_of_docker_0_5_and_its_checksum(tmp_path: Path) -> None:
    """`graph/checksums` has sha256 sums of a layer's json, a line end, and the archive as it was pulled."""
    root = RootBuilder(tmp_path / "root", "aufs")
    for name in ("lost", "kept"):
        tree = root.add(name)
        write(tree / "f", name.encode())
    root.tag({"lost": {"1": "lost"}, "kept": {"1": "kept"}})
    archive = lzma.compress(tar_of({"f": b"lost"}))
    place = root.path / "graph" / identity("lost")
    (place / "layer.tar.xz").write_bytes(archive)
    (root.tree("lost") / "f").unlink()
    root.tree("lost").rmdir()
    total = hashlib.sha256((place / "json").read_bytes() + b"\n" + archive).hexdigest()
    checksums = root.path / "graph/checksums"
    checksums.write_text(json.dumps({identity("lost"): f"sha256:{total}"}))
    assert migrate("plan", root.path).code == 0
    wrong = f"sha256:{'0' * 64}"
    checksums.write_text(json.dumps({identity("lost"): wrong}))
    check_damage(root.path, tmp_path, identity("lost"), f"graph/checksums records {wrong}")


@pytest.mark.parametrize("recorded", ["sha256", "tarsum", "tarsum.v1", "bare", "quoted"])
def test_a_checksum_of_a_v1_registry(tmp_path: Path, recorded: str) -> None:
    archive = V1Archive()
    base = archive.layer("base", tar=layer_tar("a"))
    archive.tag("app", "1", archive.layer("top", "base", tar=layer_tar("b")))
    tree = V1Tree(tmp_path / "registry", checksum=recorded)
    tree.add_archive(archive.build())
    assert migrate("plan", tree.root).code == 0
    path = tree.root / "images" / base / "_checksum"
    path.write_bytes(path.read_bytes().replace(b"sha256:", b"sha256:0", 1)[:-1])
    check_damage(tree.root, tmp_path, base, "does not match the registry's recorded checksum")


def test_a_layer_without_a_checksum_is_not_damaged(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base", tar=layer_tar("a")))
    tree = V1Tree(tmp_path / "registry", checksum="missing")
    tree.add_archive(archive.build())
    run = migrate("plan", "--report", "-", tree.root)
    assert (run.code, run.json()["images"][0]["layers"][0]["damaged"]) == (0, False)


def test_a_path_that_occurs_twice_is_named(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("usr", "usr/bin", "usr"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base", tar=out.getvalue()))
    (tmp_path / "a.tar").write_bytes(archive.build())
    run = migrate("convert", "--report", "-", tmp_path / "a.tar", tmp_path / "t")
    (image,) = run.json()["images"]
    (layer,) = image["layers"]
    assert (run.code, layer["flags"]) == (0, ["entries-docker-refuses"])
    assert layer["flagged"] == {"entries-docker-refuses": "'usr' occurs twice"}
    assert any(legacy_id("base") in text and "'usr' occurs twice" in text for text in image["warnings"])


@pytest.mark.parametrize(
    ("place", "version", "with_json"),
    [("checksum", "tarsum.v1+sha256", False), ("checksum", "tarsum+sha256", True), ("json", "tarsum.v1+sha256", False)],
)
def test_a_tarsum_that_docker_recorded_when_it_pushed(
    place: str, version: str, with_json: bool, tmp_path: Path
) -> None:
    root = RootBuilder(tmp_path / "root", "aufs")
    tree = root.add("base")
    write(tree / "etc/one", b"first")
    write(tree / "etc/two", b"second")
    root.tag({"app": {"1": "base"}})
    document = root.path / "graph" / identity("base") / "json"
    extra = document.read_bytes() if with_json else b""
    recorded = checksum_tarsum(extra, root.read("base"), version)
    if place == "json":
        document.write_text(json.dumps({**json.loads(document.read_bytes()), "checksum": recorded}))
    else:
        document.with_name("checksum").write_text(recorded)
    run = migrate("plan", "--report", "-", root.path)
    assert (run.code, run.json()["images"][0]["exact"]) == (0, True)
    flip(tree / "etc/two")
    check_damage(root.path, tmp_path, identity("base"), f"records the checksum {recorded}, and its tar has tarsum")


@pytest.mark.parametrize("recorded", ["sha256:" + "0" * 64, "tarsum+sha256:abc", "", "\0" * 40, "{}"])
def test_a_recorded_checksum_that_can_prove_nothing(recorded: str, tmp_path: Path) -> None:
    """That of a blob that was compressed once, and what is no checksum."""
    root = RootBuilder(tmp_path / "root", "vfs")
    write(root.add("base") / "f", b"first")
    root.tag({"app": {"1": "base"}})
    (root.path / "graph" / identity("base") / "checksum").write_text(recorded)
    run = migrate("plan", "--report", "-", root.path)
    assert (run.code, run.json()["images"][0]["exact"]) == (0, True)


def test_a_tarsum_with_times_proves_nothing_of_deletions(tmp_path: Path) -> None:
    """Docker gave a deletion the time at which it made the tar; a sum without times still counts."""
    root = RootBuilder(tmp_path / "root", "vfs")
    write(root.add("base") / "f", b"first")
    root.add("top", "base")
    root.tag({"app": {"1": "top"}})
    checksum = root.path / "graph" / identity("top") / "checksum"
    checksum.write_text(f"tarsum+sha256:{'0' * 64}")
    assert migrate("plan", root.path).code == 0
    checksum.write_text(f"tarsum.v1+sha256:{'0' * 64}")
    assert migrate("plan", root.path).code == 3


@pytest.mark.parametrize(
    ("name", "sound", "wrong"), [(".migration-diffid", None, f"sha256:{'0' * 64}"), (".migration-size", "11", "12")]
)
def test_what_a_migration_recorded_of_a_layer_with_tar_split(
    name: str, sound: str | None, wrong: str, tmp_path: Path
) -> None:
    root = root_with_tar_split(tmp_path / "root")
    tar = tar_of({"etc/one": b"first", "etc/two": b"second"})
    path = root.path / "graph" / identity("base") / name
    path.write_text(sound or f"sha256:{hashlib.sha256(tar).hexdigest()}")
    assert migrate("plan", root.path).code == 0
    path.write_text(wrong)
    check_damage(root.path, tmp_path, identity("base"), f"{name} records")
