"""Standard streams with errors of their own: they may be closed, on a full disk, or pipes whose reader has ended.

These errors are not OSErrors, so that code which handles the OSError of some other file does not catch them.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from migrate.errors import SourceUnreadableError, TargetError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class ReaderGoneError(Exception):
    """The reader of standard output has ended (`| head`)."""


def prepare_streams() -> None:
    """Replaces the streams in `sys`. To be called once, before anything is read or written."""
    # If a standard stream is closed, the next file that is opened would get its number, and messages would be written
    # into that file. /dev/null takes the number instead, opened in the wrong mode so that reading or writing fails.
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
    sys.stdin = _text(sys.stdin, io.BufferedReader(_Input(0, "rb", closefd=False)))
    sys.stdout = _text(sys.stdout, io.BufferedWriter(_Output(1, "wb", closefd=False)))
    sys.stderr = _text(sys.stderr, io.BufferedWriter(_Errors(2, "wb", closefd=False)))


def _text(before: TextIO | None, stream: io.BufferedReader | io.BufferedWriter) -> TextIO:
    """A text stream like the interpreter's, but with escapes for characters that the encoding lacks."""
    if not isinstance(before, io.TextIOWrapper):
        return io.TextIOWrapper(stream, "utf-8", "backslashreplace")
    by_line = before.line_buffering or before.write_through
    return io.TextIOWrapper(stream, before.encoding, "backslashreplace", line_buffering=by_line)


class _Input(io.FileIO):
    def readinto(self, buffer: Buffer, /) -> int:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise SourceUnreadableError(f"standard input: cannot be read: {_reason(error)}") from error


class _Output(io.FileIO):
    """Raises its error once. Later writes are dropped, so that the interpreter's last flush prints no traceback."""

    _lost = False

    def write(self, block: Buffer, /) -> int:
        if self._lost:
            return memoryview(block).nbytes
        try:
            return super().write(block)
        except BrokenPipeError as error:
            self._lost = True
            raise ReaderGoneError from error
        except OSError as error:
            self._lost = True
            raise TargetError(f"standard output: cannot be written: {_reason(error)}") from error


class _Errors(io.FileIO):
    """Ignores errors of writing, so that the exit code is right even if messages cannot be written."""

    def write(self, block: Buffer, /) -> int:
        try:
            return super().write(block)
        except OSError:
            return memoryview(block).nbytes


def _reason(error: OSError) -> str | None:
    return "it is closed" if error.errno == errno.EBADF else error.strerror
