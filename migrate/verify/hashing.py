"""Every file read once: its sha256, and for a layer that of what it unpacks to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.errors import MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.verify.files import Files
from migrate.verify.findings import Findings

_BLOCK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """`digest` is None where the file cannot be read; `diff_id` where it does not unpack. `error` says why."""

    digest: Digest | None
    diff_id: DiffID | None = None
    compression: str = "none"
    error: str | None = None


class _StoppedError(Exception):
    """Another worker failed or the user interrupted; nobody sees this."""


def hash_files(files: Files, unpack: Mapping[str, bool], workers: int, findings: Findings) -> dict[str, Hashed]:
    """Hashes each file of `unpack`, and unpacks those that are marked there.

    Hashing and inflating let go of Python's lock, so threads use all cores. The largest files go first, so that no core
    is left alone with one at the end.
    """
    sizes = files.names()
    order = sorted(unpack, key=lambda name: (-sizes[name], name))
    findings.stage("verify", sum(sizes[name] for name in order), len(order))
    stop = threading.Event()
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="verify") as pool:
        try:
            hashed = pool.map(lambda name: _FileHasher(files, findings, stop).hash(name, unpack[name]), order)
            return dict(zip(order, hashed, strict=True))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


class _FileHasher:
    def __init__(self, files: Files, findings: Findings, stop: threading.Event) -> None:
        self._files = files
        self._findings = findings
        self._stop = stop

    def hash(self, name: str, unpack: bool) -> Hashed:
        try:
            with self._files.open(name) as stream:
                return self._hash_layer(stream, name) if unpack else self._hash_plain(stream)
        except (OSError, MigrateError) as exc:
            return Hashed(digest=None, error=_text(exc))

    def _hash_plain(self, stream: BinaryIO) -> Hashed:
        source = _HashedStream(stream, self)
        source.drain()
        return Hashed(digest=source.digest())

    def _hash_layer(self, stream: BinaryIO, name: str) -> Hashed:
        source = _HashedStream(stream, self)
        compression = detect_compression(source.peek(HEAD_BYTES))
        if compression == "none":
            source.drain()
            digest = source.digest()
            return Hashed(digest=digest, diff_id=DiffID(digest))
        diff_id, error = self._unpack(source, compression, name)
        source.drain()  # a layer that does not unpack still has a digest
        return Hashed(digest=source.digest(), diff_id=diff_id, compression=compression, error=error)

    def _unpack(self, source: _HashedStream, compression: str, name: str) -> tuple[DiffID | None, str | None]:
        tar: Any = open_decompressed(cast(BinaryIO, source), compression, name)
        digest = hashlib.sha256()
        try:
            while block := tar.read_block(_BLOCK):
                digest.update(block)
        except MigrateError as exc:
            return None, _text(exc)
        return DiffID(Digest(digest.hexdigest())), None

    def passed(self, count: int) -> None:
        if self._stop.is_set():
            raise _StoppedError
        self._findings.advance(count)


class _HashedStream:
    """A stream that hashes what passes; just enough of one for `open_decompressed`."""

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
        return Digest(self._digest.hexdigest())


def _text(exc: OSError | MigrateError) -> str:
    if isinstance(exc, MigrateError):
        return exc.message
    return f"cannot be read: {exc.strerror or exc}"
