"""migration-map.json of a target: the old and new IDs of all images that runs have converted into it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec.structs import replace

from migrate.blobio.limits import CATALOG_BYTES, REPORT_BYTES
from migrate.documents.image_map import (
    MappedImage,
    Rows,
    iter_map,
    merge_rows,
    parse_map,
    rename_rows,
    rows_of_report,
    without_old_forms,
)
from migrate.errors import MigrateError, TargetError
from migrate.layout.names import MAP_NAME, REPORT_NAME
from migrate.model.digest import Digest
from migrate.storage.store import Store
from migrate.writers.target_store import digest_of_file, write_pieces


class TargetMap:
    """The map at the root of `store`, and the rows that this run adds.

    In a target of an older version, which wrote no map, the rows are those of the report. Raises TargetError for a map
    that cannot be read. Such a map is never replaced: it may be the last record of old disks that are gone.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._added: list[MappedImage] = []
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
        self._added += rows

    def superseded(self) -> set[Digest]:
        """Manifests of earlier runs, of the same legacy images that this run has converted to other manifests."""
        again = {row.legacy_id for row in self._added}
        ours = {row.manifest_digest for row in self._added}
        made = {row.manifest_digest for row in self.rows() if row.legacy_id in again}
        return {digest for digest in made - ours if digest is not None}

    def write(
        self, granted: Mapping[str, Collection[Digest]], *, complete: bool, removed: Collection[Digest] = frozenset()
    ) -> None:
        """Adds the rows of this run, gives all rows the names in `granted` (`rename_rows`), and marks the rows of
        `removed` manifests. Called under the lock of the target, before the report is replaced."""
        before = without_old_forms(self.rows(), self._added)
        rows = rename_rows(merge_rows([*before, *self._added]), granted, complete=complete)
        rows = tuple(replace(row, removed=True) if row.manifest_digest in removed else row for row in rows)
        with self._store.new_file() as file:
            if rows and write_pieces(file, iter_map(rows)) != digest_of_file(self._store, MAP_NAME):
                self._store.replace_with(MAP_NAME, file)
