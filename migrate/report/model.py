"""Makes the report from the values of a run. Reads no clock and opens no file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct, field, msgpack
from msgspec.structs import replace

from migrate.blobio.records import decoder_of
from migrate.blobio.sorted_runs import SortedRuns
from migrate.documents.json_text import uri_of_no_text
from migrate.model.container import Container
from migrate.model.digest import Digest
from migrate.model.image import ComposedImage, HashedLayer
from migrate.model.legacy import Failure, LegacyLayer
from migrate.report.document import (
    Conflict,
    Report,
    ReportImage,
    ReportLayer,
    SourceRow,
    UnconvertedContainer,
    VolumeRow,
)
from migrate.report.tally import LayerTally, SourceLayers
from migrate.report.units import count

_KEPT_LAYERS: Final = 20_000
"""As many as this, or twice those of an image with more."""


class SourceInput(Struct, frozen=True, kw_only=True):
    """One source of the run. `layers` are all its legacy layers that were hashed.

    `type` is None if the source was not recognised. `warnings` are about the source as a whole. `damaged` counts
    layers.
    """

    location: str
    type: str | None
    layers: SourceLayers = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    damaged: int = 0


class ImageInput(Struct, frozen=True, kw_only=True):
    """One image that was written, or would have been in a dry run. `source` is the location of its source.

    `chain` is base first, with None for layers that never had bytes. `references` are the names in the source, `names`
    those in the target, after renames and conflicts. `certain` is False if a check of the whole image found a
    difference; the image is not `exact` then, nor if one of its layers is not.
    """

    source: str
    legacy_id: str
    image: ComposedImage
    chain: Sequence[tuple[LegacyLayer, HashedLayer | None]]
    references: Sequence[str] = ()
    names: Sequence[str] = ()
    containers: Sequence[str] = ()
    container: Container | None = None
    legacy_digests: Sequence[Digest] = ()
    warnings: Sequence[str] = ()
    certain: bool = True


def build_head(
    *,
    tool_version: str,
    dry_run: bool,
    started: str,
    finished: str,
    options: Mapping[str, object],
    sources: Iterable[SourceInput],
    images: Mapping[str, int],
    tally: LayerTally,
    failures: Iterable[Failure] = (),
    conflicts: Iterable[Conflict] = (),
    warnings: Iterable[str] = (),
    containers: Iterable[UnconvertedContainer] = (),
    orphaned_volumes: Iterable[VolumeRow] = (),
    directory: str | None = None,
) -> Report:
    """The report without its images: `images` has the number of images of each source, `tally` their layers.

    The rows of very many sources are in a temporary file in `directory` or TMPDIR (TargetError).
    """

    def order(row: Failure) -> tuple[object, ...]:
        return (row.source, row.references, row.legacy_id or "", row.layer or "", row.error, row.message)

    failure_rows = tuple(sorted(failures, key=order))
    # Every list is sorted, so that the report does not depend on the order in which workers finish.
    return Report(
        tool_version=tool_version,
        dry_run=dry_run,
        started=started,
        finished=finished,
        options=dict(options),
        sources=source_rows(sources, images, failure_rows, directory),
        totals=tally.totals(sum(images.values()), len(failure_rows)),
        images=(),
        duplicates=tally.duplicates(),
        conflicts=tuple(
            sorted(
                (replace(conflict, others=tuple(sorted(conflict.others))) for conflict in conflicts),
                key=lambda row: (row.reference, str(row.platform), row.kept),
            )
        ),
        failures=failure_rows,
        warnings=tuple(sorted(set(warnings))),
        containers=tuple(sorted(containers, key=lambda row: (row.source, row.container.name, row.container.id))),
        orphaned_volumes=tuple(sorted(orphaned_volumes, key=lambda row: (row.source, row.volume.source))),
    )


def image_rows(images: Iterable[ImageInput]) -> Iterator[ReportImage]:
    """The rows of `images`, in the order given; a report has them sorted by `image_order`."""
    # Images share most of their layers. Equal rows are one object, and a row is made once for the same layer objects.
    # `made` also keeps these objects, because the `id` of an object that was freed may be used again.
    cache: dict[ReportLayer, ReportLayer] = {}
    made: dict[tuple[int, int], tuple[LegacyLayer, HashedLayer, ReportLayer]] = {}
    for entry in images:
        if len(made) > max(_KEPT_LAYERS, 2 * len(entry.chain)):
            made.clear()
            cache.clear()
        layers: list[ReportLayer] = []
        for legacy, hashed in entry.chain:
            known = made.get((id(legacy), id(hashed)))
            if known is not None:
                layers.append(known[2])
                continue
            row = _layer_row(legacy, hashed, entry.image)
            row = cache.setdefault(row, row)
            layers.append(row)
            if hashed is not None and not hashed.empty:  # an empty layer may be dropped in one image and not in another
                made[id(legacy), id(hashed)] = (legacy, hashed, row)
        rows = tuple(layers)
        yield ReportImage(
            source=entry.source,
            references=tuple(sorted(entry.references)),
            legacy_id=entry.legacy_id,
            image_id=entry.image.image_id,
            manifest_digest=entry.image.manifest_digest if entry.image.has_manifest else None,
            platform=entry.image.platform,
            created=entry.image.created,
            exact=entry.certain and all(hashed is None or hashed.exact for _, hashed in entry.chain),
            layers=rows,
            names=tuple(sorted(entry.names)),
            containers=tuple(sorted(entry.containers)),
            container=entry.container,
            legacy_digests=tuple(sorted(entry.legacy_digests)),
            warnings=tuple(entry.warnings),
        )


def _layer_row(legacy: LegacyLayer, hashed: HashedLayer | None, image: ComposedImage) -> ReportLayer:
    if hashed is None:
        return ReportLayer(
            legacy_id=legacy.legacy_id, diff_id=None, blob_digest=None, tar_size=0, blob_size=0, empty=True, origin=None
        )
    blob = hashed.blob
    # An empty layer is stored if `--empty-layers keep` is given, or if a manifest of the source that is carried over
    # names it.
    dropped = hashed.empty and (blob is None or all(layer.digest != blob.digest for layer in image.layers))
    return ReportLayer(
        legacy_id=legacy.legacy_id,
        diff_id=hashed.diff_id,
        blob_digest=None if blob is None or dropped else blob.digest,
        tar_size=hashed.tar_size,
        blob_size=0 if dropped else hashed.estimate if blob is None else blob.size,
        empty=hashed.empty,
        origin=hashed.origin,
        note=hashed.note,
        flags=hashed.flags,
        flagged=hashed.flagged,
        damaged=hashed.damaged,
    )


def source_rows(
    sources: Iterable[SourceInput],
    images: Mapping[str, int],
    failures: Iterable[Failure],
    directory: str | None = None,
) -> Sequence[SourceRow]:
    """The rows of `sources`, sorted; `images` has the number of written images by location. `directory` is that of
    `build_head`."""
    failed: defaultdict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        failed[failure.source].append(failure)
    rows: SortedRuns[SourceRow] = SortedRuns(
        "rows of the report",
        directory,
        key=lambda row: row.location,
        encode=msgpack.encode,
        decode=decoder_of(list[SourceRow]),
    )
    for source in sources:
        written, lost = images.get(source.location, 0), failed.get(source.location, [])
        error = reason = None
        # A source with a failure may also have damaged layers; the row has the worst outcome.
        if lost:
            outcome, error, reason = "failed", lost[0].error, lost[0].message
        elif source.damaged:
            outcome, reason = "damaged", f"{count(source.damaged, 'layer')} damaged"
        elif written:
            outcome = "converted"
        else:
            outcome = "skipped"
            reason = next(iter(source.warnings), "no image of it was chosen").removeprefix(f"{source.location}: ")
        rows.add(
            SourceRow(
                location=source.location,
                type=source.type,
                images=written,
                failed=len(lost),
                warnings=tuple(source.warnings),
                outcome=outcome,
                error=error,
                reason=reason,
                uri=uri_of_no_text(source.location),
            )
        )
    return rows if rows.is_in_file else tuple(rows)


def image_order(image: ReportImage) -> tuple[object, ...]:
    """Sort key of images in a report: by source, then images with names, then by name and ID."""
    return (image.source, not image.references, image.references, image.legacy_id, image.image_id)
