"""Checks that the blobs in the records of a journal are in the target and intact, before they are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from migrate.batch.choice import BlobChoice
from migrate.batch.journal import Journals, LinePlace
from migrate.batch.records import LayerRecord, Role
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.options import ConvertOptions, ImageOptions
from migrate.rehash.layer import STORED_KIND
from migrate.writers.base import ImageTarget

READ_AT_ONCE: Final = 1_000
"""Number of records that are checked together. Those of all sources would take more memory than the merge."""


class ExistingBlobs:
    """The blobs of a target. In a dry run no blob is stored, and every blob counts as present."""

    def __init__(self, target: ImageTarget | None) -> None:
        self._target = target
        self.sizes = None if target is None else target.blob_sizes()
        self._refuted: set[tuple[DiffID, Digest]] = set()
        self._suspect: set[tuple[DiffID, Digest]] = set()
        """Blobs that were damaged before the workers began, which may have written them again."""
        self._proven: set[tuple[DiffID, Digest]] = set()

    def refresh(self) -> None:
        """Lists the blobs again; to be called after workers may have written new or damaged ones."""
        self.sizes = None if self._target is None else self._target.blob_sizes()
        self._suspect, self._refuted = self._suspect | self._refuted, set()

    def holds(self, diff_id: DiffID, blob: StoredBlob) -> bool:
        """True for a blob of the right size that is not known to be damaged. For blobs that this run has written."""
        if self.sizes is None:
            return True
        pair = (diff_id, blob.digest)
        if self.sizes.get(blob.digest.hex) != blob.size or pair in self._refuted:
            return False
        return pair not in self._suspect or self.proves(diff_id, blob)

    def proves(self, diff_id: DiffID, blob: StoredBlob) -> bool:
        """True for a blob whose bytes have its digest and the layer. For blobs of earlier runs: a record in the journal
        does not prove that the blob is still intact."""
        if self._target is None or self.sizes is None or (diff_id, blob.digest) in self._proven:
            return True
        if self.sizes.get(blob.digest.hex) != blob.size or (diff_id, blob.digest) in self._refuted:
            return False
        right = self._target.memory.is_right(diff_id, blob)
        (self._proven if right else self._refuted).add((diff_id, blob.digest))
        return right


def choice_for(options: ImageOptions, target: ImageTarget | None, existing: ExistingBlobs) -> BlobChoice:
    """A choice among the blobs in the target."""
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
    """The `sources` that have to be read again, because a blob that they need is gone or damaged and no other record
    has a blob of the same layer. Every blob is checked.

    `others` are places of records whose layers may be used instead. Raises TargetError.
    """
    if not sources or existing.sizes is None:
        return set()
    compression = STORED_KIND.get(options.compression, "none")
    served: set[DiffID] = set()
    wanting: dict[str, set[DiffID]] = {}
    lost: set[str] = set()
    locations = list(sources)
    with ThreadPoolExecutor(options.jobs, thread_name_prefix="prove") as pool:
        for start in range(0, len(locations), READ_AT_ONCE):
            rows = {
                location: [
                    (row.role, *pair)
                    for row in journals.read(sources[location], location, images=False).layers
                    if (pair := _pair(row))
                ]
                for location in locations[start : start + READ_AT_ONCE]
            }
            pairs = {(diff_id, blob) for found in rows.values() for _, diff_id, blob in found}
            right = dict(zip(pairs, pool.map(lambda pair: existing.proves(*pair), pairs), strict=True))
            for location, found in rows.items():
                for role, diff_id, blob in found:
                    if right[diff_id, blob]:
                        if blob.compression == compression:  # no manifest of this run names one in another compression
                            served.add(diff_id)
                    elif role is Role.KEPT:  # a manifest of the source has this very digest
                        lost.add(location)
                    else:
                        wanting.setdefault(location, set()).add(diff_id)
    # If the record of another source, also an older one, has the layer, nothing has to be read again.
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
