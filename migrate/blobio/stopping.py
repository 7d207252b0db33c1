"""Stops threads that read for a long time: the rehasher sets a check for its threads, and readers call it.

Only the main thread is interrupted by a signal. Code in other threads must check by itself, in readers that have
nothing to do with threads. The check is a thread-local variable, since a parameter would be needed in every function
between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from migrate.blobio.stream import ByteStream, read_into


class _Thread(threading.local):
    check: Callable[[], None] | None = None


_thread = _Thread()


@contextmanager
def stopped_by(check: Callable[[], None]) -> Iterator[None]:
    """In this context, `check_stop` in this thread calls `check`, which raises an error if the thread must end."""
    before, _thread.check = _thread.check, check
    try:
        yield
    finally:
        _thread.check = before


def check_stop() -> None:
    """Must be called about every tenth of a second in loops whose length depends on a source."""
    if _thread.check is not None:
        _thread.check()


def stoppable(stream: BinaryIO) -> BinaryIO:
    """`stream` with a `check_stop` before each read, for a reader that needs much input before its first output."""
    return _StoppableStream(stream).as_binary()


class _StoppableStream(ByteStream):
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read_view(self, view: memoryview, /) -> int:
        check_stop()
        return read_into(self._stream, view)
