"""Which images of a run can be shared over processes, and in which portions (see `convert.shares`)."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Collection, Sequence
from typing import Final

from msgspec import Struct, field

from migrate.blobio.compression import HEAD_BYTES, detect_compression
from migrate.convert.planned import PlannedImage
from migrate.convert.publish import FinishedImage
from migrate.convert.sources import OpenedSource
from migrate.errors import MigrateError
from migrate.model.digest import DiffID
from migrate.model.legacy import Failure, LegacyLayer, PayloadRef
from migrate.model.options import ConvertOptions, OnConflict
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


class Share(Struct, frozen=True):
    """What a process made of one portion. `events` are those of its layers and failures."""

    images: Sequence[FinishedImage]
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
    """The portions of a run, and the layers to read, once for each portion that has them."""

    portions: Sequence[Portion]
    layers: Sequence[PayloadRef]


def divide(planned: Portion, sources: Sequence[OpenedSource], options: ConvertOptions) -> Portions | None:
    """The portions of a run; None if its images cannot be shared, or need not."""
    if len(planned) < _FEWEST or options.jobs < 2:
        return None
    if sys.platform != "linux" or threading.active_count() > 1:  # other threads may hold locks, which a fork copies
        return None
    if options.salvage or options.check_rootfs or options.check_existing:
        return None
    if options.on_conflict is OnConflict.FAIL or options.changes_manifests:
        return None  # which documents are written is decided when all images are known
    if not all(one.is_one_file for one in sources):
        return None
    size = max(_PORTION, math.ceil(len(planned) / _MOST_PORTIONS))
    portions = [planned[start : start + size] for start in range(0, len(planned), size)]
    layers: list[PayloadRef] = []
    known: dict[JobKey, DiffID | None] = {}
    for portion in portions:
        found = _small_layers(portion, sources, known)
        if found is None:
            return None
        layers += found
    return Portions(portions, layers) if len(layers) <= len(known) * (1 + _MOST_TWICE) else None


def _small_layers(
    portion: Portion, sources: Sequence[OpenedSource], known: dict[JobKey, DiffID | None]
) -> Collection[PayloadRef] | None:
    """The different layers of the portion; None if one of its images cannot be shared. `known` are layers of the run
    that can, with the diffIDs that configs name for them."""
    layers: dict[JobKey, PayloadRef] = {}
    for image in portion:
        source, legacy = sources[image.source_index].source, image.image
        if source is None or image.index or image.elsewhere or legacy.container or legacy.manifest:
            return None
        for layer in image.chain:
            ref = layer.payload
            if ref is not None:
                key = (image.source_index, ref.key)
                if key not in known and not (_is_small(ref) and _is_plain(source, layer)):
                    return None
                if known.setdefault(key, ref.diff_id) != ref.diff_id:
                    return None  # two configs name different diffIDs
                layers[key] = ref
    return layers.values()


def _is_small(ref: PayloadRef) -> bool:
    return ref.size is not None and ref.size <= _SMALL_BYTES and not (ref.keep or ref.disputed or ref.absent)


def _is_plain(source: LegacySource, layer: LegacyLayer) -> bool:
    """True for a layer whose blob depends on its own bytes only. A compressed one may become the blob of others."""
    try:
        with source.open_payload(layer) as payload:
            extent = payload.extent
            if extent is None:
                return False
            return detect_compression(os.pread(extent.fd, min(HEAD_BYTES, extent.size), extent.offset)) == "none"
    except (MigrateError, OSError):
        return False
