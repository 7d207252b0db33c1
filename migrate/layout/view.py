"""Looking into images as they are stored: an OCI layout in a directory or a tar, or a docker archive. Reads only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.blobio.limits import JSON_BYTES, STORED_RATIO, read_limited
from migrate.documents.docker_archive import parse_archive_manifest
from migrate.documents.oci import parse_config, parse_index, parse_manifest
from migrate.errors import DocumentError, MissingLayerError, SourceUnreadableError, UnrecognisedSourceError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import MediaType, Platform
from migrate.model.reference import Reference
from migrate.storage.files import TarFiles

_PREFIXES = ("oci:", "oci-archive:", "docker-archive:")
_INDEX_TYPES = frozenset({MediaType.OCI_INDEX, MediaType.DOCKER_LIST})
_REFERENCE_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One image of a layout. `manifest` is None in a docker archive, which has none.

    `config` and `layers` name files of the layout, layers base first.
    """

    references: tuple[str, ...]
    manifest: Digest | None
    platform: Platform | None
    config: str
    layers: tuple[str, ...]
    layer_types: tuple[str | None, ...]

    @property
    def title(self) -> str:
        return self.references[0] if self.references else str(self.manifest or self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """`size` is that of the blob as stored; `compression` as `detect_compression` names it."""

    file: str
    diff_id: DiffID
    blob: Digest | None
    size: int
    media_type: str | None
    compression: str


class _Directory:
    """Files of a layout by name. Names come from digests or from documents; none may lead out of the directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def open(self, name: str) -> BinaryIO:
        if name.startswith("/") or ".." in name.split("/"):
            raise DocumentError(f"{name}: leads out of the layout")
        return os.fdopen(os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb")

    def size(self, name: str) -> int:
        return (self._root / name).lstat().st_size

    def close(self) -> None:
        pass


class _Archive:
    def __init__(self, path: Path) -> None:
        self._files = TarFiles(path)

    def has(self, name: str) -> bool:
        return name in self._files.names()

    def open(self, name: str) -> BinaryIO:
        if not self.has(name):
            raise FileNotFoundError(2, "No such file in the archive")
        return self._files.open(name)

    def size(self, name: str) -> int:
        return self._files.names().get(name, 0)

    def close(self) -> None:
        self._files.close()


class LayoutView:
    """The images of one layout. Raises SourceError for what is absent or damaged."""

    def __init__(self, location: str) -> None:
        path = Path(
            next((location.removeprefix(prefix) for prefix in _PREFIXES if location.startswith(prefix)), location)
        )
        self.location = str(path)
        try:
            self._files: _Directory | _Archive = _Directory(path) if path.is_dir() else _Archive(path)
        except OSError as error:
            raise SourceUnreadableError(f"{path}: {error.strerror}") from error
        self._is_archive = self._files.has("manifest.json") and not self._files.has("index.json")
        if not self._is_archive and not self._files.has("index.json"):
            self._files.close()
            raise UnrecognisedSourceError(
                f"{path}: no OCI layout and no docker archive (`migrate inspect` shows what a legacy source holds)"
            )

    def close(self) -> None:
        self._files.close()

    def images(self) -> Sequence[StoredImage]:
        """Every image once, the named ones first, sorted by their names."""
        rows = self._archive_images() if self._is_archive else self._layout_images()
        return sorted(rows, key=lambda row: (not row.references, row.references, row.manifest or Digest("0" * 64)))

    def read(self, name: str, what: str) -> bytes:
        """A document. Raises MissingLayerError if there is no such file, LimitError if it is too large."""
        try:
            with self._files.open(name) as stream:
                return read_limited(stream, JSON_BYTES, what)
        except OSError as error:
            raise MissingLayerError(f"{self.location}: {what} {name}: {error.strerror}") from error

    def config(self, image: StoredImage) -> bytes:
        return self.read(image.config, "config")

    def manifest(self, image: StoredImage) -> bytes | None:
        return None if image.manifest is None else self.read(_blob(image.manifest), "manifest")

    def layers(self, image: StoredImage) -> Sequence[StoredLayer]:
        """Base first; diffIDs are those that the config states."""
        diff_ids = parse_config(self.config(image)).diff_ids
        if len(diff_ids) != len(image.layers):
            raise DocumentError(
                f"{image.title}: the config names {len(diff_ids)} layers, the manifest {len(image.layers)}"
            )
        return [
            self._layer(file, diff_id, media_type)
            for file, diff_id, media_type in zip(image.layers, diff_ids, image.layer_types, strict=True)
        ]

    def _layer(self, file: str, diff_id: DiffID, media_type: str | None) -> StoredLayer:
        try:
            with self._files.open(file) as stream:
                compression = detect_compression(stream.read(HEAD_BYTES))
            size = self._files.size(file)
        except OSError as error:
            raise MissingLayerError(f"{self.location}: layer {file}: {error.strerror}") from error
        directory, _, name = file.rpartition("/")
        blob = Digest(name) if directory == "blobs/sha256" else None
        return StoredLayer(
            file=file, diff_id=diff_id, blob=blob, size=size, media_type=media_type, compression=compression
        )

    @contextmanager
    def open_tar(self, layer: StoredLayer) -> Iterator[BinaryIO]:
        """The layer's uncompressed tar. Raises SourceError, from `read` too."""
        try:
            with self._files.open(layer.file) as stream:
                yield open_decompressed(stream, layer.compression, str(layer.blob or layer.file), STORED_RATIO)
        except OSError as error:
            raise MissingLayerError(f"{self.location}: layer {layer.file}: {error.strerror}") from error

    def _layout_images(self) -> Iterator[StoredImage]:
        references: dict[Digest, set[str]] = {}
        platforms: dict[Digest, Platform | None] = {}
        for digest, reference, platform in self._manifests():
            references.setdefault(digest, set()).update({reference} - {None})  # type: ignore[arg-type]
            platforms[digest] = platforms.get(digest) or platform
        for digest in references:
            facts = parse_manifest(self.read(_blob(digest), "manifest"))
            yield StoredImage(
                references=tuple(sorted(references[digest])),
                manifest=digest,
                platform=platforms[digest],
                config=_blob(facts.config.digest),
                layers=tuple(_blob(layer.digest) for layer in facts.layers),
                layer_types=tuple(layer.media_type for layer in facts.layers),
            )

    def _manifests(self) -> Iterator[tuple[Digest, str | None, Platform | None]]:
        """Those of index.json and of all indexes below it, which have its names; each index once for a name."""
        pending: list[tuple[str, str | None]] = [("index.json", None)]
        seen = set(pending)
        while pending:
            place, inherited = pending.pop()
            for entry in parse_index(self.read(place, "index")).manifests:
                reference = entry.annotations.get(_REFERENCE_NAME) or inherited
                if entry.descriptor.media_type not in _INDEX_TYPES:
                    yield entry.descriptor.digest, reference, entry.platform
                elif (below := (_blob(entry.descriptor.digest), reference)) not in seen:
                    seen.add(below)
                    pending.append(below)

    def _archive_images(self) -> Iterator[StoredImage]:
        for row in parse_archive_manifest(self.read("manifest.json", "manifest.json")):
            yield StoredImage(
                references=tuple(sorted(row.repo_tags)),
                manifest=None,
                platform=parse_config(self.read(row.config, "config")).platform,
                config=row.config,
                layers=row.layers,
                layer_types=(None,) * len(row.layers),
            )


def _blob(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def find_image(images: Iterable[StoredImage], text: str) -> Sequence[StoredImage]:
    """Images named `text` (`docker.io/library/` and `:latest` may be left out), or whose image ID or manifest digest
    is or begins with it (4 digits or more). Several are one name on several platforms, or an ambiguous prefix."""
    images = tuple(images)
    wanted = Reference.parse(text).full()
    named = [image for image in images if any(Reference.parse(name).full() == wanted for name in image.references)]
    if named:
        return named
    digits = text.removeprefix("sha256:")
    if len(digits) < 4:
        return ()
    return [image for image in images if any(one.startswith(digits) for one in _digits(image))]


def _digits(image: StoredImage) -> Iterator[str]:
    if image.manifest is not None:
        yield image.manifest.hex
    yield image.config.rpartition("/")[2].removesuffix(".json")
