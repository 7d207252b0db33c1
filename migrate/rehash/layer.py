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
"""What blobs of a compression are to a reader; what is not listed is stored as it is."""


class Layer(Struct):
    """A job in the pipeline. `kept` is the blob of a layer that is kept as stored.

    `passed` is the blob that a layer left which can be read only once. `place` is where its bytes lie, if the store
    remembers such places (`rehash.payload_memory`).
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
    """Stored bytes that progress has shown."""

    @property
    def is_unread(self) -> bool:
        return self.facts is None and self.error is None

    def adopt(self, job: LayerJob) -> Layer:
        """The same for `job`, whose documents may claim more than was known when the layer was read."""
        self.job = job
        claim = job.payload.diff_id
        if self.facts is not None and claim is not None and claim != self.facts.diff_id:
            self.error = IntegrityError(
                f"layer {job.layer.legacy_id}: diffID does not match: expected {claim}, got {self.facts.diff_id}",
                layer=job.layer.legacy_id,
            )
        return self


def hashed_layer(layer: Layer, options: ImageOptions) -> HashedLayer:
    """What became of a layer without an error."""
    facts = layer.facts
    assert facts is not None
    carried = layer.kept
    if carried is None and facts.stored_digest is not None:
        # the layer as its source stores it, if a target may hold it so
        carried = stored_blob(facts) if facts.kind == "gzip" == STORED_KIND.get(options.compression) else None
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
    """An empty layer that becomes history alone; never one that a config of the source names by its diffID."""
    claim = layer.job.payload
    if options.empty_layers is EmptyLayers.KEEP or claim.diff_id is not None or claim.disputed:
        return False
    return layer.facts is not None and layer.facts.tar.empty


def compression_of(kind: str) -> str:
    return kind if kind in ("gzip", "zstd") else "none"


def stored_blob(facts: LayerFacts) -> StoredBlob:
    assert facts.stored_digest is not None
    return StoredBlob(digest=facts.stored_digest, size=facts.stored_size, compression=compression_of(facts.kind))
