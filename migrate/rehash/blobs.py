"""Writing one blob: hashed and counted on the way, and the sinks that a layer's tar can flow into."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from migrate.blobio.compression import BLOCK_BYTES, BlockCompressor
from migrate.model.digest import Digest
from migrate.model.image import StoredBlob
from migrate.rehash.ports import WritesBlob

EMPTY_TAR_GZIP: Final = bytes.fromhex("1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000")
"""The gzip form of the empty tar that Docker and every registry hold (distribution, `EmptyGzippedTar`)."""


class MeasuredBlobs:
    """A store that takes blobs only for the sake of their size."""

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        del digest, size
        return False

    def open_blob(self) -> AbstractContextManager[WritesBlob]:
        return nullcontext(_Nowhere())


class _Nowhere:
    def write(self, block: bytes | bytearray | memoryview, /) -> object:
        del block
        return None

    def commit(self, digest: Digest, /) -> None:
        del digest


class BlobOutput:
    """A blob that is being written."""

    def __init__(self, writer: WritesBlob, compression: str) -> None:
        self._writer = writer
        self._compression = compression
        self._sha256 = hashlib.sha256()
        self._size = 0

    def write(self, block: bytes | bytearray | memoryview) -> None:
        self._sha256.update(block)
        self._size += len(block)
        self._writer.write(block)

    def stored(self) -> StoredBlob:
        return StoredBlob(digest=Digest(self._sha256.hexdigest()), size=self._size, compression=self._compression)

    def commit(self) -> StoredBlob:
        blob = self.stored()
        self._writer.commit(blob.digest)
        return blob


class HashOnly:
    """For tars of which nothing but the digest is wanted."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(256 * 1024))

    def buffer(self) -> memoryview:
        return self._buffer

    def take(self, block: memoryview, /) -> None:
        del block


class Collected:
    """Keeps the tar of a small layer, of `size` bytes."""

    def __init__(self, size: int) -> None:
        self._buffer = memoryview(bytearray(size + 1))
        self._blocks: list[bytes] = []

    def buffer(self) -> memoryview:
        return self._buffer

    def take(self, block: memoryview, /) -> None:
        self._blocks.append(bytes(block))

    def content(self) -> bytes:
        return b"".join(self._blocks)


class Compressed:
    """Compresses block by block into a blob."""

    def __init__(self, output: BlobOutput, compress: BlockCompressor) -> None:
        self._output = output
        self._compress = compress
        self._buffer = memoryview(bytearray(BLOCK_BYTES))

    def buffer(self) -> memoryview:
        return self._buffer

    def take(self, block: memoryview, /) -> None:
        self._output.write(self._compress(block))
