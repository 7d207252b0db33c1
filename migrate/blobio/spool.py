"""Inputs that can be read by position, and inputs that can be read only once: a pipe, or a compressed file.

Bytes of the latter that must be kept go to an unlinked temporary file, which disappears with the process, however it
ends.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from msgspec import Struct

from migrate.blobio.compression import detect_compression
from migrate.blobio.readahead import ReadAhead
from migrate.blobio.stream import ByteStream, read_into
from migrate.errors import SourceError, SourceUnreadableError, TargetError

_CHUNK = 1024 * 1024
_ZEROS = bytes(_CHUNK)
_HEAD_BYTES = 512


class Seekable(Struct, frozen=True):
    """A plain file: a descriptor, which the caller closes, and its size in bytes."""

    fd: int
    size: int

    def head(self, size: int = _HEAD_BYTES) -> bytes:
        return os.pread(self.fd, size, 0)

    def close(self) -> None:
        os.close(self.fd)


class PlainStream:
    """The decompressed bytes of a pipe or of a compressed file, which are read once, from front to back.

    Reading raises SourceError: TruncatedError if a compressed stream ends too early, DamagedError if it is damaged.
    After a DamagedError, none of its bytes are certain.
    """

    def __init__(self, fd: int, stream: BinaryIO, readahead: ReadAhead | None, what: str) -> None:
        self.fd = fd
        self._stream = stream
        self._readahead = readahead
        self._head = b""
        self.what = what

    def head(self, size: int = _HEAD_BYTES) -> bytes:
        """The first bytes, which `read` gives again. Raises SourceUnreadableError if they cannot be read."""
        with unreadable(self.what):
            while len(self._head) < size and (more := self._stream.read(size - len(self._head))):
                self._head += more
        return self._head

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" only at the end."""
        if self._head:
            block, self._head = self._head[:size], self._head[size:]
            return block
        return self._stream.read(size)

    def read_view(self, view: memoryview) -> int:
        """Fills the beginning of `view`, which is not empty; 0 only at the end."""
        if self._head:
            block = self.read(len(view))
            view[: len(block)] = block
            return len(block)
        return read_into(self._stream, view)

    @property
    def trailing(self) -> str | None:
        """The description of ignored bytes behind a compressed stream, None if there are none. Set at its end."""
        return None if self._readahead is None else self._readahead.trailing

    def close(self) -> None:
        if self._readahead is not None:
            self._readahead.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_plain(fd: int, what: str, ratio: int | None = None) -> Seekable | PlainStream:
    """Opens `fd`, a file or a pipe, plain or compressed up to `ratio`, and takes it over. Raises
    SourceUnreadableError."""
    try:
        with unreadable(what):
            status = os.fstat(fd)
            buffered = io.BufferedReader(_DescriptorStream(fd, what), _CHUNK)
            kind = detect_compression(buffered.peek(_HEAD_BYTES)[:_HEAD_BYTES])
            if kind != "none":
                readahead = ReadAhead(cast(BinaryIO, buffered), kind, what, ratio)
                return PlainStream(fd, readahead.as_binary(), readahead, what)
            if stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode):
                # By its end, since fstat gives the size 0 for a block device.
                return Seekable(fd, os.lseek(fd, 0, os.SEEK_END))
            return PlainStream(fd, cast(BinaryIO, buffered), None, what)
    except BaseException:
        os.close(fd)
        raise


@contextmanager
def unreadable(what: str) -> Iterator[None]:
    """Turns errors inside into SourceUnreadableError: the whole source cannot be read."""
    try:
        yield
    except SourceError as error:
        raise SourceUnreadableError(error.message) from error
    except OSError as error:
        raise SourceUnreadableError(f"{what}: cannot be read: {error.strerror}") from error


class Spool:
    """An unlinked temporary file to append to, in `directory` or TMPDIR. It is closed with this object at the latest.
    Raises TargetError."""

    def __init__(self, directory: str | None, what: str) -> None:
        self._what = what
        self.size = 0
        self._fd = -1
        try:
            import tempfile  # slow to import, and most archives need no temporary file

            with tempfile.TemporaryFile(dir=directory, prefix="migrate-spool-", buffering=0) as file:
                self._fd = os.dup(file.fileno())
        except OSError as error:
            raise self._no_room(error) from error

    def append(self, chunk: bytes | bytearray) -> None:
        view = memoryview(chunk)
        try:
            while view:  # a part may be written at once
                written = os.pwrite(self._fd, view, self.size)
                view = view[written:]
                self.size += written
        except OSError as error:
            raise self._no_room(error) from error

    def read(self, offset: int, size: int) -> bytes:
        """Of what was appended. From any thread."""
        try:
            content = os.pread(self._fd, size, offset)
        except OSError as error:
            raise TargetError(f"{self._what}: a temporary file cannot be read: {error.strerror}") from error
        if len(content) != size:
            raise TargetError(f"{self._what}: a temporary file was cut while it was used")
        return content

    def append_sparse(self, chunk: bytes) -> None:
        """As `append`, but a chunk of zeros becomes a hole."""
        if not _ZEROS.startswith(chunk):
            self.append(chunk)
            return
        self.size += len(chunk)
        os.ftruncate(self._fd, self.size)

    def free_bytes(self) -> int:
        """The number of free bytes in the file system of the temporary file."""
        state = os.fstatvfs(self._fd)
        return state.f_bavail * state.f_frsize

    def detach(self) -> int:
        """A descriptor of the file, which the caller closes."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self.detach())

    def __del__(self) -> None:
        self.close()

    def _no_room(self, error: OSError) -> TargetError:
        hint = "; set TMPDIR to a place with more room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return TargetError(f"{self._what}: cannot be kept in a temporary file: {error.strerror}{hint}")


class _DescriptorStream(ByteStream):
    """Reads a descriptor without closing it. Errors have the name of the source."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._what = what

    def read_view(self, view: memoryview, /) -> int:
        try:
            return os.readv(self._fd, [view])
        except OSError as error:
            raise SourceError(f"{self._what}: cannot be read: {error.strerror}") from error
