"""Layers that one source of a batch lacks and another one has.

Archives from before Docker 1.10 may lack layers that the receiving side had. A batch reads each source alone, so the
missing layers are known only when all sources were read. The records then show, without opening a source, which source
has them: the one from which `convert` would take them. The choice depends only on the records and the order of the
sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from msgspec import Struct, field

from migrate.batch.plan import Loan
from migrate.batch.records import HeldLayer, SourceRecord
from migrate.convert.other_places import Lent
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import MigrateError
from migrate.model.digest import DiffID
from migrate.model.image import HashedLayer
from migrate.model.legacy import LegacyID, is_hex_id
from migrate.model.options import ConvertOptions
from migrate.readers.base import LegacySource
from migrate.readers.detect import open_source

_MARK_DIGITS: Final = 16


def held_layers(conversion: Conversion, source: LegacySource) -> tuple[HeldLayer, ...]:
    """The layers of the single source of a conversion that other sources may use, sorted. Only IDs of 64 digits are
    listed: shorter or other names do not identify a layer."""
    listing = conversion.sources[0].listing
    if listing is None:
        return ()
    # Layers that the conversion has read need no second look; the others are read from the source's documents.
    v1 = set(listing.layers)
    read = {
        layer.legacy_id: layer.json
        for planned in conversion.planned
        if planned.image.chain is None and planned.image.container is None
        for layer in planned.chain
        if layer.payload is not None and layer.legacy_id not in planned.elsewhere
    }
    others = {layer.legacy_id for planned in conversion.planned for layer in planned.image.chain or ()}
    for legacy_id in (v1 | others) - read.keys():
        with suppress(MigrateError):
            layer = source.read_layer(legacy_id)
            if layer.payload is not None:
                read[legacy_id] = layer.json
    return tuple(
        HeldLayer(legacy_id, hashlib.sha256(json).hexdigest()[:_MARK_DIGITS], legacy_id in v1)
        for legacy_id, json in sorted(read.items())
        if is_hex_id(legacy_id) and len(legacy_id) == 64
    )


@contextmanager
def lent_layers(layers: Mapping[LegacyID, str], options: ConvertOptions) -> Iterator[dict[LegacyID, OpenedSource]]:
    """Opens the sources of the layers. Layers of sources that cannot be opened are left out."""
    opened: dict[str, OpenedSource] = {}
    with ExitStack() as stack:
        for location in sorted(set(layers.values())):
            with suppress(MigrateError):
                source = open_source(location, options)
                stack.callback(source.close)
                opened[location] = OpenedSource(location, source, listing=source.listing())
        yield {legacy_id: opened[place] for legacy_id, place in layers.items() if place in opened}


class Lenders(Struct):
    """Finds sources for the layers `wanted` (IDs and diffIDs). Records are added in the order of the sources."""

    wanted: set[str]
    _held: dict[str, list[tuple[str, HeldLayer]]] = field(default_factory=dict)
    _contents: dict[str, tuple[str, HashedLayer]] = field(default_factory=dict)
    _lacking: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def take(self, location: str, record: SourceRecord, *, dry_run: bool) -> None:
        self._lacking[location] = (*record.missing, *record.lent)
        for layer in record.held:
            if layer.legacy_id in self.wanted:
                self._held.setdefault(layer.legacy_id, []).append((location, layer))
        for row in record.layers:
            if row.hashed is not None and (row.hashed.blob is not None or dry_run):
                diff_id = str(row.hashed.diff_id)
                if diff_id in self.wanted:
                    self._contents.setdefault(diff_id, (location, row.hashed))

    def loan(self, location: str, missing: Iterable[str]) -> Loan:
        """The layers for a source that lacks `missing`, including those that the lending sources lack themselves."""
        layers: dict[LegacyID, str] = {}
        contents: dict[str, HashedLayer] = {}
        open_ = [*missing]
        seen: set[str] = set()
        while open_:
            one = open_.pop()
            if one in seen:
                continue
            seen.add(one)
            if one in self._contents:
                contents[one] = self._contents[one][1]
            # The first source that has the layer, but none if sources have different JSON for its ID.
            rows = [(place, layer) for place, layer in self._held.get(one, ()) if place != location]
            rows = [row for row in rows if row[1].is_v1] or rows
            lender = rows[0][0] if len({layer.mark for _, layer in rows}) == 1 else None
            if lender is not None:
                layers[LegacyID(one)] = lender
                open_ += self._lacking[lender]
        return Loan(dict(sorted(layers.items())), tuple(layer for _, layer in sorted(contents.items())))


def lent(loan: Loan, layers: Mapping[LegacyID, OpenedSource]) -> Lent:
    """A loan with its opened sources."""
    contents = {DiffID(layer.diff_id): layer for layer in loan.contents}
    return Lent(layers, contents)
