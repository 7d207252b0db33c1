"""What a legacy source holds: layers with random IDs, chained by parents, and images that name a chain's top."""

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
"""A random identifier, usually 64 hex digits, 16 in the oldest images, in archives any safe name. Not a digest."""

_HEX_ID = re.compile(r"[0-9a-f]{64}|[0-9a-f]{16}")
_SAFE_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")


def is_hex_id(text: str) -> bool:
    """True for the two forms that Docker and docker-registry gave out: 64 or 16 lower-case hex digits."""
    return _HEX_ID.fullmatch(text) is not None


def is_safe_name(text: str) -> bool:
    """True for a name that a layer can have in an archive: one path component, no control characters."""
    return text not in (".", "..") and _SAFE_NAME.fullmatch(text) is not None


class SourceType(StrEnum):
    """The names that `--source-type` takes and the report's `sources[].type` shows."""

    DOCKER_ARCHIVE = "docker-archive"
    DOCKER_ROOT = "docker-root"
    REGISTRY_V1 = "registry-v1"
    REGISTRY_V2 = "registry-v2"
    DIR = "dir"


class Origin(StrEnum):
    """Where a layer's bytes come from: as stored (`archive`, `blob`), reassembled and checked, or made anew."""

    ARCHIVE = "archive"
    BLOB = "blob"
    TAR_SPLIT = "tar-split"
    DIFF = "diff"


class PayloadRef(Struct, frozen=True, kw_only=True):
    """What is known about a layer's bytes before they are read.

    `key` is unique within its source; equal keys are the same bytes. `size` is that of the bytes as stored.
    `digest` (of the stored bytes) and `diff_id` are what a document of the source claims; the rehasher checks them and
    fails the layer with IntegrityError on a mismatch. `keep` requests the stored bytes, unchanged, as the blob, because
    a manifest that is taken over names them; then `media_type` is that manifest's word for the layer. `estimate` is for
    display and forecasts only: bytes of the layer's files, as recorded in the source. `disputed`: configs claim
    different diffIDs, so that the bytes are compared with none of them. `absent` is the reason why the source has no
    bytes.
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


class LegacyLayer(Struct, frozen=True, kw_only=True):
    """One layer. `json` is verbatim, and from readers a `LayerDocument`, which keeps what is read from it; `parent` is
    the effective parent after the source's own rules.

    `payload` is None only where the history step has no layer at all (schema 1 `throwaway`).
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


class LegacyImage(Struct, frozen=True, kw_only=True):
    """An image as its source names it.

    `chain`, base first, is given where the source lists an image's layers itself (manifest.json, schema 1); else the
    parents of `head` are walked. `config` is given where the source has a config: it is used byte for byte, and
    each layer's diffID must be the one it names. `manifest` in addition is carried over unchanged.
    `containers` are the IDs of containers made from this image, `container` is the one that it is made of, where there
    is no such image yet. `legacy_digests` are those of manifests that named it and cannot stay as they are. `warnings`
    go to the report.
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
        """Of all its documents, the list itself first."""
        return (self.content, *(nested.content for nested in self.nested))


class Failure(Struct, frozen=True, kw_only=True):
    """What could not be converted: an image that its source names but does not hold, or that is damaged.

    `source` is the location that the user named; without `legacy_id` and `references` all of it failed. `error` is a
    stable word (`MigrateError.code`), `message` a sentence for people, `layer` the legacy ID of the layer at fault.
    Where a whole repository cannot be read, `references` holds its name, without a tag.
    """

    source: str
    references: tuple[str, ...] = ()
    legacy_id: str | None = None
    layer: str | None = None
    error: str
    message: str

    @property
    def title(self) -> str:
        """What has failed: the image by its names or else its legacy ID, or the source."""
        return ", ".join(self.references) or self.legacy_id or self.source

    def event(self) -> Event:
        return Event(kind="failure", name=self.title, source=self.source, message=self.message)

    def without_source(self) -> dict[str, Any]:
        """Its members, to be encoded in a document that is about one source."""
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
        """`message` replaces the error's."""
        return cls(
            source=source,
            references=tuple(map(str, references)),
            legacy_id=legacy_id,
            layer=error.layer,
            error=error.code,
            message=error.message if message is None else message,
        )


class SourceListing(Struct, frozen=True, kw_only=True):
    """All that a source holds. Lists are sorted, and the same on every reading.

    `layers` are all legacy IDs that could be images of their own (`--all`); `containers` are images that can be made of
    containers (`--containers`). `warnings` concern no single image.
    `wrapping`: what the file holds that the source is in, one line each: a disk's partitions and volumes.
    """

    images: Sequence[LegacyImage]
    indexes: Sequence[ReadyIndex] = ()
    layers: Sequence[LegacyID] = ()
    containers: Sequence[LegacyImage] = ()
    failures: Sequence[Failure] = ()
    warnings: Sequence[str] = field(default=())
    wrapping: Sequence[str] = ()
