"""An image that a run has chosen, with its chain."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer, ReadyIndex

Chain = tuple[LegacyLayer, ...]
_NONE: Final[Mapping[LegacyID, int]] = MappingProxyType({})


class PlannedImage(Struct, gc=False):
    """One image to convert. `order` is its place in the run and decides ties. `chain` is empty also if it was read and
    dropped (see `convert.portions`). `elsewhere` has the layers of the chain that are read from another source, with
    the index of that source (see `OtherPlaces.place`)."""

    source_index: int
    location: str
    image: LegacyImage
    order: int
    chain: Chain = ()
    index: ReadyIndex | None = None
    lost_layer: LegacyID | None = None
    elsewhere: Mapping[LegacyID, int] = _NONE
