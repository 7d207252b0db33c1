"""Totals and duplicates of a run, counted source by source. Keeps each distinct layer once, never an image."""

from __future__ import annotations

from collections.abc import Mapping

from migrate.model.digest import DiffID, Digest
from migrate.model.image import HashedLayer
from migrate.report.document import Duplicate, Totals

SourceLayers = Mapping[tuple[str, DiffID], HashedLayer]
"""The layers of one source, by legacy ID and content: in some sources one ID has two contents, and both are kept."""


class LayerTally:
    """Counts layers once per source, legacy ID and content, as they are stored; `add` takes one source at a time.

    `within_bytes` are those of layers that repeat inside one source, `across_bytes` from one source to another;
    together with the bytes of the distinct layers and of the empty ones they make all bytes.
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
        self._owners: dict[DiffID, str | set[str]] = {}  # nearly all layers have one owner
        self._copies: dict[DiffID, int] = {}
        self._users: dict[DiffID, int] = {}

    def add(self, layers: SourceLayers) -> None:
        """The layers of one source."""
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
            # one owner is kept as a text: a set for each of a million layers would take much more memory
            owners = self._owners.setdefault(diff_id, legacy_id)
            if isinstance(owners, set):
                owners.add(legacy_id)
            elif owners != legacy_id:
                self._owners[diff_id] = {owners, legacy_id}
            met.add(diff_id)

    def totals(self, images: int, failed: int) -> Totals:
        """`images` were written, `failed` were not."""
        unique_bytes = sum(self._sizes.values())
        # as soon as one layer with content has no size, there is no sum: that of the others would look like a whole
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
        """How many sources hold the layer."""
        return self._users.get(diff_id, 0)
