"""The storage tree of docker-registry 0.x (the Python one): `images/<id>/…` and `repositories/<ns>/<name>/tag_*`.

Source of the format: docker-registry 0.9.1, `depends/docker-registry-core/docker_registry/core/driver.py:86-165`; how
it is read here is in docs/formats/registry-v1.md.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from typing import Final

from msgspec import Struct, field

from migrate.blobio.compression import detect_compression, open_decompressed
from migrate.blobio.limits import CHAIN_LENGTH, JSON_BYTES, SMALL_FILE_BYTES
from migrate.blobio.observed import ObservedStream
from migrate.blobio.payload import Payload
from migrate.distribution.replay import Replay
from migrate.distribution.repositories import FOLDERS
from migrate.documents.registry_v1 import parse_ancestry, parse_checksums, parse_name
from migrate.documents.v1_json import KEPT_BYTES, LayerDocument
from migrate.errors import (
    DamagedError,
    LimitError,
    MigrateError,
    MissingContentError,
    MissingLayerError,
    SourceError,
    SourceUnreadableError,
    TruncatedError,
    UnsupportedError,
)
from migrate.model.legacy import (
    Failure,
    LegacyID,
    LegacyImage,
    LegacyLayer,
    Origin,
    PayloadRef,
    SourceListing,
    SourceType,
    is_hex_id,
)
from migrate.model.options import ReadOptions
from migrate.model.reference import Reference, is_tag
from migrate.readers.base import LegacySource
from migrate.storage.named_files import Entry, NamedFiles, require_readable
from migrate.storage.tree import OpenedFile
from migrate.tar.tarsum import VERSIONS, tarsums

_TAG_FILE: Final = "tag_"
_LAYER: Final = "layer"
_DOGESTRY_LAYER: Final = "layer.tar"
_LAYER_FILE: Final = re.compile(r"layer(\.tar)?(\.(gz|bz2|xz|zst|lz4))?")
"""Also layers that later versions of dogestry compressed with lz4, or that were compressed in place to save room."""
_DEFAULT_NAMESPACE: Final = "library"
_HEAD_BYTES: Final = 16


def is_registry_v1(files: NamedFiles) -> bool:
    """True for a directory with IDs of images in `images/`, or with an empty `images/` beside `repositories/`."""
    if Entry("images", True) not in files.entries(""):
        return False
    names = [entry.name for entry in files.entries("images")]
    for name in filter(is_hex_id, names):
        with suppress(SourceError):  # this user may not read it, but perhaps another image
            documents = (files.size(f"images/{name}/{part}") for part in ("json", "ancestry"))
            if any(size is not None for size in documents) or _layer_files(files, name):
                return True
    return not names and Entry("repositories", True) in files.entries("")


def _layer_files(files: NamedFiles, name: str) -> list[str]:
    """The file names of an image's layer, the usual one first; empty for a server, which lists no files."""
    found = [entry.name for entry in files.entries(f"images/{name}") if not entry.is_folder]
    return sorted((one for one in found if _LAYER_FILE.fullmatch(one)), key=len)


class _Tag(Struct, frozen=True):
    reference: Reference
    legacy_id: str
    warnings: tuple[str, ...] = ()


class _Graph(Struct):
    """The chains of all images by their jsons. `parents` has every image with a json."""

    parents: dict[LegacyID, LegacyID | None] = field(default_factory=dict)
    unfinished: set[LegacyID] = field(default_factory=set)
    folders: set[LegacyID] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def finished(self) -> set[LegacyID]:
        return self.parents.keys() - self.unfinished

    def heads(self) -> set[LegacyID]:
        """Finished images that are no parent of a finished image. An unfinished upload does not hide its parent."""
        covered: set[LegacyID] = set()
        for legacy_id in self.finished():
            parent = self.parents[legacy_id]
            while parent is not None and parent not in covered:
                covered.add(parent)
                parent = self.parents.get(parent)
        return self.finished() - covered

    def ancestry(self, legacy_id: LegacyID) -> list[str]:
        """The IDs from the image down to its base, by the jsons; it ends at a missing or repeated image."""
        found: dict[str, None] = {}
        current: LegacyID | None = legacy_id
        while current is not None and current not in found and len(found) < CHAIN_LENGTH:
            found[current] = None
            current = self.parents.get(current)
        return list(found)


