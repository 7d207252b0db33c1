"""What earlier runs put into the target, for archives that left out what their target had.

A layer of 1.10 and later is found by the diffID that its config names. A v1 parent is found by its ID in the target's
map: the config that it became has the history and the diffIDs of all its layers, and nothing else of a parent goes into
the image of a child.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

from migrate.documents.image_map import MappedImage
from migrate.documents.json_text import encode_json_pretty
from migrate.documents.oci import parse_config, parse_history
from migrate.errors import MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer
from migrate.model.options import EmptyLayers, ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.detect import open_source

_ARCHIVES: Final = ("docker-archive", "oci-archive")
_READABLE: Final = ("oci", "registry-storage", *_ARCHIVES)


class EarlierImages:
    """Those of a target, which is opened when they are first wanted. All of it is read as any other source."""

    def __init__(
        self, prefix: str, location: str, mapped: Callable[[], Iterable[MappedImage]], empty_layers: EmptyLayers
    ) -> None:
        self.location = location
        self._prefix = prefix
        self._mapped = mapped
        self._keeps_empty = empty_layers is EmptyLayers.KEEP
        self._made: dict[LegacyID, LegacyLayer] = {}

    @cached_property
    def source(self) -> LegacySource | None:
        # An archive keeps its name until the new one is whole. What is no file, such as a pipe, has nothing of before.
        is_there = self._prefix not in _ARCHIVES or os.path.isfile(self.location)
        if self._prefix in _READABLE and is_there:
            with suppress(MigrateError):
                return open_source(self.location, ReadOptions())
        return None

    def close(self) -> None:
        source = self.__dict__.get("source")  # not opened for this
        if source is not None:
            source.close()

    @cached_property
    def _images(self) -> Mapping[Digest, LegacyImage]:
        """By the digest of their configs."""
        found: dict[Digest, LegacyImage] = {}
        if self.source is not None:
            with suppress(MigrateError):
                listing = self.source.listing()
                children = [child for index in listing.indexes for child in index.children]
                found = {Digest.of(one.config): one for one in (*listing.images, *children) if one.config is not None}
        return found

    def find_content(self, diff_id: DiffID) -> LegacyLayer | None:
        """A layer that has this diffID by its config; reading it proves that."""
        layers = (layer for image in self._images.values() for layer in image.chain or ())
        return next((layer for layer in layers if layer.payload is not None and layer.payload.diff_id == diff_id), None)

    def read_layer(self, legacy_id: LegacyID) -> LegacyLayer | None:
        """A layer that is an image in the map, or one below it. None also where the map has several images of it."""
        if legacy_id not in self._made:
            images = {row.image_id for row in self._rows.get(legacy_id, ())}
            chains = [chain for image_id in sorted(images) if (chain := self._chain(legacy_id, image_id))]
            if len(chains) != 1:
                return None
            self._made.update((layer.legacy_id, layer) for layer in chains[0])
        return self._made[legacy_id]

    @cached_property
    def _rows(self) -> Mapping[str, list[MappedImage]]:
        rows: dict[str, list[MappedImage]] = {}
        for row in self._mapped():
            if row.removed:
                continue
            rows.setdefault(row.legacy_id, []).append(row)
        return rows

    def _chain(self, head: LegacyID, image_id: Digest) -> tuple[LegacyLayer, ...]:
        """The layers of an image, base first; () where its config lacks something that a child needs."""
        image = self._images.get(image_id)
        if image is None or image.config is None or image.chain is None:
            return ()
        facts, steps = parse_config(image.config), parse_history(image.config)
        empty = facts.history_empty or ()
        if not steps or facts.steps_with_layer != len(image.chain) or (self._keeps_empty and any(empty)):
            return ()  # the bytes of an empty layer that was dropped are lost
        chain: list[LegacyLayer] = []
        contents = iter(image.chain)
        for number, (step, is_empty) in enumerate(zip(steps, empty, strict=True), start=1):
            below = chain[-1].legacy_id if chain else None
            own = (
                head if number == len(steps) else LegacyID(hashlib.sha256(f"{image_id} {number}".encode()).hexdigest())
            )
            payload = None if is_empty else next(contents).payload
            # The JSON from which the same step of a history is made again.
            document: dict[str, Any] = {"id": own, **({"parent": below} if below else {})}
            document |= {name: step[name] for name in ("created", "author", "comment") if step.get(name)}
            if step.get("created_by"):
                document["container_config"] = {"Cmd": [step["created_by"]]}
            chain.append(LegacyLayer(legacy_id=own, json=encode_json_pretty(document), parent=below, payload=payload))
        return tuple(chain)
