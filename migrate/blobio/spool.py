"""A descriptor that can be read by position, made from one that cannot: a pipe, or a compressed file.

The plain bytes go to an unlinked temporary file, so that nothing stays behind whatever happens.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
from dataclasses import dataclass
from typing import BinaryIO, cast

from migrate.blobio.compression import detect_compression
from migrate.blobio.readahead import ReadAhead
from migrate.errors import SourceError, SourceUnreadableError, TargetError, TruncatedError

_CHUNK = 1024 * 1024
_HEAD = 512


@dataclass(frozen=True, slots=True)
class Seekable:
    """The plain content: a descriptor of the caller's, and its size in bytes.

    `damage` is set where a compressed stream ends too early: what came before that place is there.
    """

    fd: int
    size: int
    damage: TruncatedError | None = None


def open_seekable(fd: int, what: str, directory: str | None = None) -> Seekable:
    """Takes `fd` over; the caller closes the result's. A plain file comes back as it is.

    Raises SourceUnreadableError (cannot be read; a compressed stream that is damaged, for then every byte of it is in
    doubt) and TargetError (no space for the temporary file, which lies in `directory` or where TMPDIR says).
    """
    try:
        status = os.fstat(fd)
        seekable = stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)
        stream = cast(BinaryIO, io.BufferedReader(_DescriptorStream(fd, what), _CHUNK))
        head = stream.peek(_HEAD)[:_HEAD]  # type: ignore[attr-defined]
        kind = detect_compression(head)
        if seekable and kind == "none":
            return Seekable(os.dup(fd), os.lseek(fd, 0, os.SEEK_END))
        if kind != "none":
            with ReadAhead(stream, kind, what) as plain:
                return _spool(cast(BinaryIO, plain), what, directory)
        return _spool(stream, what, directory)
    except SourceError as error:
        raise SourceUnreadableError(error.message) from error
    except OSError as error:
        raise SourceUnreadableError(f"{what}: cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)


def _spool(stream: BinaryIO, what: str, directory: str | None) -> Seekable:
    damage: TruncatedError | None = None
    with tempfile.TemporaryFile(dir=directory, prefix="migrate-spool-", buffering=0) as spool:
        size = 0
        while True:
            try:
                chunk = stream.read(_CHUNK)
            except TruncatedError as error:
                damage = error
                break
            if not chunk:
                break
            _write_all(spool, chunk, what)
            size += len(chunk)
        return Seekable(os.dup(spool.fileno()), size, damage)


def _write_all(spool: BinaryIO, chunk: bytes, what: str) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[spool.write(view) :]
    except OSError as error:
        raise _no_room(error, what) from error


def _no_room(error: OSError, what: str) -> TargetError:
    hint = "; set TMPDIR to a place with more room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return TargetError(f"{what}: its plain form cannot be kept in a temporary file: {error.strerror}{hint}")


class _DescriptorStream(io.RawIOBase):
    """Reads a descriptor that somebody else closes; read errors name the place."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._what = what

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        try:
            return os.readv(self._fd, [memoryview(cast(bytearray, buffer))])
        except OSError as error:
            raise SourceError(f"{self._what}: cannot be read: {error.strerror}") from error
