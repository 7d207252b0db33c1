"""Manifest list or OCI index over images of several platforms that share a reference."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.documents.oci import IndexEntry, encode_index
from migrate.model.image import ComposedImage, Descriptor, MediaType
from migrate.model.options import Format


def compose_index(children: Sequence[IndexEntry], format: Format) -> tuple[bytes, str]:
    """(bytes, media type), with the children in the order given."""
    media_type = MediaType.DOCKER_LIST if format is Format.DOCKER else MediaType.OCI_INDEX
    return encode_index(children, media_type), media_type


def index_entry(child: ComposedImage) -> IndexEntry:
    """The line of an index that names `child`."""
    descriptor = Descriptor(
        media_type=child.manifest_media_type, digest=child.manifest_digest, size=len(child.manifest)
    )
    return IndexEntry(descriptor=descriptor, platform=child.platform)
