"""Chooses one blob for each layer of a batch, independently of the order in which workers stored them.

Only blobs in the target are chosen. The order of preference is: a blob with the compression of the run; one that the
index of the target names; one that an earlier merge chose; one that a carried-over manifest names; the smallest one
that a source had; one that this program compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from struct import Struct
from typing import Final

from migrate.batch.records import LayerRecord, Role
from migrate.errors import IntegrityError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Descriptor, StoredBlob
from migrate.model.packed import PackedTable, packed_digest, unpacked_digest

_RANK: Final = {Role.KEPT: 0, Role.CARRIED: 1, Role.MADE: 2, Role.FOUND: 3}

_BEFORE_ALL: Final = -1

_CANDIDATE: Final = Struct(">??IBQ32sI")
"""A blob: has another compression, is not named by the index, generation + 1, rank of its role, size in bytes, digest,
number of its compression. Of two blobs, the one whose bytes before the last number are smaller is preferred."""
_ORDER: Final = slice(0, -4)
_BLOB: Final = slice(-44, None)
"""The size, the digest and the compression."""
_RECENT: Final = 2_000
"""Number of layers whose blobs are kept as objects: images share their bases, and an image needs each layer twice."""

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
        self._best = PackedTable(key=32, row=_CANDIDATE.size)
        self._compressions: list[str] = []
        self._others: set[Digest] = set()
        self._kept = PackedTable(key=32)
        self._lost: set[Digest] = set()
        self._recent: dict[DiffID, StoredBlob] = {}

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
                if (digest := packed_digest(blob.digest)) not in self._kept:
                    self._kept.add(digest)
                # The target has it in any case, so equal layers share it if every format has a type for it: gzip, or
                # the tar itself, and not a tar that is compressed in another way.
                is_foreign &= blob.compression != "gzip" and blob.digest != row.hashed.diff_id
            self._consider(row.hashed.diff_id, blob, (is_foreign, is_unnamed, generation, _RANK[row.role]))

    def _consider(self, diff_id: DiffID, blob: StoredBlob, order: tuple[bool, bool, int, int]) -> None:
        self._recent.pop(diff_id, None)
        is_foreign, is_unnamed, generation, rank = order
        if blob.compression not in self._compressions:
            self._compressions.append(blob.compression)
        compression = self._compressions.index(blob.compression)
        digest = packed_digest(blob.digest)
        candidate = _CANDIDATE.pack(is_foreign, is_unnamed, generation + 1, rank, blob.size, digest, compression)
        layer = packed_digest(diff_id)
        best = self._best.get(layer)
        if best is None:
            self._best.add(layer, candidate)
            return
        if candidate[_ORDER] < best[_ORDER]:
            self._best.replace(layer, candidate)
        if candidate[_BLOB] != best[_BLOB]:
            self._others |= {blob.digest, self._blob(best).digest}

    def _blob(self, candidate: bytes) -> StoredBlob:
        *_, size, digest, compression = _CANDIDATE.unpack(candidate)
        return StoredBlob(digest=unpacked_digest(digest), size=size, compression=self._compressions[compression])

    def prefer_named(self, find: Callable[[DiffID, Collection[Digest]], StoredBlob | None]) -> None:
        """To be called after the last record: prefers blobs that the index names and that no record has, because
        another command stored them. `find` returns a blob of a layer that is one of the digests. Blobs that only
        carried-over manifests name are not preferred."""
        named = {digest for digest in self._named if packed_digest(digest) not in self._kept}
        if not named:
            return
        layers = []
        for layer, best in self._best:
            is_foreign, is_unnamed, *_, digest, _ = _CANDIDATE.unpack(best)
            if is_foreign or is_unnamed or digest in self._kept:
                layers.append(layer)
        for diff_id in (DiffID(unpacked_digest(layer)) for layer in sorted(layers)):
            blob = find(diff_id, named)
            if blob is not None and blob.compression == self._compression and self._is_there(diff_id, blob):
                self._consider(diff_id, blob, (False, False, _BEFORE_ALL, 0))

    def blob_of(self, diff_id: DiffID) -> StoredBlob:
        """The chosen blob of a layer. Raises IntegrityError if the target has none any more."""
        blob = self._recent.get(diff_id)
        if blob is None:
            best = self._best.get(packed_digest(diff_id))
            if best is None:
                raise _gone(f"layer with diffID {diff_id}")
            if len(self._recent) >= _RECENT:
                self._recent.clear()
            blob = self._recent[diff_id] = self._blob(best)
        return blob

    def check(self, layers: Sequence[Descriptor]) -> None:
        """Raises IntegrityError if a carried-over manifest names a blob that is gone."""
        for layer in layers:
            if layer.digest in self._lost:
                raise _gone(f"layer blob {layer.digest}")

    def losers(self) -> Iterator[Digest]:
        """Blobs in the target that no image needs, sorted."""
        others = self._others
        chosen = {digest for _, best in self._best if (digest := self._blob(best).digest) in others} if others else ()
        yield from sorted(one for one in others if one not in chosen and packed_digest(one) not in self._kept)


def _gone(what: str) -> IntegrityError:
    return IntegrityError(f"{what}: is no longer in the target; the next batch reads the source again")
