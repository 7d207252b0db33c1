"""Chooses one blob for each layer of a batch, independently of the order in which workers stored them.

Only blobs in the target are chosen. The order of preference is: a blob with the compression of the run; one that the
index of the target names; one that an earlier merge chose; one that a carried-over manifest names; the smallest one
that a source had; one that this program compressed.
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

_Candidate = tuple[bool, bool, int, int, DiffID, StoredBlob]
"""(has another compression, is not named by the index, generation, rank of its role, layer, blob)."""


IsThere = Callable[[DiffID, StoredBlob], bool]
"""(diffID, blob) → whether the target has the blob, with this layer."""


class BlobChoice:
    """The choice among the layers of all records, which may be added in any order.

    A generation is the time between two merges. `compression` is that of the run: a blob with another one is used only
    for layers without another blob, and if a carried-over manifest names it. `is_there` tests whether the target has a
    blob: earlier merges removed the blobs that were not chosen, but their records still name them. `named` are the
    layers of the images in the target.
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
        """Adds the layers of a record. `is_there`, if given, is used for these rows."""
        is_there = is_there or self._is_there
        for row in rows:
            if row.hashed is None or row.hashed.blob is None:
                continue
            blob = row.hashed.blob
            if not is_there(row.hashed.diff_id, blob):
                self._lost.add(blob.digest)
                continue
            is_foreign, is_unnamed = blob.compression != self._compression, blob.digest not in self._named
            if row.role is Role.KEPT:
                self._kept.add(blob.digest)
                # The target has it in any case, so equal layers share it if every format has a type for it: gzip, or
                # the tar itself, and not a tar that is compressed in another way.
                is_foreign &= blob.compression != "gzip" and blob.digest != row.hashed.diff_id
            self._consider((is_foreign, is_unnamed, generation, _RANK[row.role], row.hashed.diff_id, blob))

    def _consider(self, candidate: _Candidate) -> None:
        diff_id = candidate[-2]
        best = self._best.get(diff_id)
        if best is None or _order(candidate) < _order(best):
            self._best[diff_id] = candidate
        if best is not None and best[-1] != candidate[-1]:
            self._others |= {best[-1].digest, candidate[-1].digest}

    def prefer_named(self, find: Callable[[DiffID, Collection[Digest]], StoredBlob | None]) -> None:
        """To be called after the last record: prefers blobs that the index names and that no record has, because
        another command stored them. `find` returns a blob of a layer that is one of the digests. Blobs that only
        carried-over manifests name are not preferred."""
        named = set(self._named) - self._kept
        for diff_id, (is_foreign, is_unnamed, *_, best) in sorted(self._best.items()) if named else ():
            if is_foreign or is_unnamed or best.digest in self._kept:
                blob = find(diff_id, named)
                if blob is not None and blob.compression == self._compression and self._is_there(diff_id, blob):
                    self._consider((False, False, _BEFORE_ALL, 0, diff_id, blob))

    def layer(self, diff_id: DiffID) -> tuple[DiffID, StoredBlob]:
        """The layer with its chosen blob, the same objects each time. Raises IntegrityError if the target has none any
        more."""
        best = self._best.get(diff_id)
        if best is None:
            raise _gone(f"layer with diffID {diff_id}")
        return best[-2:]

    def check(self, layers: Sequence[Descriptor]) -> None:
        """Raises IntegrityError if a carried-over manifest names a blob that is gone."""
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
    is_foreign, is_unnamed, generation, rank, _, blob = candidate
    return (is_foreign, is_unnamed, generation, rank, blob.size, blob.digest)
