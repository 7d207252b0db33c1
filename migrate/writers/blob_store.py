"""`blobs/sha256/` of a layout: which blobs are there and proven, and new ones on their way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Final

from migrate.layout.names import blob_path
from migrate.model.digest import Digest
from migrate.storage.staging import StagedFile, StagingArea, target_error, target_errors
from migrate.writers.base import BlobWriter

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK: Final = 1024 * 1024
_MOST_FOUND: Final = 100_000
"""So many blobs of earlier runs are listed once; more of them are looked for one by one."""


class BlobStore:
    """Blobs by digest below a staging area's root. Every method may be called from several threads at once.

    A blob that stood there before this run counts only after its bytes were read and gave its digest: one that was
    damaged since is written anew. `path_of` gives a blob's path relative to the root, in a directory that exists.

    What another run writes meanwhile may be written once more, which does no harm: a blob's name says what it holds.
    """

    def __init__(self, area: StagingArea, path_of: Callable[[Digest], str] = blob_path) -> None:
        self.area = area
        self.path_of = path_of
        self._sizes: dict[Digest, int] = {}
        self._found: frozenset[str] | None = None
        self._lists = path_of is blob_path  # all blobs stand in one directory
        self._lock = threading.Lock()

    def has(self, digest: Digest, size: int) -> bool:
        known = self._sizes.get(digest)
        if known is not None:
            return known == size
        if not self._is_intact(digest, size):
            return False
        self.added(digest, size)
        return True

    def open(self) -> AbstractContextManager[BlobWriter]:
        return _StoredBlobWriter(self)

    def put(self, content: bytes, digest: Digest) -> None:
        """A small blob: a config, a manifest."""
        if not self.has(digest, len(content)):
            self.area.put(self.path_of(digest), content)
            self.added(digest, len(content))

    def added(self, digest: Digest, size: int) -> None:
        with self._lock:
            self._sizes[digest] = size

    def remove(self, digest: Digest) -> None:
        with self._lock:
            self._sizes.pop(digest, None)
        with contextlib.suppress(FileNotFoundError):
            self.area.files.unlink(self.path_of(digest), self.area.root_fd)

    def link(self, source: str, digest: Digest, size: int, *, hard: bool) -> bool:
        """Takes the file `source` over as the blob, if the file system can and its bytes have the digest."""
        temporary = self.area.adopt(source, hard=hard)
        if temporary is None:
            return False
        fd = self.area.open_temporary(temporary)
        try:
            matches = _digest_of(fd, size) == digest.hex
        except OSError as exc:
            raise target_error(exc, f"{self.area.root}: a linked blob cannot be read") from exc
        finally:
            os.close(fd)
        if not matches:
            self.area.drop(temporary)
            return False
        self.area.enqueue_adopted(temporary, self.path_of(digest), size)
        self.added(digest, size)
        return True

    def read(self, digest: Digest, limit: int) -> bytes | None:
        """The content of a small blob, or None where it is absent, larger than `limit` or not what its name says."""
        try:
            fd = self._open(digest)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as stream:
            content = stream.read(limit + 1)
        return content if len(content) <= limit and Digest.of(content) == digest else None

    def sizes(self) -> dict[str, int]:
        """Bytes of the blobs that stand in the one directory of a layout, by the hex digits of their digests."""
        folder = self.area.root / "blobs" / "sha256"
        with target_errors(str(folder)), os.scandir(folder) as entries:
            return {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if entry.is_file(follow_symlinks=False)
            }

    def held_bytes(self) -> int:
        """Bytes of the blobs that stand here already, in the one directory of a layout."""
        return sum(self.sizes().values())

    def open_published(self, digest: Digest) -> int:
        """A descriptor open for reading. Raises OSError."""
        return self._open(digest)

    def _open(self, digest: Digest) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # neither a link nor a pipe is a blob
        return os.open(self.path_of(digest), flags, dir_fd=self.area.root_fd)

    def _is_new(self, digest: Digest) -> bool:
        """True for what was not there when the store was first asked: most of what a conversion writes."""
        if self._found is None and self._lists:
            directory = self.area.root / os.path.dirname(blob_path(digest))
            with target_errors(str(directory)), os.scandir(directory) as entries:
                names = frozenset(entry.name for entry in islice(entries, _MOST_FOUND + 1))
            self._lists = len(names) <= _MOST_FOUND
            self._found = names if self._lists else None
        return self._found is not None and digest.hex not in self._found

    def _is_intact(self, digest: Digest, size: int) -> bool:
        if self._is_new(digest):
            return False
        try:
            fd = self._open(digest)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                return False
            raise target_error(exc, f"{self.area.root}/{self.path_of(digest)}") from exc
        try:
            return os.fstat(fd).st_size == size and _digest_of(fd, size) == digest.hex
        except OSError:  # an unreadable blob is as good as none: it is written anew
            return False
        finally:
            os.close(fd)


def _digest_of(fd: int, size: int) -> str | None:
    """sha256 of the file behind `fd`, as hex; None if it does not hold exactly `size` bytes."""
    total = 0
    digest = hashlib.sha256()
    buffer = bytearray(min(_BLOCK, size + 1))
    view = memoryview(buffer)
    while count := os.readv(fd, [buffer]):
        total += count
        if total > size:
            return None
        digest.update(view[:count])
    return digest.hexdigest() if total == size else None


class _StoredBlobWriter:
    __slots__ = ("_file", "_store")

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._file: StagedFile = store.area.open()

    def write(self, block: bytes | bytearray | memoryview, /) -> int:
        return self._file.write(block)

    def commit(self, digest: Digest, /) -> None:
        store = self._store
        if store.has(digest, self._file.size):
            return
        self._file.publish(store.path_of(digest))
        store.added(digest, self._file.size)

    def __enter__(self) -> _StoredBlobWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.__exit__(*exc_info)
