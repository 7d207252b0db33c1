"""Opening what belongs to a source: read-only, and without a new access time.

The owner's only copy may be evidence, or on a disk that should not be written to for any reason. Linux keeps access
times as they are where O_NOATIME is asked for, which it allows the owner of a file and root; others read as anybody
does. For following a symbolic link there is no such flag.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_READ: Final = os.O_RDONLY | os.O_CLOEXEC
_NOATIME: Final = getattr(os, "O_NOATIME", 0)
NOT_WAITING: Final = os.O_NOFOLLOW | os.O_NONBLOCK
"""For names that a source gives: no symbolic link, and a FIFO does not make us wait."""


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
