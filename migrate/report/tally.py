"""Totals and duplicates of a run, counted source by source. Distinct layers are kept in memory, images are not."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from migrate.model.digest import DiffID
from migrate.model.image import HashedLayer
from migrate.model.legacy import LegacyLayer
from migrate.model.packed import PackedTable, packed_digest, packed_size, unpacked_size
from migrate.report.document import Duplicate, Totals

SourceLayers = Mapping[tuple[str, DiffID], HashedLayer]
"""The layers of one source, by legacy ID and content, because one ID may have two contents in a source."""


_KEY_BYTES: Final = 16
"""Enough of a sha256 that nobody can make two equal ones."""
_ID: Final = re.compile(r"[0-9a-f]{64}")


class _Content(Struct):
    """The counts for equal layers: their size in bytes, copies, and the number of sources (`users`) that have them.

    `owners` are their legacy IDs: a string where there is one, because a million sets would take much more memory.
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
        self._unique_bytes = 0
        self._blob_bytes = 0
        self._contents: dict[DiffID, _Content] = {}
        # Nearly all layers occur once. Their sizes and legacy IDs, by diffID:
        self._single = PackedTable(key=32, row=8 + 32)
        self._blobs = PackedTable(key=32)

    def add(self, layers: SourceLayers) -> None:
        """Counts the layers of one source."""
        seen: set[DiffID] = set()
        for (legacy_id, _), layer in layers.items():
            self.count(legacy_id, layer, is_again=layer.diff_id in seen)
            if not layer.empty:
                seen.add(layer.diff_id)

    def count(self, legacy_id: str, layer: HashedLayer, *, is_again: bool = False) -> None:
        """Counts one layer. `is_again`: its source has another layer with this content, which is counted already."""
        self._layers += 1
        self._bytes += layer.tar_size
        self._damaged += layer.damaged
        if layer.blob is not None and (blob := packed_digest(layer.blob.digest)) not in self._blobs:
            self._blobs.add(blob)
            self._blob_bytes += layer.blob.size
        if layer.empty:
            self._empty += 1
            return
        diff_id = layer.diff_id
        content = self._known(diff_id)
        if content is None:
            self._unique_bytes += layer.tar_size
            if layer.blob is not None and layer.estimate is None and _ID.fullmatch(legacy_id):
                row = packed_size(layer.tar_size) + bytes.fromhex(legacy_id)
                self._single.add(packed_digest(diff_id), row)
                return
            content = self._contents[diff_id] = _Content(layer.tar_size, legacy_id)
        elif is_again:
            self.within_bytes += layer.tar_size
        else:
            self.across_bytes += layer.tar_size
        if isinstance(content.owners, set):
            content.owners.add(legacy_id)
        elif content.owners != legacy_id:
            content.owners = {content.owners, legacy_id}
        content.copies += 1
        content.users += not is_again
        content.is_stored |= layer.blob is not None
        if layer.estimate is not None:
            content.estimate = layer.estimate

    def add_damaged(self, number: int) -> None:
        """Counts layers as damaged that were counted as layers before."""
        self._damaged += number

    def _known(self, diff_id: DiffID) -> _Content | None:
        """The counts of a content that was counted before. One that occurred once is no longer packed then."""
        content = self._contents.get(diff_id)
        if content is None:
            key = packed_digest(diff_id)
            for row in self._single.rows(key):
                self._single.remove(key)
                content = _Content(unpacked_size(row[:8]), row[8:].hex(), copies=1, users=1, is_stored=True)
                self._contents[diff_id] = content
        return content

    def totals(self, images: int, failed: int) -> Totals:
        """The totals of the report, for `images` that were written and `failed` ones."""
        # If the size of one layer is unknown there is no sum, because a sum of the others would look complete.
        estimates = [content.estimate for content in self._contents.values() if not content.is_stored]
        blob_bytes = None
        if None not in estimates:
            blob_bytes = self._blob_bytes + sum(size for size in estimates if size is not None)
        unique = len(self._contents) + len(self._single)
        return Totals(
            images=images,
            images_failed=failed,
            legacy_layers=self._layers,
            unique_layers=unique,
            empty_layers=self._empty,
            duplicate_layers=self._layers - unique - self._empty,
            legacy_bytes=self._bytes,
            unique_bytes=self._unique_bytes,
            saved_bytes=self._bytes - self._unique_bytes,
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
        self._single = PackedTable(key=32, row=8 + 32)
        self._blobs = PackedTable(key=32)

    def users(self, diff_id: DiffID) -> int:
        """The number of sources that have the layer."""
        content = self._contents.get(diff_id)
        return len(self._single.rows(packed_digest(diff_id))) if content is None else content.users


class SourceTallies:
    """Counts the layers of several sources in a LayerTally, from images in any order: each layer once for its source.

    Nearly all are counted at once, and only a few bytes of them are kept. `images` are counted by the caller.
    """

    def __init__(self, tally: LayerTally) -> None:
        self.tally = tally
        self.images: Counter[str] = Counter()
        self._counted: dict[str, PackedTable] = defaultdict(lambda: PackedTable(_KEY_BYTES))
        self._contents: dict[str, PackedTable] = defaultdict(lambda: PackedTable(_KEY_BYTES))
        self._later: dict[str, dict[tuple[str, DiffID], HashedLayer]] = defaultdict(dict)

    def add(self, source: str, chain: Iterable[tuple[LegacyLayer, HashedLayer | None]]) -> None:
        """Counts the layers of an image of `source`."""
        counted = self._counted[source]
        for legacy, layer in chain:
            if layer is None:
                continue
            # Images may have the layer in several forms, of which the last one counts: with an estimate, damaged, or
            # with the blob of the source.
            if layer.damaged or layer.estimate is not None or layer.carried is not None:
                self._later[source][legacy.legacy_id, layer.diff_id] = layer
            elif (key := _layer_key(legacy.legacy_id, layer.diff_id)) not in counted:
                counted.add(key)
                self._count(source, legacy.legacy_id, layer)

    def _count(self, source: str, legacy_id: str, layer: HashedLayer) -> None:
        contents, content = self._contents[source], packed_digest(layer.diff_id)[:_KEY_BYTES]
        is_again = content in contents
        if not is_again and not layer.empty:
            contents.add(content)
        self.tally.count(legacy_id, layer, is_again=is_again)

    def finish(self, sources: Iterable[str]) -> dict[str, int]:
        """Counts what is left, in the order of `sources`, and gives the number of damaged layers by source."""
        damaged: dict[str, int] = {}
        for source in sources:
            later = self._later.pop(source, {})
            damaged[source] = damaged.get(source, 0) + sum(layer.damaged for layer in later.values())
            for (legacy_id, diff_id), layer in later.items():
                if _layer_key(legacy_id, diff_id) in self._counted[source]:
                    self.tally.add_damaged(layer.damaged)
                else:
                    self._count(source, legacy_id, layer)
        return damaged


def _layer_key(legacy_id: str, diff_id: DiffID) -> bytes:
    text = f"{legacy_id} {diff_id.hex}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).digest()[:_KEY_BYTES]
