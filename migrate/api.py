"""The things that programs do with this package, each in one call (docs/reference/api.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from migrate.batch.batch import BatchOutcome, BatchRequest, run_batch
from migrate.convert.run import Conversion, Outcome
from migrate.convert.source_paths import refuse_to_write
from migrate.errors import UsageError
from migrate.model.legacy import SourceType
from migrate.model.options import ConvertOptions, ReadOptions
from migrate.model.progress import Progress, SilentProgress
from migrate.readers.detect import open_source
from migrate.readers.inventory import Inventory, take_inventory
from migrate.verify import Finding
from migrate.verify import verify as _verify

Location = str | Path


def convert(
    sources: Location | Sequence[Location],
    target: Location,
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Converts every image found in `sources` into `target`, as `migrate convert` does.

    Gives the report and the exit code that the command would have: a source or image that fails does not raise, it
    is in `report.failures`. Raises TargetError when the target fails, UsageError for a target that is a source, lies in
    one, or holds one. With `dry_run` nothing is written.
    """
    options = replace(options or ConvertOptions(), exact_sizes=True)
    locations = _locations(sources)
    refuse_to_write([*locations, *options.pool_files], target=str(target))
    with Conversion.opened(locations, options, str(target), progress=progress or SilentProgress()) as conversion:
        return conversion.run()


def plan(
    sources: Location | Sequence[Location], options: ConvertOptions | None = None, progress: Progress | None = None
) -> Outcome:
    """Reads and hashes everything, writes nothing: the report of `migrate plan`."""
    options = replace(options or ConvertOptions(), dry_run=True)
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

    `client`: a `distributed.Client`, a Dask cluster such as `LocalCluster`, or an executor of `concurrent.futures`,
    which do the work and stay open; without one, `options.jobs` processes of this machine do. The caller closes the
    outcome. Raises UsageError, and TargetError where the target or the cluster fails; the journal has what is finished.
    """
    request = BatchRequest(
        target=str(target),
        options=replace(options or ConvertOptions(), exact_sizes=True),
        locations=_locations(sources),
        client=client,
    )
    return run_batch(request, progress or SilentProgress())


def inspect(
    source: Location, *, source_type: str | None = None, driver: str | None = None, options: ReadOptions | None = None
) -> Inventory:
    """Images, chains and layers of one source, without hashing. `source_type` and `driver` change `options`. Raises
    SourceError, and UsageError for a source type that does not exist."""
    options = options or ReadOptions()
    if source_type is not None:
        options = replace(options, source_type=_source_type(source_type))
    opened = open_source(str(source), replace(options, driver=driver or options.driver))
    try:
        return take_inventory(opened)
    finally:
        opened.close()


def verify(target: Location, *, jobs: int = 1, progress: Progress | None = None) -> list[Finding]:
    """Every mismatch in a target, recomputed from its bytes; empty if it is clean."""
    return _verify(str(target), jobs, progress or SilentProgress())


def _source_type(name: str) -> SourceType:
    try:
        return SourceType(name)
    except ValueError as exc:
        raise UsageError(f"source type {name}: not one of {', '.join(SourceType)}") from exc


def _locations(sources: Location | Sequence[Location]) -> list[str]:
    return [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
