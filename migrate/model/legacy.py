"""The content of a legacy source: layers with random IDs and parents, and images, each with the top layer of its
chain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, NewType

from msgspec import Struct, field, to_builtins

from migrate.errors import MigrateError
from migrate.model.container import Container
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Platform
from migrate.model.progress import Event
from migrate.model.reference import Reference

LegacyID = NewType("LegacyID", str)
"""A random identifier: usually 64 hex digits, 16 in the oldest images, any safe name in archives. Not a digest."""

_HEX_ID = re.compile(r"[0-9a-f]{64}|[0-9a-f]{16}")
_SAFE_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")


def is_hex_id(text: str) -> bool:
    """True for the two forms of IDs that Docker and docker-registry made: 64 or 16 lower-case hex digits."""
    return _HEX_ID.fullmatch(text) is not None


def is_safe_name(text: str) -> bool:
    """True for a name that a layer can have in an archive: one path component, no control characters."""
    return text not in (".", "..") and _SAFE_NAME.fullmatch(text) is not None


class SourceType(StrEnum):
    """The values of `--source-type` and of the report's `sources[].type`."""

    DOCKER_ARCHIVE = "docker-archive"
    DOCKER_ROOT = "docker-root"
    REGISTRY_V1 = "registry-v1"
    REGISTRY_V2 = "registry-v2"
    DIR = "dir"


class Origin(StrEnum):
    """The origin of a layer's bytes: as stored (`archive`, `blob`), reassembled and checked, or made anew."""

    ARCHIVE = "archive"
    BLOB = "blob"
    TAR_SPLIT = "tar-split"
    DIFF = "diff"


class PayloadRef(Struct, frozen=True, kw_only=True, gc=False):
    """A layer's bytes in its source, and the claims of the source's documents about them.

    `key` is unique within its source; equal keys are the same bytes. `size`: of the stored bytes. `digest` (of the
    stored bytes) and `diff_id` are claims; the rehasher verifies them, and a mismatch fails the layer with
    IntegrityError. `keep` requests the stored bytes as the blob, unchanged, for a manifest that is carried over;
    `media_type` is then that of the manifest. `estimate`: the recorded size of the layer's files, for display and
    forecasts only. `disputed`: configs claim different diffIDs, so that none is compared. `absent`: why the source does
    not have the bytes.
    """

    key: str
    size: int | None = None
    digest: Digest | None = None
    diff_id: DiffID | None = None
    keep: bool = False
    media_type: str | None = None
    estimate: int | None = None
    disputed: bool = False
    absent: str | None = None


class LegacyLayer(Struct, frozen=True, kw_only=True, weakref=True):
    """One layer. `json` is verbatim; readers give a `LayerDocument`, which keeps its parsed fields. `parent`: the
    effective parent by the rules of the source.

    `payload` is None only for a history step without a layer (schema 1 `throwaway`).
    """

    legacy_id: LegacyID
    json: bytes
    parent: LegacyID | None
    payload: PayloadRef | None
    warnings: tuple[str, ...] = ()


class ReadyManifest(Struct, frozen=True, kw_only=True):
    """A schema-2 or OCI manifest that is carried over byte for byte."""

    content: bytes
    media_type: str


class LegacyImage(Struct, frozen=True, kw_only=True, gc=False):
    """An image of a source.

    `chain`, base first, is set if the source lists the layers of an image (manifest.json, schema 1); otherwise the
    parents of `head` are followed. `config`: the source's config, if it has one; it is used byte for byte, and each
    layer must have the diffID in it. `manifest`: a manifest that is carried over unchanged. `containers`: the IDs of
    containers that were made from this image. `container`: the container that this image is made of, for an image of
    `--containers`. `legacy_digests`: those of its manifests that cannot be kept. `warnings` are for the report.
    `certain` is False if the image's layers or their order are not certain.
    """

    head: LegacyID
    references: tuple[Reference, ...] = ()
    chain: tuple[LegacyLayer, ...] | None = None
    config: bytes | None = None
    manifest: ReadyManifest | None = None
    platform: Platform | None = None
    containers: tuple[str, ...] = ()
    container: Container | None = None
    legacy_digests: tuple[Digest, ...] = ()
    warnings: tuple[str, ...] = ()
    certain: bool = True


class ReadyIndex(Struct, frozen=True, kw_only=True):
    """A manifest list or OCI index that is carried over byte for byte, with every child (none has references).

    `nested` are the indexes inside it, the innermost first; `children` are the images of all of them.
    """

    content: bytes
    media_type: str
    references: tuple[Reference, ...]
    children: tuple[LegacyImage, ...]
    nested: tuple[ReadyManifest, ...] = ()

    @property
    def contents(self) -> tuple[bytes, ...]:
        """All its documents, the list itself first."""
        return (self.content, *(nested.content for nested in self.nested))


class Failure(Struct, frozen=True, kw_only=True):
    """An image that could not be converted, because it is damaged or not in its source; or a whole source.

    `source`: the location that the user gave; without `legacy_id` and `references` the whole source failed. `error`: a
    `MigrateError.code`. `message`: a sentence for the user. `layer`: the legacy ID of the faulty layer. If a whole
    repository cannot be read, `references` has its name, without a tag.
    """

    source: str
    references: tuple[str, ...] = ()
    legacy_id: str | None = None
    layer: str | None = None
    error: str
    message: str

    @property
    def title(self) -> str:
        """A name for the failed image or source: the image's references, or its legacy ID, or the source."""
        return ", ".join(self.references) or self.legacy_id or self.source

    def event(self) -> Event:
        return Event(kind="failure", name=self.title, source=self.source, message=self.message)

    def without_source(self) -> dict[str, Any]:
        """The members without `source`, for a document about one source."""
        members: dict[str, Any] = to_builtins(self)
        del members["source"]
        return members

    @classmethod
    def of(
        cls,
        error: MigrateError,
        source: str,
        *,
        references: Iterable[Reference | str] = (),
        legacy_id: str | None = None,
        message: str | None = None,
    ) -> Failure:
        """The failure for an error. `message` replaces that of the error."""
        return cls(
            source=source,
            references=tuple(map(str, references)),
            legacy_id=legacy_id,
            layer=error.layer,
            error=error.code,
            message=error.message if message is None else message,
        )


class SourceListing(Struct, frozen=True, kw_only=True):
    """The content of a source. Lists are sorted, and the same for every reading.

    `layers`: all legacy IDs that could be images (`--all`). `containers`: images that can be made of containers
    (`--containers`). `warnings`: those that are not about a single image. `wrapping`: one line for each partition and
    volume of the disk image around the source.
    """

    images: Sequence[LegacyImage]
    indexes: Sequence[ReadyIndex] = ()
    layers: Sequence[LegacyID] = ()
    containers: Sequence[LegacyImage] = ()
    failures: Sequence[Failure] = ()
    warnings: Sequence[str] = field(default=())
    wrapping: Sequence[str] = ()
