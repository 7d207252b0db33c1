"""An OCI image layout in a bucket, through fsspec: the same files as in a directory, docs/reference/layout.md.

An object appears whole or not at all, and blobs are named by their content, so any number of workers may write at once.
Where the store has conditional writes, a blob is only created and never replaced, and index.json is only replaced if
nobody else has done so meanwhile.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from migrate.blobio.limits import CATALOG_BYTES, JSON_BYTES
from migrate.documents.docker_archive import encode_archive_manifest
from migrate.documents.oci import OCI_LAYOUT, IndexEntry, encode_index, parse_config, parse_index
from migrate.errors import SourceError, TargetError
from migrate.layout.catalog import (
    CatalogFacts,
    ExistingImage,
    ImageFacts,
    archive_entries,
    entries_for,
    existing_image,
    merge_entries,
)
from migrate.layout.names import REPORT_NAME, blob_path, reference_of
from migrate.layout.walk import read_documents
from migrate.model.digest import Digest
from migrate.model.image import ComposedImage, Descriptor
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.reference import Reference
from migrate.storage.bucket import open_filesystem
from migrate.storage.run_directory import STATE_DIRECTORY
from migrate.storage.staging import target_errors
from migrate.writers.base import BlobWriter
from migrate.writers.spooled_blob import SpooledBlobWriter

_AT_ONCE: Final = 256
"""Small objects that are read or written together."""
_REMEMBERED: Final = 200_000
"""Blobs whose presence is kept in mind; a store is asked for the others again."""


class Bucket:
    """Objects below a URL. Every method raises TargetError."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._fs, self._prefix = open_filesystem(location)

    def size(self, name: str) -> int | None:
        """Bytes of the object; None if there is none."""
        try:
            facts = self._fs.info(self._key(name))
        except FileNotFoundError:
            return None
        except Exception as exc:
            raise self._error(name, exc) from exc
        return int(facts["size"]) if facts.get("type", "file") == "file" else None

    def names(self, folder: str) -> list[str]:
        """Names of all objects below `folder`, relative to the bucket's URL, sorted."""
        try:
            found = self._fs.find(self._key(folder) if folder else self._prefix)
        except FileNotFoundError:
            return []
        except Exception as exc:
            raise self._error(folder, exc) from exc
        return sorted(str(key)[len(self._prefix) :].lstrip("/") for key in found)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of all objects below `folder`, by the last part of their names: one request for a thousand."""
        try:
            found = self._fs.find(self._key(folder), detail=True)
        except FileNotFoundError:
            return {}
        except Exception as exc:
            raise self._error(folder, exc) from exc
        return {str(key).rpartition("/")[2]: int(facts["size"]) for key, facts in found.items()}

    def read(self, name: str) -> bytes | None:
        try:
            content: bytes = self._fs.cat_file(self._key(name))
        except FileNotFoundError:
            return None
        except Exception as exc:
            raise self._error(name, exc) from exc
        return content

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Small objects; those that cannot be read are left out."""
        found: dict[str, bytes] = {}
        for start in range(0, len(names), _AT_ONCE):
            keys = {self._key(name): name for name in names[start : start + _AT_ONCE]}
            try:
                contents = self._fs.cat(list(keys), on_error="return")
            except Exception as exc:
                raise self._error(names[start], exc) from exc
            found |= {keys[key]: content for key, content in contents.items() if isinstance(content, bytes)}
        return found

    def put(self, name: str, content: bytes) -> None:
        try:
            self._fs.pipe_file(self._key(name), content)
        except Exception as exc:
            raise self._error(name, exc) from exc

    def put_many(self, contents: Mapping[str, bytes]) -> None:
        try:
            self._fs.pipe({self._key(name): content for name, content in contents.items()})
        except Exception as exc:
            raise self._error(next(iter(contents), ""), exc) from exc

    def put_pieces(self, name: str, pieces: Iterable[bytes]) -> None:
        """An object that need not be in memory as a whole; its pieces wait in a temporary file."""
        with target_errors("a temporary file"), tempfile.NamedTemporaryFile(prefix="migrate-") as spool:
            spool.writelines(pieces)
            spool.flush()
            self._overwrite_from(spool.name, name)

    def create_from(self, path: str, name: str) -> None:
        """The object with the bytes of a file, unless it is there."""
        try:
            self._fs.put_file(path, self._key(name), mode="create")
        except FileExistsError:
            return
        except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
            if not _is_precondition(exc):
                self._overwrite_from(path, name)

    def _overwrite_from(self, path: str, name: str) -> None:
        """For stores that know no conditional writes; equal names are equal bytes, so nothing is lost by it."""
        try:
            self._fs.put_file(path, self._key(name))
        except Exception as exc:
            raise self._error(name, exc) from exc

    def tag_of(self, name: str) -> str | None:
        """What a conditional replacement compares; None where the store has no such thing."""
        try:
            facts = self._fs.info(self._key(name))
        except FileNotFoundError:
            return None
        except Exception as exc:
            raise self._error(name, exc) from exc
        tag = facts.get("ETag")
        return str(tag) if tag else None

    def replace(self, name: str, content: bytes, tag: str | None) -> None:
        """Replaces the object if it still has `tag`. TargetError if somebody else has replaced it."""
        if tag is None:
            self.put(name, content)
            return
        try:
            self._fs.pipe_file(self._key(name), content, IfMatch=tag)
        except Exception as exc:
            if _is_precondition(exc):
                raise TargetError(
                    f"{self.location}/{name}: another run has changed it meanwhile; run the same command again"
                ) from exc
            self.put(name, content)

    def remove(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), 1_000):
            keys = [self._key(name) for name in names[start : start + 1_000]]
            try:
                self._fs.rm(keys)
            except FileNotFoundError:
                continue
            except Exception as exc:
                raise self._error(names[start], exc) from exc

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _error(self, name: str, exc: Exception) -> TargetError:
        return TargetError(f"{self.location}/{name}: {type(exc).__name__}: {exc}")


