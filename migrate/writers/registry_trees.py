"""Where a registry's storage tree is written: a directory, or a bucket through fsspec."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from migrate.distribution.layout import ROOT, blob_path
from migrate.errors import SourceError, TargetError
from migrate.layout.names import REPORT_NAME
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.options import ConvertOptions, Link
from migrate.storage.bucket import ObjectTree, open_filesystem
from migrate.storage.local_tree import LocalTree, TreeStorage
from migrate.storage.run_directory import STATE_DIRECTORY
from migrate.storage.staging import FILE_SYSTEM, FileSystem, StagingArea, target_errors
from migrate.writers.base import BlobWriter
from migrate.writers.blob_store import BlobStore
from migrate.writers.layer_record import LayerRecord
from migrate.writers.spooled_blob import SpooledBlobWriter, digest_of_file

_ALLOWED: Final = frozenset({STATE_DIRECTORY, "lost+found", REPORT_NAME})
_SYNC_EACH_BELOW: Final = 12


class RegistryTree(Protocol):
    """A place for the tree. Paths of links are those of `distribution.layout`. Every method raises TargetError."""

    def has_blob(self, digest: Digest, size: int, /) -> bool: ...
    def open_blob(self) -> AbstractContextManager[BlobWriter]: ...
    def put_blob(self, content: bytes, digest: Digest, /) -> None: ...
    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool: ...
    def known_blob(self, diff_id: DiffID, compression: str, /) -> StoredBlob | None: ...
    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None: ...
    def put_links(self, links: Mapping[str, bytes], /) -> None:
        """Files of a few bytes; those that hold the same already are left alone."""

    def replace(self, name: str, content: bytes, /) -> None:
        """A file beside the tree."""

    def flush(self) -> None:
        """Returns when everything so far is durable."""

    def reading(self) -> TreeStorage: ...
    def free_bytes(self) -> int | None: ...
    def close(self) -> None: ...


class LocalRegistryTree:
    """In a directory. A new one is made; one that holds something else is refused."""

    def __init__(self, location: str, options: ConvertOptions, *, files: FileSystem = FILE_SYSTEM) -> None:
        self.root = Path(location)
        self._link = options.link
        self._lock = threading.Lock()
        self._known_folders: set[str] = {""}
        self._new_folders: list[str] = []
        self._no_clones_from: set[int] = set()
        self._prepare()
        self._area = StagingArea(self.root, files)
        try:
            self._folder(f"{ROOT}/blobs/sha256")
            self._folder(f"{ROOT}/repositories")
            self._blobs = BlobStore(self._area, self._blob_path)
            self._record = LayerRecord(self._blobs, options)
        except BaseException:
            self._area.close()
            raise

    def _prepare(self) -> None:
        with target_errors(str(self.root)):
            self.root.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(self.root))
        foreign = sorted(names - _ALLOWED)
        if foreign and not (self.root / ROOT).is_dir():
            raise TargetError(
                f"{self.root}: neither empty nor a registry's storage: it holds {foreign[0]!r} and no {ROOT}/"
                " (name a new directory, or empty this one)"
            )

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self._blobs.has(digest, size)

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return self._blobs.open()

    def put_blob(self, content: bytes, digest: Digest, /) -> None:
        self._blobs.put(content, digest)

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        """As in a layout: `--link auto` clones where it can, and only `--link hard` makes hard links."""
        if self._link is Link.COPY:
            return False
        if self.has_blob(digest, size):
            return True
        if self._link is Link.HARD and self._blobs.link(path, digest, size, hard=True):
            return True
        return self._clone(path, digest, size)

    def _clone(self, path: str, digest: Digest, size: int) -> bool:
        """A file system that could not clone one blob is not asked for the next."""
        try:
            device = os.stat(path).st_dev
        except OSError:
            return False
        if device in self._no_clones_from:
            return False
        cloned = self._blobs.link(path, digest, size, hard=False)
        if not cloned:
            self._no_clones_from.add(device)
        return cloned

    def known_blob(self, diff_id: DiffID, compression: str, /) -> StoredBlob | None:
        return self._record.known_blob(diff_id, compression)

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        self._record.remember_blob(diff_id, blob)

    def put_links(self, links: Mapping[str, bytes], /) -> None:
        for path, content in links.items():
            name = f"{ROOT}/{path}"
            is_new = self._folder(name.rpartition("/")[0])
            if is_new or not self._holds(name, content):
                self._area.put(name, content)

    def replace(self, name: str, content: bytes, /) -> None:
        self._area.replace(name, content)

    def flush(self) -> None:
        self._area.flush()
        with self._lock:
            new, self._new_folders = self._new_folders, []
        with target_errors(str(self.root)):
            if len(new) < _SYNC_EACH_BELOW or not self._area.files.sync_file_system(self._area.root_fd):
                for folder in dict.fromkeys(new):
                    self._area.sync_directory(folder)

    def reading(self) -> TreeStorage:
        return LocalTree(str(self.root))

    def free_bytes(self) -> int | None:
        return self._area.free_bytes()

    def close(self) -> None:
        try:
            if not self._area.failed:  # blobs that are complete save the next run their compression
                with contextlib.suppress(TargetError):
                    self._area.flush()
        finally:
            self._record.close()
            self._area.close()

    def _blob_path(self, digest: Digest) -> str:
        path = f"{ROOT}/{blob_path(digest)}"
        self._folder(path.rpartition("/")[0])
        return path

    def _folder(self, name: str) -> bool:
        """Makes the folder and those above it, and notes whose entries have to be synced. True if it is new."""
        if name in self._known_folders:
            return False
        parent = name.rpartition("/")[0]
        self._folder(parent)
        is_new = False
        with target_errors(f"{self.root}/{name}"):
            try:
                self._area.files.make_directory(name, self._area.root_fd)
            except FileExistsError:
                pass
            else:
                is_new = True
                with self._lock:
                    self._new_folders.append(parent)
        self._known_folders.add(name)
        return is_new

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._area.root_fd)
        except OSError:
            return False
        with os.fdopen(fd, "rb") as stream:
            return stream.read(len(content) + 1) == content


class BucketTree:
    """In a bucket. An object appears whole or not at all; a blob of the right name and size counts as present.

    A blob's name is known only after its last byte, so it waits in a temporary file on this machine.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._fs, self._prefix = open_filesystem(location)
        self._lock = threading.Lock()
        self._sizes: dict[str, int] | None = None

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self._present().get(f"{ROOT}/{blob_path(digest)}") == size

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return SpooledBlobWriter(self._upload)

    def put_blob(self, content: bytes, digest: Digest, /) -> None:
        if not self.has_blob(digest, len(content)):
            self._put({f"{ROOT}/{blob_path(digest)}": content})

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        """Uploads the file itself, without a copy of it on the way."""
        if digest_of_file(path, size) != digest:
            return False
        self._upload(path, digest, size)
        return True

    def known_blob(self, diff_id: DiffID, compression: str, /) -> StoredBlob | None:
        del diff_id, compression
        return None

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        """A bucket has no place for hints: what they would save is reading, and reading a bucket is not cheaper."""

    def put_links(self, links: Mapping[str, bytes], /) -> None:
        """A link's name holds the digest that stands in it, but for a tag's `current`: only that one is read."""
        rooted = {f"{ROOT}/{path}": content for path, content in links.items()}
        present = self._present()
        there = {path: content for path, content in rooted.items() if present.get(path) == len(content)}
        tags = [path for path in there if path.endswith("/current/link")]
        moved = ObjectTree(self._fs, self._prefix, self.location).fetch(tags)
        same = {path for path, content in there.items() if moved.get(path, content) == content}
        self._put({path: content for path, content in rooted.items() if path not in same})

    def replace(self, name: str, content: bytes, /) -> None:
        self._put({name: content})

    def flush(self) -> None:
        """Nothing waits: every object was acknowledged when it was written."""

    def reading(self) -> TreeStorage:
        return ObjectTree(self._fs, self._prefix, self.location)

    def free_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        self._sizes = None

    def _upload(self, path: str, digest: Digest, size: int) -> None:
        if self.has_blob(digest, size):
            return
        name = f"{ROOT}/{blob_path(digest)}"
        try:
            self._fs.put_file(path, f"{self._prefix}/{name}")
        except Exception as exc:
            raise TargetError(f"{self.location}/{name}: {type(exc).__name__}: {exc}") from exc
        self._present()[name] = size

    def _put(self, contents: Mapping[str, bytes]) -> None:
        if not contents:
            return
        try:
            self._fs.pipe({f"{self._prefix}/{name}": content for name, content in contents.items()})
        except Exception as exc:
            raise TargetError(f"{self.location}: {type(exc).__name__}: {exc}") from exc
        self._present().update({name: len(content) for name, content in contents.items()})

    def _present(self) -> dict[str, int]:
        """Names and sizes of all objects below the prefix, listed once and kept up to date."""
        with self._lock:
            if self._sizes is None:
                try:
                    self._sizes = ObjectTree(self._fs, self._prefix, self.location).sizes()
                except SourceError as exc:
                    raise TargetError(exc.message) from exc
            return self._sizes
