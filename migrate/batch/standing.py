"""Which blobs of the journal's records still stand in the target, before anything relies on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from migrate.batch.choice import BlobChoice
from migrate.batch.journal import Place, RecordReader
from migrate.batch.records import Role
from migrate.model.digest import DiffID
from migrate.model.image import StoredBlob
from migrate.model.options import ImageOptions
from migrate.rehash.layer import STORED_KIND
from migrate.writers.base import ImageTarget


def choice_for(options: ImageOptions, target: ImageTarget | None) -> BlobChoice:
    """A choice among what stands in the target; without one, in a dry run, nothing was stored and everything counts."""
    compression = STORED_KIND.get(options.compression, "none")
    sizes = None if target is None else target.blob_sizes()
    if target is None or sizes is None:
        return BlobChoice(compression)
    return BlobChoice(compression, _standing(sizes), target.named_layers())


def _standing(sizes: Mapping[str, int]) -> Callable[[StoredBlob], bool]:
    return lambda blob: sizes.get(blob.digest.hex) == blob.size


def sources_without_blobs(
    sources: Mapping[str, Place], others: Iterable[Place], options: ImageOptions, target: ImageTarget | None
) -> set[str]:
    """Those of `sources` that have to be read again: a blob that they need is gone, and no other record has one.

    `others` are places of records whose layers may stand in for theirs. Raises TargetError.
    """
    sizes = target.blob_sizes() if sources and target is not None else None
    if sizes is None:
        return set()
    stands = _standing(sizes)
    compression = STORED_KIND.get(options.compression, "none")
    served: set[DiffID] = set()
    wanting: dict[str, set[DiffID]] = {}
    lost: set[str] = set()
    reader = RecordReader()
    try:
        for location, place in sources.items():
            for row in reader.read(place, location, images=False).layers:
                if row.hashed is None or row.hashed.blob is None:
                    continue
                if stands(row.hashed.blob):
                    if row.hashed.blob.compression == compression:
                        served.add(row.hashed.diff_id)
                elif row.role is Role.KEPT:
                    lost.add(location)
                else:
                    wanting.setdefault(location, set()).add(row.hashed.diff_id)
        if wanting:
            served |= _served(reader, others, stands, compression)
    finally:
        reader.close()
    return lost | {location for location, diff_ids in wanting.items() if not diff_ids <= served}


def _served(
    reader: RecordReader, places: Iterable[Place], stands: Callable[[StoredBlob], bool], compression: str
) -> set[DiffID]:
    return {
        row.hashed.diff_id
        for place in places
        for row in reader.read(place, "", images=False).layers
        if row.hashed is not None and row.hashed.blob is not None
        if row.hashed.blob.compression == compression and stands(row.hashed.blob)
    }
