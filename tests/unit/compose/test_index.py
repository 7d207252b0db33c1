from __future__ import annotations

import json

import pytest

from migrate.compose.manifest import compose_index
from migrate.documents.oci import IndexEntry, parse_index
from migrate.model.image import ComposedImage, Platform
from migrate.model.options import Format


@pytest.mark.parametrize(
    ("format", "media_type"),
    [
        (Format.DOCKER, "application/vnd.docker.distribution.manifest.list.v2+json"),
        (Format.OCI, "application/vnd.oci.image.index.v1+json"),
    ],
)
def test_an_index_names_its_children_in_order(format: Format, media_type: str) -> None:
    children = [
        ComposedImage(
            config_document=b"{}",
            config_media_type="c",
            manifest_document=f"manifest for {architecture}".encode(),
            manifest_media_type="m",
            diff_ids=(),
            layers=(),
            platform=Platform(os="linux", architecture=architecture, variant=variant),
            created=None,
        )
        for architecture, variant in (("arm", "v7"), ("amd64", None))
    ]
    rows = [IndexEntry(descriptor=child.manifest_descriptor, platform=child.platform) for child in children]
    content, found = compose_index(rows, format)
    assert found == json.loads(content)["mediaType"] == media_type
    entries = parse_index(content).manifests
    assert [entry.platform for entry in entries] == [child.platform for child in children]
    assert [entry.descriptor.digest for entry in entries] == [child.manifest_digest for child in children]
    assert [entry.descriptor.size for entry in entries] == [16, 18]
