"""An index from layers to blobs that all workers of a batch share: one small file for each layer in `.migrate/known/`.

A worker writes the file when the blob is on the disk, and a worker that finds it does not compress the layer again.
Files are not locked: two workers that read the same new layer at the same time make the same blob. Small layers have no
file, because writing and finding it would take longer than compressing the layer again.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from typing import Final

from msgspec import Struct

from migrate.batch.records import Role
from migrate.blobio.limits import SMALL_FILE_BYTES
from migrate.model.digest import DiffID, Digest
from migrate.model.image import HashedLayer, StoredBlob
from migrate.model.options import ImageOptions
from migrate.rehash.layer import STORED_KIND
from migrate.rehash.ports import BlobTarget, BlobWriter, TargetMemory
from migrate.storage.store import STATE_DIRECTORY, Store

_FOLDER: Final = f"{STATE_DIRECTORY}/known"
_LINE: Final = re.compile(rb"([a-z]+) ([0-9a-f]{64}) ([0-9]{1,19}) (gzip|zstd|none) ([0-9a-f]{16})\n")
SMALL_LAYER_BYTES: Final = 64 * 1024
"""Layers up to this size are read into memory before a blob is looked up. For larger ones, the lookup is made first,
and only if a known layer has the same size."""
_LARGE_BYTES: Final = 8 * 1024 * 1024
_CACHED: Final = 50_000
"""Number of layers that a worker keeps in memory; others are looked up again."""


class KnownLayer(Struct, frozen=True):
    """A blob in the target, its role, and the run in which a worker stored or checked it."""

    blob: StoredBlob
    role: Role
    run: str


class KnownLayers:
    """The index of a target, for layers with the compression of `options`."""

    def __init__(self, store: Store, options: ImageOptions) -> None:
        self._store = store
        level = "" if options.compression_level is None else f"-{options.compression_level}"
        self._way = f"{options.compression.value}{level}"
        self.compression = STORED_KIND.get(options.compression, "none")
        """The format of the blobs: `gzip-fast` makes gzip, too."""

    def find(self, diff_id: DiffID) -> KnownLayer | None:
        content = self._store.read(self._name(diff_id), SMALL_FILE_BYTES)
        match = _LINE.fullmatch(content or b"")
        if match is None or match[1].decode() not in tuple(Role):
            return None
        blob = StoredBlob(digest=Digest(match[2].decode()), size=int(match[3]), compression=match[4].decode())
        return KnownLayer(blob, Role(match[1].decode()), match[5].decode())

    def add(self, diff_id: DiffID, known: KnownLayer) -> None:
        blob = known.blob
        line = f"{known.role.value} {blob.digest.hex} {blob.size} {blob.compression} {known.run}\n"
        self._store.put_now(self._name(diff_id), line.encode("ascii"))

    def has_size(self, tar_size: int) -> bool:
        """True if the index may have a layer of this size."""
        return self._store.read(self._size_name(tar_size), SMALL_FILE_BYTES) is not None

    def add_size(self, tar_size: int) -> None:
        self._store.put_now(self._size_name(tar_size), b"\n")

    def _size_name(self, tar_size: int) -> str:
        return f"{_FOLDER}/sizes/{tar_size}"

    def _name(self, diff_id: DiffID) -> str:
        return f"{_FOLDER}/{diff_id.hex[:2]}/{diff_id.hex[2:]}.{self._way}"


class SharedBlobs(BlobTarget, TargetMemory):
    """The blobs of a target for one worker, with the index that all workers share.

    `found` are the layers since the last `begin` that had a blob already, and the role of that blob.
    """

    def __init__(self, target: BlobTarget, known: KnownLayers, run: str) -> None:
        self.memory = self
        self.takes_files = target.takes_files
        self._target = target
        self._known = known
        self._run = run
        self._lock = threading.Lock()
        self._cache: dict[DiffID, KnownLayer] = {}
        self._trusted: dict[Digest, int] = {}
        self._unpublished: dict[DiffID, KnownLayer] = {}
        self.unpublished_bytes = 0
        """Bytes of blobs that are not in the index yet."""
        self._new_sizes: set[int] = set()
        self._sizes: set[int] = set()
        self._present_sizes: set[int] = set()
        self._early: set[DiffID] = set()
        self.found: dict[DiffID, Role] = {}

    def begin(self, sizes: Iterable[int]) -> None:
        """Begins a new source, with layers of these stored sizes."""
        self.found = {}
        if len(self._cache) > _CACHED:
            self._cache.clear()
            self._trusted.clear()
            self._sizes.clear()
        wanted = set(sizes)
        self._sizes |= {size for size in wanted - self._sizes if self._known.has_size(size)}
        self._present_sizes = wanted & self._sizes

    # --- blobs ---------------------------------------------------------------------------------------------

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self._trusted.get(digest) == size or self._target.has_blob(digest, size)

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return self._target.open_blob()

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        return self._target.link_blob(path, digest, size)

    def free_bytes(self) -> int | None:
        return self._target.free_bytes()

    def held_bytes(self) -> int:
        return self._target.held_bytes()

    # --- memory ------------------------------------------------------------------------------------------

    def known_blob(
        self, diff_id: DiffID, compression: str, /, among: Collection[Digest] | None = None, tar_size: int | None = None
    ) -> StoredBlob | None:
        del among
        with self._lock:
            known = self._cache.get(diff_id)
        if known is None:
            is_announced = tar_size is None or tar_size > SMALL_LAYER_BYTES
            known = self._look_up(diff_id, compression, is_announced=is_announced)
        if known is None:
            return None
        with self._lock:
            self._cache[diff_id] = known
            self._trusted[known.blob.digest] = known.blob.size
            self.found[diff_id] = Role.MADE if known.role is Role.MADE else Role.FOUND
        return known.blob

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        """Records a blob for later runs. For other workers, `publish` adds it to the index later; a large blob is added
        at once, because another worker may be about to compress the same layer."""
        self._target.memory.remember_blob(diff_id, blob)
        if blob.size >= _LARGE_BYTES:
            self._target.flush()
            self._known.add(diff_id, KnownLayer(blob, Role.FOUND, self._run))
            with self._lock:
                self._early.add(diff_id)

    def known_sizes(self) -> Collection[int]:
        return self._present_sizes

    def remember_size(self, diff_id: DiffID, tar_size: int, /) -> None:
        self._target.memory.remember_size(diff_id, tar_size)
        with self._lock:
            is_early = diff_id in self._early
            self._early.discard(diff_id)
        if is_early:
            self._known.add_size(tar_size)

    def _look_up(self, diff_id: DiffID, compression: str, *, is_announced: bool) -> KnownLayer | None:
        """The blob of a layer. A blob of this run is used without a check, a blob of an earlier run is checked."""
        known = self._known.find(diff_id) if is_announced else None
        if known is not None and known.run == self._run:
            return known
        memory = self._target.memory
        blob = memory.known_blob(diff_id, compression)
        if blob is None and known is not None and memory.is_right(diff_id, known.blob):
            blob = known.blob
        if blob is None:
            return None
        proven = KnownLayer(blob, known.role if known is not None and known.blob == blob else Role.FOUND, self._run)
        if is_announced:
            self._known.add(diff_id, proven)
        return proven

    # --- sharing -------------------------------------------------------------------------------------------------

    def stored(self, layer: HashedLayer, blob: StoredBlob, role: Role) -> None:
        """Notes a blob that is in the target now; `publish` adds it to the index. A blob in another compression, which
        came with a manifest, is not added: a worker that found it would not make one in the compression of the run, and
        the result would depend on the order of work."""
        if blob.compression != self._known.compression:
            with self._lock:
                self._trusted[blob.digest] = blob.size
            return
        # A blob that a source had goes before one that this program made, as in the merge.
        diff_id = layer.diff_id
        with self._lock:
            if layer.tar_size > SMALL_LAYER_BYTES and layer.tar_size not in self._sizes:
                self._sizes.add(layer.tar_size)
                self._new_sizes.add(layer.tar_size)
            known = self._cache.get(diff_id)
            if known is None or (known.blob != blob and role in (Role.KEPT, Role.CARRIED)):
                known = self._cache[diff_id] = KnownLayer(blob, role, self._run)
                self._trusted[blob.digest] = blob.size
                self.unpublished_bytes += blob.size
                if layer.tar_size > SMALL_LAYER_BYTES:
                    self._unpublished[diff_id] = known

    def publish(self) -> None:
        """Makes all blobs durable, then adds them to the index. Raises TargetError."""
        self._target.flush()
        with self._lock:
            unpublished, self._unpublished = self._unpublished, {}
            self.unpublished_bytes = 0
            sizes, self._new_sizes = self._new_sizes, set()
        for size in sizes:
            self._known.add_size(size)
        for diff_id, known in unpublished.items():
            self._known.add(diff_id, known)
