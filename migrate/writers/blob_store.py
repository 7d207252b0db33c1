"""The blobs of a target: finds and checks existing ones, and writes new ones."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Final

from migrate.blobio.limits import JSON_BYTES, SMALL_FILE_BYTES
from migrate.errors import TargetError
from migrate.layout.names import blob_path
from migrate.model.digest import DiffID, Digest
from migrate.model.options import Link
from migrate.model.packed import PackedTable, packed_digest, packed_size, unpacked_digest, unpacked_size
from migrate.rehash.ports import BlobWriter
from migrate.storage.store import Store
from migrate.storage.syscalls import WrongKindError
from migrate.writers.proofs import Proofs

_BLOCK: Final = 1024 * 1024
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_MOST_FOUND: Final = 100_000
"""Up to this many existing blobs are listed once and kept in memory; more are looked up one by one."""


class BlobStore:
    """Blobs by digest in a store. Every method may be called from several threads at once.

    A blob that was in the store before this run is used only if its bytes were read and have its digest: in this run,
    or (with `proofs`) in an earlier one, if its file has not changed since. A damaged blob is written again. `path_of`
    gives the name of a blob in the store.

    Another run may write the same blob at the same time, which does no harm: the name of a blob is its digest.
    """

    def __init__(
        self, store: Store, path_of: Callable[[Digest], str] = blob_path, *, proofs: Proofs | None = None
    ) -> None:
        self.store = store
        self.path_of = path_of
        self.proofs = proofs
        self._versions: Mapping[str, tuple[int, str]] | None = None
        self._unproven: dict[Digest, DiffID | None] = {}
        """Blobs of this run that have no name yet, and the layer that each is known to hold."""
        self._sizes = PackedTable(key=32, row=8)
        """Bytes of the blobs that this run has written or found, by digest."""
        self._damaged: set[Digest] = set()
        self._found: frozenset[int] | None = None
        self._lists = path_of is blob_path and not store.reads_cost  # all blobs are in one folder
        self._lock = threading.Lock()
        self._no_clones_from: set[int] = set()
        if proofs is not None:
            store.on_named = self._note_named

    def close(self) -> None:
        """Writes the last proofs."""
        self.store.on_named = None
        if self.proofs is not None:
            # The ETags of new objects in a bucket are listed once, after all are written: asking for each one would
            # take a request for each blob.
            if self._sizes and self.store.reads_cost:
                versions = self._list_versions()
                for key, row in self._sizes:
                    digest, size = unpacked_digest(key), unpacked_size(row)
                    found, version = versions.get(self.path_of(digest), (-1, None))
                    if found == size:
                        self._prove(digest, size, version)
            self.proofs.close()

    def read_again(self) -> None:
        """To be called after other processes have written nearly all blobs of this run."""
        self._found, self._lists = None, False  # a listing would save little, and take much memory
        if self.proofs is not None:
            self.proofs.read_again()

    def _note_named(self, name: str, size: int, version: str | None) -> None:
        match = _HEX.search(name)
        if match is not None and self.path_of(digest := Digest(match[0])) == name:
            self._prove(digest, size, version)

    def _prove(self, digest: Digest, size: int, version: str | None) -> None:
        """Adds the proofs of a blob that this run has written, with its diffID if `note_content` was called before."""
        assert self.proofs is not None
        self.proofs.add(digest, size, version)
        with self._lock:
            diff_id = self._unproven.pop(digest, None)
        if diff_id is not None:
            self.proofs.add(digest, size, version, diff_id)

    def note_content(self, digest: Digest, size: int, diff_id: DiffID) -> None:
        """Notes that the blob has the layer `diff_id`, which this run has compressed or read."""
        if self.proofs is None:
            return
        with self._lock:
            if digest in self._unproven or digest in self._damaged:
                self._unproven[digest] = diff_id
                return
        self.proofs.add(digest, size, self._version(digest), diff_id)

    def is_proven_to_hold(self, digest: Digest, size: int, diff_id: DiffID) -> bool:
        return self.proofs is not None and self.proofs.has(digest, size, self._version(digest), diff_id)

    def _list_versions(self) -> Mapping[str, tuple[int, str]]:
        """Size and version of all blobs, by name."""
        # the common prefix of all names of blobs
        return self.store.versions(self.path_of(Digest("0" * 64)).partition("/sha256/")[0])

    def is_proven(self, digest: Digest, size: int, version: str | None = None) -> bool:
        """True if the blob had its digest when its file had this version (default: the current version)."""
        return self.proofs is not None and self.proofs.has(digest, size, version or self._version(digest))

    def _version(self, digest: Digest) -> str | None:
        if self.proofs is None:
            return None
        if not self.store.reads_cost:
            return self.store.version(self.path_of(digest))
        with self._lock:
            if self._versions is None:
                self._versions = self._list_versions()
        return self._versions.get(self.path_of(digest), (-1, None))[1]

    def has(self, digest: Digest, size: int) -> bool:
        with self._lock:
            known = self._sizes.rows(packed_digest(digest))
        if known:
            return known == [packed_size(size)]
        if not self._is_intact(digest, size):
            return False
        self.added(digest, size)
        return True

    def open(self) -> AbstractContextManager[BlobWriter]:
        return _StoredBlobWriter(self)

    def put(self, content: bytes, digest: Digest) -> None:
        """Writes a small blob, such as a config or a manifest."""
        size = len(content)
        # In a bucket, reading the blob to check it would cost more than to write it again.
        if self._is_known(digest) or (
            self.is_proven(digest, size) if self.store.reads_cost else self.has(digest, size)
        ):
            return
        self.begin_name(digest)
        self.store.put(self.path_of(digest), content)
        self.added(digest, size)

    def begin_name(self, digest: Digest) -> None:
        """To be called before the store is given a new blob, which gets its name later."""
        if self.proofs is not None:
            with self._lock:
                self._unproven.setdefault(digest, None)

    def added(self, digest: Digest, size: int) -> None:
        with self._lock:
            self._sizes.replace(packed_digest(digest), packed_size(size))

    def _is_known(self, digest: Digest) -> bool:
        with self._lock:
            return packed_digest(digest) in self._sizes

    def remove(self, digests: Iterable[Digest]) -> None:
        gone = list(digests)
        with self._lock:
            for digest in gone:
                self._sizes.remove(packed_digest(digest))
        self.store.remove(self.path_of(digest) for digest in gone)

    def link(self, path: str, digest: Digest, size: int, how: Link) -> bool:
        """Makes the file `path` a blob without copying its bytes, and returns whether that was possible. The bytes are
        checked. `how` is `--link`.

        `auto` makes a reflink (clone) if the file system can. It never makes a hard link: the two files would be one,
        so that a change in the source would change the target.
        """
        if how is Link.COPY:
            return False
        if self.has(digest, size):
            return True

        def is_right(stream: BinaryIO) -> bool:
            return _digest_of(stream, size) == digest

        name = self.path_of(digest)
        self.begin_name(digest)
        linked = how is Link.HARD and self.store.take_over(path, name, is_right, hard=True)
        if linked or self._clone(path, name, is_right):
            self.added(digest, size)
            return True
        return False

    def _clone(self, path: str, name: str, is_right: Callable[[BinaryIO], bool]) -> bool:
        """Clones a file. If that is not possible for one file of a device, it is not tried for the next."""
        try:
            device = os.stat(path).st_dev
        except OSError:
            return False
        if device in self._no_clones_from:
            return False
        cloned = self.store.take_over(path, name, is_right, hard=False)
        if not cloned:
            self._no_clones_from.add(device)
        return cloned

    def read_many(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """Reads small blobs. Blobs that are missing, larger than JSON_BYTES or damaged are left out."""
        names = {self.path_of(digest): digest for digest in digests}
        found = self.store.read_many(list(names), JSON_BYTES)
        return {names[name]: content for name, content in found.items() if Digest.of(content) == names[name]}

    def open_published(self, digest: Digest) -> BinaryIO:
        """The bytes of a blob under its name. Raises TargetError."""
        stream = self.store.open(self.path_of(digest))
        if stream is None:
            raise TargetError(f"{self.store.shown(self.path_of(digest))}: the blob is gone")
        return stream

    def sizes(self) -> Mapping[str, int]:
        """Bytes of the blobs of a layout, by the hex digits of their digests."""
        sizes = self.store.sizes("blobs/sha256")
        # other runs and workers may have written blobs since the last listing
        if self._found is not None:
            self._found = frozenset(map(hash, sizes))
        return sizes

    def is_damaged(self, digest: Digest) -> bool:
        """True if the file with the blob's name has other bytes."""
        return digest in self._damaged

    def is_absent(self, digest: Digest, size: int) -> bool:
        """True for a small blob of a bucket that was not in the listing of its blobs. Checking for it again would take
        longer than to send it, and if another run has written it meanwhile, nothing is replaced."""
        is_listed = self.proofs is not None and self.store.reads_cost and size <= SMALL_FILE_BYTES
        return is_listed and not self._is_known(digest) and self._version(digest) is None

    def _is_intact(self, digest: Digest, size: int) -> bool:
        # Most blobs of a run are new. One listing of the folder saves a failing `open` for each of them.
        if self._found is None and self._lists:
            names = self.store.names(self.path_of(digest).rpartition("/")[0])
            self._lists = len(names) <= _MOST_FOUND
            # hashes, which take a third of the memory: for two names with one hash the file is looked for in vain
            self._found = frozenset(map(hash, names)) if self._lists else None
        if self._found is not None and hash(digest.hex) not in self._found:
            return False
        version = self._version(digest)
        if self.is_proven(digest, size, version):
            return True
        try:
            stream = self.store.open(self.path_of(digest))
        except WrongKindError:
            stream = None
        if stream is None:
            return False
        with stream:
            try:
                intact = _digest_of(stream, size) == digest
            except OSError:  # a blob on a bad sector is written again
                intact = False
        if not intact:
            self._damaged.add(digest)
        elif self.proofs is not None and version == self._version(digest):  # not changed while it was read
            self.proofs.add(digest, size, version)
        return intact


def _digest_of(stream: BinaryIO, size: int) -> Digest | None:
    """sha256 of a stream; None if it does not have exactly `size` bytes."""
    total = 0
    digest = hashlib.sha256()
    while block := stream.read(min(_BLOCK, size + 1)):
        total += len(block)
        if total > size:
            return None
        digest.update(block)
    return Digest.of_hash(digest) if total == size else None


class _StoredBlobWriter:
    __slots__ = ("_blobs", "_file", "write")

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._file = blobs.store.new_file()
        self.write = self._file.write

    def commit(self, digest: Digest, /) -> None:
        blobs = self._blobs
        size = self._file.size
        if blobs.is_absent(digest, size) or not blobs.has(digest, size):
            blobs.begin_name(digest)
            self._file.publish(blobs.path_of(digest), replace=blobs.is_damaged(digest))
            blobs.added(digest, size)

    def __enter__(self) -> _StoredBlobWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.__exit__(*exc_info)