def _is_precondition(exc: BaseException) -> bool:
    """412: the condition of a conditional write does not hold (RFC 9110)."""
    seen: list[BaseException | None] = [exc, exc.__cause__, exc.__context__]
    return any("PreconditionFailed" in str(error) or "pre-conditions" in str(error) for error in seen if error)


class BucketLayout:
    """Fills ImageTarget, ListsImages, ListsBlobs and RemovesBlobs. Opening it creates or continues the layout."""

    def __init__(self, location: str, options: ConvertOptions, *, bucket: Bucket | None = None) -> None:
        self.bucket = bucket or Bucket(location)
        self._options = options
        self._lock = threading.Lock()
        self._sizes: dict[Digest, int] = {}
        self._unwritten: dict[str, bytes] = {}
        self._entries: dict[tuple[str, Digest], IndexEntry] = {}
        self._images: dict[Digest, ImageFacts] = {}
        self._children: dict[Digest, Sequence[IndexEntry]] = {}
        self._begin()
        self._existing: list[IndexEntry] | None = None

    def _begin(self) -> None:
        if self.bucket.read("oci-layout") is not None:
            return
        foreign = [name for name in self.bucket.names("") if not name.startswith(f"{STATE_DIRECTORY}/")]
        if [name for name in foreign if name != "index.json"]:
            raise TargetError(f"{self.bucket.location}: neither empty nor an OCI layout: it holds {foreign[0]!r}")
        if not foreign:
            self.bucket.put("index.json", encode_index(()))
        self.bucket.put("oci-layout", OCI_LAYOUT)

    # --- ImageTarget ---------------------------------------------------------------------------------------------

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        """An object of that name and size counts as present: the store keeps its bytes as they were."""
        with self._lock:
            known = self._sizes.get(digest)
        if known is None and (known := self.bucket.size(blob_path(digest))) is not None:
            self._added(digest, known)
        return known == size

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return SpooledBlobWriter(self._upload)

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
            children = parse_index(content).manifests
        except SourceError as exc:
            raise TargetError(f"index {Digest.of(content)}: {exc.message}") from exc
        descriptor = self._document(content, media_type)
        with self._lock:
            self._children[descriptor.digest] = children
            self._entries.update(entries_for(descriptor, None, references))

    def flush(self) -> None:
        """Returns when everything so far is in the bucket."""
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
        if unwritten:
            self.bucket.put_many(unwritten)

    def finish(self, report: bytes, /) -> None:
        self.finish_in_pieces([report])

    def finish_in_pieces(self, report: Iterable[bytes], /) -> None:
        """manifest.json, then index.json, then the report, when all that they name stands there."""
        self.flush()
        tag = self.bucket.tag_of("index.json")
        theirs = self._read_index()
        self._read_missing_facts(theirs)
        children = {digest: [entry.descriptor.digest for entry in found] for digest, found in self._children.items()}
        entries = merge_entries(list(self._entries.values()), theirs, self._losers(theirs), children)
        facts = CatalogFacts(images=self._images, children=children)
        self.bucket.put(
            "manifest.json", encode_archive_manifest(archive_entries(entries, facts, self._options.platform))
        )
        self.bucket.replace("index.json", encode_index(entries), tag)
        self.bucket.put_pieces(REPORT_NAME, report)

    def close(self) -> None:
        with self._lock:
            self._unwritten.clear()

    def _upload(self, path: str, digest: Digest, size: int) -> None:
        if not self.has_blob(digest, size):
            self.bucket.create_from(path, blob_path(digest))
            self._added(digest, size)

    def _added(self, digest: Digest, size: int) -> None:
        with self._lock:
            if len(self._sizes) >= _REMEMBERED:
                self._sizes.clear()
            self._sizes[digest] = size

    def _document(self, content: bytes, media_type: str) -> Descriptor:
        digest = Digest.of(content)
        with self._lock:
            self._unwritten[blob_path(digest)] = content
            full = len(self._unwritten) >= _AT_ONCE
        if full:
            self.flush()
        return Descriptor(media_type=media_type, digest=digest, size=len(content))

    # --- what is there already -----------------------------------------------------------------------------------

    def existing_images(self) -> Sequence[ExistingImage]:
        self._existing = self._read_index()
        self._read_missing_facts(self._existing)
        return [
            self._existing_image(entry, reference_of(entry), self._children.get(entry.descriptor.digest, ()))
            for entry in self._existing
        ]

    def _existing_image(
        self, entry: IndexEntry, name: str | None, children: Iterable[IndexEntry] = ()
    ) -> ExistingImage:
        facts = self._images.get(entry.descriptor.digest)
        created = None if facts is None else self._created(facts.config)
        below = (self._existing_image(child, name) for child in children)
        return existing_image(entry, name, facts, created, below)

    def _created(self, config: Descriptor) -> str | None:
        content = self.bucket.read(blob_path(config.digest)) if config.size <= JSON_BYTES else None
        try:
            return None if content is None else parse_config(content).created
        except SourceError:
            return None

    def _read_index(self) -> list[IndexEntry]:
        content = self.bucket.read("index.json")
        try:
            return list(parse_index(content or encode_index(()), CATALOG_BYTES).manifests)
        except SourceError as exc:
            raise TargetError(f"{self.bucket.location}/index.json is damaged: {exc.message}") from exc

    def _read_missing_facts(self, entries: Iterable[IndexEntry]) -> None:
        """Facts of images that this run did not make. One that cannot be read gets none, and so no `docker load`."""
        known = self._images.keys() | self._children.keys()
        for document in read_documents(entries, self._read_blobs, known.__contains__):
            if document.manifest is not None:
                self._images[document.digest] = ImageFacts.of(document)
            elif document.error is None:
                self._children[document.digest] = document.children

    def _read_blobs(self, digests: Sequence[Digest]) -> Mapping[Digest, bytes]:
        found = self.bucket.read_many([blob_path(digest) for digest in digests])
        contents = {digest: found.get(blob_path(digest)) for digest in digests}
        return {digest: content for digest, content in contents.items() if content is not None}

    def _losers(self, theirs: Iterable[IndexEntry]) -> list[tuple[str, Digest]]:
        """What stood there under a name that one of ours got now: the run decided so when it knew them all."""
        if self._options.on_conflict is OnConflict.KEEP_ALL:
            return []
        ours: dict[str, set[Digest]] = {}
        for name, digest in self._entries:
            ours.setdefault(name, set()).add(digest)
        named = [(reference_of(entry) or "", entry.descriptor.digest) for entry in theirs]
        return [(name, digest) for name, digest in named if name and digest not in ours.get(name, {digest})]

    # --- ListsBlobs, RemovesBlobs --------------------------------------------------------------------------------

    def blob_sizes(self) -> Mapping[str, int]:
        self.flush()
        return self.bucket.sizes("blobs/sha256")

    def named_layers(self) -> Collection[Digest]:
        self._read_missing_facts(self._read_index())
        return {layer.digest for facts in self._images.values() for layer in facts.layers}

    def remove_blobs(self, digests: Iterable[Digest], /) -> None:
        listed = {entry.descriptor.digest for entry in self._read_index()}
        if listed - self._images.keys() - self._children.keys():
            return
        needed = {layer.digest for facts in self._images.values() for layer in facts.layers}
        needless = [digest for digest in digests if digest not in needed]
        self.bucket.remove([blob_path(digest) for digest in needless])
        for digest in needless:
            self._sizes.pop(digest, None)


def open_bucket(location: str) -> Bucket:
    """Raises UsageError where fsspec, or its driver for the URL, is not installed."""
    return Bucket(location)


__all__: Sequence[Any] = ["Bucket", "BucketLayout", "open_bucket"]
