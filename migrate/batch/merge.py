"""The end of a batch, in one place: from the journal's records to images, names, index and report.

Nothing of a source is read again. Everything here depends on the records alone, never on who made them or when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from migrate import __version__
from migrate.batch.account import Account
from migrate.batch.choice import BlobChoice
from migrate.batch.journal import Place, RecordReader
from migrate.batch.plan import Outcome
from migrate.batch.records import ImageRecord, Role, SourceRecord
from migrate.compose.manifest import compose_manifest, layer_descriptor
from migrate.convert import utc_now
from migrate.errors import MigrateError
from migrate.model.image import ComposedImage, HashedLayer
from migrate.model.options import Compression, ConvertOptions
from migrate.progress import Event, Progress
from migrate.report.document import Failure, Report
from migrate.report.json import encode_report
from migrate.report.model import ImageInput, SourceInput, build_report
from migrate.settlement import FinishedImage, HashedChain, Settlement
from migrate.writers.base import ImageTarget, RemovesBlobs

_FAMILY = {Compression.GZIP: "gzip", Compression.GZIP_FAST: "gzip", Compression.ZSTD: "zstd", Compression.NONE: "none"}


@dataclass(frozen=True, slots=True)
class MergeSource:
    """One source of the batch, by its line in the journal. `generation` counts the merges that stand before it."""

    location: str
    place: Place
    outcome: Outcome
    generation: int
    message: str | None = None


@dataclass(slots=True)
class Merge:
    """Ends one batch. `sources` are in the order that settles ties; `older` are places of records that no source has
    any more, but whose layers an earlier merge may have settled. `run` may be called once."""

    sources: Sequence[MergeSource]
    options: ConvertOptions
    target: ImageTarget | None
    progress: Progress
    report_options: Mapping[str, object] = field(default_factory=dict)
    older: Sequence[tuple[Place, int]] = ()
    failures: list[Failure] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    _choice: BlobChoice = field(default_factory=lambda: BlobChoice("gzip"))
    _reader: RecordReader = field(default_factory=RecordReader)
    _uncomposed: set[tuple[str, int]] = field(default_factory=set)

    def run(self, started: str) -> Report:
        """Writes the images and the index into the target, then the report. Raises TargetError."""
        self._choice = BlobChoice(_FAMILY[self.options.compression])
        self.progress.emit(Event(kind="stage", stage="merge", total_items=len(self.sources)))
        try:
            self._gather()
            settlement = Settlement(self.options, self.target, self.progress)
            settlement.settle(self._images)
            report = self._report(started, settlement)
        finally:
            self._reader.close()
        if self.target is not None:
            self.target.finish(encode_report(report))
            if isinstance(self.target, RemovesBlobs):
                self.target.remove_blobs(self._choice.losers())
        return report

    # --- records -----------------------------------------------------------------------------------------------

    def _records(self) -> Iterator[tuple[MergeSource, SourceRecord]]:
        for source in self.sources:
            yield source, self._reader.read(source.place, source.location)

    def _gather(self) -> None:
        """First walk: which blob each layer has, and what failed."""
        for place, generation in self.older:
            self._choice.take(self._reader.read(place, "").layers, generation)
        for source, record in self._records():
            self._choice.take(record.layers, source.generation)
            self.failures += record.failures
            self.account.count(source.outcome)

    def _images(self) -> Iterator[FinishedImage]:
        """The images of all sources; the same ones, in the same order, each time."""
        order = 0
        for source, record in self._records():
            for number, image in enumerate(record.images):
                order += 1
                if (source.location, number) in self._uncomposed:
                    continue
                try:
                    yield self._finished(image, record, order)
                except MigrateError as error:
                    self._uncomposed.add((source.location, number))
                    self._fail(error, image, source.location)

    def _finished(self, image: ImageRecord, record: SourceRecord, order: int) -> FinishedImage:
        finished = image.finished
        chain: HashedChain = tuple(
            (layer, self._with_blob(hashed, record.layers[row].role))
            for (layer, hashed), row in zip(finished.chain, image.chain, strict=True)
        )
        composed = finished.composed if finished.ready else self._compose(finished.composed)
        return replace(finished, order=order, composed=composed, chain=chain)

    def _with_blob(self, hashed: HashedLayer | None, role: Role) -> HashedLayer | None:
        if hashed is None or hashed.blob is None or role is Role.KEPT:
            return hashed
        blob = self._choice.blob(hashed.diff_id)
        return hashed if blob == hashed.blob else replace(hashed, blob=blob)

    def _compose(self, composed: ComposedImage) -> ComposedImage:
        """The manifest, whose layers were not known before all sources were read."""
        layers = tuple(
            layer_descriptor(self._choice.blob(diff_id), self.options.format) for diff_id in composed.diff_ids
        )
        manifest = compose_manifest(composed.config, layers, self.options.format)
        return replace(composed, manifest=manifest, layers=layers)

    def _fail(self, error: MigrateError, image: ImageRecord, location: str) -> None:
        references = tuple(str(reference) for reference in image.finished.references)
        self.failures.append(Failure.of(error, location, references=references, legacy_id=image.finished.legacy_id))

    # --- report ------------------------------------------------------------------------------------------------

    def _report(self, started: str, settlement: Settlement) -> Report:
        sources: dict[str, SourceInput] = {}
        layers: dict[str, dict[str, HashedLayer]] = {}
        warnings: list[str] = []
        for source, record in self._records():
            warnings += record.warnings
            note = (source.message or "holds no image",) if source.outcome is Outcome.SKIPPED else ()
            layers[source.location] = {}
            sources[source.location] = SourceInput(
                location=source.location, type=record.type, layers=layers[source.location], warnings=note
            )
        report = build_report(
            tool_version=__version__,
            dry_run=self.options.dry_run,
            started=started,
            finished=utc_now(),
            options=self.report_options,
            sources=sources.values(),
            images=_noting_layers(settlement.rows(self._images()), layers),
            failures=[*self.failures, *settlement.failures],
            conflicts=settlement.conflicts,
            warnings=warnings,
        )
        self.account.take_report(report, sources.values())
        return report


def _noting_layers(rows: Iterable[ImageInput], layers: Mapping[str, dict[str, HashedLayer]]) -> Iterator[ImageInput]:
    """Fills in the layers of each source while its images go by, so that no image has to be kept or walked again."""
    interned: dict[HashedLayer, HashedLayer] = {}
    for row in rows:
        for layer, hashed in row.chain:
            if hashed is not None:
                layers[row.source][layer.legacy_id] = interned.setdefault(hashed, hashed)
        yield row
