"""Records of earlier runs in a target, to which lines are only appended (see also writers/proofs.py).

`.migrate/layers`: which blob has which diffID. One line for each blob: diffID, compression, blob digest, blob size. One
line for each layer: diffID, `tar`, size of the tar. A line is checked before it is used: the blob must have its digest,
and its decompressed bytes the diffID. Both are computed, or have a proof of an earlier run. A stale or torn line
therefore costs time and never gives a wrong result.

`.migrate/payloads`: the content of places in sources (`rehash.payload_memory`). One line for each: the place (64 hex
digits), facts about its content, and the beginning of a sha256 over both, so that a torn or damaged line is ignored.
Lines are written 64 at a time. A killed run loses the last ones, so that their layers are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Collection
from typing import ClassVar, Final

from migrate.blobio.compression import open_decompressed
from migrate.blobio.limits import STORED_RATIO
from migrate.blobio.stopping import check_stop
from migrate.errors import InterruptedRunError, MigrateError, TargetError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.options import Compression, ImageOptions
from migrate.model.packed import PackedTable, packed_digest, packed_size, unpacked_digest, unpacked_size
from migrate.rehash.ports import TargetMemory
from migrate.storage.store import STATE_DIRECTORY
from migrate.writers.blob_store import BlobStore
from migrate.writers.proofs import RecordFile

LAYERS: Final = f"{STATE_DIRECTORY}/layers"
PAYLOADS: Final = f"{STATE_DIRECTORY}/payloads"
_LINE: Final = re.compile(rb"([0-9a-f]{64}) ([a-z-]{1,16}):(-?[0-9]{1,3}) ([0-9a-f]{64}) ([0-9]{1,19})")
_SIZE_LINE: Final = re.compile(rb"([0-9a-f]{64}) tar ([0-9]{1,19})")
_PAYLOAD_LINE: Final = rb"(?m)^([0-9a-f]{64}) ([ -~]{1,400}) ([0-9a-f]{16})$"
_WAY_BYTES: Final = 16
_MOST_BLOBS: Final = 8
"""Blobs that are kept for one layer. A run makes one, and sources may have some that are compressed already."""
_LINES: Final = 64
_BLOCK: Final = 1024 * 1024
_FAMILIES: Final = {Compression.GZIP: "gzip", Compression.GZIP_FAST: "gzip"}


class RecordedMemory(TargetMemory):
    """The records of a target whose blobs are in a BlobStore."""

    keeps_payloads: ClassVar[bool] = True

    def __init__(self, blobs: BlobStore, options: ImageOptions) -> None:
        self._blobs = blobs
        self._compression = options.compression
        self._level = -1 if options.compression_level is None else options.compression_level
        self._known: PackedTable | None = None
        """By `_layer_key`: digest and size of a blob."""
        self._sizes = PackedTable(key=32, row=8)
        """Bytes of tars, by diffID."""
        self._payloads: dict[bytes, bytes] | None = None
        self._lock = threading.Lock()
        self._layer_record = RecordFile(blobs.store, LAYERS)
        self._payload_record = RecordFile(blobs.store, PAYLOADS, waiting=_LINES, private=True)

    def is_right(self, diff_id: DiffID, blob: StoredBlob, /) -> bool:
        if not self._blobs.has(blob.digest, blob.size):
            return False
        if self._blobs.is_proven_to_hold(blob.digest, blob.size, diff_id):
            return True
        # The line in the record may be of another target or made up: only the decompressed bytes prove the diffID.
        digest = hashlib.sha256()
        try:
            with self._blobs.open_published(blob.digest) as stream:
                with open_decompressed(stream, blob.compression, str(blob.digest), STORED_RATIO) as tar:
                    while block := tar.read(_BLOCK):
                        digest.update(block)
                        check_stop()
        except InterruptedRunError:
            raise
        except (MigrateError, OSError):
            return False
        right = digest.hexdigest() == diff_id.hex
        if right:
            self._blobs.note_content(blob.digest, blob.size, diff_id)
        return right

    def read_again(self) -> None:
        with self._lock:
            self._known = self._payloads = None
            self._blobs.read_again()

    # --- layers --------------------------------------------------------------------------------------------------

    def known_blob(
        self, diff_id: DiffID, compression: str, /, among: Collection[Digest] | None = None, tar_size: int | None = None
    ) -> StoredBlob | None:
        """The smallest of several blobs, so that the choice does not depend on the order in which they were written."""
        del tar_size
        with self._lock:
            rows = self._read_layers().rows(_layer_key(diff_id, compression))
        kind = _compression_of(compression)
        found = (
            StoredBlob(digest=unpacked_digest(row[:32]), size=unpacked_size(row[32:]), compression=kind) for row in rows
        )
        for blob in sorted(found, key=lambda blob: (blob.size, blob.digest)):
            if (among is None or blob.digest in among) and self.is_right(diff_id, blob):
                self._blobs.added(blob.digest, blob.size)
                return blob
        return None

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        # `gzip` and `gzip-fast` give different bytes for one layer, so each has its own lines. A blob that was copied
        # from a source is recorded by its compression.
        is_ours = _FAMILIES.get(self._compression) == blob.compression
        way = self._compression.value if is_ours else blob.compression
        line = f"{diff_id.hex} {way}:{self._level} {blob.digest.hex} {blob.size}\n".encode("ascii")
        self._blobs.note_content(blob.digest, blob.size, diff_id)
        with self._lock:
            if _add(self._read_layers(), _layer_key(diff_id, way), packed_digest(blob.digest), blob.size):
                self._layer_record.append(line)

    def known_sizes(self) -> Collection[int]:
        with self._lock:
            self._read_layers()
            return frozenset(unpacked_size(row) for _, row in self._sizes)

    def remember_size(self, diff_id: DiffID, tar_size: int, /) -> None:
        with self._lock:
            self._read_layers()
            key, row = packed_digest(diff_id), packed_size(tar_size)
            if self._sizes.rows(key) != [row]:
                self._sizes.replace(key, row)
                self._layer_record.append(f"{diff_id.hex} tar {tar_size}\n".encode("ascii"))

    def _read_layers(self) -> PackedTable:
        if self._known is None:
            self._known = PackedTable(key=32 + _WAY_BYTES, row=32 + 8)
            content = self._layer_record.read()
            for tar, size in _SIZE_LINE.findall(content):
                self._sizes.replace(bytes.fromhex(tar.decode()), packed_size(int(size)))
            for diff_hex, way, level, digest_hex, size in _LINE.findall(content):
                if int(level) == self._level:
                    key = bytes.fromhex(diff_hex.decode()) + way.ljust(_WAY_BYTES)
                    _add(self._known, key, bytes.fromhex(digest_hex.decode()), int(size))
        return self._known

    # --- payloads ------------------------------------------------------------------------------------------------

    def known_payload(self, place: str, /) -> bytes | None:
        with self._lock:
            return self._read_payloads().get(place.encode("ascii"))

    def remember_payload(self, place: str, facts: bytes, /) -> None:
        key = place.encode("ascii")
        with self._lock:
            known = self._read_payloads()
            if known.get(key) == facts:
                return
            known[key] = facts
            self._payload_record.append(b"%s %s %s\n" % (key, facts, _check(key, facts)))

    def _read_payloads(self) -> dict[bytes, bytes]:
        if self._payloads is None:
            self._payloads = {}
            for match in re.finditer(_PAYLOAD_LINE, self._payload_record.read()):
                key, facts, check = match.groups()
                if check == _check(key, facts):
                    self._payloads[key] = facts
        return self._payloads

    def close(self) -> None:
        """Writes the last lines. On a full disk they are lost without an error: later runs only take longer."""
        with self._lock:
            for ending in (self._layer_record, self._payload_record, self._blobs):
                with contextlib.suppress(TargetError):
                    ending.close()


def _layer_key(diff_id: DiffID, way: str) -> bytes:
    return packed_digest(diff_id) + way.encode("ascii").ljust(_WAY_BYTES)


def _compression_of(way: str) -> str:
    return "gzip" if way.startswith("gzip") else way


def _add(known: PackedTable, key: bytes, digest: bytes, size: int) -> bool:
    """Adds a blob; False if it was there."""
    row = digest + packed_size(size)
    rows = known.rows(key)
    if row in rows:
        return False
    for old in rows[: max(0, len(rows) + 1 - _MOST_BLOBS)]:
        known.remove(key, old)
    known.add(key, row)
    return True


def _check(key: bytes, facts: bytes) -> bytes:
    return hashlib.sha256(key + b" " + facts).hexdigest()[:16].encode("ascii")
