"""`.migrate/layers`: which blob holds which diffID, as earlier runs found out.

One line a blob: diffID, how it was compressed, blob digest, blob size; and one line a layer: diffID, `tar`, size of the
tar. Each is appended with one `write`. The record only says where to look. What it says is proven before it is used:
the blob must have its digest, and its decompressed bytes the diffID. A stale, torn or forged line therefore costs time
and never gives a wrong result.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Collection
from typing import Final

from migrate.blobio.compression import open_decompressed
from migrate.blobio.limits import STORED_RATIO
from migrate.blobio.stopping import check_stop
from migrate.errors import InterruptedRunError, MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.options import Compression, ImageOptions
from migrate.storage.run_directory import STATE_DIRECTORY
from migrate.storage.staging import target_error
from migrate.writers.blob_store import BlobStore

_PATH: Final = f"{STATE_DIRECTORY}/layers"
_LINE: Final = re.compile(rb"([0-9a-f]{64}) ([a-z-]{1,16}):(-?[0-9]{1,3}) ([0-9a-f]{64}) ([0-9]{1,19})")
_SIZE_LINE: Final = re.compile(rb"([0-9a-f]{64}) tar ([0-9]{1,19})")
_RECORD_BYTES: Final = 1024 * 1024 * 1024
"""Six million layers; what lies beyond is not read."""
_MOST_BLOBS: Final = 8
"""Of one layer. Runs make one, and sources bring some ready; a record with more of them is not written by us."""
_BLOCK: Final = 1024 * 1024
_FAMILIES: Final = {Compression.GZIP: "gzip", Compression.GZIP_FAST: "gzip"}


class LayerRecord:
    """Fills RemembersLayers for a target on a file system."""

    def __init__(self, store: BlobStore, options: ImageOptions) -> None:
        self._store = store
        self._compression = options.compression
        self._level = -1 if options.compression_level is None else options.compression_level
        self._known: dict[tuple[DiffID, str], tuple[StoredBlob, ...]] | None = None
        self._sizes: dict[DiffID, int] = {}
        self._lock = threading.Lock()
        self._fd = -1

    def known_blob(
        self, diff_id: DiffID, compression: str, /, digests: Collection[Digest] | None = None
    ) -> StoredBlob | None:
        """The blob that an earlier run made of this layer in the same way; read, unpacked and found right just now.

        Of several, the smallest, whichever was written first; only of `digests`, if there are any to choose from.
        """
        with self._lock:
            blobs = self._read_once().get((diff_id, compression), ())
        for blob in sorted(blobs, key=lambda blob: (blob.size, blob.digest)):
            if (digests is None or blob.digest in digests) and self._is_right(diff_id, blob):
                self._store.added(blob.digest, blob.size)
                return blob
        return None

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        way = self._way_of(blob)
        line = f"{diff_id.hex} {way}:{self._level} {blob.digest.hex} {blob.size}\n".encode("ascii")
        with self._lock:
            known = self._read_once()
            if _add(known, (diff_id, way), blob):
                self._append(line)

    def remembered_sizes(self) -> Collection[int]:
        """Sizes in bytes of the tars that a blob may be known for."""
        with self._lock:
            self._read_once()
            return frozenset(self._sizes.values())

    def remember_size(self, diff_id: DiffID, tar_size: int, /) -> None:
        with self._lock:
            self._read_once()
            if self._sizes.get(diff_id) != tar_size:
                self._sizes[diff_id] = tar_size
                self._append(f"{diff_id.hex} tar {tar_size}\n".encode("ascii"))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _way_of(self, blob: StoredBlob) -> str:
        """`gzip` and `gzip-fast` make other bytes of one layer; a blob taken over as it was has its own word."""
        if _FAMILIES.get(self._compression) == blob.compression:
            return self._compression.value
        return blob.compression

    def _append(self, line: bytes) -> None:
        files = self._store.area.files
        try:
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fd = files.open(_PATH, flags, self._store.area.root_fd)
                line = b"\n" + line  # ends a line that a killed run left unfinished
            files.write(self._fd, line)
        except OSError as exc:
            raise target_error(exc, f"{self._store.area.root}/{_PATH}") from exc

    def _read_once(self) -> dict[tuple[DiffID, str], tuple[StoredBlob, ...]]:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> dict[tuple[DiffID, str], tuple[StoredBlob, ...]]:
        known: dict[tuple[DiffID, str], tuple[StoredBlob, ...]] = {}
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(_PATH, flags, dir_fd=self._store.area.root_fd)
            with os.fdopen(fd, "rb") as stream:
                content = stream.read(_RECORD_BYTES)
            self._sizes = {DiffID(Digest(tar.decode())): int(size) for tar, size in _SIZE_LINE.findall(content)}
            for diff_hex, way, level, digest_hex, size in _LINE.findall(content):
                if int(level) == self._level:
                    name = way.decode("ascii")
                    kind = "gzip" if name.startswith("gzip") else name
                    blob = StoredBlob(digest=Digest(digest_hex.decode()), size=int(size), compression=kind)
                    key = (DiffID(Digest(diff_hex.decode())), name)
                    _add(known, key, blob)
        return known

    def _is_right(self, diff_id: DiffID, blob: StoredBlob) -> bool:
        if not self._store.has(blob.digest, blob.size):
            return False
        try:
            fd = self._store.open_published(blob.digest)
        except OSError:
            return False
        digest = hashlib.sha256()
        with os.fdopen(fd, "rb", buffering=0) as stream:
            try:
                with open_decompressed(stream, blob.compression, str(blob.digest), STORED_RATIO) as tar:
                    while block := tar.read(_BLOCK):
                        digest.update(block)
                        check_stop()
            except InterruptedRunError:
                raise
            except (MigrateError, OSError):
                return False
        return digest.hexdigest() == diff_id.hex


def _add(known: dict[tuple[DiffID, str], tuple[StoredBlob, ...]], key: tuple[DiffID, str], blob: StoredBlob) -> bool:
    """True if the blob is a new one."""
    blobs = known.get(key, ())
    if blob in blobs:
        return False
    known[key] = (*blobs[1 - _MOST_BLOBS :], blob)
    return True
