"""A file or block device, read by position: the loop files, or what the user names in their place."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from migrate.blobio.source_files import NOT_WAITING, open_source_file
from migrate.blobio.stopping import check_stop
from migrate.errors import MissingLayerError, PermissionSourceError, SourceError, TruncatedError


class ImageFile:
    """Opened read-only; `read_into` may be called from any thread. `size` in bytes, of a block device by seeking.

    `named` is False for a path that the store itself gives: then it has to be a file, not a link out of the store or a
    device of this host, whose content would end up in an image.
    """

    def __init__(self, path: Path, *, named: bool = True) -> None:
        self.path = path
        self.bytes_read = 0
        self._fd = _open(path, named)
        try:
            self._require_kind(named)
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as exc:
            self.close()
            raise SourceError(f"{path}: cannot be read: {exc}") from exc
        except SourceError:
            self.close()
            raise

    def _require_kind(self, named: bool) -> None:
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(mode) or (named and stat.S_ISBLK(mode))):
            raise SourceError(f"{self.path}: is {'neither a file nor a block device' if named else 'no file'}")

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fills `view` from `offset`, or raises TruncatedError (the image ends before) or SourceError (the disk)."""
        check_stop()
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
        check_stop()
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


def _open(path: Path, named: bool) -> int:
    try:
        return open_source_file(path, os.O_NONBLOCK if named else NOT_WAITING)
    except FileNotFoundError as exc:
        raise MissingLayerError(f"{path}: no such file or device") from exc
    except PermissionError as exc:
        raise PermissionSourceError(f"{path}: may not be read by this user; run as root or copy it") from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP and not named:
            raise SourceError(f"{path}: is a symbolic link, and no link is followed out of a store") from exc
        raise SourceError(f"{path}: cannot be opened: {exc}") from exc
    except ValueError as exc:
        raise SourceError(f"{path!r}: cannot be a path: {exc}") from exc
