"""The hot path: every layer of a run is hashed once, and every distinct tar gets one blob.

The choice of a blob must depend on the layers only, and not on the order in which threads finish. So there are four
steps:

1. *examine*: layers that are stored as gzip or must be kept, and small layers, are read whole and hashed;
2. *first*: of the other layers, the first one of each size is compressed while it is hashed;
3. *rest*: the remaining layers are hashed, and most of them have a blob already;
4. *provide*: each tar without a blob gets one from a layer with its bytes.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final, TypeVarTuple, Unpack

from migrate.blobio.compression import block_compressor
from migrate.errors import IntegrityError, MigrateError, PayloadRestartError
from migrate.model.digest import EMPTY_TAR_DIFF_ID, DiffID
from migrate.model.image import HashedLayer, StoredBlob
from migrate.model.options import Compression, ConvertOptions
from migrate.model.progress import Event, Progress
from migrate.rehash.blobs import EMPTY_TAR_GZIP, BlobOutput, Collected, Compressed, Copied, HashOnly, MeasuredBlobs
from migrate.rehash.equal_layers import ReadLayers
from migrate.rehash.layer import STORED_KIND, Layer, compression_of, hashed_layer, is_dropped, stored_blob
from migrate.rehash.merge import choose_blobs, plan_reading
from migrate.rehash.payload_memory import PayloadMemory
from migrate.rehash.ports import (
    BlobTarget,
    JobKey,
    LayerJob,
    ObserverFactory,
    TarObserver,
    observe_all,
)
from migrate.rehash.reading import LayerFacts, OpenLayer, TakesBlocks, as_layer_error, layer_name
from migrate.rehash.workers import Workers, batches

_SMALL_BYTES: Final = 64 * 1024
"""Tars up to this size are compressed when they are hashed, and are kept in memory until the blobs are chosen."""
_HELD_BYTES: Final = 16 * 1024 * 1024
"""Limit of the bytes of these compressed tars. Tars beyond it are read again."""
_SHOWN_BYTES: Final = 8 * 1024 * 1024
"""The progress of a layer larger than this is shown while it is read."""
_ATTEMPTS: Final = 4
"""A payload that raises PayloadRestartError is opened so many times at most."""

Arguments = TypeVarTuple("Arguments")
Read = Callable[[Layer, OpenLayer], None]


def rehash(
    jobs: Sequence[LayerJob],
    store: BlobTarget | None,
    options: ConvertOptions,
    progress: Progress,
    observer: ObserverFactory | None = None,
    passed: Mapping[JobKey, Layer] | None = None,
    sampler: ObserverFactory | None = None,
) -> dict[JobKey, HashedLayer | MigrateError]:
    """Hashes the layers of `jobs` and puts one blob for each distinct tar into `store`.

    `passed`: layers that PassingLayers has read already; they are not opened again. `observer` gets every layer, so
    that equal layers are read and not compared; `sampler` gets only different layers.

    Every job has a result: the layer or its error. Without a store no blob is kept, and the sizes of blobs are computed
    only with `options.exact_sizes`. Raises TargetError and other errors of scope run.
    """
    if store is None and options.exact_sizes:
        store = MeasuredBlobs()
    passed = passed or {}

    def largest_first(job: LayerJob) -> tuple[float, JobKey]:
        """The key of the order of work. The largest layers come first: a thread must not begin with one when the others
        are done. An unknown size may be large."""
        return (-math.inf if job.payload.size is None else -job.payload.size, job.key)

    layers = [
        passed[job.key].adopt(job) if job.key in passed else Layer(job) for job in sorted(jobs, key=largest_first)
    ]
    with Workers(options.jobs) as workers:
        if store is None:
            _Hashing(options, progress, observer, workers, sampler).run(layers)
        else:
            _Storing(store, options, progress, observer, workers).run(layers)
    # In the order of their keys, and not in the order of work. A layer that is done with does not stay in memory.
    results: dict[JobKey, HashedLayer | MigrateError] = {}
    layers.sort(key=lambda layer: layer.job.key, reverse=True)
    while layers:
        layer = layers.pop()
        results[layer.job.key] = layer.error or hashed_layer(layer, options)
    return results


class _Hashing:
    """Reads layers and computes their diffIDs. Keeps no blobs."""

    def __init__(
        self,
        options: ConvertOptions,
        progress: Progress,
        observer: ObserverFactory | None,
        workers: Workers,
        sampler: ObserverFactory | None = None,
    ) -> None:
        """`observer` gets every layer, `sampler` only different ones."""
        self._workers = workers
        self._lock = threading.Lock()
        self._options = options
        self._progress = progress
        self._observer = observer
        self._sampler = sampler
        self._read_layers = ReadLayers()
        self._passing: deque[tuple[Layer, Callable[[Layer], None], ExitStack]] = deque()
        """Passed layers with blocks that may still be in work, the function that ends the blob, and what is open for
        it."""

    def run(self, layers: Sequence[Layer]) -> None:
        layers = [layer for layer in layers if layer.is_unread]
        self._announce("hash", layers)
        # First one layer of each stored size, then the others, which may be equal to one of these.
        sizes: set[int] = set()
        first: list[Layer] = []
        rest: list[Layer] = []
        for layer in layers:
            size = layer.job.payload.size
            (rest if size in sizes else first).append(layer)
            if size is not None:
                sizes.add(size)
        self._each(first, self._hash)
        self._each(rest, self._hash)

    def read_passing(self, job: LayerJob) -> Layer:
        """Reads a layer that can be read only once. An error becomes the layer's error."""
        layer = Layer(job)
        self._try(layer, self._open, self.pass_by)
        return layer

    def pass_by(self, layer: Layer, opened: OpenLayer) -> None:
        self._hash(layer, opened)

    def end_passing(self, unfinished: int = 0) -> None:
        """Waits for the blobs of passed layers, except for the last `unfinished` ones."""
        while len(self._passing) > unfinished:
            layer, end_blob, opened = self._passing.popleft()
            with opened:
                self._try(layer, end_blob)

    def abandon_passing(self) -> None:
        """Removes the blobs that `end_passing` has not waited for."""
        while self._passing:
            self._passing.popleft()[2].close()

    def _hash(self, layer: Layer, opened: OpenLayer) -> None:
        # A gzip layer may be taken over unchanged. The estimate of the target's size needs its digest.
        with_digest = opened.kind == "gzip" == STORED_KIND.get(self._options.compression)
        if not self._compare(layer, opened, with_digest=with_digest):
            self._read(layer, opened, HashOnly(opened.known_tar_size()), with_digest=with_digest)

    def _compare(self, layer: Layer, opened: OpenLayer, *, with_digest: bool = False) -> bool:
        """True if the layer's bytes are equal to those of a layer that was read, whose facts are used."""
        # An observer needs the bytes of every layer. A layer with facts was read already.
        if self._observer is not None or layer.facts is not None:
            return False
        between = self._between_blocks(layer, opened)
        facts = self._read_layers.facts_of(layer, opened, between, with_digest=with_digest)
        if facts is not None:
            self._learn(layer, opened, facts)
        return facts is not None

    def _each(self, layers: Sequence[Layer], read: Read) -> None:
        """Opens and reads every layer. An error becomes the layer's error, unless it stops the whole run."""

        def guarded(layer: Layer) -> None:
            self._workers.check_stop()
            self._try(layer, self._open, read)

        self._workers.each(batches(layers, lambda layer: layer.job.payload.size), guarded)

    def _try(self, layer: Layer, step: Callable[[Layer, Unpack[Arguments]], None], *arguments: *Arguments) -> bool:
        """Runs `step`. False if it raised an error, which is now the layer's. Raises errors that stop the whole run."""
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
        """Opens the payload and reads it. After a PayloadRestartError it is opened again, a few times: the source then
        gives it in its next best form."""
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

    def _read(self, layer: Layer, opened: OpenLayer, sink: TakesBlocks, *, with_digest: bool = False) -> LayerFacts:
        """Reads a layer to its end. The first reading sets the facts. A later one must find the same tar."""
        observer = self._new_observer(layer) if layer.facts is None else None
        between = self._between_blocks(layer, opened)
        facts = opened.read(sink, with_digest=with_digest, observer=observer, check_stop=between)
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
        """The function to call between the blocks of a layer: it raises if the run was stopped, and reports the
        progress of a large layer."""
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


