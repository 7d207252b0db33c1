"""Totals and duplicates of a run, counted source by source. Distinct layers are kept in memory, images are not."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from migrate.model.digest import DiffID, Digest
from migrate.model.image import HashedLayer
from migrate.report.document import Duplicate, Totals

SourceLayers = Mapping[tuple[str, DiffID], HashedLayer]
"""The layers of one source, by legacy ID and content, because one ID may have two contents in a source."""


class _Content(Struct):
    """The counts for equal layers: their size in bytes, copies, and the number of sources (`users`) that have them.

    `owners` are their legacy IDs. Nearly all have one, which is kept as a string, because a million sets would take
    much more memory.
    """

    size: int
    owners: str | set[str]
    copies: int = 0
    users: int = 0
    is_stored: bool = False
    estimate: int | None = None


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
        self._contents: dict[DiffID, _Content] = {}
        self._blobs: dict[Digest, int] = {}

    def add(self, layers: SourceLayers) -> None:
        """Counts the layers of one source."""
        seen: set[DiffID] = set()
        for (legacy_id, _), layer in layers.items():
            self._layers += 1
            self._bytes += layer.tar_size
            self._damaged += layer.damaged
            if layer.blob is not None:
                self._blobs[layer.blob.digest] = layer.blob.size
            if layer.empty:
                self._empty += 1
                continue
            diff_id = layer.diff_id
            content = self._contents.get(diff_id)
            if diff_id in seen:
                self.within_bytes += layer.tar_size
            elif content is not None:
                self.across_bytes += layer.tar_size
            if content is None:
                content = self._contents[diff_id] = _Content(layer.tar_size, legacy_id)
            elif isinstance(content.owners, set):
                content.owners.add(legacy_id)
            elif content.owners != legacy_id:
                content.owners = {content.owners, legacy_id}
            content.copies += 1
            content.users += diff_id not in seen
            content.is_stored |= layer.blob is not None
            if layer.estimate is not None:
                content.estimate = layer.estimate
            seen.add(diff_id)

    def totals(self, images: int, failed: int) -> Totals:
        """The totals of the report, for `images` that were written and `failed` ones."""
        unique_bytes = sum(content.size for content in self._contents.values())
        # If the size of one layer is unknown there is no sum, because a sum of the others would look complete.
        estimates = [content.estimate for content in self._contents.values() if not content.is_stored]
        blob_bytes = None
        if None not in estimates:
            blob_bytes = sum(self._blobs.values()) + sum(size for size in estimates if size is not None)
        return Totals(
            images=images,
            images_failed=failed,
            legacy_layers=self._layers,
            unique_layers=len(self._contents),
            empty_layers=self._empty,
            duplicate_layers=self._layers - len(self._contents) - self._empty,
            legacy_bytes=self._bytes,
            unique_bytes=unique_bytes,
            saved_bytes=self._bytes - unique_bytes,
            blob_bytes=blob_bytes,
            blob_bytes_estimated=any(size is not None for size in estimates),
            damaged_layers=self._damaged,
        )

    def duplicates(self) -> tuple[Duplicate, ...]:
        """Layers that occur more than once, empty ones left out; the largest saving first."""
        rows = (
            Duplicate(
                diff_id=diff_id,
                tar_size=content.size,
                copies=content.copies,
                legacy_ids=tuple(sorted(content.owners)) if isinstance(content.owners, set) else (content.owners,),
                saved_bytes=(content.copies - 1) * content.size,
            )
            for diff_id, content in self._contents.items()
            if content.copies > 1
        )
        return tuple(sorted(rows, key=lambda row: (-row.saved_bytes, row.diff_id)))

    def forget_single(self) -> None:
        """Drops what `totals` needs alone: the layers that occur once, which in a large run are most of them."""
        self._contents = {diff_id: content for diff_id, content in self._contents.items() if content.copies > 1}
        self._blobs = {}

    def users(self, diff_id: DiffID) -> int:
        """The number of sources that have the layer."""
        content = self._contents.get(diff_id)
        return 0 if content is None else content.users
