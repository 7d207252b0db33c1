"""Totals and duplicates of a run, counted source by source. Distinct layers are kept in memory, images are not."""

from __future__ import annotations

from collections.abc import Mapping

from migrate.model.digest import DiffID, Digest
from migrate.model.image import HashedLayer
from migrate.report.document import Duplicate, Totals

SourceLayers = Mapping[tuple[str, DiffID], HashedLayer]
"""The layers of one source, by legacy ID and content, because one ID may have two contents in a source."""


class LayerTally:
    """Counts layers once per source, legacy ID and content; `add` counts one source.

    `within_bytes` are the bytes of layers that repeat inside a source, `across_bytes` of layers that repeat from one
    source to another. The sum of these and of the distinct and the empty layers is the size of all layers.
    """

    def __init__(self) -> None:
        self.within_bytes = 0
        self.across_bytes = 0
        self._layers = 0
        self._empty = 0
        self._damaged = 0
        self._bytes = 0
        self._sizes: dict[DiffID, int] = {}
        self._blobs: dict[Digest, int] = {}
        self._stored: set[DiffID] = set()
        self._estimates: dict[DiffID, int] = {}
        self._owners: dict[DiffID, str | set[str]] = {}  # legacy IDs; see `add`
        self._copies: dict[DiffID, int] = {}
        self._users: dict[DiffID, int] = {}

    def add(self, layers: SourceLayers) -> None:
        """Counts the layers of one source."""
        met: set[DiffID] = set()
        for (legacy_id, _), layer in layers.items():
            self._layers += 1
            self._bytes += layer.tar_size
            self._damaged += layer.damaged
            if layer.estimate is not None and not layer.empty:
                self._estimates[layer.diff_id] = layer.estimate
            if layer.blob is not None:
                self._blobs[layer.blob.digest] = layer.blob.size
                self._stored.add(layer.diff_id)
            if layer.empty:
                self._empty += 1
                continue
            diff_id = layer.diff_id
            is_met = diff_id in met
            if is_met:
                self.within_bytes += layer.tar_size
            elif diff_id in self._sizes:
                self.across_bytes += layer.tar_size
            if not is_met:
                self._users[diff_id] = self._users.get(diff_id, 0) + 1
            self._sizes[diff_id] = layer.tar_size
            self._copies[diff_id] = self._copies.get(diff_id, 0) + 1
            # Nearly all layers have one legacy ID. It is kept as a string: a million sets would take much more memory.
            owners = self._owners.setdefault(diff_id, legacy_id)
            if isinstance(owners, set):
                owners.add(legacy_id)
            elif owners != legacy_id:
                self._owners[diff_id] = {owners, legacy_id}
            met.add(diff_id)

    def totals(self, images: int, failed: int) -> Totals:
        """The totals of the report, for `images` that were written and `failed` ones."""
        unique_bytes = sum(self._sizes.values())
        # If the size of one layer is unknown there is no sum, because a sum of the others would look complete.
        missing = self._sizes.keys() - self._stored
        blob_bytes = None
        if not missing - self._estimates.keys():
            blob_bytes = sum(self._blobs.values()) + sum(self._estimates[diff_id] for diff_id in missing)
        return Totals(
            images=images,
            images_failed=failed,
            legacy_layers=self._layers,
            unique_layers=len(self._sizes),
            empty_layers=self._empty,
            duplicate_layers=self._layers - len(self._sizes) - self._empty,
            legacy_bytes=self._bytes,
            unique_bytes=unique_bytes,
            saved_bytes=self._bytes - unique_bytes,
            blob_bytes=blob_bytes,
            blob_bytes_estimated=bool(self._estimates.keys() - self._stored),
            damaged_layers=self._damaged,
        )

    def duplicates(self) -> tuple[Duplicate, ...]:
        """Layers that occur more than once, empty ones left out; the largest saving first."""
        rows = (
            Duplicate(
                diff_id=diff_id,
                tar_size=self._sizes[diff_id],
                copies=copies,
                legacy_ids=tuple(sorted(owners)) if isinstance(owners := self._owners[diff_id], set) else (owners,),
                saved_bytes=(copies - 1) * self._sizes[diff_id],
            )
            for diff_id, copies in self._copies.items()
            if copies > 1
        )
        return tuple(sorted(rows, key=lambda row: (-row.saved_bytes, row.diff_id)))

    def users(self, diff_id: DiffID) -> int:
        """The number of sources that have the layer."""
        return self._users.get(diff_id, 0)
