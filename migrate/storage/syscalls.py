"""The system calls that change a target, and advice to the user for their errors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Final

from migrate.errors import TargetError

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full: make room, and run the same command again to continue",
    errno.EDQUOT: "the disk quota is used up: make room, and run the same command again to continue",
    errno.EIO: "the disk reports an I/O error: check it before you run the command again",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.ENOTDIR: "a part of the path is not a directory",
}
_KINDS: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


class WrongKindError(TargetError):
    """A name of the target is not the regular file, or not the folder, that belongs there."""


def target_error(exc: OSError, what: str) -> TargetError:
    """The TargetError for a failed system call on `what`, with advice to the user."""
    reason = os.strerror(exc.errno) if exc.errno is not None else str(exc)
    advice = _ADVICE.get(exc.errno) if exc.errno is not None else None
    return TargetError(f"{what}: {reason}" + (f" ({advice})" if advice else ""))


@contextlib.contextmanager
def target_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise target_error(exc, what) from exc


def wrong_kind(what: str, mode: int, wanted: str) -> WrongKindError:
    """`wanted` is "a file" or "a folder"; `mode` is the st_mode that was found."""
    found = _KINDS.get(stat.S_IFMT(mode), "a device")
    return WrongKindError(f"{what}: {found} is there instead of {wanted}; it is not followed, opened or replaced")


class SystemCalls:
    """The system calls that change a target, one method each, so that a test can make any of them fail."""

    def open(self, path: str, flags: int, directory: int | None = None) -> int:
        return os.open(path, flags, 0o644, dir_fd=directory)

    def write(self, fd: int, block: bytes | bytearray | memoryview) -> int:
        return os.write(fd, block)

    def close(self, fd: int) -> None:
        os.close(fd)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_directory(self, fd: int) -> None:
        os.fsync(fd)

    def sync_file_system(self, fd: int) -> bool:
        """Flushes all unwritten data of the file system of `fd` (syncfs). False, without a flush, if the kernel does
        not report write errors."""
        import ctypes

        release = os.uname().release.split(".")
        number = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in release[:2])
        if number < (5, 8):  # before Linux 5.8 syncfs swallows write errors
            return False
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "syncfs"):
            return False
        if library.syncfs(fd) != 0:
            number_of_error = ctypes.get_errno()
            raise OSError(number_of_error, os.strerror(number_of_error))
        return True

    def rename(self, old: str, new: str, old_directory: int, new_directory: int) -> None:
        os.rename(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory)

    def make_directory(self, path: str, directory: int | None = None, mode: int = 0o755) -> None:
        os.mkdir(path, mode, dir_fd=directory)

    def remove_directory(self, path: str, directory: int) -> None:
        os.rmdir(path, dir_fd=directory)

    def unlink(self, path: str, directory: int) -> None:
        os.unlink(path, dir_fd=directory)

    def hard_link(self, source: str, target: str, directory: int) -> None:
        os.link(source, target, dst_dir_fd=directory)

    def reflink(self, source: int, target: int) -> None:
        fcntl.ioctl(target, 0x40049409, source)  # FICLONE of linux/fs.h


SYSTEM_CALLS: Final = SystemCalls()


def write_all(files: SystemCalls, fd: int, block: bytes | bytearray | memoryview, what: str) -> None:
    """Writes every byte of `block`: a single write may write only a part. Raises TargetError; `what` begins it."""
    try:
        written = files.write(fd, block)
        while written < len(block):
            if written == 0:
                raise OSError(errno.EIO, "the system wrote no byte")
            rest = memoryview(block)[written:]
            written += files.write(fd, rest)
    except OSError as exc:
        raise target_error(exc, what) from exc


def open_regular(name: str, flags: int, directory: int | None, what: str, files: SystemCalls = SYSTEM_CALLS) -> int:
    """A descriptor of a regular file, which is never reached through a link. Never waits, also not for a FIFO.

    Raises WrongKindError for anything but a regular file, and OSError.
    """
    # Without O_NONBLOCK, opening a FIFO that has no writer would wait for one.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = files.open(name, flags, directory)
    except OSError as exc:
        # ELOOP: a symbolic link. ENXIO: a socket, or a FIFO without a reader. EISDIR: a folder.
        if exc.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                raise wrong_kind(what, mode, "a file") from exc
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise wrong_kind(what, mode, "a file")
    return fd


def try_lock(fd: int, *, without_locks: bool) -> bool:
    """Takes the lock of a file until its descriptor is closed; False if another process has it. `without_locks` is the
    answer of file systems that have no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without_locks
    return True


def open_folder(name: str, directory: int, what: str) -> int:
    """A descriptor of a folder, which is never reached through a link. Raises WrongKindError and OSError."""
    try:
        return os.open(name, DIRECTORY, dir_fd=directory)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR):
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                raise wrong_kind(what, mode, "a folder") from exc
        raise


def remove_tree(name: str, directory: int, files: SystemCalls, last: str = "") -> None:
    """The folder `name` with all that is in it; its file `last` goes after all others. Follows no link. OSError."""
    fd = os.open(name, DIRECTORY, dir_fd=directory)
    try:
        for inner in sorted(os.listdir(fd), key=lambda inner: (inner == last, inner)):
            if stat.S_ISDIR(os.stat(inner, dir_fd=fd, follow_symlinks=False).st_mode):
                remove_tree(inner, fd, files)
            else:
                files.unlink(inner, fd)
    finally:
        os.close(fd)
    files.remove_directory(name, directory)
