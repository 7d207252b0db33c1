"""Reading every layer of a run once: which fails alone, which is opened again, what progress shows. Keeps nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVarTuple, Unpack

from migrate.errors import IntegrityError, MigrateError, PayloadRestartError
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event, Progress
from migrate.rehash.blobs import HashOnly
from migrate.rehash.equal_layers import ReadLayers
from migrate.rehash.layer import STORED_KIND, Layer
from migrate.rehash.ports import (
    LayerJob,
    ObserverFactory,
    TarObserver,
    observe_all,
)
from migrate.rehash.reading import LayerFacts, OpenLayer, TakesBlocks, as_layer_error, layer_name
from migrate.rehash.workers import Workers, batches

_SHOWN_BYTES: Final = 8 * 1024 * 1024
"""The progress of a layer larger than this is shown while it is read."""
_ATTEMPTS: Final = 4
"""How often a payload may be opened that raises PayloadRestartError."""


Arguments = TypeVarTuple("Arguments")
Read = Callable[[Layer, OpenLayer], None]


class Hashing:
    """Reads layers and learns their diffIDs; keeps nothing."""

    def __init__(
        self,
        options: ConvertOptions,
        progress: Progress,
        observer: ObserverFactory | None,
        workers: Workers,
        sampler: ObserverFactory | None = None,
    ) -> None:
        """`observer` has to see every layer, `sampler` only different ones."""
        self._workers = workers
        self._lock = threading.Lock()
        self._options = options
        self._progress = progress
        self._observer = observer
        self._sampler = sampler
        self._read_layers = ReadLayers()

    def run(self, layers: Sequence[Layer]) -> None:
        layers = [layer for layer in layers if layer.is_unread]
        self._announce("hash", layers)
        first, rest = _by_size(layers)
        self._each(first, self._hash)
        self._each(rest, self._hash)

    def read_passing(self, job: LayerJob) -> Layer:
        """A layer that can be read only once, read; what goes wrong in it is its error."""
        layer = Layer(job)
        self._try(layer, self._open, self.pass_by)
        return layer

    def pass_by(self, layer: Layer, opened: OpenLayer) -> None:
        self._hash(layer, opened)

    def _hash(self, layer: Layer, opened: OpenLayer) -> None:
        # The digest of a gzip layer that would be taken over is its size in the target.
        want_digest = opened.kind == "gzip" == STORED_KIND.get(self._options.compression)
        if not self._compare(layer, opened, want_digest=want_digest):
            self._read(layer, opened, HashOnly(opened.known_tar_size()), want_digest=want_digest)

    def _compare(self, layer: Layer, opened: OpenLayer, *, want_digest: bool = False) -> bool:
        """True if the layer's bytes are those of one that was read, so that everything is known of it."""
        if self._observer is not None or layer.facts is not None:
            return False
        between = self._between_blocks(layer, opened)
        facts = self._read_layers.facts_of(layer, opened, between, want_digest=want_digest)
        if facts is not None:
            self._learn(layer, opened, facts)
        return facts is not None

    def _each(self, layers: Sequence[Layer], read: Read) -> None:
        """Opens and reads every layer; what goes wrong is the layer's error, unless it concerns the whole run."""

        def guarded(layer: Layer) -> None:
            self._workers.check_stop()
            self._try(layer, self._open, read)

        self._workers.each(batches(layers, lambda layer: layer.job.payload.size), guarded)

    def _try(self, layer: Layer, step: Callable[[Layer, Unpack[Arguments]], None], *arguments: *Arguments) -> bool:
        """False where an error in `step` became the layer's; an error that concerns the whole run comes out."""
        try:
            step(layer, *arguments)
        except MigrateError as exc:
            if exc.scope == "run":
                raise
            if layer.facts is None:
                self._done(layer, layer.job.payload.size or 0)
            layer.error = exc
            return False
        return True

    def _open(self, layer: Layer, read: Read) -> None:
        """Opens the payload and reads it; again, a few times, where it has to be opened in its next best form."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with layer.job.source.open_payload(layer.job.layer) as payload:
                    read(layer, OpenLayer(layer.job, payload, self._options.max_ratio))
                return
            except PayloadRestartError as exc:
                if attempt == _ATTEMPTS:
                    raise as_layer_error(exc, layer.job) from exc
            except (MigrateError, OSError) as exc:
                raise as_layer_error(exc, layer.job) from exc

    def _read(self, layer: Layer, opened: OpenLayer, sink: TakesBlocks, *, want_digest: bool = False) -> LayerFacts:
        """A whole pass over a layer. The first one counts; later ones have to find the same tar again."""
        observer = self._new_observer(layer) if layer.facts is None else None
        between = self._between_blocks(layer, opened)
        facts = opened.read(sink, want_digest=want_digest, observer=observer, check_stop=between)
        if layer.facts is None:
            self._learn(layer, opened, facts)
            self._read_layers.add(layer, opened)
        elif layer.facts.diff_id != facts.diff_id:
            raise IntegrityError(
                f"{layer_name(layer.job)}: changed while it was read: first diffID {layer.facts.diff_id},"
                f" then {facts.diff_id}"
            )
        return facts

    def _learn(self, layer: Layer, opened: OpenLayer, facts: LayerFacts) -> None:
        """Set on the first complete read of the layer."""
        del opened
        layer.facts = facts
        self._done(layer, facts.stored_size)

    def _new_observer(self, layer: Layer) -> TarObserver | None:
        factories = [factory for factory in (self._observer, self._sampler) if factory is not None]
        if not factories:
            return None
        return observe_all([one for factory in factories if (one := factory(layer.job)) is not None])

    def _announce(self, stage: str, layers: Sequence[Layer]) -> None:
        total = sum(layer.job.payload.size or 0 for layer in layers)
        self._progress.emit(Event(kind="stage", stage=stage, total_bytes=total, total_items=len(layers)))

    def _between_blocks(self, layer: Layer, opened: OpenLayer) -> Callable[[], None]:
        """What to do between the blocks of a layer: end where the run has ended, show how far a large one has come."""
        check_stop = self._workers.check_stop
        size = layer.job.payload.size
        if layer.facts is not None or (size is not None and size <= _SHOWN_BYTES):
            return check_stop

        def check_and_show() -> None:
            check_stop()
            if opened.stored.size - layer.shown >= _SHOWN_BYTES:
                with self._lock:
                    self._advance(layer, opened.stored.size)

        return check_and_show

    def _advance(self, layer: Layer, size: int) -> None:
        step, layer.shown = max(0, size - layer.shown), size
        self._progress.emit(Event(kind="advance", name=layer.job.layer.legacy_id, bytes=step))

    def _done(self, layer: Layer, size: int) -> None:
        with self._lock:
            self._advance(layer, size)
            self._progress.emit(Event(kind="layer", name=layer.job.layer.legacy_id, bytes=size))


def _by_size(layers: Sequence[Layer]) -> tuple[list[Layer], list[Layer]]:
    """The first of every stored size, and those that may be equal to one of them."""
    sizes: set[int] = set()
    first: list[Layer] = []
    rest: list[Layer] = []
    for layer in layers:
        size = layer.job.payload.size
        (rest if size in sizes else first).append(layer)
        if size is not None:
            sizes.add(size)
    return first, rest
