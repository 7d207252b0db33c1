"""A report of images that no run has made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from migrate.model.legacy import Failure
from migrate.report.document import Conflict, Report, UnconvertedContainer, VolumeRow
from migrate.report.model import ImageInput, SourceInput, build_head, image_order, image_rows
from migrate.report.tally import LayerTally


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
    containers: Iterable[UnconvertedContainer] = (),
    orphaned_volumes: Iterable[VolumeRow] = (),
) -> Report:
    """The report of one run. `started` and `finished` are RFC 3339 in UTC; `options` holds plain JSON values."""
    sources = tuple(sources)
    tally = LayerTally()
    for source in sources:
        tally.add(source.layers)
    # sorted, because the report must not depend on which image was finished first
    written = tuple(sorted(image_rows(images), key=image_order))
    head = build_head(
        tool_version=tool_version,
        dry_run=dry_run,
        started=started,
        finished=finished,
        options=options,
        sources=sources,
        images=Counter(image.source for image in written),
        tally=tally,
        failures=failures,
        conflicts=conflicts,
        warnings=warnings,
        containers=containers,
        orphaned_volumes=orphaned_volumes,
    )
    return replace(head, images=written)
