"""What a manifest says is read from what its digest covers: over HTTP and from a storage tree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import SourceListing
from migrate.readers.registry_v2 import RegistryV2Source
from migrate.readers.remote_registry import RemoteRegistrySource
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.named_files import NamedFiles
from tests.archives import layer_tar, legacy_id
from tests.registry_content import DOCKER_MANIFEST, RegistryContent, in_envelope
from tests.scripted import scripted_server


@contextmanager
def listed(content: RegistryContent, way: str, directory: Path, name: str = "") -> Iterator[SourceListing]:
    """The listing over HTTP, of `name` only, or from a tree."""
    if way == "tree":
        place = str(content.write_tree(directory))
        yield RegistryV2Source(place, NamedFiles(DirectoryTree(place))).listing()
        return
    with scripted_server(content.answer) as (host, _):
        source = RemoteRegistrySource(f"docker://{host}/{name}".rstrip("/"), sleep=lambda _: None)
        yield source.listing()
        source.close()


WAYS = pytest.mark.parametrize("way", ["http", "tree"])


@WAYS
@pytest.mark.parametrize("kind", ["schema 2", "list"])
def test_an_envelope_does_not_bring_another_image_under_a_digest(way: str, kind: str, tmp_path: Path) -> None:
    content = RegistryContent()
    honest, hostile = content.schema2("honest"), content.schema2("hostile")
    if kind == "list":
        content.manifests[str(Digest.of(hostile))] = hostile
        child = {"digest": str(Digest.of(hostile)), "size": len(hostile), "mediaType": DOCKER_MANIFEST}
        hostile = json.dumps({"schemaVersion": 2, "manifests": [child]}).encode()
    forged = in_envelope(honest, more=json.loads(hostile))
    digest = content.add("app", "1.0", forged, str(Digest.of(honest)))
    with listed(content, way, tmp_path, f"app@{digest}") as listing:
        assert listing.images == [] and listing.indexes == []
        assert [failure.error for failure in listing.failures] == ["integrity" if way == "tree" else "bad-document"]


@WAYS
def test_an_envelope_around_schema_1_is_read_by_what_is_signed(way: str, tmp_path: Path) -> None:
    content = RegistryContent()
    payload = content.schema1("base", "top")
    other = json.loads(content.schema1("other"))
    document = in_envelope(payload, more={"schemaVersion": 2, "manifests": [], "fsLayers": other["fsLayers"]})
    digest = content.add("app", "1.0", document, str(Digest.of(payload)))
    with listed(content, way, tmp_path, f"app@{digest}") as listing:
        assert [image.head for image in listing.images] == [legacy_id("top")] and not listing.failures
        assert any("a signature cannot be checked" in warning for warning in listing.images[0].warnings)


@WAYS
def test_a_document_that_is_no_json_is_one_failure(way: str, tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("base"))
    content.add("app", "2.0", b"<html>")
    with listed(content, way, tmp_path) as listing:
        assert [str(reference) for image in listing.images for reference in image.references] == ["app:1.0"]
        assert [failure.references for failure in listing.failures] == [("app:2.0",)]


@WAYS
def test_an_image_keeps_the_digests_of_all_schema_1_manifests_that_name_it(way: str, tmp_path: Path) -> None:
    content = RegistryContent()
    manifest = content.schema1("base")
    digests = [content.add("app", "1.0", manifest), content.add("app", "2.0", manifest + b"\n")]
    content.add("app", "new", content.schema2("other"))
    with listed(content, way, tmp_path) as listing:
        found = {str(image.references[0]): list(map(str, image.legacy_digests)) for image in listing.images}
    assert found == {"app:1.0": sorted(digests), "app:new": []}


@WAYS
def test_the_images_of_a_list_that_cannot_stay_keep_its_digest(way: str, tmp_path: Path) -> None:
    content = RegistryContent()
    children = [content.schema1("base"), content.schema2("other")]
    entries = [
        {
            "digest": content.add("app", tag, child),
            "size": len(child),
            "mediaType": DOCKER_MANIFEST,
            "platform": {"os": "linux", "architecture": tag},
        }
        for tag, child in zip(("arm", "amd64"), children, strict=True)
    ]
    digest = content.add("app", "1.0", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    with listed(content, way, tmp_path, "app:1.0") as listing:
        named = [image for image in listing.images if "app:1.0" in map(str, image.references)]
        found = {str(image.platform): set(map(str, image.legacy_digests)) for image in named}
    assert found == {"linux/arm": {digest, entries[0]["digest"]}, "linux/amd64": {digest}}


def test_the_search_for_layers_reads_each_document_once() -> None:
    """Also an index that several others hold, and a manifest that several indexes hold."""
    content = RegistryContent()

    def hold(*documents: bytes, tag: str | None = None) -> bytes:
        entries = [{"digest": str(Digest.of(one)), "size": len(one), "mediaType": DOCKER_MANIFEST} for one in documents]
        index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
        for one in (*documents, index):
            content.manifests[str(Digest.of(one))] = one
        if tag is not None:
            content.add("app", tag, index)
        return index

    image, other = content.schema2("base"), content.schema2("base", "top")
    inner = hold(image, other)
    hold(inner, image, tag="1")
    hold(hold(inner), inner, other, tag="2")
    with scripted_server(content.answer) as (host, seen):
        source = RemoteRegistrySource(f"docker://{host}/app", sleep=lambda _: None)
        wanted = [DiffID(Digest.of(layer_tar(name))) for name in ("base", "top")]
        assert [len(layers) for layers in source.find_layers(wanted).values()] == [1, 1]
        source.close()
    read = [request.path for request in seen if "/manifests/sha256:" in request.path]
    assert sorted(read) == sorted(f"/v2/app/manifests/{Digest.of(one)}" for one in (inner, image, other, hold(inner)))
