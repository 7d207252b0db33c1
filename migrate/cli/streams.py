"""The process's standard streams, which may be closed, full, or pipes whose reader has gone. None of it is a bug.

What goes wrong raises no OSError, so that no handler of a file's errors takes it for its own.
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
    """Puts the streams of this module into `sys`. To be called once, before anything is read or written."""
    # A file that is opened later must not get the number of a standard stream. What is there instead can only be used
    # the wrong way round, so that reading and writing fail as they should.
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free
    sys.stdin = _text(sys.stdin, io.BufferedReader(_Input(0, "rb", closefd=False)))
    sys.stdout = _text(sys.stdout, io.BufferedWriter(_Output(1, "wb", closefd=False)))
    sys.stderr = _text(sys.stderr, io.BufferedWriter(_Errors(2, "wb", closefd=False)))


def _text(before: TextIO | None, stream: io.BufferedReader | io.BufferedWriter) -> TextIO:
    """As the interpreter had it, but what the encoding cannot express is written as an escape."""
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
    """Raises once; what is left in buffers then has nowhere to go, and the interpreter's last flush stays quiet."""

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
    """Errors of writing are ignored: the exit code is right also where the output cannot be read."""

    def write(self, block: Buffer, /) -> int:
        try:
            return super().write(block)
        except OSError:
            return memoryview(block).nbytes


def _reason(error: OSError) -> str | None:
    return "it is closed" if error.errno == errno.EBADF else error.strerror
