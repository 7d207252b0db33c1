"""Reads stored images, for `show`, `push`, `export` and `gc`: an OCI layout in a directory or tar, a docker archive."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.blobio.limits import CATALOG_BYTES, JSON_BYTES, STORED_RATIO, read_limited
from migrate.documents.docker_archive import parse_archive_manifest
from migrate.documents.oci import IndexEntry, parse_config, parse_index
from migrate.errors import (
    DocumentError,
    MigrateError,
    MissingLayerError,
    SourceError,
    SourceUnreadableError,
    UnrecognisedSourceError,
)
from migrate.layout.image_facts import iter_names
from migrate.layout.names import ARCHIVE_MANIFEST, INDEX, blob_path, local_path, plain_path
from migrate.layout.walk import Document, one_by_one, read_documents
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Platform
from migrate.model.reference import Reference
from migrate.storage.bucket import open_tree
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.store import is_url
from migrate.storage.syscalls import target_errors
from migrate.storage.tar_tree import TarTree
from migrate.storage.tree import Tree
from migrate.tar.header import BLOCK
from migrate.tar.index import looks_like_tar


class StoredImage(Struct, frozen=True, kw_only=True):
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


class StoredLayer(Struct, frozen=True, kw_only=True):
    """`size` is that of the blob as stored; `compression` as `detect_compression` names it."""

    file: str
    diff_id: DiffID
    blob: Digest | None
    size: int
    media_type: str | None
    compression: str


def _open_archive(path: Path) -> Tree:
    with _uncompressed(path) as tar:
        fd = os.open(tar, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a FIFO must not block
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SourceUnreadableError(f"{path}: neither a file nor a directory")
        if not looks_like_tar(os.pread(fd, BLOCK, 0)):
            raise UnrecognisedSourceError(f"{path}: not a tar archive")
    except BaseException:
        os.close(fd)
        raise
    return TarTree(fd, str(path))


@contextmanager
def _uncompressed(path: Path) -> Iterator[Path]:
    """`path` itself, or a temporary file with its uncompressed content. The caller opens it, and may then leave the
    context: an open file can be read after its name was removed."""
    kind = "none"
    if path.is_file():
        with open(path, "rb") as stream:
            kind = detect_compression(stream.read(HEAD_BYTES))
    if kind == "none":
        yield path
        return
    with target_errors("a temporary file"), tempfile.NamedTemporaryFile(prefix="migrate-") as spool:
        with open(path, "rb") as stream, open_decompressed(stream, kind, str(path)) as content:
            shutil.copyfileobj(content, spool, 1024 * 1024)
        spool.flush()
        yield Path(spool.name)


class Layout:
    """The files and documents of an OCI layout in a tree. No link is followed."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.location = tree.location
        self._lock = threading.Lock()

    def has(self, name: str) -> bool:
        """True if a file of this name exists, even if it cannot be read."""
        try:
            return self.tree.stat(os.fsencode(name)).is_file
        except MissingLayerError:
            return False

    def size(self, name: str) -> int:
        """Bytes of a file. Raises MissingLayerError if it does not exist."""
        entry = self.tree.stat(os.fsencode(name))
        if not entry.is_file:
            raise MissingLayerError(f"{self.tree.shown(os.fsencode(name))}: not a regular file")
        return entry.size

    def open(self, name: str) -> BinaryIO:
        """A seekable stream; may be called from any thread. Raises MissingLayerError if the file does not exist; `read`
        raises SourceError or OSError."""
        if name.startswith("/") or ".." in name.split("/"):  # the name may come from an untrusted document
            raise DocumentError(f"{name}: leads out of the layout")
        with self._lock:  # the tree of a directory keeps the last folder open, and is not thread-safe
            return self.tree.open(os.fsencode(name))

    def read(self, name: str, what: str, limit: int = JSON_BYTES) -> bytes:
        """The content of a document. Raises MissingLayerError if it does not exist, LimitError if it is too large."""
        try:
            with self.open(name) as stream:
                return read_limited(stream, limit, f"{self.location}: {what} {name}")
        except OSError as error:
            raise SourceError(f"{self.location}: {what} {name}: {error.strerror or error}") from error

    @property
    def is_folder(self) -> bool:
        """True for a directory, False for a tar or a bucket."""
        return isinstance(self.tree, DirectoryTree)

    def blob_sizes(self) -> dict[str, int]:
        """Bytes of every blob, by the hex digits of its digest."""
        return {os.fsdecode(entry.name): entry.size for entry in self.tree.entries(b"blobs/sha256") if entry.is_file}

    def entries(self) -> Sequence[IndexEntry]:
        """The entries of index.json. Raises SourceError."""
        return parse_index(self.read(INDEX, "index", CATALOG_BYTES), CATALOG_BYTES).manifests

    def documents(self, entries: Iterable[IndexEntry]) -> Iterator[Document]:
        """See `read_documents`."""
        return read_documents(entries, one_by_one(lambda digest: self.read(blob_path(digest), "blob")))


def open_layout(location: str) -> Layout:
    """The files at `location`, a directory, a tar or a URL; a prefix such as `oci:` is allowed.

    Raises SourceUnreadableError, and UsageError for a URL that needs a library which is not installed."""
    if is_url(plain_path(location).removeprefix("file://")):
        return Layout(open_tree(plain_path(location)))
    path = Path(local_path(location))
    try:
        return Layout(DirectoryTree(str(path)) if path.is_dir() else _open_archive(path))
    except OSError as error:
        raise SourceUnreadableError(f"{path}: {error.strerror}") from error