class RegistryV1Source(LegacySource):
    """A v1 registry's storage, in a directory or a bucket (`s3://bucket/prefix`)."""

    source_type = SourceType.REGISTRY_V1

    def __init__(self, location: str, files: NamedFiles, options: ReadOptions | None = None) -> None:
        """`location` is the text that the user gave; `files`, the registry's storage, are taken over."""
        self.location = location
        self._files = files
        self._salvage = bool(options and options.salvage)
        self._replay = Replay.of(options, is_remote=files.is_remote)
        self._listing: SourceListing | None = None
        self._checked: dict[LegacyID, str | None] = {}
        self._jsons: dict[LegacyID, LayerDocument] = {}
        self._layers: dict[LegacyID, LegacyLayer] = {}
        self._json_bytes = 0

    def read_layer(self, legacy_id: LegacyID, /) -> LegacyLayer:
        if (known := self._layers.get(legacy_id)) is not None:
            return known
        document = self._read_json(legacy_id)
        warnings: tuple[str, ...] = ()
        try:
            is_unfinished = self._files.size(f"images/{legacy_id}/_inprogress") is not None
        except SourceError as exc:
            raise exc.at_layer(legacy_id) from exc
        if is_unfinished:
            unfinished = f"image {legacy_id}: its upload was never finished (_inprogress)"
            if not self._salvage:
                raise DamagedError(unfinished, layer=legacy_id)
            warnings = (f"{unfinished}; converted on request",)
        size = self._files.size(self._layer_path(legacy_id))
        if size is None:
            raise MissingContentError(f"image {legacy_id}: the layer file is missing", layer=legacy_id)
        # Over HTTP the size is a header of the server, for display only: some servers send a wrong one.
        certain = self._files.sizes_are_certain
        if size == 0 and certain:
            raise TruncatedError(f"image {legacy_id}: the layer file has 0 bytes", layer=legacy_id)
        written = document.identity().id
        if written and written != legacy_id:
            warnings += (f"image {legacy_id}: its json has the id {written!r}; the folder's name counts",)
        layer = self._layers[legacy_id] = LegacyLayer(
            legacy_id=legacy_id,
            json=document,
            parent=_effective_parent(document),
            payload=PayloadRef(key=legacy_id, size=size)
            if certain
            else PayloadRef(key=legacy_id, estimate=size or None),
            warnings=warnings,
        )
        return layer

    @contextmanager
    def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
        legacy_id = layer.legacy_id
        with self._open_layer(legacy_id) as opened:
            size = opened.size or None  # unknown if a server sends the layer in chunks
            payload = Payload(stream=opened.stream, origin=Origin.BLOB, size=size, path=opened.path)

            def note_mismatch() -> None:
                payload.note, payload.damaged = self._checked[legacy_id], self._checked[legacy_id] is not None

            def finish() -> None:
                self._checked[legacy_id] = check.finish()
                note_mismatch()

            if legacy_id in self._checked:  # the first reading has checked the layer
                note_mismatch()
            else:
                check = _ChecksumCheck(self._files, legacy_id, layer.json, lambda: self._open_layer(legacy_id))
                if check.recorded:
                    observed = ObservedStream(opened.stream, size or sys.maxsize, check.feed, finish)
                    payload.stream = observed.as_binary()
            yield payload

    def _layer_path(self, legacy_id: LegacyID) -> str:
        """The path of the layer, whether it exists or not. UnsupportedError for a layer compressed with lz4."""
        folder = f"images/{legacy_id}"
        usual = f"{folder}/{_DOGESTRY_LAYER if self._is_dogestry else _LAYER}"
        if self._files.size(usual) is not None:
            return usual
        found = _layer_files(self._files, legacy_id)
        if found and all(name.endswith(".lz4") for name in found):
            raise UnsupportedError(
                f"image {legacy_id}: its layer is {found[0]}, and lz4 is not read: `lz4 -d --rm {found[0]}`",
                layer=legacy_id,
            )
        return next((f"{folder}/{name}" for name in found if not name.endswith(".lz4")), usual)

    @cached_property
    def _is_dogestry(self) -> bool:
        """True for the tree that dogestry wrote to S3: `images/<id>/layer.tar`, `repositories/<name>/<tag>`. The name
        of the first layer decides."""
        for entry in self._files.entries("images"):
            with suppress(SourceError):  # reported when the image is read
                if is_hex_id(entry.name) and (found := _layer_files(self._files, entry.name)):
                    return found[0].startswith(_DOGESTRY_LAYER)
        return False

    def _open_layer(self, legacy_id: LegacyID) -> AbstractContextManager[OpenedFile]:
        return self._replay.opened(legacy_id, lambda: self._files.open(self._layer_path(legacy_id)))

    def close(self) -> None:
        self._files.close()
        self._replay.close()

    def _read_json(self, legacy_id: LegacyID) -> LayerDocument:
        if legacy_id in self._jsons:
            return self._jsons[legacy_id]
        if not is_hex_id(legacy_id):
            raise MissingLayerError(f"{legacy_id!r} is not an image ID (64 or 16 hexadecimal digits)")
        try:
            raw = self._files.read(f"images/{legacy_id}/json", JSON_BYTES)
        except SourceError as exc:
            raise exc.at_layer(legacy_id) from exc
        if raw is None:
            known = self._files.entries(f"images/{legacy_id}")
            reason = "its json is missing" if known else "it is not in the registry"
            raise MissingLayerError(f"image {legacy_id}: {reason}", layer=legacy_id)
        return LayerDocument(raw)

    # --- listing -------------------------------------------------------------------------------------------------

    def listing(self) -> SourceListing:
        if self._listing is not None:
            return self._listing
        require_readable(self._files)
        if not self._files.entries("images"):
            raise SourceUnreadableError(f"{self.location}: no images/ folder: not a v1 registry's storage")
        graph = self._read_graph()
        tags, failures = self._read_tags()
        by_head: dict[LegacyID, list[_Tag]] = {}
        for tag in tags:
            if tag.legacy_id in graph.folders:
                by_head.setdefault(LegacyID(tag.legacy_id), []).append(tag)
            else:
                if is_hex_id(tag.legacy_id):
                    legacy_id, problem = LegacyID(tag.legacy_id), f"image {tag.legacy_id} is not in the registry"
                elif tag.legacy_id:
                    legacy_id = None
                    problem = f"{tag.legacy_id[:80]!r} is not an image ID (64 or 16 hexadecimal digits)"
                else:
                    legacy_id, problem = None, "the tag file is empty"
                error = MissingLayerError(f"tag {tag.reference}: {problem}")
                failures.append(Failure.of(error, self.location, references=[tag.reference], legacy_id=legacy_id))
        # An untagged image is converted, too: the registry kept images whose tags were moved or deleted.
        untagged = graph.heads() - by_head.keys()
        first = {head: str(own[0].reference) for head, own in by_head.items()}
        heads = sorted([*by_head, *untagged], key=lambda head: (head not in first, first.get(head, ""), head))
        ancestries = self._files.read_many([f"images/{head}/ancestry" for head in heads], SMALL_FILE_BYTES)
        images = [
            LegacyImage(
                head=head,
                references=tuple(tag.reference for tag in by_head.get(head, ())),
                warnings=(
                    *(warning for tag in by_head.get(head, ()) for warning in tag.warnings),
                    *_ancestry_warning(graph, head, ancestries.get(f"images/{head}/ancestry")),
                ),
            )
            for head in heads
        ]
        if images and not self._files.entries("repositories"):
            graph.warnings.append(f"{self.location}: no repositories/: names and tags are not in this tree")
        unused = sorted(graph.unfinished - by_head.keys())
        halves = [f"image {legacy_id}: its upload was never finished (_inprogress)" for legacy_id in unused]
        self._listing = SourceListing(
            images=images,
            layers=sorted(graph.finished()),
            failures=sorted(failures, key=lambda failure: failure.references),
            warnings=(*sorted(graph.warnings), *halves),
        )
        return self._listing

    def _read_graph(self) -> _Graph:
        graph = _Graph()
        for entry in self._files.entries("images"):
            if entry.is_folder and is_hex_id(entry.name):
                graph.folders.add(LegacyID(entry.name))
            else:
                graph.warnings.append(f"images/{entry.name}: not an image; ignored")
        # In the order of the folders: both files of an image are read before those of the next one.
        # With --salvage an unfinished upload counts like any other image.
        names = ("json",) if self._salvage else ("json", "_inprogress")
        found = self._files.read_many(
            [f"images/{one}/{name}" for one in sorted(graph.folders) for name in names], JSON_BYTES
        )
        for legacy_id in sorted(graph.folders):
            raw = found.get(f"images/{legacy_id}/json")
            mark = found.get(f"images/{legacy_id}/_inprogress")
            if isinstance(mark, bytes):  # docker-registry writes it before a layer, and removes it after it
                graph.unfinished.add(legacy_id)
            elif mark is not None and raw is None:
                raw = mark
            if raw is None:
                graph.warnings.append(f"image {legacy_id}: its json is missing")
                continue
            graph.parents[legacy_id] = None
            try:
                if isinstance(raw, SourceError):
                    raise raw
                document = LayerDocument(raw)
                if self._json_bytes + len(document) <= KEPT_BYTES:
                    self._jsons[legacy_id] = document
                    self._json_bytes += len(document)
                graph.parents[legacy_id] = _effective_parent(document)
            except MigrateError as exc:
                graph.warnings.append(f"image {legacy_id}: {exc.message}")
        return graph

    def _read_tags(self) -> tuple[list[_Tag], list[Failure]]:
        """All tags, sorted by reference, and the failures of `repositories/`."""
        failures: list[Failure] = []
        names = dict(self._tag_files(failures))
        contents = self._files.read_many(list(names), SMALL_FILE_BYTES)
        tags: list[_Tag] = []
        for path, reference in names.items():
            content = contents.get(path)
            if isinstance(content, SourceError):
                failures.append(Failure.of(content, self.location, references=[str(reference)]))
            # The file `tag<name>_json` describes tag <name>. If <name> begins with `_`, the file looks like the one of
            # a tag `<rest of the name>_json`, but has a JSON object in it.
            elif content is not None and not (reference.tag.endswith("_json") and content.lstrip()[:1] == b"{"):
                text = content.decode("utf-8", "replace")
                legacy_id = text.strip()
                warnings = []
                if legacy_id and legacy_id != text:
                    warnings.append(f"tag {reference}: white space around the image ID was ignored")
                if not is_tag(reference.tag):
                    warnings.append(f"tag {reference}: not a name that a registry accepts as a tag")
                tags.append(_Tag(reference, legacy_id, tuple(warnings)))
        return sorted(tags, key=lambda tag: tag.reference), failures

    def _tag_files(self, failures: list[Failure]) -> Iterator[tuple[str, Reference]]:
        """(path, reference) of each file with the name of a tag's file."""
        if self._is_dogestry:
            yield from self._dogestry_tags()
            return
        for namespace in self._folders("repositories"):
            place = f"repositories/{namespace}"
            try:
                repositories = self._folders(place)
            except SourceError as exc:
                failures.append(Failure.of(exc, self.location, references=[parse_name(namespace)]))
                continue
            for repository in repositories:
                name = parse_name(repository)
                if namespace != _DEFAULT_NAMESPACE:  # left out of names, as in `docker pull host:5000/busybox`
                    name = f"{parse_name(namespace)}/{name}"
                try:
                    entries = self._files.entries(f"{place}/{repository}")
                except SourceError as exc:
                    failures.append(Failure.of(exc, self.location, references=[name]))
                    continue
                for entry in entries:
                    if entry.name.startswith(_TAG_FILE):
                        yield f"{place}/{repository}/{entry.name}", Reference(name, entry.name.removeprefix(_TAG_FILE))

    def _dogestry_tags(self) -> Iterator[tuple[str, Reference]]:
        """Every file below `repositories/`: the folders are the name, the file is the tag."""
        pending = ["repositories"]
        for _ in range(FOLDERS):
            if not pending:
                return
            folder = pending.pop()
            for entry in self._files.entries(folder):
                if entry.is_folder:
                    pending.append(f"{folder}/{entry.name}")
                elif "/" in folder:
                    yield f"{folder}/{entry.name}", Reference(folder.partition("/")[2], entry.name)
        raise LimitError(f"{self.location}: more than {FOLDERS:,} folders below repositories/")

    def _folders(self, folder: str) -> list[str]:
        return [entry.name for entry in self._files.entries(folder) if entry.is_folder]


