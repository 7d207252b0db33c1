"""migration-map.json of a target: the old and new IDs of all images that runs have converted into it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Final

import msgspec
from msgspec.structs import replace

from migrate.blobio.limits import CATALOG_BYTES, REPORT_BYTES
from migrate.blobio.records import decoder_of
from migrate.blobio.sorted_runs import SortedRuns
from migrate.documents.image_map import (
    MappedImage,
    iter_map,
    iter_merged,
    iter_own_map,
    parse_map,
    row_order,
    rows_of_report,
    without_old_forms,
)
from migrate.errors import DocumentError, MigrateError, TargetError
from migrate.layout.names import MAP_NAME, REPORT_NAME
from migrate.model.digest import Digest
from migrate.storage.store import Store
from migrate.writers.target_store import digest_of_file, write_pieces

Rename = Callable[[Iterable[MappedImage]], Iterator[MappedImage]]
"""Gives rows their current names in the target."""
_decode = decoder_of(list[MappedImage])
_LARGE_MAP: Final = 8 * 1024 * 1024
"""A larger map is parsed row by row."""
_ROW_BYTES: Final = 600
"""Of one row in it, about."""


class TargetMap:
    """The map at the root of `store`, and the rows that this run adds.

    In a target of an older version, which wrote no map, the rows are those of the report. Raises TargetError for a map
    that cannot be read. Such a map is never replaced: it may be the last record of old disks that are gone.
    """

    def __init__(self, store: Store, directory: str | None) -> None:
        """`directory` is for temporary files, as in `SortedRuns`."""
        self._store = store
        self._directory = directory
        self._added = self._runs()
        self._version: str | None = None
        self._parsed: Digest | None = None
        self._rows: Sequence[MappedImage] = ()
        self.rows()

    def rows(self) -> Sequence[MappedImage]:
        """The rows in the target now, sorted."""
        version = None if self._store.reads_cost else self._store.version(MAP_NAME)
        if version is not None and version == self._version:
            return self._rows
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
                self._rows = self._parse(raw)
            except MigrateError as error:
                raise TargetError(
                    f"{self._store.shown(MAP_NAME)}: cannot be read: {error.message} (move it to a safe place)"
                ) from error
        self._version, self._parsed = version, digest
        return self._rows

    def _parse(self, raw: bytes) -> Sequence[MappedImage]:
        if len(raw) > _LARGE_MAP:
            with suppress(DocumentError):
                rows = self._runs(len(raw) // _ROW_BYTES)
                for row in iter_own_map(raw):
                    rows.add(row)
                return rows
        return parse_map(raw)

    def _runs(self, expected: int = 0) -> SortedRuns[MappedImage]:
        encode = msgspec.msgpack.encode
        return SortedRuns(
            "rows of the map", self._directory, key=row_order, encode=encode, decode=_decode, expected=expected
        )

    def add(self, rows: Iterable[MappedImage]) -> None:
        for row in rows:
            self._added.add(row)

    def superseded(self) -> set[Digest]:
        """Manifests of earlier runs, of the same legacy images that this run has converted to other manifests."""
        before = self.rows()
        if not before:
            return set()
        both = heapq.merge(
            ((row, False) for row in before), ((row, True) for row in self._added), key=lambda pair: row_order(pair[0])
        )
        found: set[Digest | None] = set()
        for _, same in groupby(both, lambda pair: pair[0].legacy_id):
            made: set[Digest | None] = set()
            ours: set[Digest | None] = set()
            for row, is_ours in same:
                (ours if is_ours else made).add(row.manifest_digest)
            if ours:
                found |= made - ours
        found.difference_update(row.manifest_digest for row in self._added)
        return {digest for digest in found if digest is not None}

    def write(self, rename: Rename, *, removed: Collection[Digest] = ()) -> None:
        """Adds the rows of this run, gives all rows their current names, and marks the rows of `removed` manifests.
        Called under the lock of the target, before the report is replaced."""
        rows = self.rows()
        before = without_old_forms(rows, self._added) if rows else ()
        gone = frozenset(removed)
        # of equal rows, those of earlier runs come first
        renamed = rename(iter_merged(heapq.merge(before, self._added, key=row_order)))
        marked = (replace(row, removed=True) if row.manifest_digest in gone else row for row in renamed)
        if not (rows or self._added):
            return
        with self._store.new_file() as file:
            if write_pieces(file, iter_map(marked)) != digest_of_file(self._store, MAP_NAME):
                self._store.replace_with(MAP_NAME, file)
