"""The Python interface: one function for each command (docs/reference/api.md).

No function prints or exits. A source or image that cannot be converted raises no exception: it is in `failures` of the
report. Exceptions are `MigrateError`, with `exit_code` and `scope`. Sizes are bytes, digests `sha256:<hex>`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migrate.batch.batch import BatchOutcome, BatchRequest, run_batch
from migrate.convert.run import Conversion, Outcome
from migrate.convert.source_paths import refuse_to_write
from migrate.errors import MigrateError, UsageError
from migrate.model.image import Platform
from migrate.model.legacy import SourceType
from migrate.model.options import Compression, ConvertOptions, EmptyLayers, Format, Link, OnConflict, ReadOptions
from migrate.model.progress import Event, Progress, SilentProgress
from migrate.readers.detect import open_source
from migrate.readers.inventory import Inventory, take_inventory
from migrate.report.document import Report
from migrate.verify import Finding
from migrate.verify import verify as _verify

__all__ = [
    "BatchOutcome",
    "Compression",
    "ConvertOptions",
    "EmptyLayers",
    "Event",
    "Finding",
    "Format",
    "Inventory",
    "Link",
    "MigrateError",
    "OnConflict",
    "Outcome",
    "Platform",
    "Progress",
    "ReadOptions",
    "Report",
    "SourceType",
    "batch",
    "convert",
    "inspect",
    "plan",
    "verify",
]

Location = str | Path
"""A path or URL, with a prefix as on the command line (`docker-archive:`, `oci:`, `docker://`) or without."""


def convert(
    sources: Location | Sequence[Location],
    target: Location,
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Converts every image found in `sources`, one or several, into `target`, as `migrate convert` does.

    Images are added to a target that exists. With `options.dry_run` nothing is written, and the report is the one that
    the run would have. The report is returned, and also written into a target that is a directory or bucket. Events of
    `progress` are emitted by one thread at a time.

    Raises TargetError if the target fails (disk full, refused, not a layout), UsageError if the target is a source,
    lies in one or contains one, and ConflictError with `OnConflict.FAIL`.
    """
    options = dataclasses.replace(options or ConvertOptions(), exact_sizes=True)
    locations = _locations(sources)
    refuse_to_write([*locations, *options.pool_files], target=str(target))
    with Conversion.opened(locations, options, str(target), progress=progress or SilentProgress()) as conversion:
        return conversion.run()


def plan(
    sources: Location | Sequence[Location], options: ConvertOptions | None = None, progress: Progress | None = None
) -> Outcome:
    """Reads and hashes everything in `sources` and writes nothing, as `migrate plan` does.

    The report is that of a conversion, with `dry_run` set. Without `options.exact_sizes` nothing is compressed: sizes
    of blobs are estimates in bytes, and the digests of blobs and manifests are None. Raises ConflictError, and
    UsageError, also for `force`, `link` and `check_existing`, which need a target.
    """
    options = dataclasses.replace(options or ConvertOptions(), dry_run=True)
    options.check_without_target()
    with Conversion.opened(_locations(sources), options, progress=progress or SilentProgress()) as conversion:
        return conversion.run()


def batch(
    sources: Location | Sequence[Location],
    target: Location,
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
    *,
    client: Any = None,
) -> BatchOutcome:
    """Converts many sources into one layout, as `migrate batch` does: with a journal, and with workers.

    `sources` may be files, directories that are searched, globs and URLs. `target` is a directory or a bucket that all
    workers can reach. The layout has the same bytes as with `convert`. `client`: a `distributed.Client`, a Dask cluster
    such as `LocalCluster`, or an executor of `concurrent.futures`, which is not closed; without one, `options.jobs`
    processes of this machine do the work. The caller closes the outcome.

    Raises UsageError, and TargetError if the target or the cluster fails. Finished sources are in the journal, and the
    same call continues with the others.
    """
    request = BatchRequest(
        target=str(target),
        options=dataclasses.replace(options or ConvertOptions(), exact_sizes=True),
        locations=_locations(sources),
        client=client,
    )
    return run_batch(request, progress or SilentProgress())


def inspect(
    source: Location, *, source_type: str | None = None, driver: str | None = None, options: ReadOptions | None = None
) -> Inventory:
    """Images, chains and layers of one source, as the source records them. No layer is read.

    `source_type` (a value of SourceType) and `driver` override those of `options`. Raises SourceError if the source
    cannot be read, and UsageError for an unknown source type.
    """
    options = options or ReadOptions()
    if source_type is not None:
        options = dataclasses.replace(options, source_type=_source_type(source_type))
    opened = open_source(str(source), dataclasses.replace(options, driver=driver or options.driver))
    try:
        return take_inventory(opened)
    finally:
        opened.close()


def verify(target: Location, *, jobs: int = 1, progress: Progress | None = None) -> list[Finding]:
    """Every mismatch in a target, recomputed from its bytes, in the order of its files; empty if it is clean.

    `target`: an OCI layout or registry storage in a directory, an oci-archive or docker-archive in a file. `jobs`
    threads hash its blobs. Irregularities that damage no image are `warning` events. Raises SourceUnreadableError if
    the target cannot be opened, and UnrecognisedSourceError if it is none of these.
    """
    return _verify(str(target), jobs, progress or SilentProgress())


def _source_type(name: str) -> SourceType:
    try:
        return SourceType(name)
    except ValueError as exc:
        raise UsageError(f"source type {name}: not one of {', '.join(SourceType)}") from exc


def _locations(sources: Location | Sequence[Location]) -> list[str]:
    return [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
