"""The results: descriptors, hashed layers and composed images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final, SupportsBytes

from msgspec import Struct

from migrate.model.digest import DiffID, Digest, ImageID


class MediaType:
    """Media types, as literals of the Docker image manifest V2 schema 2 and OCI image specifications."""

    DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
    DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
    DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
    DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
    DOCKER_FOREIGN_GZIP: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
    OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
    OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
    OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
    OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
    OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
    OCI_FOREIGN: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    OCI_FOREIGN_GZIP: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
    SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"


INDEX_TYPES: Final = frozenset({MediaType.OCI_INDEX, MediaType.DOCKER_LIST})
CONFIG_TYPES: Final = frozenset({MediaType.DOCKER_CONFIG, MediaType.OCI_CONFIG, "application/octet-stream"})
"""The media types of configs of images. Docker 1.10 pushed some as octet-stream (moby 1.10, distribution/push_v2)."""

LAYER_COMPRESSIONS: Final = {
    MediaType.DOCKER_LAYER: "none",
    MediaType.DOCKER_LAYER_GZIP: "gzip",
    MediaType.DOCKER_LAYER_ZSTD: "zstd",
    MediaType.OCI_LAYER: "none",
    MediaType.OCI_LAYER_GZIP: "gzip",
    MediaType.OCI_LAYER_ZSTD: "zstd",
}


def media_type_warning(stated: str, actual: str) -> str:
    """For a layer in a manifest of a source, which is kept as it is."""
    names = {"none": "no compression"}
    return (
        f"the media type is that of {names.get(stated, stated)}, the blob has {names.get(actual, actual)}: most "
        "programs look at the bytes, and some refuse it (umoci)"
    )


class Platform(Struct, frozen=True, kw_only=True, order=True):
    """A platform as in an index: `os` and `architecture` are Go's names, `variant` is as in arm `v7`."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Struct, frozen=True, kw_only=True):
    """A reference to a blob in a manifest or index. `size` in bytes."""

    media_type: str
    digest: Digest
    size: int


class StoredBlob(Struct, frozen=True, kw_only=True):
    """A layer blob in the target. `compression` is `gzip`, `zstd` or `none`; the media type depends on the format."""

    digest: Digest
    size: int
    compression: str


class HashedLayer(Struct, frozen=True, kw_only=True):
    """The result of reading a layer's bytes.

    `tar_size`: the size of the uncompressed tar. `empty`: the tar has no entries. `blob` is None if nothing was stored
    (a dry run without exact sizes; an empty layer that is dropped). `origin`, `exact`, `damaged` and `note` are those
    of the report. `flags`: peculiarities of the tar that programs may read in different ways; `flagged`: pairs of a
    flag and its first entry. `carried`: the layer's blob in the source, if a target may have it unchanged; `blob` is
    another one if the target has the same tar already. `estimate`: the estimated size of a blob that was not made.
    """

    diff_id: DiffID
    tar_size: int
    empty: bool
    blob: StoredBlob | None
    origin: str
    exact: bool = True
    note: str | None = None
    flags: tuple[str, ...] = ()
    flagged: tuple[tuple[str, str], ...] = ()
    damaged: bool = False
    carried: StoredBlob | None = None
    estimate: int | None = None


class Pieces:
    """A document that is assembled when its bytes are needed. The documents of images that are built on one another are
    nearly the same, and those of a long chain would need too much memory.

    A part is bytes, or (list, number of its first items, bytes between the items). The list grows only at its end.
    """

    __slots__ = ("_parts",)

    def __init__(self, *parts: bytes | tuple[list[bytes], int, bytes]) -> None:
        self._parts = parts

    def __bytes__(self) -> bytes:
        return b"".join(part if isinstance(part, bytes) else part[2].join(part[0][: part[1]]) for part in self._parts)


class ComposedImage(Struct, frozen=True, kw_only=True, dict=True):
    """A finished image: the exact bytes of its config and manifest, and its layers, base first.

    `manifest_document` is b"" in a dry run that makes none. `diff_ids` and `layers` correspond to each other; `layers`
    have the media types in the manifest.
    """

    config_document: SupportsBytes
    config_media_type: str
    manifest_document: SupportsBytes
    manifest_media_type: str
    diff_ids: Sequence[DiffID]
    layers: Sequence[Descriptor]
    platform: Platform
    created: str | None
    warnings: tuple[str, ...] = ()
    certain: bool = True

    @cached_property
    def image_id(self) -> ImageID:
        # Computed once, since names, order, target and report use it a dozen times for each image.
        return ImageID(Digest.of(self.config))

    @cached_property
    def manifest_digest(self) -> Digest:
        return Digest.of(self.manifest)

    @cached_property
    def identity(self) -> Digest:
        """The digest that identifies the image: of its manifest, or of its config if a dry run made no manifest."""
        return self.manifest_digest if self.has_manifest else self.image_id

    @property
    def config(self) -> bytes:
        return bytes(self.config_document)

    @property
    def manifest(self) -> bytes:
        return bytes(self.manifest_document)

    @property
    def manifest_descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.manifest_media_type, digest=self.manifest_digest, size=len(self.manifest))

    @property
    def has_manifest(self) -> bool:
        return self.manifest_document != b""
