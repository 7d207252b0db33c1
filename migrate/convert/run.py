"""The conversion of sources into one target, with all its steps in order.

The steps are reader → chain → rehash → compose → writer → report. A failure in a source fails the images that need the
damaged part, and no others. Only a failure of the target, or an interruption, ends the run.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from migrate import __version__
from migrate.blobio import limits
from migrate.blobio.payload import Payload
from migrate.blobio.records import Records
from migrate.blobio.sorted_runs import SortedRuns
from migrate.compose.chain import check_chain, walk_chain
from migrate.compose.image import SharedParts, compose_image
from migrate.compose.names import untagged_reference, wanted_reference
from migrate.convert.earlier import EarlierImages
from migrate.convert.other_places import OF_TARGET, Lent, OtherPlaces
from migrate.convert.packed_images import decode_slim_images, encode_images, sorted_images, sorted_report_rows
from migrate.convert.planned import Chain, PlannedImage
from migrate.convert.portions import Divider, RecordedProgress, Share
from migrate.convert.publish import FinishedImage, Publisher, in_format, without_documents
from migrate.convert.repeat import run_key
from migrate.convert.selection import (
    ambiguous_prefixes,
    check_containers,
    is_half_removed,
    select_containers,
    select_failures,
    select_images,
    select_index,
    unused_exclusions,
)
from migrate.convert.source_paths import distinct_sources
from migrate.convert.sources import OpenedSource, open_sources
from migrate.errors import (
    ConflictError,
    IntegrityError,
    LimitError,
    MigrateError,
    MissingContentError,
    MissingLayerError,
    NoImageError,
    NotExactError,
    SourceUnreadableError,
    UsageError,
)
from migrate.layout.names import plain_path
from migrate.model.container import Container
from migrate.model.digest import DiffID
from migrate.model.image import ComposedImage, HashedLayer
from migrate.model.legacy import Failure, LegacyID, LegacyImage, LegacyLayer, PayloadRef, is_hex_id
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event, Progress, SilentProgress
from migrate.model.reference import Reference
from migrate.readers.base import LegacySource
from migrate.rehash.layer import Layer
from migrate.rehash.pipeline import PassingLayers, rehash
from migrate.rehash.ports import BlobTarget, JobKey, LayerJob, ObserverFactory, OncePayload, TarObserver, observe_all
from migrate.rehash.size_estimate import SizeEstimate
from migrate.report.document import Report, ReportImage, UnconvertedContainer, VolumeRow
from migrate.report.json import iter_report
from migrate.report.mapping import mapped_image
from migrate.report.model import SourceInput, build_head, image_rows
from migrate.report.tally import LayerTally, SourceTallies
from migrate.report.units import count, format_size
from migrate.writers.base import ImageTarget
from migrate.writers.free_space import check_target_room, check_target_room_for_streams
from migrate.writers.open_target import name_warnings, open_target, parse_target
from migrate.writers.registry_names import UNTAGGED

if TYPE_CHECKING:
    from migrate.rootfs.check import RunCheck

_PORTION_BYTES: Final = 4
HashedLayers = Mapping[JobKey, "HashedLayer | MigrateError"]


class Outcome(Struct):
    """The outcome of a run: its report, the exit code of the command (`migrate.errors.EXIT_CODES`), and the number of
    images that were in the target before (`present`)."""

    report: Report
    exit_code: int
    present: int = 0


class Conversion(Struct):
    """One run; `run` may be called once. `missing` has the IDs and diffIDs of the layers that failed images lack."""

    sources: Sequence[OpenedSource]
    options: ConvertOptions
    target: ImageTarget | None = None
    progress: Progress = field(default_factory=SilentProgress)
    report_options: Mapping[str, object] = field(default_factory=dict)
    observer: ObserverFactory | None = None
    earlier: EarlierImages | None = None
    lent: Lent = field(default_factory=Lent)
    missing: set[str] = field(default_factory=set)
    locations: Sequence[str] = ()
    key: str | None = None
    repeated: Report | None = None
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    planned: Sequence[PlannedImage] = ()
    hashed: HashedLayers = field(default_factory=dict)
    containers: list[UnconvertedContainer] = field(default_factory=list)
    volumes: list[VolumeRow] = field(default_factory=list)
    _container_layers: set[JobKey] = field(default_factory=set)
    _rootfs: RunCheck | None = None
    _shared: SharedParts = field(default_factory=SharedParts)
    _layers_planned: int = 0
    _divider: Divider | None = None
    _estimate: SizeEstimate | None = None
    _passed: Mapping[JobKey, Layer] = field(default_factory=dict)
    _others: OtherPlaces | None = None

    def __post_init__(self) -> None:
        if self.target is None and self.options.dry_run and not self.options.exact_sizes:
            # compressing takes most of the time of a run: `plan` compresses samples only
            self._estimate = SizeEstimate(self.options.compression)
        if self.target is not None and self.target.wants_compression is not None:
            self.options = dataclasses.replace(
                self.options, compression=self.target.wants_compression, compression_level=None
            )

    @property
    def others(self) -> OtherPlaces:
        """Where layers are that a source lacks."""
        if self._others is None:
            self._others = OtherPlaces(self.sources, self.options, self.lent, self.earlier)
        return self._others

    @classmethod
    @contextmanager
    def opened(
        cls, locations: Sequence[str], options: ConvertOptions, target: str | None = None, **rest: Any
    ) -> Iterator[Conversion]:
        """A run over the sources at `locations`; `rest` are further fields. Closes sources and target. Raises
        UsageError and TargetError."""
        prefix, place = ("", "") if target is None else parse_target(target)
        key = None
        if prefix == "oci" and not rest.keys() - {"progress", "report_options"}:
            key = run_key(locations, options, rest.get("report_options", {}))
            from migrate.writers.run_memory import repeat_run  # not for a plan, which has no target

            if key is not None and (raw := repeat_run(place, key, utc_now(), utc_now)) is not None:
                from migrate.report.parse import parse_report

                # An earlier run with this key left the target exactly as it is, so this one would change nothing.
                yield cls((), options, locations=locations, repeated=parse_report(raw), **rest)
                return
        sources = open_sources(locations, options)
        if not all(one.is_one_file for one in sources):
            key = None  # the key has the state of one file for each source
        with ExitStack() as stack:
            for one in sources:
                stack.callback(one.close)
            opened = None
            if target is not None and (options.images or options.exclude or options.container):
                # A pattern that matches nothing is an error here, before the target is created.
                cls(sources, options).gather()
            earlier = None
            if target is not None and any(one.source and not one.error for one in sources):  # else nothing to write
                opened = open_target(target, options)
                stack.callback(opened.close)
                if key is not None:
                    opened.begin_run()
                earlier = EarlierImages(prefix, place, opened.mapped_images, options, lambda: conversion.iter_names())
                stack.callback(earlier.close)
            warnings = name_warnings(target) if opened is not None and target is not None else []
            conversion = cls(
                sources,
                options,
                opened,
                earlier=earlier,
                warnings=warnings,
                locations=locations,
                key=key,
                **rest,
            )
            yield conversion

    def run(self) -> Outcome:
        """Converts the sources, writes the report into the target, and returns it. Raises TargetError and UsageError
        only."""
        if self.repeated is not None:
            return self._show_repeated(self.repeated)
        started = utc_now()
        self.pass_streams(self.target)
        self.gather()
        listings = [opened.listing for opened in self.sources if opened.listing is not None]
        if self.options.exclude:
            unused = unused_exclusions(listings, self.options.exclude)
            self.warnings += (f"--exclude {pattern}: no image matches" for pattern in unused)
        listings.clear()  # `_publish` frees the listings, which is of no use while this list has them
        images = sorted_images(self.options.temporary_directory, len(self.planned))
        bare: dict[LegacyID, LegacyLayer] = {}
        self.convert_images(
            self.target, lambda image: images.add(in_format(without_documents(image, bare), self.options))
        )
        report, present = self._publish(started, images)
        images.close()
        self._warn(report)
        code = exit_code(report)
        if self.target is not None and code == NOTHING_READ:
            # A mistyped source must leave no empty layout, and no report in place of an earlier one.
            self.target.abandon()
        elif self.target is not None:
            self.target.add_to_map(map(mapped_image, report.images))
            if self.key is not None and not (report.conflicts or code):
                again = run_key(self.locations, self.options, self.report_options)
                if again == self.key:  # no source has changed during the run
                    self.target.remember_run(again)
            self.target.finish_in_pieces(iter_report(replace(report, images=()), report.images))
        return Outcome(report, code, present)

    def _publish(self, started: str, images: SortedRuns[FinishedImage]) -> tuple[Report, int]:
        """The report, and the number of images that were in the target before. Closes the sources."""
        # Nothing is read from here on. Everything that is not needed is freed: with many images this halves the peak.
        self.planned, self.hashed, self._passed, self._shared = (), {}, {}, SharedParts()
        for opened in self.sources:
            opened.close()
        publisher = Publisher(self.options, self.target, self.progress)
        publisher.assign(lambda: images)
        rows, counts = self._rows(images, publisher)
        if self.earlier is not None:
            self.warnings += self.earlier.iter_lost(image.composed.image_id for image in images)
        return self._report(started, rows, counts, publisher), publisher.present

    def _warn(self, report: Report) -> None:
        for name, message in report.all_warnings():
            self.progress.emit(Event(kind="warning", name=name, message=message))

    def _show_repeated(self, report: Report) -> Outcome:
        """Emits the events of a run whose result is in the target already, and returns its outcome."""
        for location in distinct_sources(self.locations):
            self.progress.emit(Event(kind="source", name=plain_path(location)))
        images = sorted({image.manifest_digest or image.image_id for image in report.images})
        for identity in images:
            self.progress.emit(Event(kind="image", name=str(identity)))
        self._warn(report)
        return Outcome(report, exit_code(report), len(images))

    def pass_streams(self, store: BlobTarget | None) -> None:
        """Reads pipes and compressed archives once, and writes their large layers into `store` without a temporary
        copy.

        Does nothing if only some images are chosen: which layers they need is known at the end of an archive only. To
        be called before `gather`, or not at all. Raises TargetError only.
        """
        streaming = [
            (index, opened.source)
            for index, opened in enumerate(self.sources)
            if opened.source is not None and opened.source.is_read_once
        ]
        if streaming and not (self.options.images or self.options.exclude):
            locations = (self.sources[index].location for index, _ in streaming)
            check_target_room_for_streams(locations, store, self.options)
            with PassingLayers(store, self.options, self.progress, self.observer, self._sampler) as passing:
                for index, source in streaming:
                    self._pass_stream(index, source, passing)
            self._passed = passing.layers

    def _pass_stream(self, index: int, source: LegacySource, passing: PassingLayers) -> None:
        def take(layer: LegacyLayer, payload: Payload) -> None:
            passing.take(LayerJob(index, OncePayload(payload), layer))

        try:
            source.stream_layers(take)
        except MigrateError as error:
            if error.scope == "run":
                raise
            self.sources[index].error = error

    def gather(self) -> None:
        """Lists the sources, chooses images and reads their chains into `planned`. Errors of sources are added to
        `failures`. Raises UsageError only."""
        for opened in self.sources:
            if opened.source is not None and opened.error is None:  # `pass_streams` may have set an error
                try:
                    opened.listing = opened.source.listing()
                    opened.source.check_access(containers=bool(self.options.containers or self.options.container))
                    listing = opened.listing
                    if not (listing.images or listing.indexes or listing.containers or listing.failures):
                        raise NoImageError(f"{opened.location}: holds no image")
                except MigrateError as error:
                    if error.scope == "run":
                        raise
                    opened.error, opened.listing = error, None
            if opened.error is not None:
                self._fail(opened.error, opened.location)
            self.progress.emit(Event(kind="source", name=opened.location))
        self.planned = self._plan()

    def convert_images(self, store: BlobTarget | None, take: Callable[[FinishedImage], None]) -> None:
        """Converts the images in `planned`, and calls `take` for each: their layers are in `store` then, but no
        manifest, config or name is.

        Images that cannot be converted are added to `failures`. Raises TargetError only.
        """
        planned = self.planned
        alive: set[int] = set()
        containers: set[tuple[str, LegacyID]] = set()
        known: set[tuple[str, LegacyID]] = set()

        def made(image: FinishedImage) -> None:
            if image.index is not None:
                alive.add(id(image.index))
            if image.container is not None:
                containers.add((image.source, image.legacy_id))
            if self.options.salvage:
                known.add((image.source, image.legacy_id))
            take(image)

        if store is self.target:
            self._convert_shared(planned, made)
        else:
            self._convert(planned, store, made)
        # A manifest list of which every image failed has a failure of its own: no image has its names.
        lost = {id(image.index): image for image in planned if image.index is not None and id(image.index) not in alive}
        for image in lost.values():
            assert image.index is not None
            error = MissingLayerError("none of the images of this manifest list could be converted")
            references = tuple(map(str, image.index.references))
            self._add_failure(Failure.of(error, image.location, references=references))
        self._measure_containers(containers)
        self.warnings += self._rootfs.warnings() if self._rootfs is not None else ()
        if self.options.salvage:
            for salvaged in self._salvage(planned, known):
                take(salvaged)

    def _convert(
        self, planned: Sequence[PlannedImage], store: BlobTarget | None, take: Callable[[FinishedImage], None]
    ) -> None:
        planned = [image for image in planned if image.chain or self._read_chain(image)]
        # All layers of all images at once, so that a layer which several images share is read once.
        self.hashed = self._rehash(planned, store)
        self._take_content_of_target(planned, store)
        for image in planned:
            if (done := self._compose(image)) is not None:
                take(done)

    def _convert_shared(self, planned: Sequence[PlannedImage], take: Callable[[FinishedImage], None]) -> None:
        """As `_convert` into the target, by several processes if the images are many and small."""
        target, divided = self.target, None if self._divider is None else self._divider.portions(planned)
        self._divider = None  # it has the names of all layers
        if target is None or divided is None:
            self._convert(planned, target, take)
            return
        from migrate.convert.shares import share  # with multiprocessing, which takes long to load

        total, items = divided.total_bytes, divided.layers
        free = target.free_bytes()
        if free is not None and total > free:  # otherwise there is room, and the chains need not be read for it
            check_target_room(self._iter_payloads(planned), target, self.options)
        self.progress.emit(Event(kind="stage", stage="compress", total_bytes=total, total_items=items))
        with closing(Records("images", self.options.temporary_directory, key=_PORTION_BYTES)) as arrived:
            take_share = partial(self._take_share, arrived)
            done = share(divided.portions, target, self._convert_portion, self.options.jobs, take_share)
            target.read_again()
            for number, portion in enumerate(divided.portions):
                if (made := done.pop(number, None)) is None:
                    self._convert(portion, target, take)
                    continue
                for content in arrived.of(number.to_bytes(_PORTION_BYTES)):
                    for image in decode_slim_images(content):
                        take(image)
                self.failures += made.failures
                self.warnings += made.warnings
                self.missing |= set(made.missing)

    def _take_share(self, arrived: Records, number: int, made: Share) -> Share:
        for event in made.events:
            self.progress.emit(event)
        arrived.add(number.to_bytes(_PORTION_BYTES), made.images)
        return replace(made, images=b"", events=())

    def _convert_portion(self, target: ImageTarget, portion: Sequence[PlannedImage]) -> Share:
        """In another process."""
        progress = RecordedProgress()
        part = Conversion(self.sources, dataclasses.replace(self.options, jobs=1), target, progress, planned=portion)
        images: list[FinishedImage] = []
        bare: dict[LegacyID, LegacyLayer] = {}
        part._convert(portion, target, lambda image: images.append(without_documents(image, bare)))
        for image in images:
            if any(hashed is not None and hashed.carried is not None for _, hashed in image.chain):
                raise IntegrityError(f"{image.source}: a layer was changed after its beginning was read")
            target.commit(image.composed, ())
        for planned in portion:
            planned.chain = ()
        return Share(encode_images(images), part.failures, part.warnings, sorted(part.missing), progress.events)

    def _measure_containers(self, made: Collection[tuple[str, LegacyID]]) -> None:
        """Measures the containers and volumes of which no image was made, and warns about them: their data would be
        lost with the old disk. `made` are containers of which one was: the location of the source, and the ID."""
        wanted = bool(self.options.containers or self.options.container)
        # An exact size may need a walk through millions of files, which is done only for those who want containers.
        most = None if wanted else limits.MEASURED_ENTRIES
        for opened in self.sources:
            if opened.listing is None or opened.source is None:
                continue
            left = [
                opened.source.measure_container(image.container, most)
                for image in opened.listing.containers
                if image.container is not None and (opened.location, image.head) not in made
            ]
            self.containers += (UnconvertedContainer(source=opened.location, container=container) for container in left)
            volumes = opened.source.orphaned_volumes(most)
            self.volumes += (VolumeRow(source=opened.location, volume=volume) for volume in volumes)
            if left and not wanted:
                self.warnings.append(_containers_warning(opened.location, left))
            if volumes:
                sizes = [volume.bytes for volume in volumes if volume.bytes is not None]
                total = f"{'' if len(sizes) == len(volumes) else 'at least '}{format_size(sum(sizes))}"
                self.warnings.append(
                    f"{opened.location}: no container names {count(len(volumes), 'volume')} ({total}): "
                    f"`migrate inspect {shlex.quote(opened.location)}` lists what to copy"
                )

    # --- sources and selection ---------------------------------------------------------------------------------

    def _plan(self) -> list[PlannedImage]:
        """Selects images and reads their chains. Images whose chain cannot be read are added to `failures`."""
        listings = [opened.listing for opened in self.sources if opened.listing is not None]
        for pattern, ids in ambiguous_prefixes(listings, self.options.images).items():
            raise UsageError(f"--image {pattern} matches several IDs: {', '.join(ids[:5])}")
        planned: list[PlannedImage] = []
        matched: set[str] = set()
        options = self.options
        # `--container` alone chooses that container and no images
        only_containers = bool(options.container) and not (options.containers or options.images or options.all_layers)
        for source_index, opened in enumerate(self.sources):
            if opened.listing is None:
                continue
            wanted, exclude = options.images, options.exclude
            chosen, hits = select_images(opened.listing, wanted, all_layers=options.all_layers, exclude=exclude)
            failures, lost = select_failures(opened.listing, wanted, exclude)
            if only_containers:
                chosen, failures = [], [one for one in failures if not (one.references or one.legacy_id)]
            containers, found = select_containers(opened.listing, options.container, all_containers=options.containers)
            matched |= hits | lost | found
            assert opened.listing is not None
            place = opened.location
            self.warnings += (text if place in text else f"{place}: {text}" for text in opened.listing.warnings)
            for failure in failures:
                self._add_failure(failure, partless=failure.layer != failure.legacy_id)
            self._note_half_removed(opened)
            for image in chosen + containers:
                planned.append(PlannedImage(source_index, opened.location, image, len(planned)))
            for index in () if only_containers else opened.listing.indexes:
                listed, children, hits = select_index(index, wanted, exclude)
                matched |= hits
                for child in children:
                    planned.append(PlannedImage(source_index, opened.location, child, len(planned), index=listed))
        # A pattern may match in one source only, so what matched nothing is known after the last source.
        missing = [pattern for pattern in self.options.images if pattern not in matched]
        if missing and any(opened.listing is not None for opened in self.sources):
            raise UsageError(
                f"no image matches --image {', '.join(missing)}; `migrate inspect SOURCE` lists what is there"
            )
        listings = [opened.listing for opened in self.sources if opened.listing is not None]
        if options.exclude and not planned and any(listing.images or listing.indexes for listing in listings):
            raise UsageError(f"--exclude {', '.join(options.exclude)} leaves no image")
        check_containers(listings, options.container, matched)
        self._divider = None
        if self.target is not None and self.target.can_be_shared and not (self.observer or self._passed):
            self._divider = Divider.of(len(planned), self.sources, self.options)
        return [image for image in planned if self._walk(image)]

    def _note_half_removed(self, opened: OpenedSource) -> None:
        """Warns about containers that `--containers` leaves out, because Docker had begun to remove them."""
        assert opened.listing is not None
        if self.options.containers and not self.options.container:
            self.warnings += (
                f"{opened.location}: {image.container.title} is left out: Docker had begun to remove it, and some of "
                f"its files may be gone; --container {image.container.id[:12]} converts what is left"
                for image in opened.listing.containers
                if image.container is not None and is_half_removed(image)
            )

    def _walk(self, planned: PlannedImage) -> bool:
        """False if the chain cannot be read."""
        if not self._read_chain(planned):
            return False
        # With `--all`, the chains of n layers have n²/2 layers, which would not fit into memory for a large n.
        if self._layers_planned + len(planned.chain) > limits.RUN_LAYERS:
            message = (
                f"image {planned.image.head}: this run has more than {limits.RUN_LAYERS:,} layers in all its images"
                " (RUN_LAYERS); convert them in several runs with --image, or with migrate batch"
            )
            self._fail(LimitError(message), planned.location, planned.image)
            return False
        self._layers_planned += len(planned.chain)
        if self._divider is not None:
            self._divider.look_at(planned)
        return True

    def _read_chain(self, planned: PlannedImage) -> bool:
        """False if it cannot be read, which is a failure then."""
        try:
            planned.chain = self._chain_of(planned)
        except MigrateError as error:
            self._fail(error, planned.location, planned.image)
            return False
        return True

    def _chain_of(self, planned: PlannedImage) -> Chain:
        given = planned.image.chain
        chain = given if given is not None else walk_chain(planned.image.head, partial(self._read_layer, planned))
        check_chain(chain)
        return chain

    def _iter_payloads(self, planned: Iterable[PlannedImage]) -> Iterator[PayloadRef]:
        """The layers of images whose chains were dropped."""
        for image in planned:
            with suppress(MigrateError):  # the source was changed meanwhile: a failure when the image is converted
                yield from (layer.payload for layer in self._chain_of(image) if layer.payload is not None)

    def _read_layer(self, planned: PlannedImage, legacy_id: LegacyID) -> LegacyLayer:
        """A layer of the image's own source, or else of another place: an ID of 64 random digits identifies a layer
        well enough."""
        own = self.sources[planned.source_index].source
        assert own is not None
        try:
            return own.read_layer(legacy_id)
        except (MissingLayerError, MissingContentError):
            if not (is_hex_id(legacy_id) and len(legacy_id) == 64):
                raise
            found = self.others.find(legacy_id, planned.source_index)
            if found is None:
                self.missing.add(legacy_id)
                raise
        index, layer = found
        planned.elsewhere = {**planned.elsewhere, legacy_id: index}
        warning = f"layer {legacy_id}: taken from {self.others.place(index).location}"
        return replace(layer, warnings=(*layer.warnings, warning))

    def _same_content(self, layer: LegacyLayer) -> HashedLayer | None:
        return self.others.same_content(_claim(layer), self.hashed.values())

    def _take_content_of_target(self, planned: Sequence[PlannedImage], store: BlobTarget | None) -> None:
        """Looks in the target for layers whose bytes no source has, by their diffIDs."""
        claims = (
            _claim(layer)
            for image in planned
            for layer in image.chain
            if layer.payload is not None
            and isinstance(self.result_of(image, layer), MissingContentError)
            and self._same_content(layer) is None
        )
        wanted = {diff_id for diff_id in claims if diff_id is not None}
        if wanted and self.earlier is not None:
            self.others.take_from_target(wanted, store, self.progress)
            if self.target is not None:
                self.target.note_blobs(self.earlier.homes)

    def iter_names(self) -> Iterator[Reference]:
        """The names that the images of the run ask for in a registry."""
        for image in self.planned:
            names = (*image.image.references, *(() if image.index is None else image.index.references))
            for name in names:
                yield wanted_reference(name, None, self.options, hosts=False)
            if not names:
                head = image.image.head
                template = self.options.name_untagged or f"{UNTAGGED}:{{legacy_id}}"
                yield untagged_reference(template, head, head, hosts=False)

    # --- layers ------------------------------------------------------------------------------------------------

    def _rehash(self, planned: Sequence[PlannedImage], store: BlobTarget | None) -> HashedLayers:
        jobs: dict[JobKey, LayerJob] = {}
        seen: set[tuple[int, int]] = set()
        for image in planned:
            for layer in image.chain:
                index = image.elsewhere.get(layer.legacy_id, image.source_index)
                source = self.others.place(index).source
                assert source is not None
                place = (index, id(layer))  # with `--all`, thousands of chains share the same layer objects
                if layer.payload is not None and (place not in seen or image.image.container is not None):
                    seen.add(place)
                    job = LayerJob(index, source, layer)
                    if self.options.salvage and job.payload.digest and job.payload.diff_id is not None:
                        job = _without_claim(job)  # the digest proves the bytes, so a wrong diffID may be salvaged
                    if image.image.container is not None and layer.legacy_id == image.image.head:
                        self._container_layers.add(job.key)
                    # one job for a layer of several images; their configs may name different diffIDs for it
                    if jobs.setdefault(job.key, job).payload.diff_id != job.payload.diff_id:
                        jobs[job.key] = _without_claim(job)
        seen.clear()
        check_target_room((job.payload for key, job in jobs.items() if key not in self._passed), store, self.options)
        self._rootfs = self._open_rootfs_check()
        observer = self.observer if self._rootfs is None else self._observe
        hashed = rehash(
            list(jobs.values()), store, self.options, self.progress, observer, self._passed, sampler=self._sampler
        )
        return hashed if self._estimate is None else _with_estimates(hashed, self._estimate)

    @property
    def _sampler(self) -> ObserverFactory | None:
        return None if self._estimate is None else self._estimate.observe

    def _observe(self, job: LayerJob) -> TarObserver | None:
        observers = []
        if self._rootfs is not None and job.key not in self._container_layers:
            observers.append(self._rootfs.observer(job))
        if self.observer is not None:
            observers.append(self.observer(job))
        return observe_all([observer for observer in observers if observer is not None])

    def result_of(self, planned: PlannedImage, layer: LegacyLayer) -> HashedLayer | MigrateError:
        """The outcome of a layer with content in the chain of the image."""
        assert layer.payload is not None
        return self.hashed[planned.elsewhere.get(layer.legacy_id, planned.source_index), layer.payload.key]

    def _compose(self, planned: PlannedImage) -> FinishedImage | None:
        rows: list[tuple[LegacyLayer, HashedLayer | None]] = []
        borrowed: list[str] = []
        for layer in planned.chain:
            result = None if layer.payload is None else self.result_of(planned, layer)
            # Archives of 1.10 and later may lack layers that the receiving side had. The diffID identifies the bytes.
            if isinstance(result, MissingContentError):
                if (same := self._same_content(layer)) is not None:
                    is_old = same is self.others.of_target.get(same.diff_id)
                    has_it = "the target has" if is_old else "another one has"
                    borrowed.append(f"layer {layer.legacy_id}: not in this archive; {has_it} its diffID")
                    result = replace(same, carried=None)
                elif reason := self.others.why_not_of_target(_claim(layer)):
                    result = MissingContentError(f"{result.message}; {reason}", layer=result.layer)
            # A v1 layer in the target is identified by its random ID alone, which another layer may have.
            if planned.elsewhere.get(layer.legacy_id) == OF_TARGET and isinstance(result, HashedLayer):
                claim = _claim(layer)
                if claim is not None and result.diff_id != claim:
                    message = f"layer {layer.legacy_id}: the target's blob has the diffID {result.diff_id}, not {claim}"
                    result = IntegrityError(message)
                else:
                    note = "from the target, where an earlier run put it"
                    result = replace(result, exact=False, note=note, carried=None)
            if isinstance(result, MigrateError):
                if isinstance(result, MissingContentError) and layer.payload and layer.payload.diff_id:
                    self.missing.add(str(layer.payload.diff_id))
                planned.lost_layer = layer.legacy_id
                self._fail(result, planned.location, planned.image, layer=layer.legacy_id)
                return None
            rows.append((layer, result))
        try:
            composed = compose_image(planned.image, rows, self.options, self._shared)
            differences: list[str] = []
            if self._rootfs is not None and not planned.elsewhere:
                # the layer of a container was read from the file trees that it would be compared with
                checked = planned.chain if planned.image.container is None else planned.chain[:-1]
                differences = self._rootfs.differences(planned.source_index, checked)
            self._check_certain(planned, composed, rows, differences)
            container, found = self._finish_container(planned)
        except MigrateError as error:
            # `--salvage` makes an image of the layers below the lost one
            planned.lost_layer = LegacyID(error.layer) if error.layer else None
            self._fail(error, planned.location, planned.image)
            return None
        layer_warnings = [warning for layer in planned.chain for warning in layer.warnings]
        return FinishedImage(
            source=planned.location,
            order=planned.order,
            legacy_id=planned.image.head,
            composed=composed,
            chain=tuple(rows),
            references=planned.image.references,
            containers=planned.image.containers,
            container=container,
            legacy_digests=planned.image.legacy_digests,
            warnings=(
                *planned.image.warnings,
                *borrowed,
                *found,
                *composed.warnings,
                *layer_warnings,
                *_warnings_of(rows, differences),
            ),
            certain=not differences and planned.image.certain and composed.certain,
            index=planned.index,
            ready=planned.image.manifest is not None and composed.certain,
        )

    def _finish_container(self, planned: PlannedImage) -> tuple[Container | None, tuple[str, ...]]:
        """The container that the image was made of, as the report lists it, and warnings about it."""
        source = self.sources[planned.source_index].source
        if planned.image.container is None or source is None:
            return None, ()
        return source.finish_container(planned.image.container)

    def _open_rootfs_check(self) -> RunCheck | None:
        # aufs, devicemapper and archives have no whole file system of a layer to compare with
        holding = {
            index: opened.source
            for index, opened in enumerate(self.sources)
            if opened.source is not None and opened.source.holds_rootfs
        }
        if self.options.check_rootfs:
            self.warnings += [
                f"{opened.location}: --check-rootfs has nothing to compare with: the store has no whole file system"
                for index, opened in enumerate(self.sources)
                if opened.listing is not None and index not in holding
            ]
        if not holding:
            return None
        from migrate.rootfs.check import RunCheck

        return RunCheck(holding, self.options.check_rootfs)

    def _check_certain(
        self,
        planned: PlannedImage,
        composed: ComposedImage,
        rows: Sequence[tuple[LegacyLayer, HashedLayer | None]],
        differences: Sequence[str],
    ) -> None:
        if not self.options.strict:
            return
        # From the worst reason to the mildest: the message has only the first.
        if not (planned.image.certain and composed.certain):
            raise NotExactError(f"{planned.location}: image {planned.image.head} was repaired by --salvage")
        if differences:
            raise NotExactError(
                f"{planned.location}: image {planned.image.head} differs from the store: "
                f"{len(differences)} paths differ, first {differences[0]}"
            )
        for layer, hashed in rows:
            if hashed is not None and hashed.damaged:
                raise NotExactError(
                    f"{planned.location}: layer {layer.legacy_id} is damaged: {hashed.note}", layer=layer.legacy_id
                )
            if hashed is not None and not hashed.exact:
                raise NotExactError(
                    f"{planned.location}: layer {layer.legacy_id} may not be Docker's, byte for byte: {hashed.note}",
                    layer=layer.legacy_id,
                )

    def _salvage(self, planned: Sequence[PlannedImage], known: set[tuple[str, LegacyID]]) -> Iterator[FinishedImage]:
        """`--salvage`: makes an image without a name of the layers below the lost one, for every image that lost one.
        `known` are images that exist already: the location of the source, and the ID."""
        for image in planned:
            places = (place for place, layer in enumerate(image.chain) if layer.legacy_id == image.lost_layer)
            intact = image.chain[: next(places, 0)] if image.image.config is None else ()
            if not intact or (image.location, intact[-1].legacy_id) in known:
                continue
            known.add((image.location, intact[-1].legacy_id))  # several images may have lost the same layer
            names = ", ".join(str(reference) for reference in image.image.references) or image.image.head
            note = f"salvaged: the intact lower part of {names}, whose layer {image.lost_layer} is lost"
            part = LegacyImage(head=intact[-1].legacy_id, warnings=(note,))
            done = self._compose(PlannedImage(image.source_index, image.location, part, image.order, intact))
            if done is not None:
                yield done

    # --- report ------------------------------------------------------------------------------------------------

    def _rows(
        self, images: SortedRuns[FinishedImage], publisher: Publisher
    ) -> tuple[SortedRuns[ReportImage], SourceTallies]:
        """Writes the images, makes their rows, and counts images and layers."""
        counts = SourceTallies(LayerTally())

        def counted() -> Iterator[FinishedImage]:
            for image in publisher.commit(images):
                counts.add(image.source, image.chain)
                yield image

        rows = sorted_report_rows(self.options.temporary_directory, len(images))
        for row in image_rows(publisher.rows(counted())):
            rows.add(row)
            counts.images[row.source] += 1
        return rows, counts

    def _report(
        self, started: str, rows: SortedRuns[ReportImage], counts: SourceTallies, publisher: Publisher
    ) -> Report:
        damaged = counts.finish(dict.fromkeys(opened.location for opened in self.sources))
        head = build_head(
            tool_version=__version__,
            dry_run=self.options.dry_run,
            started=started,
            finished=utc_now(),
            options=self.report_options,
            sources=[
                SourceInput(location=opened.location, type=opened.type, damaged=damaged[opened.location])
                for opened in self.sources
            ],
            images=counts.images,
            tally=counts.tally,
            failures=[*self.failures, *publisher.failures],
            conflicts=publisher.conflicts,
            warnings=self.warnings,
            containers=self.containers,
            orphaned_volumes=self.volumes,
        )
        return replace(head, images=rows if rows.is_in_file else tuple(rows))

    def _fail(
        self, error: MigrateError, location: str, image: LegacyImage | None = None, layer: LegacyID | None = None
    ) -> None:
        if layer is not None and error.layer is None:
            error = error.at_layer(layer)
        references = () if image is None else image.references
        legacy_id = None if image is None else image.head
        failure = Failure.of(error, location, references=references, legacy_id=legacy_id)
        self._add_failure(failure, partless=image is not None and image.config is not None)

    def _add_failure(self, failure: Failure, *, partless: bool = False) -> None:
        """`partless`: `_salvage` makes nothing of an image that has lost a layer and has a config of its own."""
        if partless and failure.layer is not None and self.options.salvage:
            failure = replace(failure, message=f"{failure.message}; --salvage cannot convert a part of this image")
        self.failures.append(failure)
        self.progress.emit(failure.event())


def _with_estimates(hashed: HashedLayers, estimate: SizeEstimate) -> HashedLayers:
    """The layers with estimates of their compressed sizes. One of several equal layers was sampled, for all of them."""
    rows = {key: row for key, row in hashed.items() if isinstance(row, HashedLayer)}
    sampled = {row.diff_id: key for key, row in rows.items() if estimate.has_sampled(key)}
    sizes = {
        key: estimate.size_of(sampled.get(row.diff_id, key), row.tar_size) if row.carried is None else row.carried.size
        for key, row in rows.items()
    }
    return {**hashed, **{key: replace(row, estimate=sizes[key]) for key, row in rows.items()}}


def _claim(layer: LegacyLayer) -> DiffID | None:
    """The diffID that a config of the source names for the layer."""
    return None if layer.payload is None else layer.payload.diff_id


def _without_claim(job: LayerJob) -> LayerJob:
    """`job` without an expected diffID, for a layer to which two configs give different diffIDs. Each config is
    compared with the result when its image is composed, so that only the image with the wrong one fails."""
    unclaimed = replace(job.payload, diff_id=None, disputed=True)
    return LayerJob(job.source_index, job.source, replace(job.layer, payload=unclaimed))


_DIFFERENCES_SHOWN = 20


def _warnings_of(rows: Sequence[tuple[LegacyLayer, HashedLayer | None]], differences: Sequence[str]) -> Iterator[str]:
    """Warnings about the layers of an image, and the first paths that differ from the file system in the store."""
    for layer, hashed in rows:
        if hashed is not None and hashed.damaged:  # a checksum or size that the source has recorded does not match
            yield f"layer {layer.legacy_id} is damaged: {hashed.note}"
    for layer, hashed in rows:  # the bytes are kept, since another tar would have another diffID
        if hashed is not None and hashed.flags:
            entries = dict(hashed.flagged)
            flags = [f"{flag}: {entries[flag]}" if flag in entries else flag for flag in hashed.flags]
            yield f"layer {layer.legacy_id}: readers may understand its tar differently ({', '.join(flags)})"
    for difference in differences[:_DIFFERENCES_SHOWN]:
        yield f"differs from the store's file system: {difference}"
    if len(differences) > _DIFFERENCES_SHOWN:
        yield f"differs from the store's file system in {len(differences) - _DIFFERENCES_SHOWN} more paths"


def _containers_warning(location: str, containers: Sequence[Container]) -> str:
    """One warning for all containers of a source that were not chosen, with the command that converts them."""
    changed = [container.changed_bytes for container in containers if container.changed_bytes]
    several = len(containers) > 1
    unknown = sum(container.changed_bytes is None for container in containers)
    # Containers can share a volume (`--volumes-from`), which counts once.
    volumes = {
        volume.source: volume.bytes or 0
        for container in containers
        for volume in container.volumes
        if volume.kind == "volume"
    }
    facts = [f"{format_size(sum(changed))} changed in {len(changed):,} of them"] if changed else []
    facts += [f"not counted in {unknown:,}"] if unknown else []
    place = shlex.quote(location)
    parts = [
        f"{count(len(containers), 'container')} of this root {'are' if several else 'is'} in no image "
        f"({', '.join(facts) or 'nothing changed'}): `migrate convert --containers {place} TARGET` makes "
        f"{'images of them' if several else 'an image of it'}"
    ]
    if volumes:
        verb = "are" if len(volumes) > 1 else "is"
        parts.append(
            f"{count(len(volumes), 'volume')} ({format_size(sum(volumes.values()))}) {verb} never part of an image: "
            f"`migrate inspect {place}` lists what to copy"
        )
    return f"{location}: {'; '.join(parts)}"


NOTHING_READ: Final = SourceUnreadableError.exit_code
_REFUSED_BY_OPTIONS = frozenset({ConflictError.code, NotExactError.code})


def exit_code(report: Report) -> int:
    """0 if everything was converted, 3 if something failed or is damaged, 4 if nothing could be read. Images that
    `--on-conflict fail` or `--strict` refuses count as read. `report` may be without its images."""
    if report.totals.images or any(failure.error in _REFUSED_BY_OPTIONS for failure in report.failures):
        return 3 if report.failures or report.totals.damaged_layers else 0
    return NOTHING_READ


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
