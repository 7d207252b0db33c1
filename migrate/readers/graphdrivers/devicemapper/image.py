"""A file or block device, read by position: the loop files, or what the user names in their place."""

from __future__ import annotations

import os
from pathlib import Path

from migrate.errors import MissingLayerError, PermissionSourceError, SourceError, TruncatedError


class ImageFile:
    """Opened read-only; `read_into` may be called from any thread. `size` in bytes, of a block device by seeking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_read = 0
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise MissingLayerError(f"{path}: no such file or device") from exc
        except PermissionError as exc:
            raise PermissionSourceError(f"{path}: may not be read by this user; run as root or copy it") from exc
        except (OSError, ValueError) as exc:
            raise SourceError(f"{path}: cannot be opened: {exc}") from exc
        try:
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as exc:
            os.close(self._fd)
            raise SourceError(f"{path}: is neither a file nor a block device: {exc}") from exc

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fills `view` from `offset`, or raises TruncatedError (the image ends before) or SourceError (the disk)."""
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except (OSError, OverflowError) as exc:
                raise SourceError(f"{self.path}: cannot be read at byte {offset + done:,}: {exc}") from exc
            if count == 0:
                end = offset + len(view)
                raise TruncatedError(f"{self.path}: ends at byte {self.size:,}, but is in use up to byte {end:,}")
            done += count
        self.bytes_read += done  # a figure for tests and benchmarks; a lost update does no harm

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            content = os.pread(self._fd, size, offset)
        except (OSError, OverflowError) as exc:
            raise SourceError(f"{self.path}: cannot be read at byte {offset:,}: {exc}") from exc
        self.bytes_read += len(content)
        if len(content) == size:
            return content
        rest = bytearray(size - len(content))
        self.read_into(memoryview(rest), offset + len(content))
        return content + rest

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
