"""An image that a run has chosen, with its chain."""

from __future__ import annotations

from msgspec import Struct, field

from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer, ReadyIndex

Chain = tuple[LegacyLayer, ...]


class PlannedImage(Struct):
    """One image to convert. `order` is its place in the run and decides ties. `elsewhere` has the layers of its chain
    that are read from another source, with the index of that source (see `Conversion.place`)."""

    source_index: int
    location: str
    image: LegacyImage
    order: int
    chain: Chain = ()
    index: ReadyIndex | None = None
    lost_layer: LegacyID | None = None
    elsewhere: dict[LegacyID, int] = field(default_factory=dict)
