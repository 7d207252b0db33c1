"""A layer in the pipeline, and its result."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from migrate.errors import IntegrityError, MigrateError
from migrate.model.image import HashedLayer, StoredBlob
from migrate.model.options import Compression, EmptyLayers, ImageOptions
from migrate.rehash.ports import LayerJob
from migrate.rehash.reading import LayerFacts

STORED_KIND: Final = {Compression.GZIP: "gzip", Compression.GZIP_FAST: "gzip", Compression.ZSTD: "zstd"}
"""Compression → the kind of its blobs. Without an entry, tars are stored uncompressed."""


class Layer(Struct):
    """A job in the pipeline. `kept`: the blob of a layer that is kept as stored. `passed`: the blob that was made of a
    layer which can be read only once. `place`: the key of the layer's place, if the store remembers places
    (`rehash.payload_memory`).
    """

    job: LayerJob
    kind: str = ""
    tar_size: int | None = None
    facts: LayerFacts | None = None
    error: MigrateError | None = None
    kept: StoredBlob | None = None
    blob: StoredBlob | None = None
    passed: StoredBlob | None = None
    place: str | None = None
    shown: int = 0
    """The number of stored bytes that were reported to the progress."""

    @property
    def is_unread(self) -> bool:
        return self.facts is None and self.error is None

    def adopt(self, job: LayerJob) -> Layer:
        """Replaces the job of a layer that is read already by `job`, which may have further claims: in a stream, the
        documents come after the layers."""
        self.job = job
        claim = job.payload.diff_id
        if self.facts is not None and claim is not None and claim != self.facts.diff_id:
            self.error = IntegrityError(
                f"layer {job.layer.legacy_id}: diffID does not match: expected {claim}, got {self.facts.diff_id}",
                layer=job.layer.legacy_id,
            )
        return self


def hashed_layer(layer: Layer, options: ImageOptions) -> HashedLayer:
    """The result of a layer without an error."""
    facts = layer.facts
    assert facts is not None
    carried = layer.kept
    if carried is None and facts.stored_digest is not None:
        # The blob of the source, if a target may have it unchanged.
        is_kept = layer.job.payload.keep or facts.kind == "gzip" == STORED_KIND.get(options.compression)
        carried = stored_blob(facts) if is_kept else None
    return HashedLayer(
        diff_id=facts.diff_id,
        tar_size=facts.tar.size,
        empty=facts.tar.empty,
        blob=layer.kept or (None if is_dropped(layer, options) else layer.blob),
        origin=facts.origin,
        exact=facts.exact and not facts.damaged,
        note=facts.note,
        flags=facts.tar.flags,
        flagged=facts.tar.flagged,
        damaged=facts.damaged,
        carried=carried,
    )


def is_dropped(layer: Layer, options: ImageOptions) -> bool:
    """True for an empty layer that becomes only a history entry. False for a layer that a config of the source names by
    its diffID: that config is kept byte for byte."""
    claim = layer.job.payload
    if options.empty_layers is EmptyLayers.KEEP or claim.diff_id is not None or claim.disputed:
        return False
    return layer.facts is not None and layer.facts.tar.empty


def compression_of(kind: str) -> str:
    return kind if kind in ("gzip", "zstd") else "none"


def stored_blob(facts: LayerFacts) -> StoredBlob:
    assert facts.stored_digest is not None
    return StoredBlob(digest=facts.stored_digest, size=facts.stored_size, compression=compression_of(facts.kind))
