"""Archives: docker-save's form (`docker-archive:FILE`) and an OCI layout in a tar (`oci-archive:FILE`).

Both are spooled blob by blob and written in one go, the old file standing until the new one is whole. Equal content
gives equal bytes; so no report is inside.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final

from migrate.blobio.compression import detect_compression, open_decompressed
from migrate.blobio.limits import STORED_RATIO
from migrate.documents.docker_archive import ArchiveManifestEntry, encode_archive_manifest
from migrate.documents.oci import OCI_LAYOUT, IndexEntry, encode_index, parse_index
from migrate.errors import SourceError, TargetError
from migrate.layout.catalog import (
    CatalogFacts,
    ImageFacts,
    archive_entries,
    entries_for,
    merge_entries,
)
from migrate.layout.names import blob_path
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, Descriptor
from migrate.model.options import Compression, ConvertOptions
from migrate.model.reference import Reference
from migrate.storage.staging import StagingArea, target_error, target_errors
from migrate.writers.archive_spool import ArchiveSpool, DeterministicTar, UnsyncedFileSystem
from migrate.writers.base import BlobWriter
from migrate.writers.blob_store import BlobStore

_BLOCK: Final = 1024 * 1024


class _Archive:
    """Spools blobs, remembers images and indexes; the subclasses write the tar."""

    def __init__(self, path: str, options: ConvertOptions) -> None:
        self._options = options
        self._spool = ArchiveSpool(path, force=options.force)
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, Digest], IndexEntry] = {}
        self._images: dict[Digest, ImageFacts] = {}
        self._children: dict[Digest, Sequence[Digest]] = {}
        self._documents: dict[Digest, bytes] = {}
        self._finished = False
        try:
            with target_errors(str(self._spool.directory)):
                (self._spool.directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            self._area = StagingArea(self._spool.directory, UnsyncedFileSystem())
        except BaseException:
            self._spool.close()
            raise
        self._blobs = BlobStore(self._area)

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self._blobs.has(digest, size)

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return self._blobs.open()

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        config = self._document(image.config, image.config_media_type)
        manifest = self._document(image.manifest, image.manifest_media_type)
        with self._lock:
            self._images[manifest.digest] = ImageFacts(
                config=config, layers=tuple(image.layers), platform=image.platform
            )
            self._entries.update(entries_for(manifest, image.platform, references))

    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        try:
            children = [entry.descriptor.digest for entry in parse_index(content).manifests]
        except SourceError as exc:
            raise TargetError(f"index {Digest.of(content)}: {exc.message}") from exc
        descriptor = self._document(content, media_type)
        with self._lock:
            self._children[descriptor.digest] = children
            self._entries.update(entries_for(descriptor, None, references))

    def finish(self, report: bytes, /) -> None:
        del report  # it tells times, and would make every run's archive another one
        self._area.flush()
        entries = merge_entries(list(self._entries.values()), [], (), self._children)
        facts = CatalogFacts(images=self._images, children=self._children)
        with self._spool.open_archive() as archive:
            self._write(archive, entries, facts)
        self._finished = True

    def free_bytes(self) -> int | None:
        """Room for the blobs, each of which stands in the spool and then, where that is beside it, in the archive."""
        free = self._area.free_bytes()
        if free is None or not self._spool.is_beside:
            return free
        return (free + self._blobs.held_bytes()) // 2

    def close(self) -> None:
        self._area.close()
        if self._finished:
            self._finished = False
            self._spool.remove()
        self._spool.close()

    def _write(self, archive: DeterministicTar, entries: Sequence[IndexEntry], facts: CatalogFacts) -> None:
        raise NotImplementedError

    def _document(self, content: bytes, media_type: str) -> Descriptor:
        digest = Digest.of(content)
        with self._lock:
            self._documents[digest] = content
        return Descriptor(media_type=media_type, digest=digest, size=len(content))

    def _open_spooled(self, digest: Digest) -> BinaryIO:
        try:
            return os.fdopen(self._blobs.open_published(digest), "rb")
        except OSError as exc:
            raise target_error(exc, f"{self._spool.directory}: the spool cannot be read") from exc


class OciArchive(_Archive):
    """Fills ImageTarget: the tar of the layout that OciLayout writes, without the report."""

    def _write(self, archive: DeterministicTar, entries: Sequence[IndexEntry], facts: CatalogFacts) -> None:
        archive.add("oci-layout", OCI_LAYOUT)
        archive.add("index.json", encode_index(entries))
        archive.add("manifest.json", encode_archive_manifest(archive_entries(entries, facts, self._options.platform)))
        layers = {layer.digest: layer.size for image in facts.images.values() for layer in image.layers}
        for digest in sorted(self._documents.keys() | layers.keys()):
            if digest in self._documents:
                archive.add(blob_path(digest), self._documents[digest])
                continue
            with self._open_spooled(digest) as stream:
                archive.add_file(blob_path(digest), stream, layers[digest])


class DockerArchive(_Archive):
    """Fills ImageTarget: `manifest.json`, `<image ID>.json`, `<diffID>.tar`, the form that `docker load`, podman and
    skopeo read. Each distinct layer stands once, uncompressed, as a regular file.

    No `repositories`: engines that need one also need a directory for each legacy ID, and those are gone.
    """

    wants_compression: Final = Compression.NONE
    """Layers are stored as plain tars, so compressing them would be for nothing."""

    def __init__(self, path: str, options: ConvertOptions) -> None:
        super().__init__(path, options)
        self._diff_ids: dict[str, DiffID] = {}

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        with self._lock:
            for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
                self._diff_ids[blob_path(layer.digest)] = diff_id
        super().commit(image, references)

    def _write(self, archive: DeterministicTar, entries: Sequence[IndexEntry], facts: CatalogFacts) -> None:
        rows = archive_entries(entries, facts, self._options.platform, deep=True)
        archive.add("manifest.json", encode_archive_manifest(self._renamed(row) for row in rows))
        for config in sorted({image.config.digest for image in facts.images.values()}):
            archive.add(f"{config.hex}.json", self._documents[config])
        layers = {self._diff_ids[path]: path for row in rows for path in sorted(row.layers, reverse=True)}
        for diff_id, path in sorted(layers.items()):
            self._add_layer(archive, diff_id, Digest(path.rpartition("/")[2]))

    def _renamed(self, row: ArchiveManifestEntry) -> ArchiveManifestEntry:
        return ArchiveManifestEntry(
            config=f"{row.config.rpartition('/')[2]}.json",
            repo_tags=row.repo_tags,
            layers=tuple(f"{self._diff_ids[path].hex}.tar" for path in row.layers),
        )

    def _add_layer(self, archive: DeterministicTar, diff_id: DiffID, blob: Digest) -> None:
        with self._open_spooled(blob) as stream:
            if blob == diff_id:
                archive.add_file(f"{diff_id.hex}.tar", stream, os.fstat(stream.fileno()).st_size)
                return
            plain = self._spool.directory / "layer.tar"
            size = _unpack(stream, plain, diff_id)
        with target_errors(str(plain)), open(plain, "rb") as stream:
            archive.add_file(f"{diff_id.hex}.tar", stream, size)
        plain.unlink()


def _unpack(stream: BinaryIO, plain: Path, diff_id: DiffID) -> int:
    """A blob that came compressed from its source, as the tar that it holds; its size in bytes."""
    kind = detect_compression(stream.read(16))
    stream.seek(0)
    digest = hashlib.sha256()
    try:
        tar = open_decompressed(stream, kind, str(diff_id), STORED_RATIO)
        with target_errors(str(plain)), open(plain, "wb") as out:
            while block := tar.read(_BLOCK):
                digest.update(block)
                out.write(block)
            size = out.tell()
    except SourceError as exc:
        raise TargetError(f"layer {diff_id}: the spooled blob does not unpack: {exc.message}") from exc
    if digest.hexdigest() != diff_id.hex:
        raise TargetError(f"layer {diff_id}: the spooled blob unpacks to sha256:{digest.hexdigest()}")
    return size
