"""`inspect`, `plan`, `convert`, `batch` and `show` give one answer for whatever registries and their tools left."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.cli.show import opened_view
from migrate.model.digest import Digest
from migrate.model.options import ConvertOptions
from migrate.readers.detect import open_source
from migrate.readers.inventory import take_inventory
from migrate.report.json import report_document
from tests.archives import layer_json, layer_tar, legacy_id
from tests.command import migrate
from tests.registry_content import DOCKER_MANIFEST, RegistryContent, in_envelope

LISTS = "application/vnd.docker.distribution.manifest.list.v2+json"


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_blobs(content: RegistryContent, folder: Path, prefix: str = "") -> None:
    for digest, blob in content.blobs.items():
        put(folder / f"{prefix}{digest[7:]}", blob)


def registry(root: Path) -> Path:
    """Two repositories, one of them below the other, with a tag that leads nowhere."""
    content = RegistryContent()
    for repository in ("app", "app/below"):
        for tag in ("1.0", "2.0"):
            content.add(repository, tag, content.schema1(repository.replace("/", "-"), tag))
    content.add("app", "bad", b"{}")
    content.write_tree(root)
    return root / "docker/registry/v2"


def links_of_2_1_0(root: Path) -> None:
    top = registry(root)
    for link in sorted(top.glob("repositories/**/revisions/sha256/*/link"))[::2]:
        put(link.parents[4] / "_layers/sha256" / link.parent.name / "link", link.read_bytes() + b"\n")
        shutil.rmtree(link.parent)


def odd_tags(root: Path) -> None:
    tags = registry(root) / "repositories/app/_manifests/tags"
    put(tags / "1.0/current/link", b" " + (tags / "1.0/current/link").read_bytes() + b"\r\n")
    put(tags / "2.0/current/link", b"")
    put(tags / "other/current/link", b"sha512:" + b"0" * 128)
    (tags / "left").mkdir()


def no_tags(root: Path) -> None:
    shutil.rmtree(registry(root) / "repositories/app/_manifests/tags")


def only_layers(root: Path) -> None:
    repository = registry(root) / "repositories/app"
    shutil.rmtree(repository / "_manifests")
    put(repository / "_layers/sha256" / ("0" * 64) / "link", b"sha256:" + b"0" * 64)


def lost_blob(root: Path) -> None:
    blobs = sorted((registry(root) / "blobs").rglob("data"), key=lambda path: path.stat().st_size)
    blobs[0].unlink()


def empty_layer(root: Path) -> None:
    """Its blob is gone, as where a registry lists it before it stores it."""
    content = RegistryContent()
    document = json.loads(content.schema1("a", "b"))
    empty = bytes.fromhex("1f8b080000096e8800ff621805a360148c5800000000ffff03002eafb5ef00040000")
    document["fsLayers"][0]["blobSum"] = str(Digest.of(empty))
    content.add("empty", "1.0", json.dumps(document).encode())
    content.write_tree(root)


def skopeo_dir(root: Path) -> None:
    content = RegistryContent()
    put(root / "manifest.json", in_envelope(content.schema1("a", "b")))
    put(root / "version", b"Directory Transport Version: 1.1\n")
    put_blobs(content, root)


def skopeo_sync(root: Path) -> None:
    content = RegistryContent()
    for place in ("synced:1.0", "team/synced:2.0"):
        put(root / place / "manifest.json", content.schema2(place))
        put(root / place / "version", b"Directory Transport Version: 1.1\n")
        put_blobs(content, root / place)


def artifactory(root: Path) -> None:
    content, lost = RegistryContent(), RegistryContent()
    put(root / "art/1.0/manifest.json", content.schema1("a", "b"))
    put(root / "art/1.0/manifest.json.artifactory-metadata/properties.xml", b"<properties/>")
    put_blobs(content, root / "art/blobs", "sha256__")
    lost.schema2("c")
    put_blobs(lost, root / "art/lost", "sha256__")


def layout(root: Path) -> None:
    content = RegistryContent()

    def entry(document: bytes, kind: str, architecture: str) -> dict[str, Any]:
        platform = {"os": "linux", "architecture": architecture}
        return {"mediaType": kind, "digest": content.blob(document), "size": len(document), "platform": platform}

    older = entry(in_envelope(content.schema1("a", "b")), "application/json", "amd64")
    newer = entry(content.schema2("c"), DOCKER_MANIFEST, "arm64")
    top = entry(json.dumps({"schemaVersion": 2, "manifests": [older, newer]}).encode(), LISTS, "")
    top["annotations"] = {"org.opencontainers.image.ref.name": "layout:1.0"}
    put(root / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    put(root / "index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode())
    put_blobs(content, root / "blobs/sha256")


def dogestry(root: Path) -> None:
    for below, name in ((None, "a"), ("a", "b"), ("a", "c")):
        folder = root / "images" / legacy_id(name)
        put(folder / "json", layer_json(legacy_id(name), legacy_id(below) if below else None))
        put(folder / "VERSION", b"1.0")
        put(folder / ("layer.tar.gz" if name == "a" else "layer.tar.lz4" if name == "c" else "layer.tar"), b"")
    put(root / "images" / legacy_id("a") / "layer.tar.gz", gzip.compress(layer_tar("a")))
    put(root / "images" / legacy_id("b") / "layer.tar", layer_tar("b"))
    put(root / "repositories/dogestry/b", legacy_id("b").encode())
    put(root / "repositories/dogestry/c", legacy_id("c").encode())


BUILDERS: dict[str, Callable[[Path], object]] = {
    builder.__name__: builder
    for builder in (
        registry,
        links_of_2_1_0,
        odd_tags,
        no_tags,
        only_layers,
        lost_blob,
        empty_layer,
        skopeo_dir,
        skopeo_sync,
        artifactory,
        layout,
        dogestry,
    )
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each as a folder, and as a tar in gzip."""
    place = tmp_path_factory.mktemp("shelf")
    for name, build in BUILDERS.items():
        build(place / name)
        with tarfile.open(place / f"{name}.tgz", "w:gz", compresslevel=1) as archive:
            archive.add(place / name, name)
    return place


