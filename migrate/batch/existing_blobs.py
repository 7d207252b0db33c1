"""Which blobs of the journal's records are still in the target and right, before anything relies on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from migrate.batch.choice import BlobChoice
from migrate.batch.journal import Journals, LinePlace
from migrate.batch.records import LayerRecord, Role
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.options import ConvertOptions, ImageOptions
from migrate.rehash.layer import STORED_KIND
from migrate.writers.base import ImageTarget


class ExistingBlobs:
    """The blobs of a target, as they are now. In a dry run nothing was stored, and everything counts."""

    def __init__(self, target: ImageTarget | None) -> None:
        self._target = target
        self.sizes = None if target is None else target.blob_sizes()
        self._refuted: set[tuple[DiffID, Digest]] = set()
        self._suspect: set[tuple[DiffID, Digest]] = set()
        """Wrong before the workers began, and perhaps made anew since."""
        self._proven: set[tuple[DiffID, Digest]] = set()

    def refresh(self) -> None:
        """To be called when workers may have written blobs, those that were damaged among them."""
        self.sizes = None if self._target is None else self._target.blob_sizes()
        self._suspect, self._refuted = self._suspect | self._refuted, set()

    def holds(self, diff_id: DiffID, blob: StoredBlob) -> bool:
        """True for a blob of the right size that is not known to be wrong; for what this run has written."""
        if self.sizes is None:
            return True
        pair = (diff_id, blob.digest)
        if self.sizes.get(blob.digest.hex) != blob.size or pair in self._refuted:
            return False
        return pair not in self._suspect or self.proves(diff_id, blob)

    def proves(self, diff_id: DiffID, blob: StoredBlob) -> bool:
        """True for a blob whose bytes have its digest and hold the layer: what a journal has is only a hint."""
        if self._target is None or self.sizes is None or (diff_id, blob.digest) in self._proven:
            return True
        if self.sizes.get(blob.digest.hex) != blob.size or (diff_id, blob.digest) in self._refuted:
            return False
        right = self._target.memory.is_right(diff_id, blob)
        (self._proven if right else self._refuted).add((diff_id, blob.digest))
        return right


def choice_for(options: ImageOptions, target: ImageTarget | None, existing: ExistingBlobs) -> BlobChoice:
    """A choice among what is in the target."""
    compression = STORED_KIND.get(options.compression, "none")
    if target is None or existing.sizes is None:
        return BlobChoice(compression)
    return BlobChoice(compression, existing.holds, target.named_layers())


def sources_without_blobs(
    journals: Journals,
    sources: Mapping[str, LinePlace],
    others: Iterable[LinePlace],
    options: ConvertOptions,
    existing: ExistingBlobs,
) -> set[str]:
    """Those of `sources` that have to be read again: a blob that they need is gone or damaged, and no other record has
    one. Every blob is proven.

    `others` are places of records whose layers may be used in place of theirs. Raises TargetError.
    """
    if not sources or existing.sizes is None:
        return set()
    compression = STORED_KIND.get(options.compression, "none")
    served: set[DiffID] = set()
    wanting: dict[str, set[DiffID]] = {}
    lost: set[str] = set()
    rows = {
        location: [
            (row.role, *pair) for row in journals.read(place, location, images=False).layers if (pair := _pair(row))
        ]
        for location, place in sources.items()
    }
    pairs = {(diff_id, blob) for found in rows.values() for _, diff_id, blob in found}
    with ThreadPoolExecutor(options.jobs, thread_name_prefix="prove") as pool:
        right = dict(zip(pairs, pool.map(lambda pair: existing.proves(*pair), pairs), strict=True))
    for location, found in rows.items():
        for role, diff_id, blob in found:
            if right[diff_id, blob]:
                if blob.compression == compression:  # a blob in another compression is in no manifest of this run
                    served.add(diff_id)
            elif role is Role.KEPT:  # a manifest of the source names this very blob: no other one can replace it
                lost.add(location)
            else:
                wanting.setdefault(location, set()).add(diff_id)
    # records of other sources, older ones too, may hold the layer: then nothing has to be read again
    missing = {diff_id for diff_ids in wanting.values() for diff_id in diff_ids} - served
    for place in others if missing else ():
        for row in journals.read(place, "", images=False).layers:
            pair = _pair(row)
            if pair is None or pair[0] not in missing or pair[1].compression != compression:
                continue
            if existing.proves(*pair):
                missing.discard(pair[0])
                served.add(pair[0])
    return lost | {location for location, diff_ids in wanting.items() if not diff_ids <= served}


def _pair(row: LayerRecord) -> tuple[DiffID, StoredBlob] | None:
    return None if row.hashed is None or row.hashed.blob is None else (row.hashed.diff_id, row.hashed.blob)
