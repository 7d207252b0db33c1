"""The end of a batch: makes images, names, index and report from the records in the journal.

No source is read again. The result depends only on the records, not on the workers or the time of work.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, Final, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from migrate import __version__
from migrate.batch.account import Account
from migrate.batch.choice import BlobChoice
from migrate.batch.existing_blobs import ExistingBlobs, choice_for
from migrate.batch.journal import Journals, LinePlace
from migrate.batch.ledger import MergeSource, MergeSources
from migrate.batch.plan import SourceOutcome
from migrate.batch.records import ImageRecord, Role, SourceRecord
from migrate.compose.image import HashedChain
from migrate.compose.manifest import CONFIG_TYPE_OF, MANIFEST_TYPE_OF, compose_manifest, layer_descriptor
from migrate.convert.publish import FinishedImage, Publisher, in_format
from migrate.convert.run import NOTHING_READ, exit_code, utc_now
from migrate.errors import MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, HashedLayer
from migrate.model.legacy import Failure
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event, Progress
from migrate.report.document import Report, ReportImage, UnconvertedContainer, VolumeRow
from migrate.report.glance import Glance
from migrate.report.json import RowEncoder, frame_rows, iter_report
from migrate.report.mapping import mapped_image
from migrate.report.model import SourceInput, build_head, image_order, image_rows
from migrate.writers.base import ImageTarget

_PIECE_BYTES: Final = 1024 * 1024
_KEPT_IMAGES: Final = 2_000
"""The images of the first sources are kept in memory, about so many, so that they are read and composed once."""
_MOST_IMAGES: Final = 1 << 32
"""The highest number of images in a source, so that (source, image) can be one number in the order of the batch."""


class SourceFacts(NamedTuple):
    """What the report says about a source itself: its type, its warnings, and the number of damaged layers."""

    type: str | None
    warnings: tuple[str, ...]
    damaged: int


class Merge(Struct):
    """The merge of one batch, from its journals; `run` may be called once. `sources` are in the order that decides
    ties. `older` are places of records of which only the blobs are used. `done` are sources that an earlier run has
    read: their failures have not been shown in this run. `gone` are sources that no longer exist."""

    journals: Journals
    sources: MergeSources
    options: ConvertOptions
    target: ImageTarget | None
    progress: Progress
    existing: ExistingBlobs
    report_options: Mapping[str, object] = field(default_factory=dict)
    older: Sequence[tuple[LinePlace, int]] = ()
    done: Collection[str] = frozenset()
    gone: Sequence[str] = ()
    failures: list[Failure] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    _facts: list[SourceFacts] = field(default_factory=list)
    """For each source. Equal ones are one object."""
    _warnings: set[str] = field(default_factory=set)
    _containers: list[UnconvertedContainer] = field(default_factory=list)
    _volumes: list[VolumeRow] = field(default_factory=list)
    _written: Counter[str] = field(default_factory=Counter)
    _layers: dict[tuple[str, DiffID], HashedLayer] = field(default_factory=dict)
    _counted: str | None = None
    _choice: BlobChoice = field(default_factory=lambda: BlobChoice("gzip"))
    _uncomposed: set[tuple[str, int]] = field(default_factory=set)
    _rows_early: BinaryIO | None = None
    _encoder: RowEncoder = field(default_factory=RowEncoder)
    _kept: list[FinishedImage] = field(default_factory=list)
    _kept_sources: int = 0
    """Number of sources whose images are in `_kept`."""
    _first: deque[SourceRecord] = field(default_factory=deque)
    """The records of these sources, until their images are made."""
    _of_source: list[FinishedImage] = field(default_factory=list)
    _rows_of_source: set[tuple[str, str, Digest, bool]] = field(default_factory=set)

    def run(self, started: str, spool: BinaryIO, rows: BinaryIO) -> Report:
        """Writes the images and the index into the target, then the report, whose bytes also go to `spool`.

        `rows` is another temporary file. Returns the report without its images. Raises TargetError.
        """
        head = self._publish(started, spool, rows)
        self._end(spool, exit_code(head))
        return head

    def _publish(self, started: str, spool: BinaryIO, rows: BinaryIO) -> Report:
        """All but the index of the target."""
        self.existing.refresh()  # the workers have written blobs
        self._choice = choice_for(self.options, self.target, self.existing)
        self.progress.emit(Event(kind="stage", stage="merge", total_items=len(self.sources)))
        self._gather()
        publisher = Publisher(self.options, self.target, self.progress)
        if self.sources.are_sorted:
            # Sources are in the order of the report already, so its rows are made in the same pass as the images.
            # Otherwise the records are read again in that order.
            self._rows_early = rows
        publisher.assign(lambda: self._images(layers=False))
        for image in publisher.commit(self._images()):
            self._count(image, publisher)
        self._end_source(publisher)
        self._kept.clear()
        self.account.head = build_head(
            tool_version=__version__,
            dry_run=self.options.dry_run,
            started=started,
            finished=utc_now(),
            options=self.report_options,
            sources=self._source_inputs(),
            images=self._written,
            tally=self.account.tally,
            failures=[*self.failures, *publisher.failures],
            conflicts=publisher.conflicts,
            warnings=self._warnings,
            containers=self._containers,
            orphaned_volumes=self._volumes,
            directory=self.options.temporary_directory,
        )
        head = self.account.head
        self.account.tally.forget_single()
        self.account.present = publisher.present
        for warning in head.warnings:
            self.progress.emit(Event(kind="warning", message=warning))
        if self._rows_early is None:
            spool.writelines(iter_report(head, self._rows(publisher)))
        else:
            rows.seek(0)
            spool.writelines(frame_rows(head, iter(lambda: rows.read(_PIECE_BYTES), b"")))
        spool.flush()
        return head

    def _end(self, spool: BinaryIO, code: int) -> None:
        if self.target is None:
            return
        if code == NOTHING_READ:
            self.target.abandon()
            return
        losers = tuple(self._choice.losers())
        # to write an index needs most memory, so what has led to it goes before
        self._choice = BlobChoice("gzip")
        spool.seek(0)
        self.target.finish_in_pieces(iter(lambda: spool.read(_PIECE_BYTES), b""))
        self.target.remove_blobs(losers)

    # --- records -----------------------------------------------------------------------------------------------

    def _records(
        self, sources: Iterable[MergeSource], *, layers: bool = True
    ) -> Iterator[tuple[MergeSource, SourceRecord]]:
        for source in sources:
            yield source, self.journals.read(source.place, source.location, layers=layers)

    def _gather(self) -> None:
        """First pass over the records: chooses blobs, and collects failures and warnings."""
        wanted: set[DiffID] = set()
        known: dict[SourceFacts, SourceFacts] = {}
        first = 0
        for source in self.sources:
            is_first = max(first, len(self._first)) < _KEPT_IMAGES
            record = self.journals.read(source.place, source.location, images=is_first)
            if is_first:
                self._first.append(record)
                first += len(record.images)
            self.progress.emit(Event(kind="advance", name=source.location))
            self._choice.take(record.layers, source.generation)
            if self.older:
                wanted.update(row.hashed.diff_id for row in record.layers if row.hashed is not None)
            for failure in record.failures:
                self._add_failure(failure, is_shown=source.location not in self.done)
            self._warnings.update(record.warnings)
            self._containers += (
                UnconvertedContainer(source=source.location, container=one) for one in record.containers
            )
            self._volumes += (VolumeRow(source=source.location, volume=one) for one in record.orphaned_volumes)
            note = (source.message or "holds no image",) if source.outcome is SourceOutcome.SKIPPED else ()
            damaged = sum(row.hashed is not None and row.hashed.damaged for row in record.layers)
            facts = SourceFacts(record.type, note, damaged)
            self._facts.append(known.setdefault(facts, facts))
        self._warnings.update(
            f"{location}: an earlier run read it, but it no longer exists; its images stay in the target"
            for location in self.gone
        )
        for place, generation in self.older:  # checking a blob means reading it, so only layers of these sources are
            for row in self.journals.read(place, "", images=False).layers:
                proven = row.hashed is not None and row.hashed.diff_id in wanted
                self._choice.take([row], generation, self.existing.proves if proven else None)
        if self.target is not None:
            memory, way = self.target.memory, self.options.compression.value
            self._choice.prefer_named(lambda diff_id, named: memory.known_blob(diff_id, way, named))
            self.existing.sizes = {}  # every blob is chosen, and the listing of a large target takes much memory

    def _images(self, *, layers: bool = True) -> Iterator[FinishedImage]:
        """The images of all sources, in the same order each time. Without `layers`, their chains may be empty."""
        yield from self._kept
        while self._first:
            source, record = self.sources[self._kept_sources], self._first.popleft()
            for finished in self._finish(source, record, self._kept_sources):
                self._kept.append(finished)
                yield finished
            self._kept_sources += 1
        rest = self._records(self.sources[self._kept_sources :], layers=layers)
        for place, (source, record) in enumerate(rest, self._kept_sources):
            yield from self._finish(source, record, place)

    def _finish(self, source: MergeSource, record: SourceRecord, place: int) -> Iterator[FinishedImage]:
        """The images of one source that can be composed. `place` is the source's place in the batch."""
        layers: dict[int, HashedLayer | None] = {}
        for number, image in enumerate(record.images):
            finished = self._try_finish(source, number, image, record, place * _MOST_IMAGES + number, layers)
            if finished is not None:
                yield finished

    def _try_finish(
        self,
        source: MergeSource,
        number: int,
        image: ImageRecord,
        record: SourceRecord,
        order: int,
        layers: dict[int, HashedLayer | None],
    ) -> FinishedImage | None:
        """None if it cannot be composed. `layers` are those of the source by the number of their row, with the chosen
        blobs: one object for all its images."""
        if (source.location, number) in self._uncomposed:
            return None
        try:
            finished = image.finished
            # A manifest of the source names its blobs by digest, so these blobs themselves must be in the target.
            if finished.ready:
                self._choice.check(finished.composed.layers)
            for (_, hashed), row in zip(finished.chain, image.chain, strict=True):
                if row not in layers:
                    layers[row] = self._with_blob(hashed, record.layers[row].role)
            chain: HashedChain = tuple(
                (layer, layers[row]) for (layer, _), row in zip(finished.chain, image.chain, strict=True)
            )
            composed = finished.composed if finished.ready else self._compose(finished.composed)
            return in_format(replace(finished, order=order, composed=composed, chain=chain), self.options)
        except MigrateError as error:
            # The records are read several times: the image must fail in every pass, and be reported once.
            self._uncomposed.add((source.location, number))
            references = tuple(str(reference) for reference in image.finished.references)
            failed = Failure.of(error, source.location, references=references, legacy_id=image.finished.legacy_id)
            self._add_failure(failed, is_shown=False)
            return None

    def _with_blob(self, hashed: HashedLayer | None, role: Role) -> HashedLayer | None:
        if hashed is None or hashed.blob is None or role is Role.KEPT:
            return hashed
        blob = self._choice.blob_of(hashed.diff_id)
        return hashed if blob == hashed.blob else replace(hashed, blob=blob)

    def _compose(self, composed: ComposedImage) -> ComposedImage:
        """`composed` with a manifest, which can be made only after the blobs are chosen. The record may be from a run
        with another `--format`, so its media types are replaced, too."""
        form = self.options.format
        layers = tuple(layer_descriptor(self._choice.blob_of(one), form) for one in composed.diff_ids)
        return replace(
            composed,
            config_media_type=CONFIG_TYPE_OF[form],
            manifest_document=compose_manifest(composed.config, layers, form),
            manifest_media_type=MANIFEST_TYPE_OF[form],
            layers=layers,
        )

    def _add_failure(self, failure: Failure, *, is_shown: bool) -> None:
        self.failures.append(failure)
        if not is_shown:
            self.progress.emit(failure.event())

    # --- report ------------------------------------------------------------------------------------------------

    def _source_inputs(self) -> Iterator[SourceInput]:
        for location, (type_, warnings, damaged) in zip(self.sources.locations, self._facts, strict=True):
            yield SourceInput(location=location, type=type_, warnings=warnings, damaged=damaged)

    def _count(self, image: FinishedImage, publisher: Publisher) -> None:
        """Called for every image that is written, source by source."""
        if image.source != self._counted:
            self._end_source(publisher)
            self._counted = image.source
        self._rows_of_source.add(image.row_key)
        if self._rows_early is not None:
            self._of_source.append(image)
        for layer, hashed in image.chain:
            if hashed is not None:
                self._layers[layer.legacy_id, hashed.diff_id] = hashed

    def _end_source(self, publisher: Publisher) -> None:
        if self._counted is not None:
            self._written[self._counted] += len(self._rows_of_source)
        self._rows_of_source = set()
        self.account.tally.add(self._layers)
        self._layers = {}
        images, self._of_source = self._of_source, []
        if self._rows_early is not None:
            self._rows_early.writelines(map(self._encoder.encode, self._report_rows(publisher, images)))
            self._encoder.forget()

    def _rows(self, publisher: Publisher) -> Iterator[ReportImage]:
        """Last pass over the records, in the order of the report: by location, and sorted within a source."""
        for source, record in self._records(self.sources.in_order_of_report()):
            yield from self._report_rows(publisher, self._finish(source, record, 0))

    def _report_rows(self, publisher: Publisher, images: Iterable[FinishedImage]) -> list[ReportImage]:
        """The rows of one source. Emits their warnings."""
        rows = sorted(image_rows(publisher.rows(images)), key=image_order)
        if self.target is not None:
            self.target.add_to_map(map(mapped_image, rows))
        if self.account.glance is None:
            self.account.glance = Glance(publisher.conflicts, several=len(self.sources) > 1)
        for row in rows:
            self.account.glance.add(row)
            for warning in row.warnings:
                self.progress.emit(Event(kind="warning", name=row.title, message=warning))
        return rows
