"""Writes one blob, which is hashed and counted meanwhile; and the sinks for a layer's tar."""

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
"""The gzip form of the empty tar that Docker and all registries have (distribution, `EmptyGzippedTar`)."""


class MeasuredBlobs(BlobTarget):
    """A target that keeps no blobs. It is used to compute their sizes."""

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
    """A buffer. For a small tar it has one byte more than the tar, so that the first read shows the tar's end."""
    return memoryview(bytearray(most if tar_size is None else min(most, tar_size + 1)))


class HashOnly:
    """A sink for tars that are only hashed. Its blocks fit the second-level cache of a processor."""

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
    """A sink that writes a tar uncompressed."""

    def __init__(self, output: BlobOutput) -> None:
        self._output = output
        self._buffer = memoryview(bytearray(BLOCK_BYTES))

    def buffer(self) -> memoryview:
        return self._buffer

    def take(self, block: memoryview, /) -> None:
        self._output.write(block)

    def give_back(self) -> None:
        """Does nothing: it has only one buffer."""

    def finish(self) -> None:
        """Does nothing: everything is written already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Does nothing: no block is in work."""


class Compressed:
    """Compresses a tar block by block into a blob, with the help of idle threads.

    Blocks are written in order, by the thread that finds the next one ready. At most `2 * jobs + 2` blocks are in work,
    so that the memory is bounded for a layer of any size.
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
        # A compressed block stays in the window until all blocks before it are written, so the window is bounded, too.
        while len(self._window) >= self._most or (not self._free and self._buffers >= self._most):
            self._wait()
        if not self._free:
            self._buffers += 1
            if self._tar_size is not None and self._tar_size < BLOCK_BYTES:
                self._free.append(_buffer_for(self._tar_size, BLOCK_BYTES))
            else:
                try:  # a buffer of an earlier layer: new memory needs a page fault for every 4 KiB
                    self._free.append(self._workers.spare_buffers.pop())
                except IndexError:
                    self._free.append(memoryview(bytearray(BLOCK_BYTES)))
        return self._free[-1]

    def take(self, content: memoryview, /) -> None:
        block = _Block(self, content, self._free.pop())
        self._window.append(block)
        if self._workers.has_idle_threads():
            self._offered.append(block)
            self._workers.offer(block)
        else:
            self._work(block)
            self._free.append(block.buffer)
        self._collect()

    def give_back(self) -> None:
        """Leaves the buffers that are free to other layers."""
        # Only a buffer of full size fits any other layer.
        self._workers.spare_buffers += [buffer for buffer in self._free if len(buffer) == BLOCK_BYTES]
        self._free.clear()

    def finish(self) -> None:
        """Returns after everything was written."""
        while self._offered:
            self._wait()
        self._collect()
        self._write_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Returns after all other threads have stopped working on this tar. Also after an error, since the threads use
        the buffers."""
        while self._offered:
            block = self._offered.popleft()
            if not self._workers.take_back(block):
                self._returned.get()
        self.give_back()

    def _wait(self) -> None:
        """Waits until one more block is compressed. If no thread has begun with a block, this thread compresses it."""
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
        """Compresses a block in another thread."""
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
        """Writes the blocks that are next in order and compressed. If another thread is writing, it also writes the
        block that this thread has just compressed: it looks again after it has released the lock."""
        while self._window and self._window[0].compressed is not None:
            # Does not wait: a thread that waits for another one to write could compress its next block.
            if not self._writing.acquire(blocking=False):
                return
            try:
                while self._window and (ready := self._window[0].compressed) is not None:
                    self._output.write(ready)
                    self._window.popleft()
            finally:
                self._writing.release()


class _Block(Struct, eq=False):
    """A block. `content` is the filled part of `buffer`; `compressed` is set by the thread that compressed it."""

    sink: Compressed
    content: memoryview
    buffer: memoryview
    compressed: bytes | bytearray | memoryview | None = None

    def __call__(self) -> None:
        self.sink.help_with(self)
