"""The report of a run as values: sources, images, duplicates, conflicts and failures.

Names and meanings are those of `migration-report.json`, `schema_version` 1 (docs/reference/report.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct, field

from migrate.model.container import Container, Volume
from migrate.model.digest import DiffID, Digest, ImageID
from migrate.model.image import Platform
from migrate.model.legacy import Failure

SCHEMA_VERSION = 1
TOOL_NAME = "migrate"


class SourceRow(Struct, frozen=True, kw_only=True):
    """One source. `images` and `failed` count the rows of the report that name it; `type` is None if unrecognised.

    `outcome` is `failed` (with at least one failure), `damaged`, `converted` or `skipped` (without an image). `error`
    is the code of its first failure, `reason` a sentence for people. All three are None in reports of earlier versions.
    `uri` is set if `location` is not UTF-8, which JSON cannot express: a file URI (RFC 8089), or for a relative path a
    relative reference.
    """

    location: str
    type: str | None
    images: int
    failed: int
    warnings: tuple[str, ...] = ()
    outcome: str | None = None
    error: str | None = None
    reason: str | None = None
    uri: str | None = None


class Totals(Struct, frozen=True, kw_only=True):
    """Numbers and sizes of layers in the sources and in the result. Sizes are bytes of uncompressed tars.

    `blob_bytes` is the size of the distinct layer blobs as stored. If nothing was compressed it is an estimate from
    samples (`blob_bytes_estimated`), or None.
    """

    images: int
    images_failed: int
    legacy_layers: int
    unique_layers: int
    empty_layers: int
    duplicate_layers: int
    legacy_bytes: int
    unique_bytes: int
    saved_bytes: int
    blob_bytes: int | None
    blob_bytes_estimated: bool = False
    damaged_layers: int = 0


class ReportLayer(Struct, frozen=True, kw_only=True):
    """One legacy layer of an image's chain.

    `diff_id` and `origin` are None for a step that never had a layer (schema 1 `throwaway`). `blob_digest` is None for
    an empty layer that was dropped (`blob_size` is 0 then), and if nothing was compressed (`blob_size` is an estimate
    then). `damaged`: a checksum or size that the source has recorded does not match the bytes. `flagged` pairs a flag
    with the first entry of the tar that has it.
    """

    legacy_id: str
    diff_id: DiffID | None
    blob_digest: Digest | None
    tar_size: int
    blob_size: int | None
    empty: bool
    origin: str | None
    note: str | None = None
    flags: tuple[str, ...] = ()
    flagged: tuple[tuple[str, str], ...] = ()
    damaged: bool = False


class ReportImage(Struct, frozen=True, kw_only=True):
    """One image. `layers` base first; `references` are its names in the source, `names` those in the target.

    `manifest_digest` is None after a dry run without compression, because a manifest has the digests of the blobs.
    `containers` were made from the image; `container` is the one that the image was made from.
    """

    source: str
    references: tuple[str, ...]
    legacy_id: str
    image_id: ImageID
    manifest_digest: Digest | None
    platform: Platform
    created: str | None
    exact: bool
    layers: tuple[ReportLayer, ...]
    names: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    container: Container | None = None
    legacy_digests: tuple[Digest, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """A name for messages: the first reference, or the first 12 digits of the legacy ID."""
        return self.references[0] if self.references else self.legacy_id[:12]


class Duplicate(Struct, frozen=True, kw_only=True):
    """Layers with equal bytes. `copies` counts each source's copies; `saved_bytes` is the size of all but one."""

    diff_id: DiffID
    tar_size: int
    copies: int
    legacy_ids: tuple[str, ...]
    saved_bytes: int


class Conflict(Struct, frozen=True, kw_only=True):
    """One reference of several images of one platform: the manifest that kept it, and those that did not."""

    reference: str
    platform: Platform
    kept: Digest
    others: tuple[Digest, ...]


class UnconvertedContainer(Struct, frozen=True, kw_only=True):
    """A container of `source` of which no image was made."""

    source: str
    container: Container


class VolumeRow(Struct, frozen=True, kw_only=True):
    """A volume of `source` that no container names."""

    source: str
    volume: Volume


class Report(Struct, frozen=True, kw_only=True):
    """The report of a run. All lists are sorted by their content, so that equal runs give equal reports.

    Of more than ten thousand images or sources, each is made when it is asked for: it is best to iterate over them.
    """

    tool_version: str
    dry_run: bool
    started: str
    finished: str
    options: Mapping[str, object]
    sources: Sequence[SourceRow]
    totals: Totals
    images: Sequence[ReportImage]
    duplicates: tuple[Duplicate, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    containers: tuple[UnconvertedContainer, ...] = ()
    orphaned_volumes: tuple[VolumeRow, ...] = ()
    deep: Mapping[str, object] | None = None
    tool_name: str = field(default=TOOL_NAME)

    def all_warnings(self) -> Iterator[tuple[str, str]]:
        """(subject, warning): the subject is a source or an image, or empty if the warning names it itself."""
        yield from (("", text) for text in self.warnings)
        for source in self.sources:
            yield from ((source.location, text) for text in source.warnings)
        for image in self.images:
            yield from ((image.title, text) for text in image.warnings)
