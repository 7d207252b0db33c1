"""One blob for each layer of a whole batch, whoever stored which first. Pure.

In this order: what a merge before this one settled on; what a carried-over manifest names; what a source carried in
the wanted compression (the smallest); what we compressed ourselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from migrate.batch.records import LayerRow, Role
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob

_RANK: Final = {Role.KEPT: 0, Role.CARRIED: 1, Role.MADE: 2, Role.FOUND: 3}


class BlobChoice:
    """Takes the layers of all records, in any order within a generation, and generation after generation.

    A generation is what lies between two merges. `compression` is that of the run: a kept blob in another one stays
    where its manifest names it, and serves no other image.
    """

    def __init__(self, compression: str) -> None:
        self._compression = compression
        self._best: dict[DiffID, tuple[int, int, StoredBlob]] = {}
        self._others: dict[Digest, DiffID] = {}
        self._kept: set[Digest] = set()

    def take(self, rows: Iterable[LayerRow], generation: int) -> None:
        for row in rows:
            if row.hashed is None or row.hashed.blob is None:
                continue
            blob = row.hashed.blob
            if row.role is Role.KEPT:
                self._kept.add(blob.digest)
            rank = _RANK[row.role] if blob.compression == self._compression else len(_RANK)
            self._consider(row.hashed.diff_id, (generation, rank, blob))

    def _consider(self, diff_id: DiffID, candidate: tuple[int, int, StoredBlob]) -> None:
        best = self._best.get(diff_id)
        if best is None:
            self._best[diff_id] = candidate
        elif best[2] != candidate[2]:
            winner, loser = sorted((best, candidate), key=_order)
            self._best[diff_id] = winner
            self._others[loser[2].digest] = diff_id
        elif _order(candidate) < _order(best):
            self._best[diff_id] = candidate

    def blob(self, diff_id: DiffID) -> StoredBlob:
        return self._best[diff_id][2]

    def losers(self) -> Iterator[Digest]:
        """Blobs that stand in the target for nothing, sorted."""
        chosen = {blob.digest for _, _, blob in self._best.values()} if self._others else set()
        yield from sorted(self._others.keys() - chosen - self._kept)


def _order(candidate: tuple[int, int, StoredBlob]) -> tuple[int, int, int, Digest]:
    generation, rank, blob = candidate
    return (generation, rank, blob.size, blob.digest)
