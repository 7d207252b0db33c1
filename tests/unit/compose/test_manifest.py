from __future__ import annotations

import hashlib

import pytest

from migrate.compose.manifest import compose_manifest, layer_descriptor
from migrate.documents.oci import parse_manifest
from migrate.errors import ComposeError
from migrate.model.digest import Digest
from migrate.model.image import StoredBlob
from migrate.model.options import Format


@pytest.mark.parametrize(
    ("format", "compression", "media_type"),
    [
        (Format.DOCKER, "gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        (Format.DOCKER, "none", "application/vnd.docker.image.rootfs.diff.tar"),
        (Format.OCI, "gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        (Format.OCI, "zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        (Format.OCI, "none", "application/vnd.oci.image.layer.v1.tar"),
    ],
)
def test_media_types_of_layers(format: Format, compression: str, media_type: str) -> None:
    blob = StoredBlob(digest=Digest("a" * 64), size=7, compression=compression)
    descriptor = layer_descriptor(blob, format)
    assert (descriptor.media_type, descriptor.digest, descriptor.size) == (media_type, blob.digest, 7)


@pytest.mark.parametrize(("format", "compression"), [(Format.DOCKER, "zstd"), (Format.OCI, "xz")])
def test_a_compression_without_a_media_type(format: Format, compression: str) -> None:
    with pytest.raises(ComposeError, match=compression):
        layer_descriptor(StoredBlob(digest=Digest("a" * 64), size=7, compression=compression), format)


@pytest.mark.parametrize(
    ("format", "media_type", "config_type"),
    [
        (
            Format.DOCKER,
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
        ),
        (Format.OCI, "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"),
    ],
)
def test_a_manifest_names_the_config_s_bytes(format: Format, media_type: str, config_type: str) -> None:
    facts = parse_manifest(compose_manifest(b"{}", [], format))
    assert facts.media_type == media_type
    assert facts.config.media_type == config_type
    assert (facts.config.digest.hex, facts.config.size) == (hashlib.sha256(b"{}").hexdigest(), 2)
