"""Layers that earlier runs put into the target, for archives that lack them.

`docker save` of some versions left out layers that the receiving side had. A layer of Docker 1.10 and later is found by
the diffID in its config. A v1 parent is found by its legacy ID in the map of the target: the config of the image that
it became has the history and the diffIDs of all its layers, which is all that a child needs of its parents.
A registry as the target has no map, and may have too many repositories to list: only those that the run names are
searched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from typing import Any, Final

from msgspec.structs import replace

from migrate.blobio.limits import CATALOG_BYTES, REPORT_BYTES
from migrate.documents.image_map import MappedImage, parse_map, rows_of_report
from migrate.documents.json_text import encode_json_pretty
from migrate.documents.oci import parse_config, parse_history
from migrate.errors import MigrateError
from migrate.layout.names import MAP_NAME, REPORT_NAME
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer
from migrate.model.options import ConvertOptions, EmptyLayers, ReadOptions
from migrate.model.reference import Reference
from migrate.readers.base import LegacySource
from migrate.readers.detect import open_source
from migrate.report.units import count

_ARCHIVES: Final = ("docker-archive", "oci-archive")
_MAPPED: Final = ("oci", "registry-storage")
_READABLE: Final = (*_MAPPED, *_ARCHIVES)
_SHOWN: Final = 3
_EMPTY_TAR_BYTES: Final = 20_480
"""Size of the longest empty tar that is recognised by its diffID: two records of GNU tar."""


class EarlierImages:
    """The images in a target, which is opened as a source when they are first needed."""

    def __init__(
        self,
        prefix: str,
        location: str,
        mapped: Callable[[], Iterable[MappedImage]],
        options: ConvertOptions,
        names: Callable[[], Iterable[Reference]] = tuple,
    ) -> None:
        """`prefix` and `location` are those of the target, `mapped` gives the rows of its map. `names` gives the names
        of the run's images; only a registry needs them."""
        self.location = location
        self._prefix = prefix
        # a dry run does not open the target, so the map is read here
        self._mapped = self._read_map if options.dry_run else mapped
        self._options = options
        self._names = names
        self._keeps_empty = options.empty_layers is EmptyLayers.KEEP
        self._made: dict[LegacyID, LegacyLayer] = {}
        self.problem: str | None = None
        """Why the target could not be searched."""
        self.homes: Mapping[Digest, str] = {}
        """For a registry: the repository in which each blob was found."""

    @cached_property
    def source(self) -> LegacySource | None:
        if self._prefix == "docker":
            return self._open_registry()
        # The old archive stays under its name until the new one is complete, so it can be read during the run. A target
        # that is not a regular file, such as a pipe, has no earlier images.
        is_there = self._prefix not in _ARCHIVES or os.path.isfile(self.location)
        if self._prefix in _READABLE and is_there:
            with suppress(MigrateError):
                return open_source(self.location, ReadOptions())
        return None

    def _open_registry(self) -> LegacySource:
        # imported here: only a registry as target needs the protocol
        from migrate.readers.remote_registry import PREFIX, RemoteRegistrySource
        from migrate.writers.registry import placed, split_registry_target

        host, prefix = split_registry_target(self.location)
        repositories = sorted({placed(prefix, name).name for name in self._names()})
        options = ReadOptions(
            insecure=self._options.insecure,
            dry_run=self._options.dry_run,
            temporary_directory=self._options.temporary_directory,
        )
        source = RemoteRegistrySource(f"{PREFIX}{host}", options, repositories=repositories)
        self.homes = source.homes
        return source

    def _read_map(self) -> Iterable[MappedImage]:
        """The rows of the target's map or, without one, of its report, in the same way as `writers.target_map`."""
        if self._prefix in _MAPPED:
            from migrate.storage.bucket import open_tree
            from migrate.storage.named_files import NamedFiles

            with suppress(MigrateError):
                files = NamedFiles(open_tree(self.location))
                try:
                    if (raw := files.read(MAP_NAME, CATALOG_BYTES)) is not None:
                        return parse_map(raw)
                    if (raw := files.read(REPORT_NAME, REPORT_BYTES)) is not None:
                        return rows_of_report(raw, REPORT_BYTES)
                finally:
                    files.close()
        return ()

    def close(self) -> None:
        source = self.__dict__.get("source")  # the cached property would open the target
        if source is not None:
            source.close()

    @cached_property
    def _images(self) -> Mapping[Digest, LegacyImage]:
        """The images by their image IDs. A target that cannot be read has none: no layer is taken from it."""
        found: dict[Digest, LegacyImage] = {}
        if self.source is not None:
            with suppress(MigrateError):
                listing = self.source.listing()
                children = [child for index in listing.indexes for child in index.children]
                found = {Digest.of(one.config): one for one in (*listing.images, *children) if one.config is not None}
        return found

    def iter_lost(self, written: Iterable[Digest]) -> Iterator[str]:
        """A warning about the images of an existing archive that the run does not write (`written`: image IDs). A
        layout keeps such images, but an archive is written anew."""
        kept = set(written) if self._prefix in _ARCHIVES else ()
        lost = [image for image_id, image in self._images.items() if image_id not in kept] if kept else []
        if lost:
            shown = sorted(str(name) for image in lost for name in image.references or (image.head,))
            shown[_SHOWN:] = ["…"] if len(shown) > _SHOWN else []
            yield (
                f"{self.location}: the archive that is replaced had {count(len(lost), 'image')} that "
                f"this run has not: {', '.join(shown)}; give all sources in one run, or a layout as the target"
            )

    def find_layers(self, wanted: Collection[DiffID]) -> Mapping[DiffID, Sequence[LegacyLayer]]:
        """Layers of `source` with these diffIDs in its configs. Reading a layer checks its diffID."""
        try:
            return {} if self.source is None else self.source.find_layers(wanted)
        except MigrateError as error:
            if self._prefix == "docker":  # any other target is there, and may hold nothing yet
                self.problem = f"the target could not be searched for it: {error.message}"
            return {}

    def read_layer(self, legacy_id: LegacyID) -> LegacyLayer | None:
        """The layer of an image in the map, or of one of its parents. None also if several images have this ID: which
        one is meant cannot be decided."""
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
        """The layers of an image, base first; () if its config lacks something that a child needs."""
        image = self._images.get(image_id)
        if image is None or image.config is None or image.chain is None:
            return ()
        facts, steps = parse_config(image.config), parse_history(image.config)
        empty = facts.history_empty or ()
        counts = {facts.steps_with_layer, len(facts.diff_ids), len(image.chain)}
        if not steps or len(counts) > 1 or (self._keeps_empty and any(empty)):
            return ()  # `--empty-layers keep` needs the bytes of empty layers, and the earlier run dropped them
        chain: list[LegacyLayer] = []
        contents, diff_ids = iter(image.chain), iter(facts.diff_ids)
        for number, (step, is_empty) in enumerate(zip(steps, empty, strict=True), start=1):
            below = chain[-1].legacy_id if chain else None
            # Only the ID of the image itself is recorded. The layers below it get IDs of their own, which are the same
            # in every run and belong to this image only.
            own = (
                head if number == len(steps) else LegacyID(hashlib.sha256(f"{image_id} {number}".encode()).hexdigest())
            )
            payload = None
            if not is_empty:
                diff_id = next(diff_ids)
                payload = next(contents).payload
                # an empty layer that the earlier run kept is dropped as this run drops its own
                is_lost = payload is None or (not self._keeps_empty and diff_id in _empty_tars())
                payload = None if is_lost or payload is None else replace(payload, diff_id=diff_id, keep=False)
            # A legacy JSON that gives the same history entry as the one in the config.
            document: dict[str, Any] = {"id": own, **({"parent": below} if below else {})}
            document |= {name: step[name] for name in ("created", "author", "comment") if step.get(name)}
            if step.get("created_by"):
                document["container_config"] = {"Cmd": [step["created_by"]]}
            chain.append(LegacyLayer(legacy_id=own, json=encode_json_pretty(document), parent=below, payload=payload))
        return tuple(chain)


@cache
def _empty_tars() -> Collection[DiffID]:
    """The diffIDs of tars without entries, which consist of zeros only."""
    return {DiffID(Digest.of(bytes(size))) for size in range(0, _EMPTY_TAR_BYTES + 1, 512)}
