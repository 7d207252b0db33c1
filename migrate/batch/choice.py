"""One blob for each layer of a whole batch, independent of which was stored first. Pure.

Only a blob that is in the target is chosen. In this order: one in the wanted compression; what the target's index
names already; what an earlier merge chose; what a carried-over manifest names; what a source carried (the
smallest); what we compressed ourselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from migrate.batch.records import LayerRecord, Role
from migrate.errors import IntegrityError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Descriptor, StoredBlob

_RANK: Final = {Role.KEPT: 0, Role.CARRIED: 1, Role.MADE: 2, Role.FOUND: 3}

_BEFORE_ALL: Final = -1

_Candidate = tuple[bool, bool, int, int, StoredBlob]
"""In another compression; not named by the index; generation; rank of its role; the blob."""


IsThere = Callable[[DiffID, StoredBlob], bool]
"""Whether the target has the blob of a layer."""


class BlobChoice:
    """Takes the layers of all records, in any order.

    A generation is what lies between two merges. `compression` is that of the run: a blob in another one serves only
    the manifest that it was carried over with, and layers that nothing else is left of. `is_there` is true while the
    target has a blob: an earlier merge removed those that were not chosen, and their records still name them. `named`
    are the layers of the images that are in the target.
    """

    def __init__(
        self, compression: str, is_there: IsThere = lambda diff_id, blob: True, named: Collection[Digest] = ()
    ) -> None:
        self._compression = compression
        self._is_there = is_there
        self._named = named
        self._best: dict[DiffID, _Candidate] = {}
        self._others: set[Digest] = set()
        self._kept: set[Digest] = set()
        self._lost: set[Digest] = set()

    def take(self, rows: Iterable[LayerRecord], generation: int, is_there: IsThere | None = None) -> None:
        """`is_there` is for these rows alone."""
        is_there = is_there or self._is_there
        for row in rows:
            if row.hashed is None or row.hashed.blob is None:
                continue
            blob = row.hashed.blob
            if not is_there(row.hashed.diff_id, blob):
                self._lost.add(blob.digest)
                continue
            if row.role is Role.KEPT:
                self._kept.add(blob.digest)
            is_foreign, is_unnamed = blob.compression != self._compression, blob.digest not in self._named
            self._consider(row.hashed.diff_id, (is_foreign, is_unnamed, generation, _RANK[row.role], blob))

    def _consider(self, diff_id: DiffID, candidate: _Candidate) -> None:
        best = self._best.get(diff_id)
        if best is None or _order(candidate) < _order(best):
            self._best[diff_id] = candidate
        if best is not None and best[-1] != candidate[-1]:
            self._others |= {best[-1].digest, candidate[-1].digest}

    def prefer_named(self, find: Callable[[DiffID, Collection[Digest]], StoredBlob | None]) -> None:
        """After the last record: what another command has put into the index has none. `find` gives a blob of a layer
        of those digests. One that only carried-over manifests name is no reason to leave another that images have."""
        named = set(self._named) - self._kept
        for diff_id, (is_foreign, is_unnamed, _, _, best) in sorted(self._best.items()) if named else ():
            if is_foreign or is_unnamed or best.digest in self._kept:
                blob = find(diff_id, named)
                if blob is not None and blob.compression == self._compression and self._is_there(diff_id, blob):
                    self._consider(diff_id, (False, False, _BEFORE_ALL, 0, blob))

    def blob(self, diff_id: DiffID) -> StoredBlob:
        """IntegrityError where no blob of the layer is left."""
        best = self._best.get(diff_id)
        if best is None:
            raise _gone(f"layer with diffID {diff_id}")
        return best[-1]

    def check(self, layers: Sequence[Descriptor]) -> None:
        """IntegrityError where a carried-over manifest names a blob that is gone."""
        for layer in layers:
            if layer.digest in self._lost:
                raise _gone(f"layer blob {layer.digest}")

    def losers(self) -> Iterator[Digest]:
        """Blobs in the target that no image needs, sorted."""
        chosen = {candidate[-1].digest for candidate in self._best.values()} if self._others else set()
        yield from sorted(self._others - chosen - self._kept)


def _gone(what: str) -> IntegrityError:
    return IntegrityError(f"{what}: is no longer in the target; the next batch reads the source again")


def _order(candidate: _Candidate) -> tuple[bool, bool, int, int, int, Digest]:
    is_foreign, is_unnamed, generation, rank, blob = candidate
    return (is_foreign, is_unnamed, generation, rank, blob.size, blob.digest)