class _Storing(_Hashing):
    """Reads layers and puts one blob for each distinct tar into a store. See the four steps at the top."""

    def __init__(
        self,
        store: BlobTarget,
        options: ConvertOptions,
        progress: Progress,
        observer: ObserverFactory | None,
        workers: Workers,
    ) -> None:
        super().__init__(options, progress, observer, workers)
        self._store = store
        self._memory = store.memory
        self._payload_memory = PayloadMemory(store.memory) if store.memory.keeps_payloads else None
        self._compress = block_compressor(options.compression, options.compression_level)
        self._compression = STORED_KIND.get(options.compression, "none")
        self._held: dict[DiffID, bytes | bytearray | memoryview] = {}
        self._held_bytes = 0
        self._blobs: dict[DiffID, StoredBlob] = {}
        self._taken_over: dict[DiffID, StoredBlob] = {}
        self._earlier_sizes: set[int] = set()

    def run(self, layers: Sequence[Layer]) -> None:
        # Tars of these sizes may have a blob of an earlier run. A tar of another size is new, and is compressed at
        # once.
        self._earlier_sizes = set(self._memory.known_sizes())
        coming = [layer for layer in layers if layer.is_unread]
        self._announce("compress", coming)
        self._each(coming, self._examine)
        # The existing blobs are chosen before anything is compressed, so that the choice does not depend on timing.
        usable = {"gzip", "none", self._compression}  # kinds with a media type in the target's format
        kept = [
            (layer.facts.diff_id, layer.kept)
            for layer in layers
            if layer.facts and layer.kept and layer.facts.kind in usable
        ]
        for diff_id, blob in choose_blobs(kept).items():
            self._blobs[diff_id] = self._known(diff_id) or blob
        self._taken_over = choose_blobs(
            (layer.facts.diff_id, stored_blob(layer.facts))
            for layer in layers
            if layer.facts and layer.facts.kind == "gzip" == self._compression and not layer.kept and not layer.error
        )
        read = [layer.facts for layer in layers if layer.facts]
        first, rest = plan_reading(
            ((layer, layer.tar_size, layer.job.payload.diff_id) for layer in layers if layer.is_unread),
            known_sizes={facts.tar.size for facts in read} | self._earlier_sizes,
            known={facts.diff_id for facts in read},
        )
        self._each(first, self._compress_first)
        self._each(rest, self._hash)
        self._provide_all(layers)

    # --- 1. examine ----------------------------------------------------------------------------------------------

    def _examine(self, layer: Layer, opened: OpenLayer) -> None:
        layer.kind = opened.kind
        layer.tar_size = opened.known_tar_size()
        if self._is_known(layer, opened):
            return
        if layer.job.payload.keep:
            self._keep(layer, opened)
        elif opened.kind == "gzip" and self._compression == "gzip":
            if not self._compare(layer, opened, with_digest=True):
                self._read(layer, opened, HashOnly(None), with_digest=True)
        elif layer.tar_size is not None and layer.tar_size <= _SMALL_BYTES:
            self._read_small(layer, opened, layer.tar_size)

    def _is_known(self, layer: Layer, opened: OpenLayer) -> bool:
        """True if an earlier run read these bytes, and the target has the proven blob of them. Then nothing is read."""
        facts = None if self._payload_memory is None else self._payload_memory.facts_of(layer, opened)
        # An observer needs the bytes of the tar, so a layer with one is read again.
        if facts is None or self._new_observer(layer) is not None:
            return False
        # A layer that is kept, or is gzip already, is copied. Then its blob is the stored bytes, and their digest must
        # be known.
        if layer.job.payload.keep or facts.kind == "gzip" == self._compression:
            if facts.stored_digest is None:
                return False
            blob = stored_blob(facts)
            if layer.job.payload.keep and not self._store.has_blob(blob.digest, blob.size):
                return False
            layer.kept = blob if layer.job.payload.keep else None
        if layer.kept is None and not self._has_blob_for(facts):
            return False
        layer.facts = facts
        self._done(layer, facts.stored_size)
        return True

    def _has_blob_for(self, facts: LayerFacts) -> bool:
        diff_id = facts.diff_id
        known = self._blobs.get(diff_id) or self._known(diff_id, facts.tar.size)
        if known is not None:
            with self._lock:
                self._blobs.setdefault(diff_id, known)
        return known is not None

    def _learn(self, layer: Layer, opened: OpenLayer, facts: LayerFacts) -> None:
        super()._learn(layer, opened, facts)
        if self._payload_memory is not None:
            self._payload_memory.remember(layer, opened)

    def _read_small(self, layer: Layer, opened: OpenLayer, tar_size: int) -> None:
        """Reads a small tar. The first of equal tars is compressed at once, within the limit of memory."""
        if opened.is_extent:
            content, facts = opened.read_small(self._new_observer(layer))
            layer.facts = facts
            self._done(layer, tar_size)
        else:
            sink = Collected(tar_size)
            facts = self._read(layer, opened, sink)
            content = sink.content()
        # An earlier run's blob of the same tar makes compression unnecessary.
        if tar_size in self._earlier_sizes and self._has_blob_for(facts):
            return
        if facts.diff_id not in self._held and self._held_bytes < _HELD_BYTES:
            blob = self._compress(memoryview(content))
            with self._lock:
                # Another thread may have compressed an equal tar meanwhile. Only the blob that was kept counts.
                if self._held.setdefault(facts.diff_id, blob) is blob:
                    self._held_bytes += len(blob)

    def _keep(self, layer: Layer, opened: OpenLayer) -> None:
        """Puts a blob into the store unchanged, also if there is another blob with the same tar: a manifest that is
        carried over names it by its digest."""
        claim = layer.job.payload
        stored = claim.digest is not None and claim.size is not None and self._store.has_blob(claim.digest, claim.size)
        if stored or (opened.path is not None and self._store.takes_files):
            layer.kept = stored_blob(self._read(layer, opened, HashOnly(None), with_digest=True))
            # Hashed first, since a link gives the file its name in the target. If it cannot be linked, it is read again
            # and copied.
            if not stored and not self._link(opened, layer.kept):
                blob = layer.kept
                self._open(layer, lambda layer, again: self._copy(layer, again, blob))
            return
        with self._store.open_blob() as writer:
            output = BlobOutput(writer, compression_of(opened.kind))
            opened.stored.tee = output.write
            self._read(layer, opened, HashOnly(opened.known_tar_size()))
            layer.kept = output.commit()

    def _link(self, opened: OpenLayer, blob: StoredBlob) -> bool:
        return opened.path is not None and self._store.link_blob(opened.path, blob.digest, blob.size)

    def _copy(self, layer: Layer, opened: OpenLayer, blob: StoredBlob) -> None:
        with self._store.open_blob() as writer:
            output = BlobOutput(writer, blob.compression)
            opened.stored.copy_to(output.write, self._workers.check_stop)
            if output.stored() != blob:
                raise IntegrityError(
                    f"{layer_name(layer.job)}: changed while it was read: first digest {blob.digest},"
                    f" then {output.stored().digest}"
                )
            output.commit()

    # --- 2. first, 3. rest --------------------------------------------------------------------------------------

    def _compress_first(self, layer: Layer, opened: OpenLayer) -> None:
        with self._store.open_blob() as writer:
            output = BlobOutput(writer, self._compression)
            with self._sink(output, opened) as sink:
                facts = self._read(layer, opened, sink)
                sink.finish()
            if self._decide(layer, facts, output.stored()):
                output.commit()
                self._remember(facts.diff_id, output.stored(), facts.tar.size)

    def _sink(self, output: BlobOutput, opened: OpenLayer) -> Compressed | Copied:
        if self._options.compression is Compression.NONE:
            return Copied(output)
        return Compressed(output, self._compress, self._workers, opened.known_tar_size())

    def _decide(self, layer: Layer, facts: LayerFacts, blob: StoredBlob) -> bool:
        """True if `blob` is used for the layer. False if there is another blob: of an earlier run, of another layer, or
        of the source."""
        diff_id = facts.diff_id
        if is_dropped(layer, self._options) or diff_id in self._blobs or diff_id in self._taken_over:
            return False
        known = self._known(diff_id, facts.tar.size)
        with self._lock:
            return self._blobs.setdefault(diff_id, known or blob) is blob

    def _known(self, diff_id: DiffID, tar_size: int | None = None) -> StoredBlob | None:
        """A proven blob of an earlier run, if the target still has it."""
        blob = self._memory.known_blob(diff_id, self._options.compression.value, tar_size=tar_size)
        return blob if blob is not None and self._store.has_blob(blob.digest, blob.size) else None

    def _remember(self, diff_id: DiffID, blob: StoredBlob, tar_size: int) -> None:
        with self._lock:
            self._blobs[diff_id] = blob
        self._memory.remember_blob(diff_id, blob)
        self._memory.remember_size(diff_id, tar_size)

    # --- 4. provide ----------------------------------------------------------------------------------------------

    def _provide_all(self, layers: Sequence[Layer]) -> None:
        holders: dict[DiffID, list[Layer]] = defaultdict(list)
        for layer in layers:
            if layer.facts and not layer.error and not layer.kept:
                holders[layer.facts.diff_id].append(layer)
        wanted = [
            (diff_id, same)
            for diff_id, same in holders.items()
            if diff_id not in self._blobs and not all(is_dropped(layer, self._options) for layer in same)
        ]
        self._workers.each(batches(wanted, lambda item: item[1][0].tar_size), lambda item: self._provide(*item))
        for diff_id, same in holders.items():
            for layer in same:
                layer.blob = self._blobs.get(diff_id)

    def _provide(self, diff_id: DiffID, same: Sequence[Layer]) -> None:
        """Makes the blob for `diff_id`, from the first of the equal layers that can be read."""
        facts = same[0].facts
        known = self._known(diff_id, None if facts is None else facts.tar.size)
        if known is not None:
            self._blobs[diff_id] = known
            return
        # Always in Docker's form, whose digest registries and engines know already.
        if diff_id == EMPTY_TAR_DIFF_ID and self._compression == "gzip":
            self._remember(diff_id, self._write_whole(EMPTY_TAR_GZIP), 1024)
            return
        blob = self._taken_over.pop(diff_id, None)
        if blob is not None:
            for layer in same:
                if layer.facts and layer.facts.stored_digest == blob.digest and self._take_over(layer, blob):
                    return
        held = self._held.pop(diff_id, None)
        if held is not None:  # a small layer, which was compressed when it was hashed
            facts = same[0].facts
            assert facts is not None
            self._remember(diff_id, self._write_whole(held), facts.tar.size)
            return
        for layer in same:
            if layer.error is None and (self._use_passed(layer) or self._try(layer, self._open, self._compress_first)):
                return

    def _use_passed(self, layer: Layer) -> bool:
        """Uses the blob that was made of a layer that could be read only once. False if there is none."""
        blob = layer.passed
        if blob is None or layer.facts is None:
            return False
        if not (isinstance(self._store, MeasuredBlobs) or self._store.has_blob(blob.digest, blob.size)):
            return False
        self._remember(layer.facts.diff_id, blob, layer.facts.tar.size)
        return True

    def pass_by(self, layer: Layer, opened: OpenLayer) -> None:
        """Hashes and compresses a layer that can be read only once."""
        layer.kind = opened.kind
        layer.tar_size = opened.known_tar_size()
        with ExitStack() as stack:
            output = BlobOutput(stack.enter_context(self._store.open_blob()), self._compression)
            sink = self._sink(output, opened)
            stack.enter_context(sink)
            self._read(layer, opened, sink)
            sink.give_back()
            self._passing.append((layer, partial(self._end_blob, output, sink), stack.pop_all()))

    def _end_blob(self, output: BlobOutput, sink: Compressed | Copied, layer: Layer) -> None:
        facts = layer.facts
        assert facts is not None
        sink.finish()
        if is_dropped(layer, self._options):
            return
        layer.passed = self._known(facts.diff_id, facts.tar.size) or output.stored()
        if layer.passed == output.stored() and not self._store.has_blob(layer.passed.digest, layer.passed.size):
            output.commit()

    def _take_over(self, layer: Layer, blob: StoredBlob) -> bool:
        facts = layer.facts
        assert facts is not None

        def bring(layer: Layer, opened: OpenLayer) -> None:
            if not self._link(opened, blob):
                self._copy(layer, opened, blob)

        def step(layer: Layer) -> None:
            if not self._store.has_blob(blob.digest, blob.size):
                self._open(layer, bring)
            self._remember(facts.diff_id, blob, facts.tar.size)

        return self._try(layer, step)

    def _write_whole(self, content: bytes | bytearray | memoryview) -> StoredBlob:
        with self._store.open_blob() as writer:
            output = BlobOutput(writer, self._compression)
            output.write(content)
            return output.commit()


