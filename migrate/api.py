"""The four things that programs do with this package, each in one call (docs/reference/api.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from migrate.convert.run import Conversion, OpenedSource, Outcome
from migrate.convert.source_paths import distinct_sources, refuse_to_write
from migrate.errors import MigrateError
from migrate.model.options import ConvertOptions
from migrate.model.progress import Progress, SilentProgress
from migrate.readers.base import SourceOptions
from migrate.readers.detect import open_source
from migrate.readers.inventory import Inventory, take_inventory
from migrate.verify import Finding
from migrate.verify import verify as _verify
from migrate.writers.base import ImageTarget
from migrate.writers.open_target import open_target

Location = str | Path


def convert(
    sources: Location | Sequence[Location],
    target: Location,
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Converts every image found in `sources` into `target`, as `migrate convert` does.

    Gives the report and the exit code that the command would have: a source or image that fails does not raise, it
    stands in `report.failures`. Raises TargetError when the target fails, UsageError for options that do not fit and
    for a target that is a source, lies in one, or holds one.
    """
    options = options or ConvertOptions()
    locations = _distinct(sources)
    refuse_to_write([*locations, *options.pool_files], target=str(target))
    return _run(locations, options, open_target(str(target), options), progress)


def plan(
    sources: Location | Sequence[Location], options: ConvertOptions | None = None, progress: Progress | None = None
) -> Outcome:
    """Reads and hashes everything, writes nothing: the report of `migrate plan`."""
    return _run(_distinct(sources), replace(options or ConvertOptions(), dry_run=True), None, progress)


def inspect(source: Location, *, source_type: str | None = None, driver: str | None = None) -> Inventory:
    """Images, chains and layers of one source, without hashing. Raises SourceError."""
    opened = open_source(str(source), source_type, SourceOptions(driver=driver))
    try:
        return take_inventory(opened)
    finally:
        opened.close()


def verify(target: Location, *, jobs: int = 1, progress: Progress | None = None) -> list[Finding]:
    """Every mismatch in a target, recomputed from its bytes; empty if it is clean."""
    return _verify(str(target), jobs, progress or SilentProgress())


def _distinct(sources: Location | Sequence[Location]) -> list[str]:
    return distinct_sources(map(str, [sources] if isinstance(sources, str | Path) else sources))


def _run(
    locations: Sequence[str],
    options: ConvertOptions,
    target: ImageTarget | None,
    progress: Progress | None,
) -> Outcome:
    opened = list(_open(locations, options))
    try:
        return Conversion(opened, options, target, progress or SilentProgress()).run()
    finally:
        for one in opened:
            if one.source is not None:
                one.source.close()
        if target is not None:
            target.close()


def _open(locations: Iterable[str], options: ConvertOptions) -> Iterable[OpenedSource]:
    reading = SourceOptions(
        driver=options.driver,
        dm_data=options.dm_data,
        dm_metadata=options.dm_metadata,
        max_ratio=options.max_ratio,
    )
    for location in locations:
        try:
            yield OpenedSource(location, open_source(location, None, reading))
        except MigrateError as error:
            if error.scope == "run":
                raise
            yield OpenedSource(location, error=error)