class LayoutView:
    """The images of one layout or docker archive. Raises MigrateError for missing or damaged files."""

    def __init__(self, location: str) -> None:
        self._files = open_layout(location)
        self.location = self._files.location
        self._images: Sequence[StoredImage] | None = None
        self.is_archive = self._files.has(ARCHIVE_MANIFEST) and not self._files.has(INDEX)
        if not self.is_archive and not self._files.has(INDEX):
            self.close()
            raise UnrecognisedSourceError(
                f"{self.location}: not an OCI layout, a docker archive, or anything else that `migrate inspect` reads"
            )

    def close(self) -> None:
        self._files.tree.close()

    def images(self) -> Sequence[StoredImage]:
        """Every image once. Images with names come first, sorted by their names."""
        if self._images is None:
            rows = self._archive_images() if self.is_archive else self._layout_images()
            none = Digest("0" * 64)
            self._images = sorted(rows, key=lambda row: (not row.references, row.references, row.manifest or none))
        return self._images

    def leads_to(self, reference: str) -> bool:
        """True if the image can be read from here. False for an archive whose manifest.json has no such image or names
        missing layers, and for a layout with a manifest that cannot be parsed, which may be of schema 1. Raises
        SourceError for an archive of another kind."""
        if not self.is_archive:
            try:
                self.images()
            except MigrateError:
                return False
            return True
        found = find_image(self.images(), reference)
        return bool(found) and all(self._files.has(file) for image in found for file in image.layers)

    def config(self, image: StoredImage) -> bytes:
        return self._files.read(image.config, "config")

    def manifest(self, image: StoredImage) -> bytes | None:
        return None if image.manifest is None else self._files.read(blob_path(image.manifest), "manifest")

    def layers(self, image: StoredImage) -> Sequence[StoredLayer]:
        """The layers, base first, with the diffIDs of the config, which are not checked."""
        diff_ids = parse_config(self.config(image)).diff_ids
        if len(diff_ids) != len(image.layers):
            raise DocumentError(
                f"{image.title}: the config names {len(diff_ids)} layers, the manifest {len(image.layers)}"
            )
        layers = []
        for file, diff_id, media_type in zip(image.layers, diff_ids, image.layer_types, strict=True):
            # by content, because a docker archive has no media types, and other tools write wrong ones
            with self._files.open(file) as stream:
                compression = detect_compression(stream.read(HEAD_BYTES))
            directory, _, name = file.rpartition("/")
            layers.append(
                StoredLayer(
                    file=file,
                    diff_id=diff_id,
                    blob=Digest(name) if directory == "blobs/sha256" else None,
                    size=self._files.size(file),
                    media_type=media_type,
                    compression=compression,
                )
            )
        return layers

    @contextmanager
    def open_tar(self, layer: StoredLayer) -> Iterator[BinaryIO]:
        """The uncompressed tar of a layer. Raises SourceError, also from `read`."""
        with self._files.open(layer.file) as stream:
            yield open_decompressed(stream, layer.compression, str(layer.blob or layer.file), STORED_RATIO)

    def _layout_images(self) -> Iterator[StoredImage]:
        entries = self._files.entries()
        documents: dict[Digest, Document] = {}
        for document in self._files.documents(entries):
            if document.error is not None:
                raise document.error
            documents[document.digest] = document
        # An image may get names from any index, so all documents have to be read before the first image is complete.
        names: dict[Digest, set[str]] = {}
        for digest, name in iter_names(entries, {digest: document.children for digest, document in documents.items()}):
            names.setdefault(digest, set()).add(name)
        for digest, document in documents.items():
            if document.manifest is not None:
                yield StoredImage(
                    references=tuple(sorted(names.get(digest, ()))),
                    manifest=digest,
                    platform=document.entry.platform,
                    config=blob_path(document.manifest.config.digest),
                    layers=tuple(blob_path(layer.digest) for layer in document.manifest.layers),
                    layer_types=tuple(layer.media_type for layer in document.manifest.layers),
                )

    def _archive_images(self) -> Iterator[StoredImage]:
        for row in parse_archive_manifest(
            self._files.read(ARCHIVE_MANIFEST, "list of images", CATALOG_BYTES), CATALOG_BYTES
        ):
            yield StoredImage(
                references=tuple(sorted(row.repo_tags)),
                manifest=None,
                platform=parse_config(self._files.read(row.config, "config")).platform,
                config=row.config,
                layers=row.layers,
                layer_types=(None,) * len(row.layers),
            )


def find_image(images: Iterable[StoredImage], text: str) -> Sequence[StoredImage]:
    """Images with the name `text` (`docker.io/library/` and `:latest` may be left out), or else those whose image ID or
    manifest digest begins with it (4 digits or more). Several images: a name with several platforms, or an ambiguous
    prefix."""
    images = tuple(images)
    wanted = Reference.parse(text).full()
    # A name goes before an ID: `beef` may be both, and only the ID can be given in a longer form.
    named = [image for image in images if any(Reference.parse(name).full() == wanted for name in image.references)]
    if named:
        return named
    digits = text.removeprefix("sha256:")
    if len(digits) < 4:
        return ()
    return [
        image
        for image in images
        if (image.manifest is not None and image.manifest.hex.startswith(digits))
        or image.config.rpartition("/")[2].removesuffix(".json").startswith(digits)
    ]
