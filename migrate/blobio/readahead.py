"""Decompression in a separate thread, some blocks ahead of the reader.

Used for whole compressed archives: while the next block is decompressed, the reader writes the last one to a temporary
file. Parallel gzip readers were measured (docs/performance-measured.md): on two cores they are no faster than one
thread of ISA-L, and need several hundred megabytes of memory.
"""

from __future__ import annotations

import threading
from queue import Queue
from typing import BinaryIO, Final

from migrate.blobio.compression import BLOCK_BYTES, DecompressedStream
from migrate.blobio.stream import ByteStream

_BLOCKS_AHEAD: Final = 4


class ReadAhead(ByteStream):
    """The decompressed bytes of a stream. A context manager that ends the thread.

    `read` raises the errors of `DecompressedStream`, after the bytes before the damage. Only the thread may read
    `stream` until the context ends.
    """

    def __init__(self, stream: BinaryIO, kind: str, what: str, ratio: int | None = None) -> None:
        self._source = DecompressedStream(stream, kind, what, ratio, is_lenient=True)
        self._blocks: Queue[bytes | BaseException] = Queue(_BLOCKS_AHEAD)
        self._rest = memoryview(b"")
        self._end: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="decompress", daemon=True)
        self._thread.start()

    def read_view(self, view: memoryview, /) -> int:
        if not len(view) or (not self._rest and not self._next()):
            return 0
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def read_block(self, limit: int, /) -> bytes:
        if not self._rest and not self._next():
            return b""
        block, self._rest = bytes(self._rest[:limit]), self._rest[limit:]
        return block

    @property
    def trailing(self) -> str | None:
        """The description of ignored bytes behind the compressed stream, None if there are none. Set at its end."""
        return self._source.trailing

    def close(self) -> None:
        """Ends the thread. If it is in a read that does not return, perhaps of a pipe, it is abandoned after a
        second."""
        self._stopped = True
        for _ in range(100):
            if not self._thread.is_alive():
                break
            # The thread may be waiting for room in the queue.
            while not self._blocks.empty():
                self._blocks.get()
            self._thread.join(0.01)
        super().close()

    def _next(self) -> bool:
        if self._end is None:
            block = self._blocks.get()
            if isinstance(block, bytes):
                self._rest = memoryview(block)
                return True
            self._end = block
        if isinstance(self._end, EOFError):
            return False
        raise self._end

    def _run(self) -> None:
        try:
            while not self._stopped and (block := self._source.read_block(BLOCK_BYTES)):
                self._blocks.put(block)
            self._blocks.put(EOFError())
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread that reads
            self._blocks.put(exc)