def _effective_parent(document: LayerDocument) -> LegacyID | None:
    found = document.identity().any_parent
    return LegacyID(found) if found else None


def _ancestry_warning(graph: _Graph, head: LegacyID, raw: bytes | SourceError | None) -> tuple[str, ...]:
    """A warning if `ancestry` differs from the parents in the jsons. The parents are used, but Docker used
    `ancestry`."""
    if raw is None or head not in graph.parents:
        return ()
    try:
        if isinstance(raw, SourceError):
            raise raw
        recorded = parse_ancestry(raw)
    except MigrateError as exc:
        return (f"image {head}: {exc.message}; the parents in the jsons were followed",)
    if list(recorded) == graph.ancestry(head):
        return ()
    return (f"image {head}: its ancestry file is not the chain of parents in the jsons, which was followed",)


class _ChecksumCheck:
    """The recorded checksums of one image, compared while its layer is read. One match is enough, since servers up to
    0.8 recorded two kinds.

    `sha256:` covers the json, a newline and the layer as stored, and is computed while the layer is read. Only if it
    does not match, or is not recorded, the layer is read a second time for a tarsum. A mismatch is a note and no
    failure: wrong records exist, and there is no other copy of the layer. A tar that is cut short is a failure.
    """

    def __init__(
        self,
        files: NamedFiles,
        legacy_id: LegacyID,
        image_json: bytes,
        open_layer: Callable[[], AbstractContextManager[OpenedFile]],
    ) -> None:
        self._open_layer = open_layer
        self._legacy_id = legacy_id
        self._json = image_json
        raw = files.read(f"images/{legacy_id}/_checksum", SMALL_FILE_BYTES)
        self.recorded = frozenset(parse_checksums(raw)) if raw else frozenset()
        self._sha256 = hashlib.sha256(image_json + b"\n")
        self.feed = self._sha256.update

    def finish(self) -> str | None:
        """None if one of the recorded checksums matches; else a note of what was expected."""
        found_sha256 = f"sha256:{self._sha256.hexdigest()}"
        if found_sha256 in self.recorded:
            return None
        wanted = [version for version in VERSIONS if any(line.startswith(f"{version}:") for line in self.recorded)]
        what = f"image {self._legacy_id}: layer"
        with self._open_layer() as opened:
            head = opened.stream.read(_HEAD_BYTES)
        found: list[str] = []
        with self._open_layer() as opened:
            tar = open_decompressed(opened.stream, detect_compression(head), what)
            try:
                found = [total for both in tarsums(tar, self._json, wanted, what).values() for total in both]
            except TruncatedError as exc:
                raise exc.at_layer(self._legacy_id) from exc
            except DamagedError:
                pass  # Docker may have accepted this tar all the same: no sum, but no failure either
        if not self.recorded.isdisjoint(found):
            return None
        expected, got = " or ".join(sorted(self.recorded)), " or ".join(sorted([found_sha256, *found]))
        return f"does not match the registry's recorded checksum (expected {expected}, got {got})"
