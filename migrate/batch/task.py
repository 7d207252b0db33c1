"""The work of a worker: opens sources, writes their layers into the shared target, and returns a record of each source.

This module runs in another process, perhaps on another machine. Orders and results are small and can be pickled.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from migrate import __version__
from migrate.batch.journal import JournalEntry, pack_record
from migrate.batch.layers import SMALL_LAYER_BYTES, KnownLayers, SharedBlobs
from migrate.batch.lending import held_layers, lent, lent_layers
from migrate.batch.plan import Candidate, Loan, SourceOutcome, Task
from migrate.batch.records import ImageRecord, LayerRecord, Role, SourceRecord
from migrate.batch.targets import layout_location, open_worker_target
from migrate.convert.earlier import EarlierImages
from migrate.convert.publish import FinishedImage
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import IntegrityError, LimitError, MigrateError, NoImageError, UnrecognisedSourceError, UsageError
from migrate.model.image import HashedLayer, StoredBlob
from migrate.model.legacy import Failure, LegacyLayer
from migrate.model.options import ConvertOptions
from migrate.readers.base import LegacySource
from migrate.readers.detect import open_source
from migrate.readers.parts import is_called_archive
from migrate.rehash.blobs import BlobOutput, MeasuredBlobs
from migrate.rehash.merge import choose_blobs
from migrate.rehash.ports import BlobTarget
from migrate.storage.directory_store import DirectoryStore
from migrate.storage.store import Store, is_url

_PUBLISH_BYTES: Final = 32 * 1024 * 1024
"""After this many bytes of new blobs, they are published in the middle of a task, so that other workers find them."""
_COPY_BYTES: Final = 1024 * 1024
_OPENED_AHEAD: Final = 4
"""Number of objects of a bucket that are downloaded while one is converted."""

Opening = Callable[[], LegacySource]


class WorkOrder(Struct, frozen=True, kw_only=True):
    """The same order for every source of a run. `target` is None in a dry run, whose workers share the directory
    `state`.

    `run` is 16 hex digits, different for every run; `recipe` is the digest of the options that change the result.
    """

    run: str
    recipe: str
    target: str | None
    state: str
    options: ConvertOptions
    version: str = __version__


def run_task(order: WorkOrder, task: Task) -> list[JournalEntry]:
    """Converts the sources of `task`; their blobs are on the disk when it returns.

    Raises TargetError if the target fails. Failures of a source are in its entry.
    """
    worker = _worker(order)
    entries = []
    with closing(worker.iter_openings(task.sources)) as openings:
        for candidate, opening in openings:
            entries.append(worker.convert(candidate, opening))
            if worker.blobs.unpublished_bytes >= _PUBLISH_BYTES:
                worker.blobs.publish()
    worker.blobs.publish()
    return entries


_workers: dict[int, Worker] = {}
_workers_lock = threading.Lock()


def _worker(order: WorkOrder) -> Worker:
    """The worker of this thread. It keeps the target open from one task to the next."""
    thread = threading.get_ident()
    with _workers_lock:
        current = _workers.pop(thread, None)
    if current is not None and current.order != order:
        current.close()
        current = None
    current = current or Worker(order)
    with _workers_lock:
        _workers[thread] = current
    return current


def close_workers() -> None:
    """Closes the targets of this process. Called when no task runs."""
    with _workers_lock:
        workers = list(_workers.values())
        _workers.clear()
    for worker in workers:
        worker.close()


class Worker:
    """Works on the sources of one order, into the target that it keeps open."""

    def __init__(self, order: WorkOrder) -> None:
        if order.version != __version__:
            raise UsageError(f"a worker has version {__version__}, the command {order.version}; they must be the same")
        self.order = order
        self._openers: ThreadPoolExecutor | None = None
        target: BlobTarget = MeasuredBlobs()
        self.earlier: EarlierImages | None = None
        if order.target is None:  # a dry run: all workers are on this machine
            store: Store = DirectoryStore(order.state, durable=False)
            self._close_target = store.close
        else:
            target = layout = open_worker_target(order.target, order.options)
            store = layout.store
            self._close_target = layout.close
            place = layout_location(order.target)
            self.earlier = EarlierImages("oci", place, layout.mapped_images, order.options)
        self.blobs = SharedBlobs(target, KnownLayers(store, order.options), order.run)

    def iter_openings(self, candidates: Iterable[Candidate]) -> Generator[tuple[Candidate, Opening], None, None]:
        """The candidates, each with a function that opens it. Objects of a bucket are downloaded while earlier ones are
        converted, because a store takes longer to answer than a small archive takes to be read."""
        waiting: deque[tuple[Candidate, Opening | Future[LegacySource]]] = deque()
        rest = iter(candidates)
        try:
            while True:
                while len(waiting) <= _OPENED_AHEAD and (candidate := next(rest, None)) is not None:
                    waiting.append((candidate, self._opening(candidate)))
                if not waiting:
                    return
                candidate, opening = waiting.popleft()
                yield candidate, opening.result if isinstance(opening, Future) else opening
        finally:
            for _, opening in waiting:
                if isinstance(opening, Future) and not opening.cancel():
                    opening.add_done_callback(_close_opened)

    def _opening(self, candidate: Candidate) -> Opening | Future[LegacySource]:
        if candidate.unfit is not None or not is_url(candidate.location):
            return partial(open_source, candidate.location, self.order.options)
        self._openers = self._openers or ThreadPoolExecutor(_OPENED_AHEAD, thread_name_prefix="open")
        return self._openers.submit(open_source, candidate.location, self.order.options)

    def close(self) -> None:
        if self._openers is not None:
            self._openers.shutdown(wait=False, cancel_futures=True)
        self._close_target()

    def convert(self, candidate: Candidate, opening: Opening) -> JournalEntry:
        began = time.monotonic()
        result = self._convert(candidate, opening)
        try:
            packed = pack_record(result.record)
        except LimitError as error:  # too many images or layers for one line of the journal
            result = _judged(SourceRecord(failures=(Failure.of(error, candidate.location),)))
            packed = pack_record(result.record)
        return JournalEntry(
            source=candidate.location,
            identity=candidate.identity,
            recipe=self.order.recipe,
            order=candidate.order,
            outcome=result.outcome,
            type=result.record.type,
            content=_content_digest(result.record),
            missing=result.record.missing,
            again=candidate.loan is not None,
            figures=_figures(result.record),
            seconds=round(time.monotonic() - began, 3),
            packed=packed,
            error=result.error,
            message=result.message,
            absent=result.outcome is SourceOutcome.FAILED
            and "://" not in candidate.location
            and not os.path.lexists(candidate.location),
        )

    def _convert(self, candidate: Candidate, opening: Opening) -> SourceResult:
        location = candidate.location
        if candidate.unfit is not None:
            return _skipped(UnrecognisedSourceError(f"{location}: {candidate.unfit}"))
        try:
            source = opening()
        except MigrateError as error:
            # A file that no reader recognises is skipped. But an empty file with the name of an archive is a failure:
            # it has lost its content, for example on a full disk.
            if error.scope == "run":
                raise error
            lost = candidate.identity.size == 0 and is_called_archive(candidate.location)
            if isinstance(error, UnrecognisedSourceError) and not lost:
                return _skipped(error)
            return _judged(SourceRecord(failures=(Failure.of(error, candidate.location),)))
        except Exception as error:  # noqa: BLE001 - a bug with one source must not stop the batch
            return _bug(location, error)
        try:
            loan = candidate.loan or Loan()
            with lent_layers(loan.layers, self.order.options) as layers:
                earlier = None if candidate.loan is None else self.earlier
                opened = OpenedSource(location, source)
                conversion = Conversion([opened], self.order.options, earlier=earlier, lent=lent(loan, layers))
                return self._convert_opened(conversion, source)
        except Exception as error:
            if isinstance(error, MigrateError) and error.scope == "run":
                raise
            return _bug(location, error)
        finally:
            source.close()

    def _convert_opened(self, conversion: Conversion, source: LegacySource) -> SourceResult:
        opened = conversion.sources[0]
        try:
            conversion.gather()
        except UsageError as error:
            held = held_layers(conversion, source)
            record = SourceRecord(type=source.source_type.value, held=held)
            return SourceResult(SourceOutcome.SKIPPED, record, error.code, error.message)
        if isinstance(opened.error, NoImageError):
            return SourceResult(
                SourceOutcome.SKIPPED, SourceRecord(type=source.source_type.value), None, opened.error.message
            )
        # The sizes of layers that are too large to be kept in memory while a blob is looked up.
        payloads = (
            layer.payload for planned in conversion.planned for layer in planned.chain if layer.payload is not None
        )
        self.blobs.begin(
            {payload.size for payload in payloads if payload.size is not None and payload.size > SMALL_LAYER_BYTES}
        )
        images: list[FinishedImage] = []
        conversion.convert_images(self.blobs, images.append)
        self.blobs.found.update(dict.fromkeys(conversion.lent.contents, Role.FOUND))
        rows, numbers = self._rows(conversion, images)
        records = [
            ImageRecord(replace(image, chain=()), tuple(numbers[_row_key(layer)] for layer, _ in image.chain))
            for image in images
        ]
        # `lent` has the layers from other sources of the batch (index > 0), not those from the target.
        record = SourceRecord(
            type=source.source_type.value,
            layers=tuple(rows),
            images=tuple(records),
            failures=tuple(conversion.failures),
            warnings=tuple(conversion.warnings),
            containers=tuple(row.container for row in conversion.containers),
            orphaned_volumes=tuple(row.volume for row in conversion.volumes),
            missing=tuple(sorted(conversion.missing)),
            held=held_layers(conversion, source),
            lent={
                legacy_id: conversion.others.place(index).location
                for planned in conversion.planned
                for legacy_id, index in sorted(planned.elsewhere.items())
                if index > 0
            },
        )
        return _judged(record)

    # --- layers ------------------------------------------------------------------------------------------------

    def _rows(
        self, conversion: Conversion, images: Sequence[FinishedImage]
    ) -> tuple[list[LayerRecord], dict[RowKey, int]]:
        """One row for each legacy layer that was read or found elsewhere, sorted, and the number of each row."""
        layers: dict[RowKey, LegacyLayer] = {}
        results: dict[RowKey, HashedLayer | MigrateError | None] = {}
        places: dict[RowKey, LegacySource | None] = {}
        for image in images:
            for layer, result in image.chain:
                layers.setdefault(_row_key(layer), layer)
                results[_row_key(layer)] = result
        # Layers of failed images are recorded, too, because other sources of the batch may lack them.
        for planned in conversion.planned:
            for layer in planned.chain:
                layers.setdefault(_row_key(layer), layer)
                place = planned.elsewhere.get(layer.legacy_id, planned.source_index)
                places.setdefault(_row_key(layer), conversion.others.place(place).source)
                if layer.payload is not None:
                    results.setdefault(_row_key(layer), conversion.result_of(planned, layer))
        found: list[tuple[LegacyLayer, LayerRecord]] = []
        numbers: dict[RowKey, int] = {}
        for key, layer in sorted(layers.items()):
            hashed = results.get(key)
            if not isinstance(hashed, MigrateError):
                numbers[key] = len(found)
                found.append((layer, LayerRecord(layer.legacy_id, hashed, self._role_of(layer, hashed))))
        rows = self._with_carried(found, places)
        for row in rows:
            if row.hashed is not None and row.hashed.blob is not None and row.role is not Role.FOUND:
                self.blobs.stored(row.hashed, row.hashed.blob, row.role)
        return rows, numbers

    def _role_of(self, layer: LegacyLayer, hashed: HashedLayer | None) -> Role:
        if hashed is None or hashed.blob is None or layer.payload is None:
            return Role.MADE
        if layer.payload.keep:
            return Role.KEPT
        if hashed.blob == hashed.carried:
            return Role.CARRIED
        return self.blobs.found.get(hashed.diff_id, Role.MADE)

    def _with_carried(
        self, found: Sequence[tuple[LegacyLayer, LayerRecord]], places: Mapping[RowKey, LegacySource | None]
    ) -> list[LayerRecord]:
        """The rows, after copying blobs of the source into the target, even if another worker has stored one for the
        same tar. The merge chooses between them, so that the result does not depend on the order of work."""
        hashed_rows = [row.hashed for _, row in found if row.hashed is not None]
        best = choose_blobs((hashed.diff_id, hashed.carried) for hashed in hashed_rows if hashed.carried is not None)
        rows = []
        for layer, row in found:
            hashed = row.hashed
            if hashed is not None and hashed.blob is not None and row.role in (Role.MADE, Role.FOUND):
                carried = best.get(hashed.diff_id)
                source = places.get(_row_key(layer))
                if carried is not None and carried == hashed.carried and source is not None:
                    self._copy(source, layer, carried)
                    self.blobs.remember_blob(hashed.diff_id, carried)
                    row = replace(row, hashed=replace(hashed, blob=carried), role=Role.CARRIED)
            rows.append(row)
        return rows

    def _copy(self, source: LegacySource, layer: LegacyLayer, blob: StoredBlob) -> None:
        if self.blobs.has_blob(blob.digest, blob.size):
            return
        with source.open_payload(layer) as payload, self.blobs.open_blob() as writer:
            output = BlobOutput(writer, blob.compression)
            while block := payload.stream.read(_COPY_BYTES):
                output.write(block)
            if output.stored() != blob:
                raise IntegrityError(f"layer {layer.legacy_id}: changed while it was read", layer=layer.legacy_id)
            output.commit()


def _close_opened(opened: Future[LegacySource]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()


class SourceResult(Struct, frozen=True):
    outcome: SourceOutcome
    record: SourceRecord
    error: str | None = None
    message: str | None = None


RowKey = tuple[str, str]


def _row_key(layer: LegacyLayer) -> RowKey:
    """The key of a layer. The legacy ID alone is not unique: in some archives, two images use one ID for different
    bytes."""
    return (layer.legacy_id, "" if layer.payload is None else layer.payload.key)


def _skipped(error: MigrateError) -> SourceResult:
    return SourceResult(SourceOutcome.SKIPPED, SourceRecord(), error.code, error.message)


def _bug(location: str, error: Exception) -> SourceResult:
    message = f"{location}: unexpected {type(error).__name__}: {error} (this is a bug; please report it)"
    return _judged(SourceRecord(failures=(Failure(source=location, error="bug", message=message),)))


def _judged(record: SourceRecord) -> SourceResult:
    if not record.failures:
        return SourceResult(SourceOutcome.CONVERTED, record)
    first = record.failures[0]
    return SourceResult(SourceOutcome.FAILED, record, first.error, first.message)


def _figures(record: SourceRecord) -> dict[str, int]:
    layers = {row.legacy_id: row.hashed for row in record.layers if row.hashed is not None}
    # A key needs the digest of the image's manifest, which only the merge would compute otherwise.
    images = {image.finished.row_key for image in record.images} if len(record.images) > 1 else record.images
    return {
        "images": len(images),
        "failed": len(record.failures),
        "layers": len(layers),
        "tar_bytes": sum(layer.tar_size for layer in layers.values()),
    }


def _content_digest(record: SourceRecord) -> str:
    """A digest over the listed images and layers: equal for two copies of a source with different paths."""
    digest = hashlib.sha256()
    for image in record.images:
        names = " ".join(sorted(str(reference) for reference in image.finished.references))
        digest.update(f"{image.finished.legacy_id} {names}\n".encode("utf-8", "surrogatepass"))
    for row in record.layers:
        digest.update(f"{row.legacy_id}\n".encode("utf-8", "surrogatepass"))
    return f"sha256:{digest.hexdigest()}"


def failed_entry(order: WorkOrder, candidate: Candidate, error: str, message: str) -> JournalEntry:
    """The entry of a source that no worker could convert."""
    record = SourceRecord(failures=(Failure(source=candidate.location, error=error, message=message),))
    return JournalEntry(
        source=candidate.location,
        identity=candidate.identity,
        recipe=order.recipe,
        order=candidate.order,
        outcome=SourceOutcome.FAILED,
        type=None,
        content=_content_digest(record),
        figures=_figures(record),
        seconds=0.0,
        packed=pack_record(record),
        error=error,
        message=message,
    )


__all__: Sequence[str] = ["WorkOrder", "Worker", "close_workers", "failed_entry", "run_task"]
