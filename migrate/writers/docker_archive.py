"""Archives: the form of `docker save` (`docker-archive:FILE`) and an OCI layout in a tar (`oci-archive:FILE`).

Blobs are spooled, and the archive is written at the end. An old file stays until the new one is complete. Equal content
gives equal bytes, so the archives contain no report.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, ClassVar, Final

from migrate.blobio.compression import detect_compression, open_decompressed
from migrate.blobio.limits import STORED_RATIO
from migrate.documents.docker_archive import ArchiveManifestEntry, encode_archive_manifest
from migrate.documents.oci import OCI_LAYOUT, IndexEntry, encode_index
from migrate.errors import SourceError, TargetError
from migrate.layout.catalog import Catalog
from migrate.layout.names import blob_path
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, Descriptor
from migrate.model.options import Compression, ConvertOptions
from migrate.model.reference import Reference
from migrate.rehash.ports import BlobWriter
from migrate.storage.syscalls import SYSTEM_CALLS, SystemCalls
from migrate.writers.archive_spool import ArchiveSpool, DeterministicTar
from migrate.writers.base import ImageTarget, index_entries
from migrate.writers.blob_store import BlobStore

_BLOCK: Final = 1024 * 1024
_BLOB_FOLDERS: Final = ("blobs", "blobs/sha256")


class _Archive(ImageTarget):
    """Spools blobs, and notes images and indexes. Subclasses write the tar."""

    def __init__(self, path: str, options: ConvertOptions, *, files: SystemCalls = SYSTEM_CALLS) -> None:
        self._spool = ArchiveSpool(path, force=options.force, files=files)
        self._lock = threading.Lock()
        self._catalog = Catalog(options)
        self._documents: dict[Digest, bytes] = {}
        self._finished = False
        self._blobs = BlobStore(self._spool.store)

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self._blobs.has(digest, size)

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return self._blobs.open()

    def flush(self) -> None:
        self._spool.store.flush()

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        config = self._document(image.config, image.config_media_type)
        manifest = self._document(image.manifest, image.manifest_media_type)
        self._catalog.commit(manifest, config, image.layers, image.platform, references)

    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        children = index_entries(content)
        self._catalog.commit_index(self._document(content, media_type), children, references)

    def finish(self, report: bytes, /) -> None:
        del report  # it has the times of the run, so that equal content would give other bytes
        self.flush()
        entries = self._catalog.merge((), self._blobs.read_many)
        with self._spool.open_archive() as archive:
            self._write(archive, entries)
        self._finished = True

    def free_bytes(self) -> int | None:
        """Free bytes for blobs. A spool beside the archive takes half of them, since each blob is written twice."""
        free = self._spool.store.free_bytes()
        if free is None or not self._spool.is_beside:
            return free
        return (free + sum(self._spool.store.sizes("blobs/sha256").values())) // 2

    def abandon(self) -> None:
        self._spool.abandon()

    def close(self) -> None:
        finished, self._finished = self._finished, False
        self._spool.close(done=finished)

    def _write(self, archive: DeterministicTar, entries: Iterable[IndexEntry]) -> None:
        raise NotImplementedError

    def _document(self, content: bytes, media_type: str) -> Descriptor:
        digest = Digest.of(content)
        with self._lock:
            self._documents[digest] = content
        return Descriptor(media_type=media_type, digest=digest, size=len(content))


class OciArchive(_Archive):
    """The tar of the layout that OciLayout writes, without the report."""

    def _write(self, archive: DeterministicTar, entries: Iterable[IndexEntry]) -> None:
        archive.add("oci-layout", OCI_LAYOUT)
        archive.add("index.json", encode_index(entries))
        archive.add("manifest.json", encode_archive_manifest(self._catalog.archive_manifest(entries)))
        layers = {layer: size for image in self._catalog.images for layer, size in image.sized_layers}
        # Some image scanners read the tar as a file system and do not find files in folders without an entry.
        for folder in _BLOB_FOLDERS:
            archive.add_folder(folder)
        for digest in sorted(self._documents.keys() | layers.keys()):
            if digest in self._documents:
                archive.add(blob_path(digest), self._documents[digest])
                continue
            with self._blobs.open_published(digest) as stream:
                archive.add_file(blob_path(digest), stream, layers[digest])


class DockerArchive(_Archive):
    """`manifest.json`, `<image ID>.json` and `<diffID>.tar`: the form that `docker load`, podman and skopeo read. Each
    distinct layer is stored once, uncompressed, as a regular file.

    There is no `repositories` file: only Docker before 1.10 needs it, and it also needs a directory for each legacy ID.
    """

    wants_compression: ClassVar[Compression | None] = Compression.NONE
    """Layers are stored as plain tars, so they are not compressed first."""

    def __init__(self, path: str, options: ConvertOptions, *, files: SystemCalls = SYSTEM_CALLS) -> None:
        super().__init__(path, options, files=files)
        self._diff_ids: dict[str, DiffID] = {}

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        with self._lock:
            for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
                self._diff_ids[blob_path(layer.digest)] = diff_id
        super().commit(image, references)

    def _write(self, archive: DeterministicTar, entries: Iterable[IndexEntry]) -> None:
        rows = list(self._catalog.archive_manifest(entries, deep=True))
        archive.add(
            "manifest.json",
            encode_archive_manifest(
                ArchiveManifestEntry(
                    config=f"{row.config.rpartition('/')[2]}.json",
                    repo_tags=row.repo_tags,
                    layers=tuple(f"{self._diff_ids[path].hex}.tar" for path in row.layers),
                )
                for row in rows
            ),
        )
        for config in sorted({image.config_digest for image in self._catalog.images}):
            archive.add(f"{config.hex}.json", self._documents[config])
        layers = {self._diff_ids[path]: path for row in rows for path in sorted(row.layers, reverse=True)}
        for diff_id, path in sorted(layers.items()):
            name, blob = f"{diff_id.hex}.tar", Digest(path.rpartition("/")[2])
            with self._blobs.open_published(blob) as stream:
                if blob == diff_id:  # the blob is the tar itself
                    archive.add_file(name, stream, os.fstat(stream.fileno()).st_size)
                    continue
                # A tar header comes before the content and has its size, which is known after unpacking only.
                with self._spool.scratch() as (write, plain):
                    size = _unpack(stream, write, diff_id)
                    archive.add_file(name, plain, size)


def _unpack(stream: BinaryIO, write: Callable[[bytes], None], diff_id: DiffID) -> int:
    """Writes the uncompressed tar of a blob that was compressed in its source, and returns its size in bytes."""
    # The blob may come from another compressor, or from the spool of a killed run, so the diffID is checked here.
    kind = detect_compression(stream.read(16))
    stream.seek(0)
    digest = hashlib.sha256()
    size = 0
    try:
        with open_decompressed(stream, kind, str(diff_id), STORED_RATIO) as tar:
            while block := tar.read(_BLOCK):
                digest.update(block)
                write(block)
                size += len(block)
    except SourceError as exc:
        raise TargetError(f"layer {diff_id}: the spooled blob does not unpack: {exc.message}") from exc
    if digest.hexdigest() != diff_id.hex:
        raise TargetError(f"layer {diff_id}: the spooled blob unpacks to sha256:{digest.hexdigest()}")
    return size
