"""What a manifest says is read from what its digest covers: over HTTP and from a storage tree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrate.model.digest import Digest
from migrate.model.legacy import SourceListing
from migrate.readers.registry_v2 import RegistryV2Source
from migrate.readers.remote_registry import RemoteRegistrySource
from tests.archives import legacy_id
from tests.registry_content import DOCKER_MANIFEST, RegistryContent, in_envelope
from tests.scripted import scripted_server


@contextmanager
def listed(content: RegistryContent, way: str, directory: Path, name: str = "") -> Iterator[SourceListing]:
    """The listing over HTTP, of `name` only, or from a tree."""
    if way == "tree":
        yield RegistryV2Source(str(content.write_tree(directory))).listing()
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
