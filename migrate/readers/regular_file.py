"""The files and directories of a source: regular files, no symbolic links, and no new access times."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from migrate.errors import DamagedError, LimitError
from migrate.readers.graphdrivers.directory_tree import translated

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_regular(path: Path) -> BinaryIO:
    """Raises SourceError (MissingLayerError where there is none)."""
    try:
        descriptor = _open(path)
    except OSError as error:
        raise translated(error, str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError(f"{path}: not a regular file")
    return cast(BinaryIO, os.fdopen(descriptor, "rb", buffering=0))


def _open(path: Path, flags: int = _FLAGS) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # O_NOATIME is for the owner and for root
        return os.open(path, flags)


@contextmanager
def scan(path: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    """`os.scandir` of a directory. Raises OSError as it does."""
    descriptor = _open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


def list_names(path: Path) -> list[str]:
    """`os.listdir` of a directory. Raises OSError as it does."""
    with scan(path) as entries:
        return [entry.name for entry in entries]


def read_whole(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises SourceError."""
    with open_regular(path) as stream:
        try:
            content = bytearray()
            while block := stream.read(limit + 1 - len(content)):
                content += block
                if len(content) > limit:
                    raise LimitError(f"{path}: larger than the limit of {limit:,} bytes")
            return bytes(content)
        except OSError as error:
            raise translated(error, str(path)) from error
