"""The small files of a source: regular files, no symbolic links, of a limited size."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from migrate.blobio.source_files import NOT_WAITING, open_source_file
from migrate.errors import DamagedError, LimitError
from migrate.storage.directory_tree import translated


def open_regular(path: Path) -> BinaryIO:
    """Raises SourceError (MissingLayerError where there is none)."""
    try:
        descriptor = open_source_file(path, NOT_WAITING)
    except OSError as error:
        raise translated(error, str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError(f"{path}: not a regular file")
    return cast(BinaryIO, os.fdopen(descriptor, "rb", buffering=0))


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
