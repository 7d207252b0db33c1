"""Opening what belongs to a source: read-only, and without a new access time.

The owner's only copy may be evidence, or on a disk that should not be written to for any reason. Linux keeps access
times as they are where O_NOATIME is asked for, which it allows the owner of a file and root; others read as anybody
does. For following a symbolic link there is no such flag.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_READ: Final = os.O_RDONLY | os.O_CLOEXEC
_NOATIME: Final = getattr(os, "O_NOATIME", 0)
NOT_WAITING: Final = os.O_NOFOLLOW | os.O_NONBLOCK
"""For names that a source gives: no symbolic link, and a FIFO does not make us wait."""

_SECOND: Final = 1_000_000_000
_TICK: Final = 100_000_000


def settled_state(status: os.stat_result) -> tuple[int, int, int, int] | None:
    """(inode, size, mtime, ctime) of a file, which are others after every later change of it. None where a change may
    come that has the same: the last one is less than two seconds ago where times are whole seconds, and else less than
    a tenth of one, which is ten ticks of the slowest clock that Linux takes times from."""
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    ago = 2 * _SECOND if not (status.st_mtime_ns % _SECOND and status.st_ctime_ns % _SECOND) else _TICK
    if not status.st_nlink or time.time_ns() - changed < ago:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def open_source_file(path: str | bytes | os.PathLike[str], flags: int = 0, directory: int | None = None) -> int:
    """A descriptor of a file or directory, for reading. `directory`: the one that `path` is relative to. OSError."""
    try:
        return os.open(path, _READ | _NOATIME | flags, dir_fd=directory)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
    return os.open(path, _READ | flags, dir_fd=directory)


@contextmanager
def scan_source(path: str | os.PathLike[str]) -> Iterator[Iterator[os.DirEntry[str]]]:
    """`os.scandir` of a directory; the entries' `path` is their name. Raises OSError as it does."""
    descriptor = open_source_file(path, os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


def list_source(path: str | os.PathLike[str]) -> list[str]:
    """`os.listdir` of a directory. Raises OSError as it does."""
    with scan_source(path) as entries:
        return [entry.name for entry in entries]
