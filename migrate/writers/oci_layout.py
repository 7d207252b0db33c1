"""An OCI image layout in a directory or a bucket, with a manifest.json so that `docker load` reads it, too.

docs/reference/layout.md describes its files. Blobs are written first, then `index.json`, and the report last. A run
that is killed at any point leaves the images that it found, and new blobs that no image names yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from os import PathLike
from typing import TYPE_CHECKING, Final

from migrate.blobio.limits import CATALOG_BYTES, SMALL_FILE_BYTES
from migrate.documents.docker_archive import ArchiveManifestEntry, iter_archive_manifest
from migrate.documents.image_map import MappedImage, with_names
from migrate.documents.oci import OCI_LAYOUT, IndexEntry, encode_index, iter_index, parse_index
from migrate.errors import MigrateError, TargetError
from migrate.layout.catalog import Catalog, ExistingImage
from migrate.layout.names import INDEX, MAP_NAME, REPORT_NAME
from migrate.layout.walk import read_documents
from migrate.model.digest import Digest
from migrate.model.image import ComposedImage, Descriptor
from migrate.model.options import ConvertOptions
from migrate.model.reference import Reference
from migrate.rehash.ports import BlobWriter
from migrate.storage.directory_store import DirectoryStore
from migrate.storage.store import NOT_OURS, STATE_DIRECTORY, Store
from migrate.storage.syscalls import SYSTEM_CALLS, SystemCalls
from migrate.writers.base import ImageTarget, index_entries
from migrate.writers.blob_store import BlobStore
from migrate.writers.proofs import Proofs
from migrate.writers.run_memory import RunMemory
from migrate.writers.target_map import Rename, TargetMap
from migrate.writers.target_memory import RecordedMemory
from migrate.writers.target_store import digest_of_file, open_store, write_pieces

if TYPE_CHECKING:
    from migrate.layout.garbage import Garbage

FINISHING: Final = f"{STATE_DIRECTORY}/finishing"
"""A file that exists while manifest.json is replaced and index.json is not yet."""
_SHARD_JOURNAL: Final = "journal-"
"""The prefix of the names of shard journals (batch/journal.py)."""
_OURS: Final = frozenset({"oci-layout", "blobs", "index.json", "manifest.json", MAP_NAME, REPORT_NAME, STATE_DIRECTORY})
_ALLOWED: Final = NOT_OURS | {STATE_DIRECTORY}


class OciLayout(ImageTarget):
    """A layout in a directory or bucket, which is created if it does not exist.

    Raises TargetError for a directory with other files, or a layout whose index.json cannot be read.
    """

    takes_files = True

    def __init__(
        self,
        location: str | PathLike[str],
        options: ConvertOptions,
        *,
        files: SystemCalls = SYSTEM_CALLS,
        store: Store | None = None,
    ) -> None:
        self._options = options
        self._catalog = Catalog(options)
        self._is_new = False
        self._run_key: str | None = None
        self._state_before: str | None = None
        self.store = store or open_store(location, "an OCI layout", files)
        try:
            self._check_place()
            # A new layout is valid from the start, with an empty index.
            with self.store.lock():
                names = self.store.names()
                for name, content in (("oci-layout", OCI_LAYOUT), ("index.json", encode_index(()))):
                    if name not in names:
                        self.store.put_new(name, content)
                self.store.make_folder("blobs/sha256")
                self.store.flush()
            self._index_version = None if self.store.reads_cost else self.store.version(INDEX)
            self._catalog.begin(self._read_index())
            self._map = TargetMap(self.store, options.temporary_directory)
            proofs = Proofs(self.store, use_existing=not options.check_existing)
            self._blobs = BlobStore(self.store, proofs=proofs)
            self.memory = RecordedMemory(self._blobs, options)
            self._runs = RunMemory(self.store)
        except BaseException:
            self.store.close()
            raise

    # --- opening -------------------------------------------------------------------------------------------------

    def _check_place(self) -> None:
        names = self.store.names()
        if "oci-layout" in names:
            content = self.store.read("oci-layout", SMALL_FILE_BYTES) or b""
            if b'"imageLayoutVersion"' not in content or b'"1.' not in content:
                raise TargetError(f"{self.store.location}: oci-layout names another version than 1.x")
            return
        self._is_new = set(names) <= NOT_OURS
        foreign = [name for name in names if name not in (_OURS if STATE_DIRECTORY in names else _ALLOWED)]
        if foreign == ["index.json"] and self.store.read("index.json", SMALL_FILE_BYTES) == encode_index(()):
            return  # an earlier version of this program was killed before it wrote its second file, oci-layout
        if foreign:
            raise TargetError(
                f"{self.store.location}: neither empty nor an OCI layout: it holds {foreign[0]!r}"
                " (name a new directory, or empty this one)"
            )

    def _read_index(self) -> Sequence[IndexEntry]:
        content = self.store.read("index.json", CATALOG_BYTES)
        try:
            return parse_index(content or b"", CATALOG_BYTES).manifests
        except MigrateError as exc:
            raise TargetError(
                f"{self.store.location}/index.json is damaged: {exc.message} (move the directory away)"
            ) from exc

    # --- ImageTarget ---------------------------------------------------------------------------------------------

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self._blobs.has(digest, size)

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return self._blobs.open()

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        return self._blobs.link(path, digest, size, self._options.link)

    def flush(self) -> None:
        self.store.flush()

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        config = self._document(image.config, image.config_media_type, image.image_id)
        manifest = self._document(image.manifest, image.manifest_media_type, image.manifest_digest)
        self._catalog.commit(manifest, config, image.layers, image.platform, references)

    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        children = index_entries(content)
        index = self._document(content, media_type, Digest.of(content))
        self._catalog.commit_index(index, children, references)

    def _document(self, content: bytes, media_type: str, digest: Digest) -> Descriptor:
        self._blobs.put(content, digest)
        return Descriptor(media_type=media_type, digest=digest, size=len(content))

    def finish(self, report: bytes, /) -> None:
        self.finish_in_pieces([report])

    def finish_in_pieces(self, report: Iterable[bytes], /) -> None:
        """Adds the committed images to index.json and manifest.json. What other runs have added is kept."""
        self.flush()
        with self.store.lock():
            # Another run may have changed the index since this one read it, so it is looked at again under the lock.
            version = self.store.version(INDEX)
            is_same = version is not None and version == self._index_version
            theirs = self._catalog.found if is_same else self._read_index()
            entries = self._catalog.merge(theirs, self._blobs.read_many, self._map.superseded())
            self._replace_documents(self._catalog.archive_manifest(entries), entries, version)
            self._map.write(self._renaming(entries))
            with self.store.new_file() as file:
                for piece in report:
                    file.write(piece)
                file.publish(REPORT_NAME)
            self.store.flush()
            self._note_run()

    @property
    def can_be_shared(self) -> bool:
        return isinstance(self.store, DirectoryStore)

    def reopened(self) -> OciLayout:
        assert isinstance(self.store, DirectoryStore)
        return OciLayout(self.store.location, self._options, store=self.store.reopened())

    def read_again(self) -> None:
        self.memory.read_again()

    def begin_run(self) -> None:
        if not self._is_new:
            with self.store.lock():
                self._state_before = self._runs.state()

    def remember_run(self, key: str, /) -> None:
        self._run_key = key

    def _note_run(self) -> None:
        """Records the run, if doing it again on its own result would change nothing.

        That is certain if the target was new, or if this run has changed nothing but the report. Otherwise it is not:
        images that were in the target before take part in conflicts about names.
        """
        if self._run_key is None or not self.store.is_alone():
            return
        self.memory.close()  # writes the record of layers, which is part of the state, and the proofs of a bucket
        state = self._runs.state(self._is_proven)
        if state is not None and (self._is_new or state == self._state_before):
            self._runs.note(self._run_key, state)

    def _is_proven(self, name: str, size: int, version: str) -> bool:
        """True for blobs with a proof, and for all other files: this run has written or read those."""
        folder, _, last = name.rpartition("/")
        if folder != "blobs/sha256":
            return True
        try:
            return self._blobs.is_proven(Digest(last), size, version)
        except ValueError:  # not the name of a blob
            return False

    def _renaming(self, entries: Iterable[IndexEntry]) -> Rename:
        """Gives rows of the map the names in `entries`."""
        names = self._catalog.names(entries)
        return lambda rows: (with_names(row, names.of(row.manifest_digest)) for row in rows)

    def _replace_documents(
        self, archive_manifest: Iterable[ArchiveManifestEntry], index: Iterable[IndexEntry], version: str | None
    ) -> None:
        """Replaces manifest.json, then index.json. A marker file exists in between, so that `verify` can report a run
        that was killed there instead of a damaged layout."""
        # Files from the start: those of a large target take much memory.
        with ExitStack() as files:
            manifest_file, index_file = (files.enter_context(self.store.new_file()) for _ in range(2))
            digests = {
                "manifest.json": write_pieces(manifest_file, iter_archive_manifest(archive_manifest)),
                INDEX: write_pieces(index_file, iter_index(index)),
            }
            if any(digest_of_file(self.store, name) != digest for name, digest in digests.items()):
                self.store.replace(FINISHING, "\n".join(map(str, digests.values())).encode())
                self.store.replace_with("manifest.json", manifest_file)
                self.store.replace_with(INDEX, index_file, version)
        self.store.remove([FINISHING])

    def abandon(self) -> None:
        if self._is_new:
            self.memory.close()
            self.store.abandon(self._is_unused)

    def _is_unused(self) -> bool:
        """True if no other run has added an image or, as a shard of a batch, a journal."""
        shards = (name for name in self.store.names(STATE_DIRECTORY) if name.startswith(_SHARD_JOURNAL))
        return self.store.read("index.json", CATALOG_BYTES) in (None, encode_index(())) and not any(shards)

    def close(self) -> None:
        self.memory.close()
        self.store.close()

    # --- what is there already -----------------------------------------------------------------------------------

    def existing_images(self) -> Sequence[ExistingImage]:
        """All entries of index.json when the layout was opened."""
        return self._catalog.existing_images(self._blobs.read_many)

    def mapped_images(self) -> Sequence[MappedImage]:
        return self._map.rows()

    def add_to_map(self, rows: Iterable[MappedImage], /) -> None:
        self._map.add(rows)

    def blob_sizes(self) -> Mapping[str, int]:
        self.flush()
        return self._blobs.sizes()

    def named_layers(self) -> Collection[Digest]:
        return self._catalog.named_layers(self._blobs.read_many)

    def remove_blobs(self, digests: Iterable[Digest], /) -> None:
        """Removes those of `digests` that no image needs. Does nothing while another run uses the layout, which may
        have found one of the blobs for an image that is not in the index yet, or if an image cannot be read, whose
        blobs are unknown. The next merge of the batch tries again."""
        wanted = list(digests)
        if not wanted:  # to read the index of a large layout takes much memory
            return
        with self.store.lock():
            if self.store.is_alone() and all(
                self._catalog.has_manifest(entry.descriptor.digest) for entry in self._read_index()
            ):
                self._blobs.remove(self._catalog.without_layers(wanted))

    def collect_garbage(self) -> Garbage:
        """Removes images without a name and the blobs that no image needs then: first from the index, then from the
        disk.

        Raises TargetError while another run uses the layout, and DamagedError if an image with a name cannot be read.
        """
        from migrate.layout.garbage import plan_garbage

        with self.store.lock():
            if not self.store.is_alone():
                raise TargetError(f"{self.store.location}: another run is using it; nothing was removed")
            entries = self._read_index()
            documents = list(read_documents(entries, self._blobs.read_many))
            garbage = plan_garbage(entries, documents, self.store.sizes("blobs/sha256"))
            self._catalog.learn(garbage.entries, self._blobs.read_many)
            archive_manifest = self._catalog.archive_manifest(garbage.entries)
            self._replace_documents(archive_manifest, garbage.entries, self.store.version(INDEX))
            self._map.write(self._renaming(garbage.entries), removed=garbage.images)
            self.store.flush()  # after a power cut, no index on the disk may name a blob that is gone
            self._blobs.remove(garbage.blobs)
            return garbage

    def free_bytes(self) -> int | None:
        return self.store.free_bytes()

    def held_bytes(self) -> int:
        return sum(self.store.sizes("blobs/sha256").values())
