"""Opens files of a source: read-only, and without changing their access time.

A source may be evidence, or on a disk that must not be written to. Linux does not change the access time of a file
opened with O_NOATIME, which it allows only to the owner of the file and to root. Other users open it without the flag.
There is no such flag for following a symbolic link.
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
"""Flags for names in a source: a symbolic link is not followed, and opening a FIFO does not wait."""

_SECOND: Final = 1_000_000_000
_TICK: Final = 100_000_000


def settled_state(status: os.stat_result) -> tuple[int, int, int, int] | None:
    """(inode, size, mtime, ctime) of a file, which every later change of it changes. None if a later change could have
    the same times: the last one was less than two seconds ago on a file system with whole seconds, or less than a tenth
    of a second ago on another one (ten ticks of the slowest clock that Linux uses for times of files)."""
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    ago = 2 * _SECOND if not (status.st_mtime_ns % _SECOND and status.st_ctime_ns % _SECOND) else _TICK
    if not status.st_nlink or time.time_ns() - changed < ago:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def open_source_file(path: str | bytes | os.PathLike[str], flags: int = 0, directory: int | None = None) -> int:
    """A descriptor of a file or directory, for reading. `directory`: the directory that `path` is relative to. Raises
    OSError."""
    try:
        return os.open(path, _READ | _NOATIME | flags, dir_fd=directory)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
    return os.open(path, _READ | flags, dir_fd=directory)


@contextmanager
def scan_source(path: str | os.PathLike[str]) -> Iterator[Iterator[os.DirEntry[str]]]:
    """`os.scandir` of a directory. The `path` of an entry is its name. Raises OSError."""
    descriptor = open_source_file(path, os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


def list_source(path: str | os.PathLike[str]) -> list[str]:
    """`os.listdir` of a directory. Raises OSError."""
    with scan_source(path) as entries:
        return [entry.name for entry in entries]
