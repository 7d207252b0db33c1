"""Reads every file once and computes its sha256, and for a layer that of its uncompressed bytes."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final, cast

from msgspec import Struct

from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.blobio.limits import STORED_RATIO
from migrate.errors import InterruptedRunError, MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.rehash.workers import Workers, most_helpers
from migrate.verify.files import Files
from migrate.verify.findings import Findings

_BLOCK: Final = 1024 * 1024
_SPLIT_BYTES: Final = 8 * 1024 * 1024
"""Smaller layers are not split: it would gain nothing."""
_PART_BYTES: Final = 8 * 1024 * 1024
"""Largest size of a part. Layers that this program writes have members of a megabyte; others are not split."""


class HashedFile(Struct, frozen=True, kw_only=True):
    """`digest` is None if the file cannot be read, `diff_id` if it cannot be decompressed. `error` has the reason."""

    digest: Digest | None
    diff_id: DiffID | None = None
    compression: str = "none"
    error: str | None = None


def hash_files(files: Files, unpack: Mapping[str, bool], jobs: int, findings: Findings) -> dict[str, HashedFile]:
    """Hashes each file of `unpack`, and decompresses those for which the value is True.

    Hashing and decompression release Python's lock, so threads use all cores. The largest files are read first, so that
    all cores end at about the same time. A layer that is larger than the share of one core is decompressed by all.
    """
    sizes = files.names()
    order = sorted(unpack, key=lambda name: (-sizes[name], name))
    left = sum(sizes[name] for name in order)
    findings.stage("verify", left, len(order))
    # more threads than files are of use only to decompress parts of a large layer
    jobs = min(jobs, max(len(order), most_helpers()))
    hashed: dict[str, HashedFile] = {}
    with Workers(jobs) as workers:
        hasher = _FileHasher(files, findings, workers)
        while jobs > 1 and order and sizes[order[0]] >= _SPLIT_BYTES and sizes[order[0]] * jobs > left:
            name = order.pop(0)
            left -= sizes[name]
            hashed[name] = hasher.hash(name, unpack[name], in_parts=True)

        def hash_one(name: str) -> None:
            hashed[name] = hasher.hash(name, unpack[name])

        workers.each(([name] for name in order), hash_one)
    return hashed


class _FileHasher:
    def __init__(self, files: Files, findings: Findings, workers: Workers) -> None:
        self._files = files
        self._findings = findings
        self._workers = workers

    def hash(self, name: str, unpack: bool, *, in_parts: bool = False) -> HashedFile:
        """Hashes one file. With `in_parts`, other threads help to decompress a layer."""
        try:
            # Several threads can unpack a blob that consists of independent members. Any other blob is read again, by
            # one.
            if unpack and in_parts:
                with self._files.open(name) as stream:
                    split = self._hash_members(stream)
                if split is not None:
                    return split
            with self._files.open(name) as stream:
                if unpack:
                    return self._hash_layer(stream, name)
                source = _HashedStream(stream, self)
                source.drain()
                return HashedFile(digest=source.digest())
        except InterruptedRunError:
            raise
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
        except InterruptedRunError:
            raise
        except MigrateError as exc:
            error = _text(exc)
        diff_id = DiffID(Digest.of_hash(unpacked)) if error is None else None
        source.drain()  # the digest of the blob is checked even if it cannot be decompressed
        return HashedFile(digest=source.digest(), diff_id=diff_id, compression=compression, error=error)

    def _hash_members(self, stream: BinaryIO) -> HashedFile | None:
        """Decompresses a layer of many independent members or frames in parallel; None for other layers.

        Where the first bytes of the blob occur again, most likely another member begins. If they occur inside a member
        by chance, the parts cannot be decompressed, and the layer is read again in the ordinary way.
        """
        source = _HashedStream(stream, self)
        start = source.peek(HEAD_BYTES)
        compression = detect_compression(start)
        if compression not in ("gzip", "zstd"):
            return None
        tar = hashlib.sha256()
        waiting: deque[_Part] = deque()
        self._workers.start_helpers()
        try:
            for content in _iter_parts(source, _head_of_members(start, compression)):
                if content is None:
                    return None
                waiting.append(_Part(content, compression))
                self._workers.offer(waiting[-1])
                # Only so many parts wait that a large layer needs little memory.
                if len(waiting) > 2 * self._workers.jobs and not self._hash_next(waiting, tar):
                    return None
            while waiting:
                if not self._hash_next(waiting, tar):
                    return None
        finally:
            for part in waiting:
                self._workers.take_back(part)
        return HashedFile(digest=source.digest(), diff_id=DiffID(Digest.of_hash(tar)), compression=compression)

    def _hash_next(self, waiting: deque[_Part], tar: hashlib._Hash) -> bool:
        """Hashes the first part that waits; False if it could not be decompressed."""
        part = waiting.popleft()
        if self._workers.take_back(part):  # all helpers have others
            part()
        blocks = part.result()
        for block in blocks:
            tar.update(block)
        return bool(blocks)

    def passed(self, count: int) -> None:
        self.check_stop()
        self._findings.advance(count)

    def check_stop(self) -> None:
        """Raises InterruptedRunError after another thread has failed or the user has interrupted."""
        self._workers.check_stop()


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


def _head_of_members(start: bytes, compression: str) -> re.Pattern[bytes]:
    """What all members or frames of a blob begin with that begins with `start`: a gzip header without a name, or the
    header of a zstd frame."""
    if compression == "zstd":
        return re.compile(re.escape(start[:9]))
    # The byte between depends on the level (RFC 1952, XFL), which differs from block to block.
    return re.compile(re.escape(start[:8]) + b"." + re.escape(start[9:10]), re.DOTALL)


def _iter_parts(source: _HashedStream, head: re.Pattern[bytes]) -> Iterator[bytes | None]:
    """Parts of the blob, which all begin with `head`. Ends with None if a part is too large."""
    pending = b""
    while block := source.read(_BLOCK):
        pending += block  # a head may lie on the border of two blocks
        start = 0
        for found in head.finditer(pending, 1):
            yield pending[start : found.start()]
            start = found.start()
        pending = pending[start:]
        if len(pending) > _PART_BYTES:
            yield None
            return
    yield pending


class _Part:
    """A part of a layer. Any thread calls it once, to decompress it."""

    def __init__(self, content: bytes, compression: str) -> None:
        self._content = content
        self._compression = compression
        self._blocks: list[bytes] | BaseException = []
        self._done = threading.Event()

    def __call__(self) -> None:
        try:
            self._blocks = _inflate(self._content, self._compression)
        except BaseException as exc:  # noqa: BLE001 - raised by the thread that waits for the part
            self._blocks = exc
        self._done.set()

    def result(self) -> list[bytes]:
        """As of `_inflate`. Waits until a thread has called this part."""
        self._done.wait()
        if isinstance(self._blocks, BaseException):
            raise self._blocks
        return self._blocks


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


def _text(exc: OSError | MigrateError) -> str:
    if isinstance(exc, MigrateError):
        return exc.message
    return f"cannot be read: {exc.strerror or exc}"