Answer = tuple[list[Any], list[Any]]


def answer(document: dict[str, Any], source: Path) -> Answer:
    rows = [image for image in document["images"] if image["source"] == str(source)]
    images = sorted([row["references"], row["legacy_id"], row["image_id"], row["exact"]] for row in rows)
    lost = [row for row in document["failures"] if row["source"] == str(source)]
    return images, sorted([row["references"], row["error"], row["message"]] for row in lost)


@pytest.fixture(scope="module")
def batched(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("batch")
    words = ("-j", "2", "--executor", "threads", "--on-conflict", "keep-all", "--report", place / "report.json")
    assert migrate("batch", shelf, place / "target", *words).code == 3
    document: dict[str, Any] = json.loads((place / "report.json").read_bytes())
    return document


@pytest.mark.parametrize("form", ["", ".tgz"])
@pytest.mark.parametrize("name", BUILDERS)
def test_one_answer(name: str, form: str, shelf: Path, batched: dict[str, Any], tmp_path: Path) -> None:
    source = shelf / f"{name}{form}"
    planned = answer(report_document(api.plan(source, ConvertOptions()).report), source)
    assert planned[0]
    assert answer(report_document(api.convert(source, tmp_path / "layout", ConvertOptions()).report), source) == planned
    assert answer(batched, source) == planned
    opened = open_source(str(source))
    inventory = take_inventory(opened)
    opened.close()
    assert sorted([list(image.references), str(image.legacy_id)] for image in inventory.images) == [
        row[:2] for row in planned[0]
    ]
    assert sorted(list(failure.references) for failure in inventory.failures) == [row[0] for row in planned[1]]
    for reference in {row[0][0] for row in planned[0] if row[0]}:  # two may state one name: then one has it
        with opened_view(str(source), reference) as view:
            shown = {str(Digest.of(view.config(one))) for one in view.images() if reference in one.references}
        assert shown and shown <= {row[2] for row in planned[0] if reference in row[0]}


def test_the_same_images_in_a_tar(shelf: Path) -> None:
    for name in BUILDERS:
        found = [
            [row[1:] for row in answer(report_document(api.plan(source, ConvertOptions()).report), source)[0]]
            for source in (shelf / name, shelf / f"{name}.tgz")
        ]
        assert found[0] == found[1], name
