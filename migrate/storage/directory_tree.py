"""A file tree in a directory of this machine, read without following a symbolic link in any component.

Every directory is opened by name beneath its parent's descriptor, with O_NOFOLLOW; the descriptors on the way to the
last directory are kept, so that a walk costs one open per directory. Access times stay as they are where the system
lets this user ask for that (O_NOATIME).
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import BinaryIO, NoReturn, cast

from migrate.blobio.source_files import NOT_WAITING, open_source_file
from migrate.blobio.stopping import check_stop
from migrate.errors import DamagedError, MissingLayerError, PermissionSourceError, SourceError
from migrate.storage.tree import Facts, Tree, TreeEntry, entries_of

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
_DENIED = (errno.EACCES, errno.EPERM)
CAPABILITY = "security.capability"
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_facts: Callable[[os.stat_result], Facts] = attrgetter(
    "st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_rdev", "st_dev", "st_ino", "st_nlink"
)


class DirectoryTree(Tree):
    """For one thread at a time: it keeps the descriptors on the way to the folder that was read last.

    `close` lets go of the descriptors.
    """

    names_are_cheap = True

    def __init__(self, root: str, descriptor: int | None = None) -> None:
        """`descriptor`: of the root, which is taken over; without one, `root` is opened when first needed."""
        self.location = root
        self._descriptor = descriptor
        self._parts: list[bytes] = []
        self._descriptors: list[int] = []
        self._current: bytes | None = None

    # --- Tree ---------------------------------------------------------------------------------------------------

    def stat(self, path: bytes) -> TreeEntry:
        directory, _, name = path.rpartition(b"/")
        try:
            if not path:
                return TreeEntry(b"", *_facts(os.fstat(self._open_directory(b""))))
            found = os.stat(name, dir_fd=self._open_directory(directory), follow_symlinks=False)
        except OSError as error:
            self._fail(path, error)
        return TreeEntry(path, *_facts(found))

    def entries(self, path: bytes) -> Sequence[TreeEntry]:
        return entries_of(path, self.list_facts(path))

    def read_link(self, path: bytes) -> bytes:
        directory, _, name = path.rpartition(b"/")
        try:
            return os.readlink(name, dir_fd=self._open_directory(directory))
        except OSError as error:
            self._fail(path, error)

    def xattrs(self, path: bytes) -> Mapping[bytes, bytes]:
        place = self._place(path)
        try:
            names = os.listxattr(place, follow_symlinks=False)
            return {os.fsencode(name): os.getxattr(place, name, follow_symlinks=False) for name in names}
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return {}
            self._fail(path, error)

    def open(self, path: bytes) -> BinaryIO:
        directory, _, name = path.rpartition(b"/")
        descriptor = -1
        try:
            descriptor = open_source_file(name, NOT_WAITING, self._open_directory(directory))
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return cast(BinaryIO, io.FileIO(descriptor))
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            self._fail(path, error)

    # --- what a directory on disk does better ------------------------------------------------------------------------

    def list_facts(self, path: bytes) -> Mapping[bytes, Facts]:
        try:
            descriptor = self._open_directory(path)
            return {
                name.encode(_ENCODING, _ERRORS): _facts(os.stat(name, dir_fd=descriptor, follow_symlinks=False))
                for name in os.listdir(descriptor)
            }
        except OSError as error:
            self._fail(path, error)

    def list_names(self, path: bytes) -> Mapping[bytes, int]:
        try:
            with os.scandir(self._open_directory(path)) as entries:
                return {entry.name.encode(_ENCODING, _ERRORS): entry.inode() for entry in entries}
        except OSError as error:
            self._fail(path, error)

    def read_capability(self, path: bytes) -> bytes | None:
        place = self._place(path)
        try:
            if CAPABILITY not in os.listxattr(place, follow_symlinks=False):
                return None
            return os.getxattr(place, CAPABILITY, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENODATA):
                return None
            self._fail(path, error)

    def list_capabilities(self, path: bytes) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        try:
            descriptor = self._open_directory(path)
            place = f"/proc/self/fd/{descriptor}/"
            for name in os.listdir(descriptor):
                try:
                    if CAPABILITY in os.listxattr(place + name, follow_symlinks=False):
                        value = os.getxattr(place + name, CAPABILITY, follow_symlinks=False)
                        found[name.encode(_ENCODING, _ERRORS)] = value
                except OSError as error:
                    if error.errno not in (errno.ENOTSUP, errno.ENODATA):
                        raise
        except OSError as error:
            self._fail(path, error)
        return found

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._parts, self._current = [], None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def subtree(self, path: bytes) -> DirectoryTree:
        """Needs this tree no longer."""
        try:
            return DirectoryTree(self.shown(path), os.dup(self._open_directory(path)))
        except OSError as error:
            self._fail(path, error)

    def local_path(self, path: bytes) -> str | None:
        return self.shown(path)

    def __del__(self) -> None:
        self.close()

    # --- descriptors ---------------------------------------------------------------------------------------------

    def _open_directory(self, path: bytes) -> int:
        """A descriptor that stays open until the next call."""
        if path == self._current:
            return self._descriptors[-1]
        check_stop()
        wanted = path.split(b"/") if path else []
        self._current = None
        if not self._descriptors:
            self._descriptors.append(self._open_root())
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
                raise OSError(errno.EINVAL, "not a name of the tree")
            self._descriptors.append(open_source_file(part, _DIRECTORY, self._descriptors[-1]))
            self._parts.append(part)
        self._current = path
        return self._descriptors[-1]

    def _open_root(self) -> int:
        if self._descriptor is None:
            return open_source_file(self.location, os.O_DIRECTORY)
        return os.dup(self._descriptor)

    def _place(self, path: bytes) -> bytes:
        """A path for calls that know no directory descriptor: its directories are checked, its last part is not."""
        try:
            descriptor = self._open_directory(path.rpartition(b"/")[0])
        except OSError as error:
            self._fail(path, error)
        if not path:
            return b"/proc/self/fd/%d/." % descriptor
        return b"/proc/self/fd/%d/%b" % (descriptor, path.rpartition(b"/")[2])

    def _fail(self, path: bytes, error: OSError) -> NoReturn:
        raise translated(error, self.shown(path)) from error


def translated(error: OSError, where: str) -> SourceError:
    """The error of ours for what the operating system says about a part of a source."""
    if error.errno in _ABSENT:
        return MissingLayerError(f"{where}: {error.strerror}")
    if error.errno in _DENIED:
        return PermissionSourceError(f"{where}: may not be read by this user")
    return DamagedError(f"{where}: {error.strerror}")
