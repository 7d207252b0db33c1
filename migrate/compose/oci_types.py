"""Changes the media types of a source's manifests and lists to OCI's. Pure functions.

The bytes of layers and configs are not changed, so the image ID stays the same. The digest of the manifest changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from migrate.documents.oci import parse_index, parse_manifest, rewrite_index, rewrite_manifest
from migrate.model.digest import Digest
from migrate.model.image import CONFIG_TYPES, ComposedImage, Descriptor, MediaType

_OCI_TYPES: Final = {
    MediaType.DOCKER_MANIFEST: MediaType.OCI_MANIFEST,
    MediaType.DOCKER_LIST: MediaType.OCI_INDEX,
    MediaType.DOCKER_LAYER: MediaType.OCI_LAYER,
    MediaType.DOCKER_LAYER_GZIP: MediaType.OCI_LAYER_GZIP,
    MediaType.DOCKER_LAYER_ZSTD: MediaType.OCI_LAYER_ZSTD,
    MediaType.DOCKER_FOREIGN: MediaType.OCI_FOREIGN,
    MediaType.DOCKER_FOREIGN_GZIP: MediaType.OCI_FOREIGN_GZIP,
}
"""Docker's type → OCI's for the same bytes (OCI image specification, media-types.md, "Compatibility Matrix")."""

_ABOUT: Final = "vnd.docker.reference.digest"
"""The annotation of an attestation in a list with the digest of its image (BuildKit, attestation-storage.md)."""


def image_in_oci_types(image: ComposedImage) -> ComposedImage:
    """`image` with OCI's media types; `image` itself if its manifest has none of Docker's."""
    config = parse_manifest(image.manifest).config
    is_image = config.media_type in CONFIG_TYPES | {""}  # Docker 1.10 pushed some as octet-stream
    new_config = replace(config, media_type=MediaType.OCI_CONFIG) if is_image else config
    layers = tuple(
        replace(layer, media_type=_OCI_TYPES.get(layer.media_type, layer.media_type)) for layer in image.layers
    )
    media_type = _OCI_TYPES.get(image.manifest_media_type, image.manifest_media_type)
    if (media_type, new_config, layers) == (image.manifest_media_type, config, tuple(image.layers)):
        return image
    return replace(
        image,
        config_media_type=new_config.media_type,
        manifest_document=rewrite_manifest(image.manifest, new_config, layers, media_type),
        manifest_media_type=media_type,
        layers=layers,
    )


def index_in_oci_types(content: bytes, media_type: str, replaced: Mapping[Digest, Descriptor]) -> tuple[bytes, str]:
    """(the list with OCI's media types, its own type). `replaced`: old digest → new descriptor of a manifest. The bytes
    are unchanged if nothing changes."""
    old = parse_index(content).manifests
    names = {str(digest): str(descriptor.digest) for digest, descriptor in replaced.items()}
    new = []
    for entry in old:
        descriptor = replaced.get(entry.descriptor.digest, entry.descriptor)
        annotations = {key: names.get(text, text) if key == _ABOUT else text for key, text in entry.annotations.items()}
        new.append(replace(entry, descriptor=descriptor, annotations=annotations))
    new_type = _OCI_TYPES.get(media_type, media_type)
    if new_type == media_type and new == list(old):
        return content, media_type
    return rewrite_index(content, new, new_type), new_type


def attestations(content: bytes) -> Iterator[tuple[Digest, Digest]]:
    """(manifest, attestation) for each attestation in a list, such as the provenance of an image."""
    for entry in parse_index(content).manifests:
        about = entry.annotations.get(_ABOUT)
        with suppress(ValueError):
            yield Digest.parse(about or ""), entry.descriptor.digest
