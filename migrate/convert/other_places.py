"""Layers that a source of a run lacks, and the other places that have them.

Docker up to 1.9 wrote and loaded archives without the layers that the receiving side had, and found these by their
random IDs. In archives of Docker 1.10 and later, the diffID in the config identifies the bytes of a missing layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.convert.earlier import EarlierImages
from migrate.convert.sources import OpenedSource
from migrate.errors import MigrateError
from migrate.model.digest import DiffID
from migrate.model.image import HashedLayer
from migrate.model.legacy import LegacyID, LegacyLayer
from migrate.model.options import Compression, ConvertOptions, Format
from migrate.model.progress import Progress
from migrate.rehash.pipeline import rehash
from migrate.rehash.ports import BlobTarget, JobKey, LayerJob

OF_TARGET: Final = -1
"""Index of the target among the places from which layers are read."""


class Lent(Struct, frozen=True):
    """Layers that the sources lack and that other sources of a batch have: v1 layers, with the source to read them
    from, and contents that are in the target already."""

    layers: Mapping[LegacyID, OpenedSource] = field(default_factory=dict)
    contents: Mapping[DiffID, HashedLayer] = field(default_factory=dict)


class OtherPlaces(Struct):
    """The other sources of the run, sources of the same batch (`lent`), and what earlier runs put into the target."""

    sources: Sequence[OpenedSource]
    options: ConvertOptions
    lent: Lent
    earlier: EarlierImages | None
    of_target: dict[DiffID, HashedLayer] = field(default_factory=dict)
    """Contents that `take_from_target` has found."""
    _not_of_target: dict[DiffID, str] = field(default_factory=dict)
    """Why others that the target claims to have cannot be used."""

    def place(self, index: int) -> OpenedSource | EarlierImages:
        """The source with this index: one of the run, one of the batch that lends layers, or the target."""
        if index == OF_TARGET:
            assert self.earlier is not None
            return self.earlier
        own = len(self.sources)
        return self.sources[index] if index < own else self._lenders[index - own]

    @property
    def _lenders(self) -> list[OpenedSource]:
        return list({id(opened): opened for opened in self.lent.layers.values()}.values())

    def find(self, legacy_id: LegacyID, own: int) -> tuple[int, LegacyLayer] | None:
        """The layer that the source `own` lacks, and the index of the place that has it. If other sources disagree
        about the layer, none is used. Docker roots and v1 archives are preferred: archives with a manifest.json have v1
        JSON, too, but later programs made it up."""
        v1: dict[bytes, tuple[int, LegacyLayer]] = {}
        others: dict[bytes, tuple[int, LegacyLayer]] = {}
        for index, opened in enumerate(self.sources):
            if index != own and opened.source is not None and opened.listing is not None:
                with suppress(MigrateError):
                    layer = opened.source.read_layer(legacy_id)
                    if layer.payload is not None and layer.payload.absent is None:
                        rank = v1 if legacy_id in opened.listing.layers else others
                        rank.setdefault(layer.json, (index, layer))
        found = v1 or others
        # sources of this run first, then sources of the same batch, then what an earlier run left in the target
        if found:
            return next(iter(found.values())) if len(found) == 1 else None
        lender = self.lent.layers.get(legacy_id)
        if lender is not None and lender.source is not None:
            with suppress(MigrateError):
                index = len(self.sources) + [id(one) for one in self._lenders].index(id(lender))
                return index, lender.source.read_layer(legacy_id)
        of_target = None if self.earlier is None else self.earlier.read_layer(legacy_id)
        return None if of_target is None else (OF_TARGET, of_target)

    def same_content(self, diff_id: DiffID | None, hashed: Iterable[HashedLayer | MigrateError]) -> HashedLayer | None:
        """Another layer with this diffID, which the config names for a layer whose bytes are missing. `hashed`: the
        layers of the run."""
        if diff_id is None:
            return None
        rows = (row for row in hashed if isinstance(row, HashedLayer) and row.diff_id == diff_id)
        usable = (row for row in rows if row.blob is not None or self.options.dry_run)
        return next(usable, self.lent.contents.get(diff_id) or self.of_target.get(diff_id))

    def take_from_target(self, wanted: Iterable[DiffID], store: BlobTarget | None, progress: Progress) -> None:
        """Looks in the target for layers with these diffIDs, whose bytes no source has."""
        if self.earlier is None:
            return
        found = {diff_id: [*layers] for diff_id, layers in self.earlier.find_layers(sorted(wanted)).items()}
        # Several blobs of the target may claim one diffID, so each is tried until one has it.
        while found:
            assert self.earlier.source is not None
            jobs: dict[JobKey, LayerJob] = {}
            for diff_id in sorted(found):
                job = LayerJob(OF_TARGET, self.earlier.source, found[diff_id][0])
                # If another diffID needs the same blob in this round, this one waits for the next round.
                if jobs.setdefault(job.key, job) is job:
                    found[diff_id].pop(0)
            for key, result in rehash(list(jobs.values()), store, self.options, progress).items():
                payload = jobs[key].payload
                assert payload.diff_id is not None
                if isinstance(result, MigrateError):
                    reason = f"the target has {payload.digest or payload.key} for it: {result.message}"
                    self._not_of_target[payload.diff_id] = reason
                elif not payload.keep or self._fits(result):
                    self.of_target[payload.diff_id] = result
                    del found[payload.diff_id]
                else:  # the right content in a form that this run does not allow: the next round compresses it again
                    found[payload.diff_id].insert(0, replace(jobs[key].layer, payload=replace(payload, keep=False)))
            found = {diff_id: layers for diff_id, layers in found.items() if layers}

    def why_not_of_target(self, diff_id: DiffID | None) -> str | None:
        """The reason why a layer was not taken from the target, if there is one."""
        problem = None if self.earlier is None else self.earlier.problem
        return problem if diff_id is None else self._not_of_target.get(diff_id, problem)

    def _fits(self, layer: HashedLayer) -> bool:
        """True if this run's options allow a blob of the target, as it is, in a new image."""
        if layer.blob is None:
            return self.options.dry_run
        if layer.blob.compression == "none":
            # no gzip and no zstd: it may still be compressed in another way, and then it is not the tar itself
            return layer.blob.digest == layer.diff_id
        if self.options.compression is Compression.NONE:
            return False
        return layer.blob.compression == "gzip" or self.options.format is Format.OCI
