"""Writing one blob: hashed and counted on the way, and the sinks that a layer's tar can flow into."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Final, Self

from msgspec import Struct

from migrate.blobio.compression import BLOCK_BYTES, BlockCompressor
from migrate.model.digest import Digest
from migrate.model.image import StoredBlob
from migrate.rehash.ports import BlobTarget, BlobWriter
from migrate.rehash.workers import Workers

HASH_BYTES: Final = 1024 * 1024
EMPTY_TAR_GZIP: Final = bytes.fromhex("1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000")
"""The gzip form of the empty tar that Docker and every registry hold (distribution, `EmptyGzippedTar`)."""


class MeasuredBlobs(BlobTarget):
    """A store that takes blobs only for the sake of their size."""

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        del digest, size
        return False

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return nullcontext(_Nowhere())


class _Nowhere:
    def write(self, block: bytes | bytearray | memoryview, /) -> object:
        del block
        return None

    def commit(self, digest: Digest, /) -> None:
        del digest


class BlobOutput:
    """A blob that is being written."""

    def __init__(self, writer: BlobWriter, compression: str) -> None:
        self._writer = writer
        self._compression = compression
        self._sha256 = hashlib.sha256()
        self._size = 0

    def write(self, block: bytes | bytearray | memoryview) -> None:
        self._sha256.update(block)
        self._size += len(block)
        self._writer.write(block)

    def stored(self) -> StoredBlob:
        return StoredBlob(digest=Digest.of_hash(self._sha256), size=self._size, compression=self._compression)

    def commit(self) -> StoredBlob:
        blob = self.stored()
        self._writer.commit(blob.digest)
        return blob


def _buffer_for(tar_size: int | None, most: int) -> memoryview:
    """One byte more than a small tar has, so that its end shows in the first read."""
    return memoryview(bytearray(most if tar_size is None else min(most, tar_size + 1)))


class HashOnly:
    """For tars of which nothing but the digest is wanted. Blocks that fit the second-level cache."""

    def __init__(self, tar_size: int | None) -> None:
        self._buffer = _buffer_for(tar_size, HASH_BYTES)

    def buffer(self) -> memoryview:
        return self._buffer

    def take(self, block: memoryview, /) -> None:
        del block


class Collected:
    """Keeps the tar of a small layer."""

    def __init__(self, tar_size: int) -> None:
        self._buffer = _buffer_for(tar_size, BLOCK_BYTES)
        self._blocks: list[bytes] = []

    def buffer(self) -> memoryview:
        return self._buffer

    def take(self, block: memoryview, /) -> None:
        self._blocks.append(bytes(block))

    def content(self) -> bytes:
        return b"".join(self._blocks)


class Copied:
    """Writes a tar as it is."""

    def __init__(self, output: BlobOutput) -> None:
        self._output = output
        self._buffer = memoryview(bytearray(BLOCK_BYTES))

    def buffer(self) -> memoryview:
        return self._buffer

    def take(self, block: memoryview, /) -> None:
        self._output.write(block)

    def finish(self) -> None:
        """Everything is written already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing is under way."""


class Compressed:
    """Compresses a tar block by block into a blob, with the help of threads that have nothing else to do.

    Blocks are written in order, by whichever thread finds the next one ready. At most `2 * jobs + 2` blocks are on
    their way, which bounds the memory whatever the layer's size.
    """

    def __init__(self, output: BlobOutput, compress: BlockCompressor, workers: Workers, tar_size: int | None) -> None:
        self._tar_size = tar_size
        self._output = output
        self._compress = compress
        self._workers = workers
        self._most = 2 * workers.jobs + 2
        self._free: list[memoryview] = []
        self._buffers = 0
        self._window: deque[_Block] = deque()
        self._writing = threading.Lock()
        self._returned: SimpleQueue[_Block] = SimpleQueue()
        self._offered: deque[_Block] = deque()
        self._error: BaseException | None = None

    def buffer(self) -> memoryview:
        while len(self._window) >= self._most or (not self._free and self._buffers >= self._most):
            self._wait()
        if not self._free:
            self._buffers += 1
            if self._tar_size is not None and self._tar_size < BLOCK_BYTES:
                self._free.append(_buffer_for(self._tar_size, BLOCK_BYTES))
            else:
                try:  # one that an earlier layer left: fresh memory costs a page fault for every 4 KiB
                    self._free.append(self._workers.spare_buffers.pop())
                except IndexError:
                    self._free.append(memoryview(bytearray(BLOCK_BYTES)))
        return self._free[-1]

    def take(self, content: memoryview, /) -> None:
        block = _Block(self, content, self._free.pop())
        self._window.append(block)
        if self._workers.wants_blocks():
            self._offered.append(block)
            self._workers.offer(block)
        else:
            self._work(block)
            self._free.append(block.buffer)
        self._collect()

    def finish(self) -> None:
        """Everything is written when this returns."""
        while self._offered:
            self._wait()
        self._collect()
        self._write_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """No other thread works on this tar any more when this returns."""
        while self._offered:
            block = self._offered.popleft()
            if not self._workers.take_back(block):
                self._returned.get()
        self._workers.spare_buffers += [buffer for buffer in self._free if len(buffer) == BLOCK_BYTES]

    def _wait(self) -> None:
        """Until one more block is done: by this thread, if no other has begun with one."""
        for block in self._offered:
            if self._workers.take_back(block):
                self._offered.remove(block)
                self._work(block)
                self._free.append(block.buffer)
                return
        self._receive(self._returned.get())
        self._collect()

    def _collect(self) -> None:
        while not self._returned.empty():
            self._receive(self._returned.get())
        if self._error is not None:
            raise self._error

    def _receive(self, block: _Block) -> None:
        self._offered.remove(block)
        self._free.append(block.buffer)

    def help_with(self, block: _Block) -> None:
        """In another thread."""
        try:
            self._work(block)
        except BaseException as exc:  # noqa: BLE001 - raised in the thread that reads the layer
            self._error = exc
        finally:
            self._returned.put(block)

    def _work(self, block: _Block) -> None:
        block.compressed = self._compress(block.content)
        self._write_ready()

    def _write_ready(self) -> None:
        """Writes what is ready and next in order, unless another thread is at it; that one then looks again."""
        while self._window and self._window[0].compressed is not None:
            if not self._writing.acquire(blocking=False):
                return
            try:
                while self._window and (ready := self._window[0].compressed) is not None:
                    self._output.write(ready)
                    self._window.popleft()
            finally:
                self._writing.release()


class _Block(Struct, eq=False):
    """`content` is the filled part of `buffer`; `compressed` is set once, by the thread that compressed it."""

    sink: Compressed
    content: memoryview
    buffer: memoryview
    compressed: bytes | bytearray | memoryview | None = None

    def __call__(self) -> None:
        self.sink.help_with(self)
