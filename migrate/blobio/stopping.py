"""Ending a thread that reads for long: the rehasher sets how, and whatever reads for it checks in between.

Only the main thread is interrupted by a signal. What runs in another one has to look for itself, deep inside readers
that have nothing to do with threads; handing them a callable would put it through every signature on the way.
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
    """Inside, `check_stop` on this thread calls `check`, which raises where the thread has to end."""
    before, _thread.check = _thread.check, check
    try:
        yield
    finally:
        _thread.check = before


def check_stop() -> None:
    """To be called about every tenth of a second of any loop whose length a source decides."""
    if _thread.check is not None:
        _thread.check()


def stoppable(stream: BinaryIO) -> BinaryIO:
    """`stream` with a `check_stop` before each read, for a reader that takes much input before it gives anything."""
    return _StoppableStream(stream).as_binary()


class _StoppableStream(ByteStream):
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read_view(self, view: memoryview, /) -> int:
        check_stop()
        return read_into(self._stream, view)
