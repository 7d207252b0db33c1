"""Which images of a run can be shared over processes, and in which portions (see `convert.shares`)."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field

from migrate.blobio.compression import HEAD_BYTES, detect_compression
from migrate.convert.planned import PlannedImage
from migrate.convert.sources import OpenedSource
from migrate.model.digest import DiffID
from migrate.model.legacy import Failure, LegacyLayer, PayloadRef
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.packed import PackedTable, packed_digest
from migrate.model.progress import Event
from migrate.readers.base import LegacySource
from migrate.rehash.ports import JobKey

_FEWEST: Final = 500
"""Fewer images are converted before other processes have started."""
_PORTION: Final = 100
_MOST_PORTIONS: Final = 1_000
"""Their numbers must fit into the smallest pipe, which has 4,096 bytes."""
_SMALL_BYTES: Final = 64 * 1024
"""Layers up to this size are shared. The time of larger ones is spent in sha256 and DEFLATE, on all processors."""
_MOST_TWICE: Final = 0.2
"""A layer is read once for each portion that has it. With more such readings for each layer, little would be gained."""
_NAME_BYTES: Final = 16
"""A layer is known by so many bytes of a sha256."""


class Share(Struct, frozen=True):
    """What a process made of one portion. `images` are packed (`convert.packed_images`); `events` are those of its
    layers and failures."""

    images: bytes
    failures: Sequence[Failure]
    warnings: Sequence[str]
    missing: Sequence[str]
    events: Sequence[Event]


class RecordedProgress(Struct):
    """Keeps the events of layers and failures, and the sum of the bytes, for the progress of the main process."""

    _kept: list[Event] = field(default_factory=list)
    _bytes: int = 0

    def emit(self, event: Event, /) -> None:
        if event.kind == "advance":
            self._bytes += event.bytes
        elif event.kind != "stage":  # that of the main process has all portions
            self._kept.append(event)

    @property
    def events(self) -> Sequence[Event]:
        return [Event(kind="advance", bytes=self._bytes), *self._kept]


Portion = Sequence[PlannedImage]


class Portions(Struct, frozen=True):
    """The portions of a run, and the layers to read, once for each portion that has them: their number and the sum of
    their sizes."""

    portions: Sequence[Portion]
    layers: int
    total_bytes: int


class Divider(Struct):
    """Finds out whether the images of a run can be shared, one after the other, as their chains are read.

    A chain is dropped when its image was looked at, and is read again where its image is converted: the chains of all
    images of a large run take more memory than all else that is known of them.
    """

    sources: Sequence[OpenedSource]
    size: int
    _is_possible: bool = True
    _looked_at: int = 0
    _portion: dict[JobKey, DiffID | None] = field(default_factory=dict)
    """The layers of the portion, with the diffIDs that configs name for them."""
    _known: PackedTable = field(default_factory=lambda: PackedTable(_NAME_BYTES))
    """The layers of the run that can be shared."""
    _claims: PackedTable = field(default_factory=lambda: PackedTable(_NAME_BYTES, 32))
    """The diffIDs that configs name for them."""
    _layers: int = 0
    _bytes: int = 0

    @classmethod
    def of(cls, count: int, sources: Sequence[OpenedSource], options: ConvertOptions) -> Divider | None:
        """One for a run of `count` images, of which some may fail; None if they cannot be shared, or need not."""
        if count < _FEWEST or options.jobs < 2 or _may_not_fork():
            return None
        if options.salvage or options.check_rootfs or options.check_existing:
            return None
        if options.on_conflict is OnConflict.FAIL or options.changes_manifests:
            return None  # which documents are written is decided when all images are known
        if not all(one.is_one_file for one in sources):
            return None
        return cls(sources, max(_PORTION, math.ceil(count / _MOST_PORTIONS)))

    def look_at(self, image: PlannedImage) -> None:
        """To be called for each image of the run, in order. Drops its chain if the images can still be shared."""
        if self._looked_at % self.size == 0:
            self._portion.clear()
        self._looked_at += 1
        if self._is_possible and self._is_shareable(image):
            image.chain = ()
        else:
            self._is_possible = False

    def portions(self, planned: Portion) -> Portions | None:
        """The portions of `planned`, the images that were looked at; None if they cannot be shared."""
        if not self._is_possible or len(planned) < _FEWEST or _may_not_fork():
            return None
        if self._layers > len(self._known) * (1 + _MOST_TWICE):
            return None
        portions = [planned[start : start + self.size] for start in range(0, len(planned), self.size)]
        return Portions(portions, self._layers, self._bytes)

    def _is_shareable(self, image: PlannedImage) -> bool:
        source, legacy = self.sources[image.source_index].source, image.image
        if source is None or image.index or image.elsewhere or legacy.container or legacy.manifest:
            return False
        return all(layer.payload is None or self._add(image.source_index, source, layer) for layer in image.chain)

    def _add(self, source_index: int, source: LegacySource, layer: LegacyLayer) -> bool:
        """False if the layer keeps all images in one process."""
        ref = layer.payload
        assert ref is not None
        key = (source_index, ref.key)
        if key in self._portion:
            return self._portion[key] == ref.diff_id
        self._portion[key] = ref.diff_id
        self._layers += 1
        self._bytes += ref.size or 0
        name = hashlib.sha256(f"{source_index} {ref.key}".encode("utf-8", "surrogateescape")).digest()[:_NAME_BYTES]
        claims = [] if ref.diff_id is None else [packed_digest(ref.diff_id)]
        if name in self._known:
            return self._claims.rows(name) == claims  # otherwise two configs name different diffIDs
        self._known.add(name)
        for claim in claims:
            self._claims.add(name, claim)
        return _is_small(ref) and _is_plain(source, layer)


def _may_not_fork() -> bool:
    """Other threads may hold locks, which a fork copies."""
    return sys.platform != "linux" or threading.active_count() > 1


def _is_small(ref: PayloadRef) -> bool:
    return ref.size is not None and ref.size <= _SMALL_BYTES and not (ref.keep or ref.disputed or ref.absent)


def _is_plain(source: LegacySource, layer: LegacyLayer) -> bool:
    """True for a layer whose blob depends on its own bytes only. A compressed one may become the blob of others."""
    extent = source.find_extent(layer)
    if extent is None:
        return False
    try:
        head = os.pread(extent.fd, min(HEAD_BYTES, extent.size), extent.offset)
    except OSError:
        return False
    return detect_compression(head) == "none"
