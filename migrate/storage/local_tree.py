"""Reading a registry's storage tree, whether it stands in a directory or (see `objects.py`) in a bucket."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from migrate.blobio.limits import read_limited
from migrate.blobio.source_files import NOT_WAITING, open_source_file, scan_source
from migrate.errors import DamagedError, PermissionSourceError, SourceError, SourceUnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator


_FIRST_READ: Final = 64 * 1024
"""Most documents are smaller, and one call reads them."""
_KNOWN_FOLDERS: Final = 200_000


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One name in a folder of the tree. A link that cannot be followed counts as a folder: opening it says why."""

    name: str
    is_folder: bool


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file of the tree. `fd` and `path` are given where it is a real file on this machine."""

    stream: BinaryIO
    size: int
    fd: int | None = None
    path: str | None = None


class TreeStorage(Protocol):
    """A tree of files under one root. Paths are relative, with `/`, and never lead out of the root.

    Anything that is neither a file nor a folder counts as absent. Every method raises SourceError.
    """

    @property
    def location(self) -> str: ...

    def entries(self, folder: str, /) -> Sequence[Entry]:
        """The names in `folder`, sorted; none if it is absent."""

    def size(self, path: str, /) -> int | None:
        """Bytes of the file; None if there is no such file."""

    def read(self, path: str, limit: int, /) -> bytes | None:
        """The whole file, None if it is absent; LimitError if it is larger than `limit` bytes."""

    def read_many(self, paths: Sequence[str], limit: int, /) -> dict[str, bytes | SourceError]:
        """Many small files at once; absent ones are left out, each failure stands in place of its content."""

    def open(self, path: str, /) -> AbstractContextManager[OpenedFile]:
        """The file as a stream. MissingFileError if it is absent."""

    def close(self) -> None: ...


class MissingFileError(SourceError):
    """The tree has no such file."""

    code = "missing-file"


class LocalTree:
    """A tree in a directory. Symbolic links are followed only as long as they stay below the root."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._real_root = os.path.realpath(root)
        self._folders: dict[str, str | None] = {}
        self.location = root

    def entries(self, folder: str, /) -> list[Entry]:
        real = self._real_folder(folder)
        if real is None:
            return []
        try:
            with scan_source(real) as found:
                return sorted(Entry(entry.name, _is_folder(entry)) for entry in found)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as exc:
            raise _translated(exc, self._shown(folder)) from exc

    def size(self, path: str, /) -> int | None:
        candidate = self._candidate(path)
        if candidate is None:
            return None
        try:
            status = os.lstat(candidate)
            if stat.S_ISLNK(status.st_mode):
                real = self._resolve(path)
                if real is None:
                    return None
                status = os.lstat(real)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise _translated(exc, self._shown(path)) from exc
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def read(self, path: str, limit: int, /) -> bytes | None:
        try:
            fd, _ = self._open_regular(path)
        except MissingFileError:
            return None
        try:
            content = os.read(fd, min(limit, _FIRST_READ) + 1)
            if len(content) <= min(limit, _FIRST_READ) and not os.read(fd, 1):
                return content
            with open(os.dup(fd), "rb") as stream:
                stream.seek(0)
                return read_limited(stream, limit, self._shown(path))
        except OSError as exc:
            raise _translated(exc, self._shown(path)) from exc
        finally:
            os.close(fd)

    def read_many(self, paths: Sequence[str], limit: int, /) -> dict[str, bytes | SourceError]:
        contents: dict[str, bytes | SourceError] = {}
        for path in paths:
            try:
                content = self.read(path, limit)
            except SourceError as exc:
                contents[path] = exc
            else:
                if content is not None:
                    contents[path] = content
        return contents

    @contextmanager
    def open(self, path: str, /) -> Iterator[OpenedFile]:
        fd, real = self._open_regular(path)
        with open(fd, "rb", buffering=0) as stream:
            yield OpenedFile(stream, os.fstat(fd).st_size, fd, real)

    def close(self) -> None:
        self._folders.clear()

    def _open_regular(self, path: str) -> tuple[int, str]:
        """A descriptor of the file, and its real path. MissingFileError for anything but a regular file."""
        real: str | None = self._candidate(path)
        try:
            try:
                fd = -1 if real is None else open_source_file(real, NOT_WAITING)
            except OSError as exc:
                if exc.errno != errno.ELOOP:
                    raise
                real = self._resolve(path)  # a symbolic link
                fd = -1 if real is None else open_source_file(real, NOT_WAITING)
        except (FileNotFoundError, NotADirectoryError):
            real, fd = None, -1
        except OSError as exc:
            raise _translated(exc, self._shown(path)) from exc
        if real is None:
            raise MissingFileError(f"{self._shown(path)}: no such file")
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise MissingFileError(f"{self._shown(path)}: not a regular file")
        return fd, real

    def _candidate(self, path: str) -> str | None:
        """Where the file would be, with its folder resolved and its own name not."""
        folder, _, name = path.rpartition("/")
        if not _is_plain(name):
            return self._resolve(path)
        real_folder = self._real_folder(folder)
        return None if real_folder is None else f"{real_folder}/{name}"

    def _real_folder(self, folder: str) -> str | None:
        """The folder's real path; None if it is absent; DamagedError if a link leads out of the root."""
        if folder not in self._folders:
            if len(self._folders) >= _KNOWN_FOLDERS:
                self._folders.clear()
            self._folders[folder] = self._find_folder(folder)
        return self._folders[folder]

    def _find_folder(self, folder: str) -> str | None:
        """One look at a folder whose parent is known; only links and odd names are resolved from the root."""
        parent, _, name = folder.rpartition("/")
        if not _is_plain(name):
            return self._resolve(folder)
        real_parent = self._real_folder(parent)
        if real_parent is None:
            return None
        candidate = f"{real_parent}/{name}"
        try:
            mode = os.lstat(candidate).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise _translated(exc, self._shown(folder)) from exc
        if stat.S_ISLNK(mode):
            return self._resolve(folder)
        return candidate if stat.S_ISDIR(mode) else None

    def _resolve(self, path: str) -> str | None:
        if "\0" in path:
            raise DamagedError(f"{self.location}: a path holds a NUL byte: {path!r}")
        try:
            real = os.path.realpath(self._root / path, strict=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise _translated(exc, self._shown(path)) from exc
        if real != self._real_root and not real.startswith(self._real_root.rstrip("/") + "/"):
            raise DamagedError(f"{self._shown(path)}: a symbolic link leads out of the tree, to {real}")
        return real

    def _shown(self, path: str) -> str:
        return os.path.join(self.location, path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a ring, or into a folder that is closed to us; one that leads nowhere is False
        return True


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and "\0" not in name


def _translated(exc: OSError, where: str) -> SourceError:
    if exc.errno in (errno.EACCES, errno.EPERM):
        return PermissionSourceError(f"{where}: not readable by this user; run as root or on a readable copy")
    return SourceError(f"{where}: {exc.strerror or exc}")


def require_readable(tree: TreeStorage) -> None:
    """Raises SourceUnreadableError if the root itself cannot be listed."""
    try:
        if not tree.entries(""):
            raise SourceUnreadableError(f"{tree.location}: nothing there, or nobody answers")
    except SourceUnreadableError:
        raise
    except SourceError as exc:
        raise SourceUnreadableError(exc.message) from exc
