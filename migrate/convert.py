"""From sources to one target: the only module that knows every step.

reader → chain → rehash → compose → writer → report. A failure takes its image with it and no other; only the target's
own failure, or an interruption, ends the run.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from migrate import __version__
from migrate.chain import check_chain, walk_chain
from migrate.compose.image import compose_image
from migrate.compose.index import compose_index
from migrate.errors import ConflictError, MigrateError, NoImageError, UsageError
from migrate.model.digest import Digest
from migrate.model.image import ComposedImage, HashedLayer
from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer, ReadyIndex, SourceListing
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.reference import Reference
from migrate.naming import Claim, Names, assign_names
from migrate.progress import Event, Progress, SilentProgress
from migrate.readers.base import LegacySource
from migrate.rehash.pipeline import rehash
from migrate.rehash.ports import JobKey, LayerJob, ObserverFactory
from migrate.report.document import Conflict, Failure, Report
from migrate.report.json import encode_report
from migrate.report.model import ImageInput, SourceInput, build_report
from migrate.selection import ambiguous_prefixes, select_images
from migrate.writers.base import ImageTarget, ListsImages

logger = logging.getLogger(__name__)

Hashed = Mapping[JobKey, "HashedLayer | MigrateError"]
Chain = tuple[LegacyLayer, ...]
HashedChain = tuple[tuple[LegacyLayer, "HashedLayer | None"], ...]


@dataclass(slots=True)
class OpenedSource:
    """A source of the run: opened, or the reason why it could not be."""

    location: str
    source: LegacySource | None = None
    error: MigrateError | None = None
    listing: SourceListing | None = None


@dataclass(slots=True)
class PlannedImage:
    """One image on its way. `order` is its place in the run and settles ties."""

    source_index: int
    location: str
    image: LegacyImage
    order: int
    chain: Chain = ()
    hashed: HashedChain = ()
    composed: ComposedImage | None = None
    index: ReadyIndex | None = None

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(str(reference) for reference in self.image.references)


@dataclass(slots=True)
class Outcome:
    report: Report
    exit_code: int


@dataclass(slots=True)
class Conversion:
    """One run. `run` may be called once."""

    sources: Sequence[OpenedSource]
    options: ConvertOptions
    target: ImageTarget | None = None
    progress: Progress = field(default_factory=SilentProgress)
    report_options: Mapping[str, object] = field(default_factory=dict)
    observer: ObserverFactory | None = None
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _conflicts: list[Conflict] = field(default_factory=list)
    _names: dict[int, list[Reference]] = field(default_factory=lambda: defaultdict(list))

    def run(self) -> Outcome:
        """Converts, writes the report into the target, and returns it. Raises TargetError and UsageError only."""
        started = _now()
        self._list_sources()
        planned = self._plan()
        hashed = self._rehash(planned)
        composed = [image for image in planned if self._compose(image, hashed)]
        written = self._write(composed)
        report = self._report(started, written, hashed)
        if self.target is not None:
            self.target.finish(encode_report(report))
        return Outcome(report, self._exit_code(report))

    # --- sources and selection ---------------------------------------------------------------------------------

    def _list_sources(self) -> None:
        for opened in self.sources:
            if opened.source is not None:
                try:
                    opened.listing = opened.source.listing()
                    if not (opened.listing.images or opened.listing.indexes or opened.listing.failures):
                        raise NoImageError(f"{opened.location}: holds no image")
                except MigrateError as error:
                    if error.scope == "run":
                        raise
                    opened.error = error
            if opened.error is not None:
                self._fail(opened.error, opened.location)
            self.progress.emit(Event(kind="source", name=opened.location))

    def _plan(self) -> list[PlannedImage]:
        """Selects images and walks their chains; what cannot be walked has failed."""
        self._check_patterns()
        planned: list[PlannedImage] = []
        matched: set[str] = set()
        for source_index, opened in enumerate(self.sources):
            if opened.listing is None:
                continue
            chosen, hits = select_images(opened.listing, self.options.images, all_layers=self.options.all_layers)
            matched |= hits
            self._note_listing(opened)
            for image in chosen:
                planned.append(PlannedImage(source_index, opened.location, image, len(planned)))
            for index in opened.listing.indexes:
                for child in index.children:
                    planned.append(PlannedImage(source_index, opened.location, child, len(planned), index=index))
        missing = [pattern for pattern in self.options.images if pattern not in matched]
        if missing and any(opened.listing is not None for opened in self.sources):
            raise UsageError(
                f"no image matches --image {', '.join(missing)}; `migrate inspect SOURCE` lists what is there"
            )
        return [image for image in planned if self._walk(image)]

    def _check_patterns(self) -> None:
        listings = [opened.listing for opened in self.sources if opened.listing is not None]
        for pattern, found in ambiguous_prefixes(listings, self.options.images).items():
            raise UsageError(f"--image {pattern} is the beginning of several IDs: {', '.join(found[:5])}")

    def _note_listing(self, opened: OpenedSource) -> None:
        assert opened.listing is not None
        self.warnings += opened.listing.warnings
        for failure in opened.listing.failures:
            self.failures.append(
                Failure(
                    source=opened.location,
                    references=tuple(failure.references),
                    legacy_id=failure.legacy_id,
                    layer=failure.layer,
                    error=failure.error,
                    message=failure.message,
                )
            )

    def _walk(self, planned: PlannedImage) -> bool:
        source = self.sources[planned.source_index].source
        assert source is not None
        try:
            given = planned.image.chain
            planned.chain = given if given is not None else walk_chain(planned.image.head, source.read_layer)
            check_chain(planned.chain)
        except MigrateError as error:
            self._fail(error, planned.location, planned.image)
            return False
        return True

    # --- layers ------------------------------------------------------------------------------------------------

    def _rehash(self, planned: Sequence[PlannedImage]) -> Hashed:
        jobs: dict[JobKey, LayerJob] = {}
        for image in planned:
            source = self.sources[image.source_index].source
            assert source is not None
            for layer in image.chain:
                if layer.payload is not None:
                    job = LayerJob(image.source_index, source, layer)
                    jobs.setdefault(job.key, job)
        return rehash(list(jobs.values()), self.target, self.options, self.progress, self.observer)

    def _compose(self, planned: PlannedImage, hashed: Hashed) -> bool:
        rows: list[tuple[LegacyLayer, HashedLayer | None]] = []
        for layer in planned.chain:
            result = None if layer.payload is None else hashed[planned.source_index, layer.payload.key]
            if isinstance(result, MigrateError):
                self._fail(result, planned.location, planned.image, layer=layer.legacy_id)
                return False
            rows.append((layer, result))
        planned.hashed = tuple(rows)
        try:
            planned.composed = compose_image(planned.image, planned.hashed, self.options)
        except MigrateError as error:
            self._fail(error, planned.location, planned.image)
            return False
        return True

    # --- writing -----------------------------------------------------------------------------------------------

    def _write(self, composed: Sequence[PlannedImage]) -> list[PlannedImage]:
        names = self._assign_names(composed)
        written: list[PlannedImage] = []
        for planned in composed:
            assert planned.composed is not None
            if planned.composed.manifest_digest in names.refused and planned.image.references:
                error = ConflictError("another image claims the same reference, and --on-conflict is fail")
                self._fail(error, planned.location, planned.image)
                continue
            written.append(planned)
        self._commit(written, names)
        return written

    def _assign_names(self, composed: Sequence[PlannedImage]) -> Names:
        claims = list(self._existing_claims())
        for planned in composed:
            assert planned.composed is not None
            claims += [
                Claim(
                    reference=reference,
                    platform=planned.composed.platform,
                    digest=_identity(planned.composed),
                    created=planned.composed.created,
                    order=planned.order,
                    image_id=planned.composed.image_id.hex,
                )
                for reference in planned.image.references
            ]
        wanted = {claim.reference for claim in claims if claim.order >= 0}
        names = assign_names([claim for claim in claims if claim.reference in wanted], self.options.on_conflict)
        for conflict in names.conflicts:
            if conflict.kept is not None:
                self._conflicts.append(
                    Conflict(
                        reference=str(conflict.reference),
                        platform=conflict.platform,
                        kept=conflict.kept.digest,
                        others=tuple(claim.digest for claim in conflict.others),
                    )
                )
        return names

    def _existing_claims(self) -> Iterable[Claim]:
        if not isinstance(self.target, ListsImages):
            return
        for order, existing in enumerate(self.target.existing_images()):
            if existing.reference is not None:
                yield Claim(
                    reference=existing.reference,
                    platform=existing.platform or self.options.platform,
                    digest=existing.manifest_digest,
                    created=existing.created,
                    order=order - 1_000_000_000,
                )

    def _commit(self, written: Sequence[PlannedImage], names: Names) -> None:
        by_digest: dict[Digest, ComposedImage] = {}
        indexes: dict[Digest, ReadyIndex] = {}
        for planned in written:
            assert planned.composed is not None
            by_digest.setdefault(_identity(planned.composed), planned.composed)
            if planned.index is not None:
                indexes[Digest.of(planned.index.content)] = planned.index
        for planned in written:
            assert planned.composed is not None
            self._names[planned.order] = sorted(
                reference for reference in planned.image.references if reference in self._granted(planned, names)
            )
        if self.target is None:
            return
        for digest in sorted(by_digest):
            self.target.commit(by_digest[digest], sorted(names.by_digest.get(digest, ())))
            self.progress.emit(Event(kind="image", name=str(digest)))
        for reference, members in sorted(names.indexes.items()):
            children = [by_digest[claim.digest] for claim in members if claim.digest in by_digest]
            content, media_type = compose_index(children, self.options.format)
            self.target.commit_index(content, media_type, [reference])
        for digest in sorted(indexes):
            index = indexes[digest]
            if all(self._is_written(child, by_digest) for child in index.children):
                self.target.commit_index(index.content, index.media_type, sorted(index.references))

    def _granted(self, planned: PlannedImage, names: Names) -> set[Reference]:
        assert planned.composed is not None
        digest = _identity(planned.composed)
        in_indexes = {
            reference for reference, members in names.indexes.items() if any(m.digest == digest for m in members)
        }
        return names.by_digest.get(digest, set()) | in_indexes

    def _is_written(self, child: LegacyImage, by_digest: Mapping[Digest, ComposedImage]) -> bool:
        return child.manifest is not None and Digest.of(child.manifest.content) in by_digest

    # --- report ------------------------------------------------------------------------------------------------

    def _report(self, started: str, written: Sequence[PlannedImage], hashed: Hashed) -> Report:
        return build_report(
            tool_version=__version__,
            dry_run=self.options.dry_run,
            started=started,
            finished=_now(),
            options=self.report_options,
            sources=self._source_rows(written),
            images=[self._image_row(planned) for planned in written],
            failures=self.failures,
            conflicts=self._conflicts,
            warnings=self.warnings,
        )

    def _source_rows(self, written: Sequence[PlannedImage]) -> list[SourceInput]:
        layers: dict[int, dict[str, HashedLayer]] = defaultdict(dict)
        for planned in written:
            for layer, hashed in planned.hashed:
                if hashed is not None:
                    layers[planned.source_index][layer.legacy_id] = hashed
        return [
            SourceInput(
                location=opened.location,
                type=opened.source.source_type.value if opened.source is not None else None,
                layers=layers[source_index],
            )
            for source_index, opened in enumerate(self.sources)
        ]

    def _image_row(self, planned: PlannedImage) -> ImageInput:
        assert planned.composed is not None
        layer_warnings = [warning for layer in planned.chain for warning in layer.warnings]
        return ImageInput(
            source=planned.location,
            legacy_id=planned.image.head,
            image=planned.composed,
            chain=planned.hashed,
            references=planned.references,
            names=[str(reference) for reference in self._names[planned.order]],
            containers=planned.image.containers,
            warnings=[*planned.image.warnings, *planned.composed.warnings, *layer_warnings],
        )

    def _exit_code(self, report: Report) -> int:
        if not report.images:
            return 4
        return 3 if report.failures else 0

    def _fail(
        self, error: MigrateError, location: str, image: LegacyImage | None = None, layer: LegacyID | None = None
    ) -> None:
        references = tuple(str(reference) for reference in image.references) if image is not None else ()
        legacy_id = image.head if image is not None else None
        failure = Failure(
            source=location,
            references=references,
            legacy_id=legacy_id,
            layer=error.layer or layer,
            error=error.code,
            message=error.message,
        )
        self.failures.append(failure)
        self.progress.emit(
            Event(kind="failure", name=", ".join(references) or legacy_id or location, message=error.message)
        )
        logger.info("%s: %s", location, error.message)


def _identity(image: ComposedImage) -> Digest:
    """What tells two images apart: the manifest, or the config where a dry run made no manifest."""
    return image.manifest_digest if image.manifest else image.image_id


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["Conversion", "OnConflict", "OpenedSource", "Outcome", "PlannedImage"]
