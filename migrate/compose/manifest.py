"""Composes manifests of images, and lists of manifests, in Docker's schema 2 or in OCI."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from migrate.documents.json_text import check_limits
from migrate.documents.oci import IndexEntry, encode_index, encode_manifest
from migrate.errors import ComposeError
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, MediaType, StoredBlob
from migrate.model.options import Format

CONFIG_TYPE_OF: Final = {Format.DOCKER: MediaType.DOCKER_CONFIG, Format.OCI: MediaType.OCI_CONFIG}
MANIFEST_TYPE_OF: Final = {Format.DOCKER: MediaType.DOCKER_MANIFEST, Format.OCI: MediaType.OCI_MANIFEST}
_LAYER_TYPES: Final = {
    (Format.DOCKER, "none"): MediaType.DOCKER_LAYER,
    (Format.DOCKER, "gzip"): MediaType.DOCKER_LAYER_GZIP,
    (Format.OCI, "none"): MediaType.OCI_LAYER,
    (Format.OCI, "gzip"): MediaType.OCI_LAYER_GZIP,
    (Format.OCI, "zstd"): MediaType.OCI_LAYER_ZSTD,
}


@lru_cache(4_096)  # one object for many images: a target keeps the layers of all
def layer_descriptor(blob: StoredBlob, format: Format) -> Descriptor:
    """The descriptor of a layer's blob. Raises ComposeError for a compression without a media type in the format."""
    media_type = _LAYER_TYPES.get((format, blob.compression))
    if media_type is None:
        raise ComposeError(f"layer blob {blob.digest}: {format} has no media type for {blob.compression} layers")
    return Descriptor(media_type=media_type, digest=blob.digest, size=blob.size)


def config_descriptor(config: bytes, format: Format) -> Descriptor:
    return Descriptor(media_type=CONFIG_TYPE_OF[format], digest=Digest.of(config), size=len(config))


def compose_manifest(config: bytes, layers: Sequence[Descriptor], format: Format) -> bytes:
    """The manifest's bytes. `layers`: base first. LimitError for a manifest that is too large to be read again."""
    manifest = encode_manifest(config_descriptor(config, format), layers, MANIFEST_TYPE_OF[format])
    check_limits(manifest, "the image's manifest")
    return manifest


def compose_index(children: Sequence[IndexEntry], format: Format) -> tuple[bytes, str]:
    """(bytes, media type) of a manifest list or OCI index, with the children in the given order."""
    media_type = MediaType.DOCKER_LIST if format is Format.DOCKER else MediaType.OCI_INDEX
    return encode_index(children, media_type), media_type
