"""Reads every file once and computes its sha256, and for a layer that of its uncompressed bytes."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Final, cast

from msgspec import Struct

from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.blobio.limits import STORED_RATIO
from migrate.errors import MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.rehash.workers import most_helpers
from migrate.verify.files import Files
from migrate.verify.findings import Findings

_BLOCK: Final = 1024 * 1024
_SPLIT_BYTES: Final = 8 * 1024 * 1024
"""Smaller layers are not split: it would gain nothing."""
_PART_BYTES: Final = 8 * 1024 * 1024
"""Largest size of a part. Layers that this program writes have members of a megabyte; others are not split."""
_MEMBER_HEADS: Final = {"gzip": 10, "zstd": 9}
"""Number of bytes that are equal at the start of all members of one blob: a gzip header without a name, and the header
of a zstd frame."""


class HashedFile(Struct, frozen=True, kw_only=True):
    """`digest` is None if the file cannot be read, `diff_id` if it cannot be decompressed. `error` has the reason."""

    digest: Digest | None
    diff_id: DiffID | None = None
    compression: str = "none"
    error: str | None = None


class _StoppedError(Exception):
    """Ends a worker after another worker failed or the user interrupted. Used in this module only."""


def hash_files(files: Files, unpack: Mapping[str, bool], workers: int, findings: Findings) -> dict[str, HashedFile]:
    """Hashes each file of `unpack`, and decompresses those for which the value is True.

    Hashing and decompression release Python's lock, so threads use all cores. The largest files are read first, so that
    all cores end at about the same time. A layer that is larger than the share of one core is decompressed by all.
    """
    sizes = files.names()
    order = sorted(unpack, key=lambda name: (-sizes[name], name))
    left = sum(sizes[name] for name in order)
    findings.stage("verify", left, len(order))
    # more threads than files are of use only to decompress parts of a large layer
    workers = min(workers, max(len(order), most_helpers()))
    stop = threading.Event()
    hasher = _FileHasher(files, findings, stop)
    hashed: dict[str, HashedFile] = {}
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="verify") as pool:
        try:
            while order and workers > 1 and sizes[order[0]] >= _SPLIT_BYTES and sizes[order[0]] * workers > left:
                name = order.pop(0)
                left -= sizes[name]
                hashed[name] = hasher.hash(name, unpack[name], pool, 2 * workers)
            hashed.update(zip(order, pool.map(lambda name: hasher.hash(name, unpack[name]), order), strict=True))
            return hashed
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


class _FileHasher:
    def __init__(self, files: Files, findings: Findings, stop: threading.Event) -> None:
        self._files = files
        self._findings = findings
        self._stop = stop

    def hash(self, name: str, unpack: bool, pool: Executor | None = None, ahead: int = 0) -> HashedFile:
        """Hashes one file. `pool`, if given, decompresses up to `ahead` parts of a layer at once."""
        try:
            # Several threads can unpack a blob that consists of independent members. Any other blob is read again, by
            # one.
            if unpack and pool is not None:
                with self._files.open(name) as stream:
                    split = self._hash_members(stream, pool, ahead)
                if split is not None:
                    return split
            with self._files.open(name) as stream:
                if unpack:
                    return self._hash_layer(stream, name)
                source = _HashedStream(stream, self)
                source.drain()
                return HashedFile(digest=source.digest())
        except (OSError, MigrateError) as exc:
            return HashedFile(digest=None, error=_text(exc))

    def _hash_layer(self, stream: BinaryIO, name: str) -> HashedFile:
        source = _HashedStream(stream, self)
        compression = detect_compression(source.peek(HEAD_BYTES))
        if compression == "none":
            source.drain()
            digest = source.digest()
            return HashedFile(digest=digest, diff_id=DiffID(digest))
        tar: Any = open_decompressed(cast(BinaryIO, source), compression, name, STORED_RATIO)
        unpacked = hashlib.sha256()
        error = None
        try:
            while block := tar.read_block(_BLOCK):
                unpacked.update(block)
                self.check_stop()  # a block of 1 MB may decompress to 25 GB
        except MigrateError as exc:
            error = _text(exc)
        diff_id = DiffID(Digest.of_hash(unpacked)) if error is None else None
        source.drain()  # the digest of the blob is checked even if it cannot be decompressed
        return HashedFile(digest=source.digest(), diff_id=diff_id, compression=compression, error=error)

    def _hash_members(self, stream: BinaryIO, pool: Executor, ahead: int) -> HashedFile | None:
        """Decompresses a layer of many independent members or frames in parallel; None for other layers.

        Where the first bytes of the blob occur again, most likely another member begins. If they occur inside a member
        by chance, the parts cannot be decompressed, and the layer is read again in the ordinary way.
        """
        source = _HashedStream(stream, self)
        compression = detect_compression(source.peek(HEAD_BYTES))
        if compression not in _MEMBER_HEADS:
            return None
        # At most `ahead` parts wait, so that a large layer needs little memory.
        tar = hashlib.sha256()
        waiting: deque[Future[list[bytes]]] = deque()
        try:
            for part in _iter_parts(source, _MEMBER_HEADS[compression]):
                if part is None:
                    return None
                waiting.append(pool.submit(_inflate, part, compression))
                if len(waiting) > ahead and not _hash_next(waiting, tar):
                    return None
            while waiting:
                if not _hash_next(waiting, tar):
                    return None
        finally:
            for future in waiting:
                future.cancel()
        return HashedFile(digest=source.digest(), diff_id=DiffID(Digest.of_hash(tar)), compression=compression)

    def passed(self, count: int) -> None:
        self.check_stop()
        self._findings.advance(count)

    def check_stop(self) -> None:
        if self._stop.is_set():
            raise _StoppedError


class _HashedStream:
    """A stream that hashes all bytes read from it. It has the methods that `open_decompressed` needs."""

    def __init__(self, stream: BinaryIO, hasher: _FileHasher) -> None:
        self._stream = stream
        self._hasher = hasher
        self._digest = hashlib.sha256()
        self._head = b""

    def peek(self, count: int) -> bytes:
        while len(self._head) < count and (block := self._stream.read(count - len(self._head))):
            self._head += block
        return self._head

    def read(self, count: int, /) -> bytes:
        block = self._head + self._stream.read(count - len(self._head))
        self._head = b""
        self._digest.update(block)
        self._hasher.passed(len(block))
        return block

    def drain(self) -> None:
        while self.read(_BLOCK):
            pass

    def digest(self) -> Digest:
        return Digest.of_hash(self._digest)


def _iter_parts(source: _HashedStream, head_bytes: int) -> Iterator[bytes | None]:
    """Parts of the blob, split where its first `head_bytes` bytes occur again. Ends with None if a part is too
    large."""
    # The head may lie on the border of two blocks, so the end of a block is kept and searched with the next one.
    pending = source.read(_BLOCK)
    head = pending[:head_bytes]
    while block := source.read(_BLOCK):
        pending += block
        start = 0
        while (end := pending.find(head, start + 1)) > 0:
            yield pending[start:end]
            start = end
        pending = pending[start:]
        if len(pending) > _PART_BYTES:
            yield None
            return
    start = 0
    while (end := pending.find(head, start + 1)) > 0:
        yield pending[start:end]
        start = end
    yield pending[start:]


def _inflate(part: bytes, compression: str) -> list[bytes]:
    """The uncompressed bytes of a part; empty if it does not consist of whole members, or exceeds _PART_BYTES."""
    stream: Any = open_decompressed(io.BytesIO(part), compression, "part", STORED_RATIO)
    blocks: list[bytes] = []
    size = 0
    try:
        while block := stream.read_block(_BLOCK):
            blocks.append(block)
            size += len(block)
            if size > _PART_BYTES:
                return []
    except MigrateError:
        return []
    return blocks


def _hash_next(waiting: deque[Future[list[bytes]]], tar: hashlib._Hash) -> bool:
    blocks = waiting.popleft().result()
    for block in blocks:
        tar.update(block)
    return bool(blocks)


def _text(exc: OSError | MigrateError) -> str:
    if isinstance(exc, MigrateError):
        return exc.message
    return f"cannot be read: {exc.strerror or exc}"
