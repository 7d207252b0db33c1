"""Finds layers with the same bytes as a layer that was read. They are compared and not hashed, which is much faster.

Old stores often have equal layers with different IDs; a third of all bytes is usual.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from migrate.blobio.extents import same_bytes
from migrate.rehash.layer import Layer
from migrate.rehash.reading import LayerFacts, OpenLayer

_SMALLEST: Final = 256 * 1024
"""A smaller layer is hashed faster than another file is opened."""
_RIVALS: Final = 4
"""A layer is compared with so many layers of its size at most. If there are more, an equal size is no sign of equal
bytes."""


class ReadLayers:
    """The layers that a run has read, by their stored size. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_size: defaultdict[int, list[Layer]] = defaultdict(list)

    def add(self, layer: Layer, opened: OpenLayer) -> None:
        """Adds a layer that was hashed. A layer that is no extent of a file, so that it cannot be compared, is
        ignored."""
        size = layer.facts.stored_size if layer.facts is not None else 0
        if opened.is_extent and size >= _SMALLEST:
            with self._lock:
                known = self._by_size[size]
                if len(known) < _RIVALS:
                    layer.kind = opened.kind
                    known.append(layer)

    def facts_of(
        self, layer: Layer, opened: OpenLayer, check_stop: Callable[[], None], *, with_digest: bool = False
    ) -> LayerFacts | None:
        """The facts of `layer` if its bytes are equal to those of a layer that was read; else None.

        Raises IntegrityError if the facts contradict a claim of the source's documents.
        """
        extent = opened.payload.extent
        if extent is None or extent.size < _SMALLEST:
            return None
        wanted = with_digest or layer.job.payload.digest is not None
        with self._lock:
            rivals = list(self._by_size.get(extent.size, ()))
        for rival in rivals:
            facts = rival.facts
            if facts is None or rival.kind != opened.kind or (wanted and facts.stored_digest is None):
                continue
            with rival.job.source.open_payload(rival.job.layer) as payload:
                same = payload.extent is not None and same_bytes(extent, payload.extent, check_stop)
            if same:
                mine = opened.payload
                # The bytes are the same, but not the place that they come from.
                facts = replace(facts, origin=mine.origin, exact=mine.exact, note=mine.note, damaged=mine.damaged)
                opened.check_claims(facts)
                return facts
        return None
