"""migration-map.json of a target: the old and new IDs of all images that runs have converted into it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain

import msgspec
from msgspec.structs import replace

from migrate.blobio.limits import CATALOG_BYTES, REPORT_BYTES
from migrate.blobio.records import decoder_of
from migrate.blobio.sorted_runs import SortedRuns
from migrate.documents.image_map import (
    MappedImage,
    Rows,
    iter_map,
    iter_merged,
    parse_map,
    row_order,
    rows_of_report,
    without_old_forms,
)
from migrate.errors import MigrateError, TargetError
from migrate.layout.names import MAP_NAME, REPORT_NAME
from migrate.model.digest import Digest
from migrate.storage.store import Store
from migrate.writers.target_store import digest_of_file, write_pieces

Rename = Callable[[Iterable[MappedImage]], Iterator[MappedImage]]
"""Gives rows their current names in the target."""
_decode = decoder_of(list[MappedImage])


class TargetMap:
    """The map at the root of `store`, and the rows that this run adds.

    In a target of an older version, which wrote no map, the rows are those of the report. Raises TargetError for a map
    that cannot be read. Such a map is never replaced: it may be the last record of old disks that are gone.
    """

    def __init__(self, store: Store, directory: str | None) -> None:
        """`directory` is for temporary files, as in `Spool`."""
        self._store = store
        self._added: SortedRuns[MappedImage] = SortedRuns(
            "rows of the map", directory, key=row_order, encode=msgspec.msgpack.encode, decode=_decode
        )
        self._parsed: Digest | None = None
        self._rows: Rows = ()
        self.rows()

    def rows(self) -> Rows:
        """The rows in the target now."""
        raw = self._store.read(MAP_NAME, CATALOG_BYTES)
        if raw is None:
            try:
                report = self._store.read(REPORT_NAME, REPORT_BYTES)
                return () if report is None else rows_of_report(report, REPORT_BYTES)
            except MigrateError:  # the run replaces a damaged report, and `verify` reports it
                return ()
        digest = Digest.of(raw)
        if digest != self._parsed:
            try:
                self._parsed, self._rows = digest, parse_map(raw)
            except MigrateError as error:
                raise TargetError(
                    f"{self._store.shown(MAP_NAME)}: cannot be read: {error.message} (move it to a safe place)"
                ) from error
        return self._rows

    def add(self, rows: Iterable[MappedImage]) -> None:
        for row in rows:
            self._added.add(row)

    def superseded(self) -> set[Digest]:
        """Manifests of earlier runs, of the same legacy images that this run has converted to other manifests."""
        rows = self.rows()
        if not rows:
            return set()
        earlier = {row.legacy_id for row in rows}
        again = {row.legacy_id for row in self._added if row.legacy_id in earlier}
        made = {row.manifest_digest for row in rows if row.legacy_id in again}
        made.difference_update(row.manifest_digest for row in self._added)
        return {digest for digest in made if digest is not None}

    def write(self, rename: Rename, *, removed: Collection[Digest] = ()) -> None:
        """Adds the rows of this run, gives all rows their current names, and marks the rows of `removed` manifests.
        Called under the lock of the target, before the report is replaced."""
        before = self.rows()
        if before:
            before = without_old_forms(before, self._added)
        gone = frozenset(removed)
        # of equal rows, those of earlier runs come first
        rows = rename(iter_merged(heapq.merge(before, self._added, key=row_order)))
        rows = (replace(row, removed=True) if row.manifest_digest in gone else row for row in rows)
        first = next(iter(rows), None)
        if first is None:
            return
        with self._store.new_file() as file:
            if write_pieces(file, iter_map(chain([first], rows))) != digest_of_file(self._store, MAP_NAME):
                self._store.replace_with(MAP_NAME, file)
