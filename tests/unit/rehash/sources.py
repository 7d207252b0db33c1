"""A source and a store in memory, and tars to put into them."""

from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from msgspec.structs import replace

from migrate.blobio.payload import Extent, Payload
from migrate.errors import TargetError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.legacy import LegacyID, LegacyLayer, PayloadRef
from migrate.rehash.ports import BlobTarget, LayerJob, OpensPayloads, TargetMemory


def make_tar(seed: int, sizes: Sequence[int] = (5, 70_000, 512)) -> bytes:
    """A tar of files whose content is half random, half repeated; the same for the same arguments."""
    chance = random.Random(seed)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number, size in enumerate(sizes):
            entry = tarfile.TarInfo(f"dir/{seed}-{number}")
            entry.size = size
            noise = chance.randbytes(min(size, 10_000) // 2)
            content = (noise + bytes(len(noise)) + b"text " * (size // 5 + 1))[:size]
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@dataclass
class MemorySource:
    """Payloads by key. As streams, or as extents of one file that holds them all one after the other."""

    payloads: Mapping[str, bytes]
    as_extents: bool = False
    opened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._offsets: dict[str, int] = {}
        if self.as_extents:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the source
            for key, content in self.payloads.items():
                self._offsets[key] = self._file.tell()
                self._file.write(content)
            self._file.flush()

    @contextmanager
    def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
        assert layer.payload is not None
        key = layer.payload.key
        with self._lock:
            self.opened.append(key)
        content = self.payloads[key]
        extent = None
        if self._file is not None:
            extent = Extent(fd=self._file.fileno(), offset=self._offsets[key], size=len(content))
        yield Payload(stream=io.BytesIO(content), origin="archive", size=len(content), extent=extent)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def job(source: OpensPayloads, key: str, index: int = 0, **claims: Any) -> LayerJob:
    payload = replace(PayloadRef(key=key), **claims)
    return LayerJob(index, source, LegacyLayer(legacy_id=LegacyID(key), json=b"{}", parent=None, payload=payload))


def jobs_of(source: MemorySource, index: int = 0) -> list[LayerJob]:
    return [job(source, key, index) for key in source.payloads]


class MemoryStore(BlobTarget):
    """Blobs by digest; `open` counts those that were begun and neither committed nor left."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.open = 0
        self.committed = 0
        self._lock = threading.Lock()

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return digest in self.blobs and len(self.blobs[digest]) == size

    @contextmanager
    def open_blob(self) -> Iterator[_MemoryBlob]:
        with self._lock:
            self.open += 1
        try:
            yield _MemoryBlob(self)
        finally:
            with self._lock:
                self.open -= 1


class _MemoryBlob:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._content = bytearray()

    def write(self, block: bytes | bytearray | memoryview, /) -> object:
        self._content += block
        return None

    def commit(self, digest: Digest, /) -> None:
        assert Digest.of(bytes(self._content)) == digest
        self._store.committed += 1
        self._store.blobs[digest] = bytes(self._content)


class RememberingStore(MemoryStore, TargetMemory):
    def __init__(self) -> None:
        super().__init__()
        self.memory = self
        self.remembered: dict[tuple[DiffID, str], StoredBlob] = {}

    def known_blob(
        self, diff_id: DiffID, compression: str, /, among: Collection[Digest] | None = None, tar_size: int | None = None
    ) -> StoredBlob | None:
        del tar_size, among
        return self.remembered.get((diff_id, compression))

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        self.remembered[diff_id, blob.compression] = blob


class LinkingStore(MemoryStore):
    """Takes over any file that is named to it."""

    takes_files = True

    def __init__(self) -> None:
        super().__init__()
        self.linked: list[str] = []

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        with open(path, "rb") as stream:
            content = stream.read()
        if Digest.of(content) != digest or len(content) != size or os.path.islink(path):
            return False
        self.linked.append(path)
        self.blobs[digest] = content
        return True


class FailingStore(MemoryStore):
    """Refuses after `room` bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    @contextmanager
    def open_blob(self) -> Iterator[_FullBlob]:  # type: ignore[override]
        self.open += 1
        try:
            yield _FullBlob(self)
        finally:
            self.open -= 1


class _FullBlob:
    def __init__(self, store: FailingStore) -> None:
        self._store = store

    def write(self, block: bytes | bytearray | memoryview, /) -> object:
        self._store.room -= len(block)
        if self._store.room < 0:
            raise TargetError("no space left")
        return None

    def commit(self, digest: Digest, /) -> None:
        raise AssertionError("nothing may be committed")
