"""A file tree in a directory of this machine, read without following a symbolic link in any component.

Every directory is opened by its name in its parent's descriptor, with O_NOFOLLOW. The descriptors on the path to the
last directory are kept, so that a walk needs one open for each directory. Access times are not changed if the system
allows that to this user (O_NOATIME).
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import BinaryIO, NoReturn, cast

from migrate.blobio.payload import Extent
from migrate.blobio.source_files import NOT_WAITING, open_source_file
from migrate.blobio.stopping import check_stop
from migrate.errors import DamagedError, LimitError, MissingLayerError, PermissionSourceError, SourceError
from migrate.storage.blocks import FileBlocks
from migrate.storage.tree import CAPABILITY, Facts, OpenedFile, Tree, TreeEntry, entries_of

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_NO_FILE = {errno.ELOOP: "a symbolic link", errno.ENXIO: "a socket"}
_REFUSED = (OSError, ValueError)
"""The errors of system calls. Python raises ValueError for a name with a NUL byte."""
_DENIED = (errno.EACCES, errno.EPERM)
_CAPABILITY = CAPABILITY.decode()
_FIRST_READ = 64 * 1024
"""Most documents are smaller, so that one call reads them."""
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_facts: Callable[[os.stat_result], Facts] = attrgetter(
    "st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_rdev", "st_dev", "st_ino", "st_nlink"
)


class DirectoryTree(Tree):
    """A directory. Keeps the descriptors on the path to the folder that was read last; `close` closes them."""

    names_are_cheap = True

    def __init__(self, root: str, descriptor: int | None = None) -> None:
        """`descriptor`: of the root, which is taken over. Without one, `root` is opened by the first call."""
        self.location = root
        self._descriptor = descriptor
        self._parts: list[bytes] = []
        self._descriptors: list[int] = []
        self._current: bytes | None = None
        self._lock = threading.Lock()

    # --- Tree ---------------------------------------------------------------------------------------------------

    def stat(self, path: bytes) -> TreeEntry:
        directory, _, name = path.rpartition(b"/")
        try:
            with self._lock:
                if not path:
                    return TreeEntry(b"", *_facts(os.fstat(self._open_directory(b""))))
                found = os.stat(name, dir_fd=self._open_directory(directory), follow_symlinks=False)
        except _REFUSED as error:
            self._fail(path, error)
        return TreeEntry(path, *_facts(found))

    def entries(self, path: bytes) -> Sequence[TreeEntry]:
        return entries_of(path, self.list_facts(path))

    def read_link(self, path: bytes) -> bytes:
        directory, _, name = path.rpartition(b"/")
        with self._reading(path):
            return os.readlink(name, dir_fd=self._open_directory(directory))

    def xattrs(self, path: bytes) -> Mapping[bytes, bytes]:
        try:
            with self._lock:
                place = self._place(path)
                names = os.listxattr(place, follow_symlinks=False)
                return {os.fsencode(name): os.getxattr(place, name, follow_symlinks=False) for name in names}
        except _REFUSED as error:
            if isinstance(error, OSError) and error.errno == errno.ENOTSUP:
                return {}
            self._fail(path, error)

    def open(self, path: bytes) -> BinaryIO:
        return cast(BinaryIO, io.FileIO(self._open_file(path)))

    # --- what a directory on disk does better ------------------------------------------------------------------------

    def read(self, path: bytes, limit: int) -> bytes:
        return self._read_all(self._open_file(path), path, limit)

    def read_many(self, paths: Sequence[bytes], limit: int) -> Mapping[bytes, bytes | SourceError]:
        contents: dict[bytes, bytes | SourceError] = {}
        for path in paths:
            try:  # many files may be absent, and making an exception for each would be slow
                descriptor = self._find_file(path)
                if descriptor is not None:
                    contents[path] = self._read_all(descriptor, path, limit)
            except MissingLayerError:
                continue
            except SourceError as error:
                contents[path] = error
        return contents

    def _read_all(self, descriptor: int, path: bytes, limit: int) -> bytes:
        content = bytearray()
        try:
            while block := os.read(descriptor, min(_FIRST_READ + len(content), limit + 1 - len(content))):
                content += block
                if len(content) > limit:
                    raise LimitError(f"{self.shown(path)}: larger than the limit of {limit:,} bytes")
        except OSError as error:
            raise translated(error, self.shown(path)) from error
        finally:
            os.close(descriptor)
        return bytes(content)

    @contextmanager
    def opened(self, path: bytes) -> Iterator[OpenedFile]:
        with self.open(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            extent = Extent(fd=stream.fileno(), offset=0, size=size)
            yield OpenedFile(stream, size, extent, self.local_path(path))

    def open_blocks(self, path: bytes) -> FileBlocks:
        return FileBlocks(self._open_file(path), self.shown(path))

    def list_facts(self, path: bytes) -> Mapping[bytes, Facts]:
        with self._reading(path):
            descriptor = self._open_directory(path)
            return {
                name.encode(_ENCODING, _ERRORS): _facts(os.stat(name, dir_fd=descriptor, follow_symlinks=False))
                for name in os.listdir(descriptor)
            }

    def list_names(self, path: bytes) -> Mapping[bytes, int]:
        with self._reading(path), os.scandir(self._open_directory(path)) as entries:
            return {entry.name.encode(_ENCODING, _ERRORS): entry.inode() for entry in entries}

    def list_kinds(self, path: bytes) -> Mapping[bytes, int]:
        with self._reading(path), os.scandir(self._open_directory(path)) as entries:
            return {entry.name.encode(_ENCODING, _ERRORS): _kind(entry) for entry in entries}

    def read_capability(self, path: bytes) -> bytes | None:
        with self._reading(path):
            return _capability(self._place(path))

    def list_capabilities(self, path: bytes) -> Mapping[bytes, bytes]:
        with self._reading(path):
            descriptor = self._open_directory(path)
            place = b"/proc/self/fd/%d/" % descriptor
            names = [name.encode(_ENCODING, _ERRORS) for name in os.listdir(descriptor)]
            found = {name: _capability(place + name) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def close(self) -> None:
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.pop())
            self._parts, self._current = [], None
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def subtree(self, path: bytes) -> DirectoryTree:
        """The tree below a folder. It stays usable after this tree was closed."""
        with self._reading(path):
            return DirectoryTree(self.shown(path), _opened_again(self._open_directory(path)))

    def follow(self, path: bytes) -> DirectoryTree:
        """As in Tree. Links may lead to any place of this machine. The tree stays usable after this one was closed."""
        place = self.shown(path)
        try:
            return DirectoryTree(place, open_source_file(place, os.O_DIRECTORY))
        except _REFUSED as error:
            self._fail(path, error)

    def local_path(self, path: bytes) -> str | None:
        return self.shown(path)

    def __del__(self) -> None:
        self.close()

    # --- descriptors ---------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self, path: bytes) -> Iterator[None]:
        """Locks the descriptors, which all threads share, and translates errors of the system to errors about
        `path`."""
        try:
            with self._lock:
                yield
        except _REFUSED as error:
            self._fail(path, error)

    def _open_file(self, path: bytes) -> int:
        descriptor = self._find_file(path)
        if descriptor is None:
            raise MissingLayerError(f"{self.shown(path)}: {os.strerror(errno.ENOENT)}")
        return descriptor

    def _find_file(self, path: bytes) -> int | None:
        """A descriptor of a regular file; None if there is no such name."""
        directory, _, name = path.rpartition(b"/")
        try:
            with self._lock:
                descriptor = open_source_file(name, NOT_WAITING, self._open_directory(directory))
        except FileNotFoundError:
            return None
        except _REFUSED as error:
            if isinstance(error, OSError) and error.errno in _NO_FILE:
                raise DamagedError(f"{self.shown(path)}: is {_NO_FILE[error.errno]} and no regular file") from error
            self._fail(path, error)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            # Checked after opening: between a check by name and the open, another file could take the name. NOT_WAITING
            # keeps the open of a FIFO from blocking.
            os.close(descriptor)
            raise DamagedError(f"{self.shown(path)}: is no regular file")
        return descriptor

    def _open_directory(self, path: bytes) -> int:
        """A descriptor that stays open until the next call."""
        if path == self._current:
            return self._descriptors[-1]
        check_stop()
        wanted = path.split(b"/") if path else []
        self._current = None
        if not self._descriptors:
            root = self._descriptor
            self._descriptors.append(open_source_file(self.location, os.O_DIRECTORY) if root is None else os.dup(root))
        # Keep the descriptors of the folders that both paths share.
        common = 0
        for old, new in zip(self._parts, wanted, strict=False):
            if old != new:
                break
            common += 1
        while len(self._parts) > common:
            self._parts.pop()
            os.close(self._descriptors.pop())
        for part in wanted[common:]:
            if part in (b"", b".", b".."):
                raise OSError(errno.ENOENT, "not a name of the tree")
            self._descriptors.append(open_source_file(part, _DIRECTORY, self._descriptors[-1]))
            self._parts.append(part)
        self._current = path
        return self._descriptors[-1]

    def _place(self, path: bytes) -> bytes:
        """A path in /proc/self/fd for system calls that take no directory descriptor (the xattr calls). No link in its
        directories was followed; the last component may be a link."""
        descriptor = self._open_directory(path.rpartition(b"/")[0])
        if not path:
            return b"/proc/self/fd/%d/." % descriptor
        return b"/proc/self/fd/%d/%b" % (descriptor, path.rpartition(b"/")[2])

    def _fail(self, path: bytes, error: OSError | ValueError) -> NoReturn:
        if isinstance(error, OSError):
            raise translated(error, self.shown(path)) from error
        raise MissingLayerError(f"{self.shown(path)!r}: {error}") from error


def _opened_again(directory: int) -> int:
    """Another descriptor of a directory, with a position of its own.

    A duplicate would share the position: of two threads that list the directory at the same time through the two, each
    would miss the names that the other has read.
    """
    return open_source_file(b".", os.O_DIRECTORY, directory)


def _kind(entry: os.DirEntry[str]) -> int:
    """The file type in the directory's own record (d_type), without reading the inode."""
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFLNK if entry.is_symlink() else stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


def _capability(place: bytes) -> bytes | None:
    try:
        if _CAPABILITY not in os.listxattr(place, follow_symlinks=False):
            return None
        return os.getxattr(place, _CAPABILITY, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA):
            raise
        return None


def translated(error: OSError, where: str) -> SourceError:
    """The SourceError for an error of the operating system."""
    if error.errno in _ABSENT:
        return MissingLayerError(f"{where}: {error.strerror}")
    if error.errno in _DENIED:
        return PermissionSourceError(f"{where}: may not be read by this user: run as root")
    return DamagedError(f"{where}: {error.strerror}")
