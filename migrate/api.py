"""The interface for programs: each command of the package in one call (docs/reference/api.md).

Nothing prints and nothing exits. A source or image that cannot be converted raises nothing: it is in the report's
`failures`. Exceptions are `MigrateError`, with `exit_code` and `scope`. Sizes are bytes, digests `sha256:<hex>`.
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

    A target that exists is continued. With `options.dry_run` nothing is written, and the report is that of the run. The
    report is returned, and written into a target that is a directory or bucket. The events of `progress` come from one
    thread at a time.

    Raises TargetError when the target fails (disk full, refused, not a layout), UsageError for a target that is a
    source, lies in one, or holds one, and ConflictError with `OnConflict.FAIL`.
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

    The report is that of a conversion with `dry_run` set. Without `options.exact_sizes` nothing is compressed: sizes of
    blobs are estimates in bytes, their digests and those of manifests are None. Raises ConflictError, and UsageError
    also for `force`, `link` and `check_existing`, which are about a target.
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

    `sources` may be files, directories that are searched, globs and URLs; `target` is a directory or a bucket that all
    workers see. The layout has the bytes that `convert` gives. `client`: a `distributed.Client`, a Dask cluster such as
    `LocalCluster`, or an executor of `concurrent.futures`, which do the work and stay open; without one, `options.jobs`
    processes of this machine do. The caller closes the outcome.

    Raises UsageError, and TargetError where the target or the cluster fails; the journal has what is finished, and the
    same call continues.
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
    """Images, chains and layers of one source, as the source has them; no layer is read.

    `source_type` (a value of SourceType) and `driver` override those of `options`. Raises SourceError where nothing of
    the source can be read, and UsageError for a source type that does not exist.
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
    threads hash its blobs. Oddities that harm no image are `warning` events. Raises SourceUnreadableError for what
    cannot be opened, and UnrecognisedSourceError for what is none of these.
    """
    return _verify(str(target), jobs, progress or SilentProgress())


def _source_type(name: str) -> SourceType:
    try:
        return SourceType(name)
    except ValueError as exc:
        raise UsageError(f"source type {name}: not one of {', '.join(SourceType)}") from exc


def _locations(sources: Location | Sequence[Location]) -> list[str]:
    return [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
