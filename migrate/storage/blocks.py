"""Bytes read by position: a file of this machine, a part of one, or any seekable stream."""

from __future__ import annotations

import os
import stat
import threading
from os import PathLike
from typing import BinaryIO, Protocol

from migrate.blobio.source_files import open_source_file
from migrate.blobio.stopping import check_stop
from migrate.errors import MissingLayerError, PermissionSourceError, SourceError, TruncatedError


class Blocks(Protocol):
    """Bytes read by position, from any thread: a disk, a file system image, a loop file. `size` in bytes.

    A subclass implements `read_at` or `read_into`; each is the default of the other.
    """

    size: int

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Exactly `size` bytes. Raises TruncatedError beyond the end, SourceError if the bytes cannot be read."""
        content = bytearray(size)
        self.read_into(memoryview(content), offset)
        return bytes(content)

    def read_into(self, view: memoryview, offset: int, /) -> None:
        """As `read_at`, into a buffer, which is filled."""
        view[:] = self.read_at(offset, len(view))

    def close(self) -> None:
        """Closes the file. Does nothing if the bytes belong to another object."""
        return


class FileBlocks(Blocks):
    """A file or block device, or `size` bytes of it from `offset`. The descriptor is taken over.

    Without `size`, everything behind `offset`. This also works for block devices, for which stat(2) gives no size.
    """

    def __init__(self, descriptor: int, location: str, offset: int = 0, size: int | None = None) -> None:
        self.location = location
        self.bytes_read = 0
        self._descriptor = descriptor
        self._offset = offset
        try:
            self.size = os.lseek(descriptor, 0, os.SEEK_END) - offset if size is None else size
        except OSError as exc:
            self.close()
            raise SourceError(f"{location}: cannot be read: {exc}") from exc

    def read_into(self, view: memoryview, offset: int) -> None:
        check_stop()
        if offset + len(view) > self.size:
            raise self._too_short(offset + len(view))
        done = 0
        while done < len(view):
            try:
                # One call reads 2 GiB at most (Linux, MAX_RW_COUNT).
                count = os.preadv(self._descriptor, [view[done:]], self._offset + offset + done)
            except (OSError, OverflowError) as exc:
                raise SourceError(f"{self.location}: cannot be read at byte {offset + done:,}: {exc}") from exc
            if count == 0:
                raise self._too_short(offset + len(view))
            done += count
        self.bytes_read += done  # a figure for tests and benchmarks; a lost update does no harm

    def read_at(self, offset: int, size: int) -> bytes:
        check_stop()
        if offset + size > self.size:
            raise self._too_short(offset + size)
        try:
            content = os.pread(self._descriptor, size, self._offset + offset)
        except (OSError, OverflowError) as exc:
            raise SourceError(f"{self.location}: cannot be read at byte {offset:,}: {exc}") from exc
        self.bytes_read += len(content)
        if len(content) == size:
            return content
        # A read may end early, as before an unreadable sector. read_into reads the rest, and raises the error.
        rest = bytearray(size - len(content))
        self.read_into(memoryview(rest), offset + len(content))
        return content + rest

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _too_short(self, end: int) -> TruncatedError:
        return TruncatedError(f"{self.location}: ends at byte {self.size:,}, but is in use up to byte {end:,}")


class StreamBlocks(Blocks):
    """A seekable stream of `size` bytes, which is taken over."""

    def __init__(self, stream: BinaryIO, location: str, size: int) -> None:
        self.location = location
        self.size = size
        self.bytes_read = 0
        self._stream = stream
        self._lock = threading.Lock()

    def read_at(self, offset: int, size: int) -> bytes:
        check_stop()
        pieces: list[bytes] = []
        left = size
        with self._lock:
            try:
                # One position for all threads.
                self._stream.seek(offset)
                while left > 0 and (piece := self._stream.read(left)):
                    pieces.append(piece)
                    left -= len(piece)
            except OSError as exc:
                raise SourceError(f"{self.location}: cannot be read at byte {offset:,}: {exc}") from exc
        self.bytes_read += size - left
        if left:
            end = offset + size
            raise TruncatedError(f"{self.location}: ends at byte {self.size:,}, but is in use up to byte {end:,}")
        return b"".join(pieces)

    def close(self) -> None:
        self._stream.close()


def open_device(path: PathLike[str]) -> FileBlocks:
    """A file or block device that the user named. Symbolic links are followed. Raises SourceError."""
    try:
        # O_NONBLOCK: opening a FIFO would otherwise wait for a writer.
        descriptor = open_source_file(path, os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise MissingLayerError(f"{path}: no such file or device") from exc
    except PermissionError as exc:
        raise PermissionSourceError(f"{path}: may not be read by this user; run as root or copy it") from exc
    except OSError as exc:
        raise SourceError(f"{path}: cannot be opened: {exc}") from exc
    except ValueError as exc:
        raise SourceError(f"{path!r}: cannot be a path: {exc}") from exc
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise SourceError(f"{path}: is neither a file nor a block device")
    return FileBlocks(descriptor, str(path))
