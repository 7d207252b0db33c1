"""From the values of a run to its report. Pure: reads no clock, opens nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, HashedLayer
from migrate.model.legacy import LegacyLayer
from migrate.report.document import (
    Conflict,
    Duplicate,
    Failure,
    Report,
    ReportImage,
    ReportLayer,
    SourceRow,
    Totals,
)

__all__ = [
    "Conflict",
    "Duplicate",
    "Failure",
    "ImageInput",
    "Report",
    "ReportImage",
    "ReportLayer",
    "SourceInput",
    "SourceRow",
    "Totals",
    "build_report",
    "compute_totals",
    "rank_duplicates",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInput:
    """One source of the run. `layers` are all its legacy layers that were hashed, by legacy ID.

    `type` is None where the source was not recognised. `warnings` concern no single image.
    """

    location: str
    type: str | None
    layers: Mapping[str, HashedLayer] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """One image that was written, or would have been. `source` is the location of its source.

    `chain` runs base first; None stands beside a layer that never had bytes. `references` are those of the source;
    `names` those that the image has in the target, after renames and conflicts. `exact` follows from the layers,
    and from `certain`: False where a check of the whole image found a difference.
    """

    source: str
    legacy_id: str
    image: ComposedImage
    chain: Sequence[tuple[LegacyLayer, HashedLayer | None]]
    references: Sequence[str] = ()
    names: Sequence[str] = ()
    containers: Sequence[str] = ()
    warnings: Sequence[str] = ()
    certain: bool = True


def build_report(
    *,
    tool_version: str,
    dry_run: bool,
    started: str,
    finished: str,
    options: Mapping[str, object],
    sources: Iterable[SourceInput],
    images: Iterable[ImageInput],
    failures: Iterable[Failure] = (),
    conflicts: Iterable[Conflict] = (),
    warnings: Iterable[str] = (),
    deep: Mapping[str, object] | None = None,
) -> Report:
    """The report of one run. `started` and `finished` are RFC 3339 in UTC; `options` holds plain JSON values."""
    sources = tuple(sources)
    image_rows = tuple(sorted(_image_rows(images), key=_image_order))
    failure_rows = tuple(sorted(failures, key=_failure_order))
    return Report(
        tool_version=tool_version,
        dry_run=dry_run,
        started=started,
        finished=finished,
        options=dict(options),
        sources=_source_rows(sources, image_rows, failure_rows),
        totals=compute_totals(sources, len(image_rows), len(failure_rows)),
        images=image_rows,
        duplicates=rank_duplicates(sources),
        conflicts=tuple(sorted((_sorted_conflict(c) for c in conflicts), key=_conflict_order)),
        failures=failure_rows,
        warnings=tuple(sorted(set(warnings))),
        deep=deep,
    )


def compute_totals(sources: Sequence[SourceInput], images: int, failed: int) -> Totals:
    """Counts layers once per source and legacy ID, as the sources store them."""
    layers = [layer for source in sources for layer in source.layers.values()]
    unique = {layer.diff_id: layer for layer in layers if not layer.empty}
    empty_layers = sum(layer.empty for layer in layers)
    legacy_bytes = sum(layer.tar_size for layer in layers)
    unique_bytes = sum(layer.tar_size for layer in unique.values())
    return Totals(
        images=images,
        images_failed=failed,
        legacy_layers=len(layers),
        unique_layers=len(unique),
        empty_layers=empty_layers,
        duplicate_layers=len(layers) - len(unique) - empty_layers,
        legacy_bytes=legacy_bytes,
        unique_bytes=unique_bytes,
        saved_bytes=legacy_bytes - unique_bytes,
        blob_bytes=_blob_bytes(layers),
    )


def rank_duplicates(sources: Iterable[SourceInput]) -> tuple[Duplicate, ...]:
    """Layers that occur more than once, empty ones left out; the largest saving first."""
    owners: dict[DiffID, list[str]] = defaultdict(list)
    sizes: dict[DiffID, int] = {}
    for source in sources:
        for legacy_id, layer in source.layers.items():
            if not layer.empty:
                owners[layer.diff_id].append(legacy_id)
                sizes[layer.diff_id] = layer.tar_size
    rows = (
        Duplicate(
            diff_id=diff_id,
            tar_size=sizes[diff_id],
            copies=len(ids),
            legacy_ids=tuple(sorted(set(ids))),
            saved_bytes=(len(ids) - 1) * sizes[diff_id],
        )
        for diff_id, ids in owners.items()
        if len(ids) > 1
    )
    return tuple(sorted(rows, key=lambda row: (-row.saved_bytes, row.diff_id)))


def _blob_bytes(layers: Sequence[HashedLayer]) -> int | None:
    """None as soon as one layer with content has no blob: a sum of the others would look like a whole."""
    needed = {layer.diff_id for layer in layers if not layer.empty}
    known = {layer.diff_id for layer in layers if layer.blob is not None}
    if needed - known:
        return None
    return sum({layer.blob.digest: layer.blob.size for layer in layers if layer.blob is not None}.values())


def _image_rows(images: Iterable[ImageInput]) -> Iterable[ReportImage]:
    cache: dict[ReportLayer, ReportLayer] = {}  # images share most of their layers: one row object each
    for entry in images:
        stored = {descriptor.digest for descriptor in entry.image.layers}
        rows = tuple(
            cache.setdefault(row, row) for row in (_layer_row(legacy, hashed, stored) for legacy, hashed in entry.chain)
        )
        yield ReportImage(
            source=entry.source,
            references=tuple(sorted(entry.references)),
            legacy_id=entry.legacy_id,
            image_id=entry.image.image_id,
            manifest_digest=entry.image.manifest_digest if entry.image.manifest else None,
            platform=entry.image.platform,
            created=entry.image.created,
            exact=entry.certain and all(hashed is None or hashed.exact for _, hashed in entry.chain),
            layers=rows,
            names=tuple(sorted(entry.names)),
            containers=tuple(sorted(entry.containers)),
            warnings=tuple(entry.warnings),
        )


def _layer_row(legacy: LegacyLayer, hashed: HashedLayer | None, stored: set[Digest]) -> ReportLayer:
    if hashed is None:
        return ReportLayer(
            legacy_id=legacy.legacy_id, diff_id=None, blob_digest=None, tar_size=0, blob_size=0, empty=True, origin=None
        )
    blob = hashed.blob
    dropped = hashed.empty and (blob is None or blob.digest not in stored)
    return ReportLayer(
        legacy_id=legacy.legacy_id,
        diff_id=hashed.diff_id,
        blob_digest=None if blob is None or dropped else blob.digest,
        tar_size=hashed.tar_size,
        blob_size=0 if dropped else None if blob is None else blob.size,
        empty=hashed.empty,
        origin=hashed.origin,
        note=hashed.note,
        flags=hashed.flags,
    )


def _source_rows(
    sources: Iterable[SourceInput], images: Sequence[ReportImage], failures: Sequence[Failure]
) -> tuple[SourceRow, ...]:
    written: dict[str, int] = defaultdict(int)
    failed: dict[str, int] = defaultdict(int)
    for image in images:
        written[image.source] += 1
    for failure in failures:
        failed[failure.source] += 1
    return tuple(
        SourceRow(
            location=source.location,
            type=source.type,
            images=written[source.location],
            failed=failed[source.location],
            warnings=tuple(source.warnings),
        )
        for source in sorted(sources, key=lambda source: source.location)
    )


def _sorted_conflict(conflict: Conflict) -> Conflict:
    return Conflict(
        reference=conflict.reference,
        platform=conflict.platform,
        kept=conflict.kept,
        others=tuple(sorted(conflict.others)),
    )


def _image_order(image: ReportImage) -> tuple[object, ...]:
    return (image.source, not image.references, image.references, image.legacy_id, image.image_id)


def _conflict_order(conflict: Conflict) -> tuple[object, ...]:
    return (conflict.reference, str(conflict.platform), conflict.kept)


def _failure_order(failure: Failure) -> tuple[object, ...]:
    return (
        failure.source,
        failure.references,
        failure.legacy_id or "",
        failure.layer or "",
        failure.error,
        failure.message,
    )