class PassingLayers:
    """Reads layers of sources that can be read only once, such as pipes: each is hashed and compressed while it is
    read.

    A context manager with the same arguments as `rehash`, which then gets `layers` as `passed`.
    """

    def __init__(
        self,
        store: BlobTarget | None,
        options: ConvertOptions,
        progress: Progress,
        observer: ObserverFactory | None = None,
        sampler: ObserverFactory | None = None,
    ) -> None:
        self.layers: dict[JobKey, Layer] = {}
        self._workers = Workers(options.jobs)
        if store is None and options.exact_sizes:
            store = MeasuredBlobs()
        if store is None:
            self._reader = _Hashing(options, progress, observer, self._workers, sampler)
        else:
            self._reader = _Storing(store, options, progress, observer, self._workers)

    def __enter__(self) -> PassingLayers:
        self._workers.__enter__()
        self._workers.start_helpers()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._workers:
            try:
                if kind is None:
                    self._reader.end_passing()
            finally:
                self._reader.abandon_passing()

    def take(self, job: LayerJob) -> None:
        """Reads the payload of `job`, which is opened once. Raises TargetError and other errors of scope run."""
        self.layers[job.key] = self._reader.read_passing(job)
        # Other threads compress the last blocks of a layer while the next one is read.
        self._reader.end_passing(unfinished=1)
