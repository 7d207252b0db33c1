"""An OCI image layout in a directory, with a manifest.json so that `docker load` reads it, too.

docs/reference/layout.md describes what stands in it. Blobs come first, `index.json` and then the report last; a run
that is ended at any instant leaves what it found, plus blobs that nothing names yet.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from migrate.blobio.limits import CATALOG_BYTES, JSON_BYTES
from migrate.compose.names import newest_first
from migrate.documents.docker_archive import encode_archive_manifest
from migrate.documents.oci import OCI_LAYOUT, IndexEntry, encode_index, parse_config, parse_index
from migrate.errors import MigrateError, SourceError, TargetError
from migrate.layout.catalog import (
    CatalogFacts,
    ExistingImage,
    ImageFacts,
    archive_entries,
    entries_for,
    existing_image,
    merge_entries,
)
from migrate.layout.names import REPORT_NAME, reference_of
from migrate.layout.walk import one_by_one, read_documents
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, Descriptor, StoredBlob
from migrate.model.options import ConvertOptions, Link, OnConflict
from migrate.model.reference import Reference
from migrate.storage.run_directory import STATE_DIRECTORY, exclusive_lock
from migrate.storage.staging import (
    FILE_SYSTEM,
    FileSystem,
    StagingArea,
    make_durable_directory,
    target_error,
    target_errors,
)
from migrate.writers.base import BlobWriter
from migrate.writers.blob_store import BlobStore
from migrate.writers.layer_record import LayerRecord
from migrate.writers.payload_record import PayloadRecord

FINISHING: Final = f"{STATE_DIRECTORY}/finishing"
"""Stands while manifest.json may be ahead of index.json."""
_OURS: Final = frozenset({"oci-layout", "blobs", "index.json", "manifest.json", REPORT_NAME, STATE_DIRECTORY})
_ALLOWED: Final = frozenset({STATE_DIRECTORY, "lost+found"})


class OciLayout:
    """Fills ImageTarget, ListsImages, ListsBlobs, RemembersLayers, RemembersNamedLayers, RemembersPayloads, LinksBlobs
    and RemovesBlobs.

    Opening it creates or continues the layout.
    Raises TargetError for a directory that holds something else, or a layout whose index.json cannot be read.
    """

    def __init__(self, path: str | Path, options: ConvertOptions, *, files: FileSystem = FILE_SYSTEM) -> None:
        self.path = Path(path)
        self._options = options
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, Digest], IndexEntry] = {}
        self._images: dict[Digest, ImageFacts] = {}
        self._children: dict[Digest, Sequence[Digest]] = {}
        self._child_entries: dict[Digest, Sequence[IndexEntry]] = {}
        self._prepare(files)
        self._area = StagingArea(self.path, files)
        try:
            self._begin()
            self._existing = self._read_index()
            self._blobs = BlobStore(self._area)
            self._record = LayerRecord(self._blobs, options)
            self._payloads = PayloadRecord(self._area)
        except BaseException:
            self._area.close()
            raise

    # --- opening -------------------------------------------------------------------------------------------------

    def _prepare(self, files: FileSystem) -> None:
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            kind = f"is a link to {os.readlink(self.path)}, and no directory" if self.path.is_symlink() else "is a file"
            raise TargetError(
                f"{self.path}: {kind}; an OCI layout is a directory (a file is written by oci-archive:FILE or"
                " docker-archive:FILE)"
            )
        with target_errors(str(self.path)):
            make_durable_directory(self.path, files)
            names = set(os.listdir(self.path))
        if "oci-layout" in names:
            self._check_layout_version()
        elif foreign := sorted(names - (_OURS if STATE_DIRECTORY in names else _ALLOWED)):
            raise TargetError(
                f"{self.path}: neither empty nor an OCI layout: it holds {foreign[0]!r}"
                " (name a new directory, or empty this one)"
            )

    def _check_layout_version(self) -> None:
        with target_errors(str(self.path)), open(self.path / "oci-layout", "rb") as stream:
            content = stream.read(4096)
        if b'"imageLayoutVersion"' not in content or b'"1.' not in content:
            raise TargetError(f"{self.path}: oci-layout names another version than 1.x")

    def _begin(self) -> None:
        """A new layout is valid at once: it has an empty index."""
        with target_errors(str(self.path)):
            for directory in ("blobs", "blobs/sha256"):
                with contextlib.suppress(FileExistsError):
                    self._area.files.make_directory(directory, self._area.root_fd)
            with exclusive_lock(self._area.root_fd):
                names = os.listdir(self._area.root_fd)
                if "oci-layout" not in names:
                    self._area.put("oci-layout", OCI_LAYOUT)
                if "index.json" not in names:
                    self._area.put("index.json", encode_index(()))
                self._area.flush()
            self._area.sync_directory("blobs")

    def _read_index(self) -> list[IndexEntry]:
        content = self._read_file("index.json")
        try:
            return list(parse_index(content or b"", CATALOG_BYTES).manifests)
        except MigrateError as exc:
            raise TargetError(f"{self.path}/index.json is damaged: {exc.message} (move the directory away)") from exc

    def _read_file(self, name: str) -> bytes | None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._area.root_fd)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise target_error(exc, f"{self.path}/{name}") from exc
        with target_errors(f"{self.path}/{name}"), os.fdopen(fd, "rb") as stream:
            return stream.read(CATALOG_BYTES + 1)

    # --- ImageTarget ---------------------------------------------------------------------------------------------

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self._blobs.has(digest, size)

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return self._blobs.open()

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        config = Descriptor(media_type=image.config_media_type, digest=image.image_id, size=len(image.config))
        manifest = Descriptor(
            media_type=image.manifest_media_type, digest=image.manifest_digest, size=len(image.manifest)
        )
        self._blobs.put(image.config, config.digest)
        self._blobs.put(image.manifest, manifest.digest)
        facts = ImageFacts(config=config, layers=tuple(image.layers), platform=image.platform)
        with self._lock:
            self._images[manifest.digest] = facts
            self._entries.update(entries_for(manifest, image.platform, references))

    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        descriptor = Descriptor(media_type=media_type, digest=Digest.of(content), size=len(content))
        try:
            children = [entry.descriptor.digest for entry in parse_index(content).manifests]
        except SourceError as exc:
            raise TargetError(f"index {descriptor.digest}: {exc.message}") from exc
        self._blobs.put(content, descriptor.digest)
        with self._lock:
            self._children[descriptor.digest] = children
            self._entries.update(entries_for(descriptor, None, references))

    def flush(self) -> None:
        """Returns when all blobs committed so far are on the disk."""
        self._area.flush()

    def finish(self, report: bytes, /) -> None:
        self.finish_in_pieces([report])

    def finish_in_pieces(self, report: Iterable[bytes], /) -> None:
        """Adds what was committed to index.json and manifest.json, whatever other runs added meanwhile."""
        self.flush()
        with target_errors(str(self.path)), exclusive_lock(self._area.root_fd):
            theirs = self._read_index()
            self._read_missing_facts(theirs)
            entries = merge_entries(list(self._entries.values()), theirs, self._losers(theirs), self._children)
            facts = CatalogFacts(images=self._images, children=self._children)
            self._replace_documents(
                encode_archive_manifest(archive_entries(entries, facts, self._options.platform)),
                encode_index(entries),
            )
            with self._area.open() as file:
                for piece in report:
                    file.write(piece)
                file.publish(REPORT_NAME)
            self._area.flush()

    def _replace_documents(self, archive_manifest: bytes, index: bytes) -> None:
        """manifest.json, then index.json; a marker tells a reader that a run was ended between the two."""
        if self._read_file("index.json") == index and self._read_file("manifest.json") == archive_manifest:
            return
        self._area.replace(FINISHING, b"")
        self._area.replace("manifest.json", archive_manifest)
        self._area.replace("index.json", index)
        with contextlib.suppress(FileNotFoundError):
            self._area.files.unlink(FINISHING, self._area.root_fd)

    def close(self) -> None:
        try:
            if not self._area.failed:  # blobs that are complete save the next run their compression
                with contextlib.suppress(TargetError):
                    self._area.flush()
        finally:
            self._record.close()
            self._payloads.close()
            self._area.close()

    # --- names that two images claim -----------------------------------------------------------------------------

    def _losers(self, theirs: Iterable[IndexEntry]) -> list[tuple[str, Digest]]:
        """Who gives a name up. What stood here when this run began was known to it, and ours replaces it; against what
        another run wrote meanwhile, `--on-conflict` decides.
        """
        if self._options.on_conflict is OnConflict.KEEP_ALL:
            return []
        ours: dict[str, list[Digest]] = {}
        for mine, digest in self._entries:
            if mine:
                ours.setdefault(mine, []).append(digest)
        known = {(reference_of(entry), entry.descriptor.digest) for entry in self._existing}
        lost: list[tuple[str, Digest]] = []
        for entry in theirs:
            name, digest = reference_of(entry), entry.descriptor.digest
            if name is None or name not in ours or digest in ours[name]:
                continue
            if (name, digest) in known or self._is_newer(ours[name][0], digest):
                lost.append((name, digest))
            else:
                lost.extend((name, mine) for mine in ours[name])
        return lost

    def _is_newer(self, ours: Digest, theirs: Digest) -> bool:
        if self._options.on_conflict is OnConflict.FIRST:
            return False
        return self._rank(ours) < self._rank(theirs)

    def _rank(self, manifest: Digest) -> tuple[object, ...]:
        facts = self._images.get(manifest)
        return newest_first(self._created(manifest), "" if facts is None else facts.config.digest.hex, manifest)

    def _created(self, manifest: Digest) -> str | None:
        facts = self._images.get(manifest)
        content = None if facts is None else self._blobs.read(facts.config.digest, JSON_BYTES)
        if content is None:
            return None
        try:
            return parse_config(content).created
        except SourceError:
            return None

    # --- what is there already -----------------------------------------------------------------------------------

    def existing_images(self) -> Sequence[ExistingImage]:
        """Every entry of index.json as this run found it. Damaged blobs are left to `verify`."""
        self._read_missing_facts(self._existing)
        return [
            self._existing_image(entry, reference_of(entry), self._child_entries.get(entry.descriptor.digest, ()))
            for entry in self._existing
        ]

    def _existing_image(
        self, entry: IndexEntry, name: str | None, children: Iterable[IndexEntry] = ()
    ) -> ExistingImage:
        digest = entry.descriptor.digest
        facts = self._images.get(digest)
        created = self._created(digest)
        below = (self._existing_image(child, name) for child in children)
        return existing_image(entry, name, facts, created, below)

    def _read_missing_facts(self, entries: Iterable[IndexEntry]) -> None:
        """Facts of images that this run did not make. One that cannot be read gets none, and so no `docker load`."""
        known = self._images.keys() | self._children.keys()
        read = one_by_one(lambda digest: self._blobs.read(digest, JSON_BYTES))
        for document in read_documents(entries, read, known.__contains__):
            if document.manifest is not None:
                self._images[document.digest] = ImageFacts.of(document)
            elif document.error is None:
                self._children[document.digest] = [child.descriptor.digest for child in document.children]
                self._child_entries[document.digest] = document.children

    # --- RemembersLayers, RemembersPayloads, LinksBlobs ----------------------------------------------------------

    def known_blob(self, diff_id: DiffID, compression: str, /) -> StoredBlob | None:
        return self._record.known_blob(diff_id, compression)

    def named_blob(self, diff_id: DiffID, named: Collection[Digest], /) -> StoredBlob | None:
        return self._record.known_blob(diff_id, self._options.compression.value, named)

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        self._record.remember_blob(diff_id, blob)

    def remembered_sizes(self) -> Collection[int]:
        return self._record.remembered_sizes()

    def remember_size(self, diff_id: DiffID, tar_size: int, /) -> None:
        self._record.remember_size(diff_id, tar_size)

    def known_payload(self, place: str, /) -> bytes | None:
        return self._payloads.known_payload(place)

    def remember_payload(self, place: str, facts: bytes, /) -> None:
        self._payloads.remember_payload(place, facts)

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        """`--link auto` clones where the file system can, and never makes a hard link: through one, a change of the
        source would change the target.
        """
        if self._options.link is Link.COPY:
            return False
        if self.has_blob(digest, size):
            return True
        hard = self._options.link is Link.HARD
        return self._blobs.link(path, digest, size, hard=hard) or (
            hard and self._blobs.link(path, digest, size, hard=False)
        )

    # --- ListsBlobs, RemovesBlobs --------------------------------------------------------------------------------

    def blob_sizes(self) -> Mapping[str, int]:
        self.flush()
        return self._blobs.sizes()

    def named_layers(self) -> Collection[Digest]:
        self._read_missing_facts(self._existing)
        return {layer.digest for facts in self._images.values() for layer in facts.layers}

    def remove_blobs(self, digests: Iterable[Digest], /) -> None:
        """Nothing goes while an image of the layout cannot be read, or another run is at work, which may have found a
        blob for an image that no index names yet; what is left then, the next merge removes."""
        with target_errors(str(self.path)), exclusive_lock(self._area.root_fd):
            if not self._area.is_alone():
                return
            listed = {entry.descriptor.digest for entry in self._read_index()}
            if listed - self._images.keys() - self._children.keys():
                return
            needed = {layer.digest for facts in self._images.values() for layer in facts.layers}
            for digest in digests:
                if digest not in needed:
                    self._blobs.remove(digest)

    # --- space ---------------------------------------------------------------------------------------------------

    def free_bytes(self) -> int | None:
        """Bytes that this user may still write here; None where the system cannot say."""
        return self._area.free_bytes()

    def held_bytes(self) -> int:
        """Bytes of the blobs that stand here already."""
        return self._blobs.held_bytes()
