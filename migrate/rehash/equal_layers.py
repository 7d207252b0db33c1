"""A layer with the very bytes of one that was read is not hashed: comparing costs a fraction of that.

Old stores hold equal layers again under other IDs; a third of the bytes is usual.
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
"""What is smaller is hashed in less time than another file is opened."""
_RIVALS: Final = 4
"""So many layers of one size are compared with; where there are more, equal sizes mean little."""


class ReadLayers:
    """The layers that a run has read, by their stored size. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_size: defaultdict[int, list[Layer]] = defaultdict(list)

    def add(self, layer: Layer, opened: OpenLayer) -> None:
        """`layer` was hashed; its bytes can be read again."""
        size = layer.facts.stored_size if layer.facts is not None else 0
        if opened.is_extent and size >= _SMALLEST:
            with self._lock:
                known = self._by_size[size]
                if len(known) < _RIVALS:
                    layer.kind = opened.kind
                    known.append(layer)

    def facts_of(
        self, layer: Layer, opened: OpenLayer, check_stop: Callable[[], None], *, want_digest: bool = False
    ) -> LayerFacts | None:
        """What a pass over `layer` would find, if its bytes are those of a layer that was read; else None.

        Raises IntegrityError where a document claims something else of them.
        """
        extent = opened.payload.extent
        if extent is None or extent.size < _SMALLEST:
            return None
        wanted = want_digest or layer.job.payload.digest is not None
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
                facts = replace(facts, origin=mine.origin, exact=mine.exact, note=mine.note, damaged=mine.damaged)
                opened.check_claims(facts)
                return facts
        return None
