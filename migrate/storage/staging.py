"""Files that are whole or absent: temporary file, sync of the data, rename, sync of the directory.

Syncs are grouped. A file is written at once, but gets its name only when the data of its whole group is on the disk, so
that ten thousand small files cost a few dozen flushes and a crash can never leave a name over missing bytes.
docs/decisions/0003-grouped-syncs.md has the measurements.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from migrate.errors import TargetError
from migrate.storage.run_directory import RunDirectory

GROUP_FILES: Final = 512
GROUP_BYTES: Final = 64 * 1024 * 1024
"""A group is synced when it holds this many files or bytes."""
_BUFFER_BYTES: Final = 128 * 1024
"""A blob below this is written with one `write`, and not before it is complete."""
_SYNC_EACH_BELOW: Final = 12
"""Groups of fewer files are synced file by file, which leaves other users' dirty data alone."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full: make room and run the same command again, it continues",
    errno.EDQUOT: "the disk quota is used up: make room and run the same command again, it continues",
    errno.EIO: "the disk reports an I/O error: check it before you run the command again",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.ENOTDIR: "a part of the path is not a directory",
}


def target_error(exc: OSError, what: str) -> TargetError:
    """The TargetError for a failed system call on `what`, with what the user can do about it."""
    reason = os.strerror(exc.errno) if exc.errno is not None else str(exc)
    advice = _ADVICE.get(exc.errno) if exc.errno is not None else None
    return TargetError(f"{what}: {reason}" + (f" ({advice})" if advice else ""))


@contextlib.contextmanager
def target_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise target_error(exc, what) from exc


class FileSystem:
    """The system calls that change a target, a method each, so that a test can make any of them fail or be the last."""

    def open(self, path: str, flags: int, directory: int | None = None) -> int:
        return os.open(path, flags, 0o644, dir_fd=directory)

    def write(self, fd: int, block: bytes | bytearray | memoryview) -> int:
        return os.write(fd, block)

    def close(self, fd: int) -> None:
        os.close(fd)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_directory(self, fd: int) -> None:
        os.fsync(fd)

    def sync_file_system(self, fd: int) -> bool:
        """Everything dirty on the file system of `fd`; False where the kernel would not tell of write errors."""
        return _syncfs(fd)

    def rename(self, old: str, new: str, old_directory: int, new_directory: int) -> None:
        os.rename(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory)

    def make_directory(self, path: str, directory: int | None = None) -> None:
        os.mkdir(path, 0o755, dir_fd=directory)

    def unlink(self, path: str, directory: int | None = None) -> None:
        os.unlink(path, dir_fd=directory)

    def hard_link(self, source: str, target: str, directory: int) -> None:
        os.link(source, target, dst_dir_fd=directory)

    def reflink(self, source: int, target: int) -> None:
        fcntl.ioctl(target, 0x40049409, source)  # FICLONE of linux/fs.h


FILE_SYSTEM: Final = FileSystem()


def _syncfs(fd: int) -> bool:
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


def make_durable_directory(path: Path, files: FileSystem = FILE_SYSTEM) -> None:
    """`path` and what is missing above it; each new name is on the disk on return. Raises OSError."""
    missing = [path]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for directory in reversed(missing):
        try:
            files.make_directory(str(directory))
        except FileExistsError:
            continue
        fd = os.open(directory.parent, _DIRECTORY)
        try:
            files.sync_directory(fd)
        finally:
            os.close(fd)


def write_all(files: FileSystem, fd: int, block: bytes | bytearray | memoryview) -> None:
    """Writes every byte of `block`, however short the single writes are."""
    written = files.write(fd, block)
    while written < len(block):
        if written == 0:
            raise OSError(errno.EIO, "the system wrote no byte")
        rest = memoryview(block)[written:]
        written += files.write(fd, rest)


Group = list[tuple[str, str, int]]
"""Files on their way: temporary name, name, size in bytes."""


class StagedFile:
    """One file on its way. Leaving its context without `publish` leaves no trace."""

    __slots__ = ("_area", "_fd", "_held", "_held_bytes", "_temporary", "size")

    def __init__(self, area: StagingArea) -> None:
        self._area = area
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._fd = -1
        self._temporary = ""
        self.size = 0

    def write(self, block: bytes | bytearray | memoryview, /) -> int:
        length = len(block)
        self.size += length
        if self._fd < 0:
            if self._held_bytes + length <= _BUFFER_BYTES:
                self._held.append(bytes(block))  # the caller may use its buffer again
                self._held_bytes += length
                return length
            self._spill()
        self._area.write_to(self._fd, block)
        return length

    def publish(self, name: str) -> None:
        """Hands the file to its group; `name` is relative to the area's root, its directory exists."""
        if self._fd < 0:
            self._area.put(name, b"".join(self._held))
        else:
            fd, self._fd = self._fd, -1
            self._area.enqueue(fd, self._temporary, name, self.size)

    def read_back(self) -> int:
        """A descriptor open for reading what was written so far (position 0); the caller closes it."""
        if self._fd < 0:
            self._spill()
        return self._area.open_temporary(self._temporary)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._held = []
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._area.discard(fd, self._temporary)

    def _spill(self) -> None:
        self._fd, self._temporary = self._area.create()
        held, self._held, self._held_bytes = self._held, [], 0
        if held:
            self._area.write_to(self._fd, b"".join(held))


class StagingArea:
    """Publishes files below one root directory, all of them through temporary names in `root/.migrate/`.

    Usable from several threads and, each with an area of its own, from several processes. A background thread syncs
    full groups; its error is raised by the next call, and from then on by every call. Names are given by the threads
    that write: one more that makes thousands of short system calls would only fight them for Python's lock.
    """

    def __init__(self, root: Path, files: FileSystem = FILE_SYSTEM) -> None:
        self.root = root
        self.files = files
        self._lock = threading.Lock()
        self._pending: Group = []
        self._pending_bytes = 0
        self._count = 0
        self._error: BaseException | None = None
        self._groups: queue.Queue[Group | None] = queue.Queue(maxsize=2)
        self._naming = threading.Lock()
        self._synced: deque[Group] = deque()
        self._unsynced_parents: dict[str, None] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        with target_errors(str(root)):
            self._root_fd = os.open(root, _DIRECTORY)
            try:
                self._run = RunDirectory(root, self._root_fd, files)
            except BaseException:
                os.close(self._root_fd)
                raise

    def is_alone(self) -> bool:
        """False while another run is at work on the target. To be asked under the shared lock. Raises OSError."""
        return self._run.is_alone()

    # --- writing -------------------------------------------------------------------------------------------------

    def open(self) -> StagedFile:
        return StagedFile(self)

    def put(self, name: str, content: bytes) -> None:
        """A whole small file, as `open`, `write` and `publish` would."""
        fd, temporary = self.create()
        try:
            self.write_to(fd, content)
        except BaseException:
            self.discard(fd, temporary)
            raise
        self.enqueue(fd, temporary, name, len(content))

    def create(self) -> tuple[int, str]:
        """A new temporary file: its descriptor and its name in the run's directory."""
        self._raise_error()
        with self._lock:
            self._count += 1
            temporary = str(self._count)
        try:
            return self.files.open(temporary, _CREATE, self._run.fd), temporary
        except OSError as exc:
            raise target_error(exc, f"{self.root}: a temporary file cannot be made") from exc

    def write_to(self, fd: int, block: bytes | bytearray | memoryview) -> None:
        try:
            write_all(self.files, fd, block)
        except OSError as exc:
            raise target_error(exc, f"{self.root}: writing failed") from exc

    def open_temporary(self, temporary: str) -> int:
        with target_errors(str(self.root)):
            return os.open(temporary, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._run.fd)

    def discard(self, fd: int, temporary: str) -> None:
        with contextlib.suppress(OSError):
            os.close(fd)
        self.drop(temporary)

    def enqueue(self, fd: int, temporary: str, name: str, size: int) -> None:
        """The complete file behind `fd` (closed here) shall be called `name`."""
        try:
            self.files.close(fd)
        except OSError as exc:
            raise target_error(exc, f"{self.root}: writing failed") from exc
        self._add(temporary, name, size)

    def _add(self, temporary: str, name: str, size: int) -> None:
        with self._lock:
            self._pending.append((temporary, name, size))
            self._pending_bytes += size
            if len(self._pending) < GROUP_FILES and self._pending_bytes < GROUP_BYTES:
                return
            group = self._take()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="target-sync", daemon=True)
                self._thread.start()
        self._groups.put(group)
        self._name_synced()

    def adopt(self, source: str, *, hard: bool) -> str | None:
        """Links (hard) or clones the file `source` to a temporary name, which it returns; None where that cannot be.

        The caller checks the bytes with `open_temporary`, then calls `enqueue_adopted` or `drop`.
        """
        with self._lock:
            self._count += 1
            temporary = str(self._count)
        try:
            if hard:
                self.files.hard_link(source, temporary, self._run.fd)
            else:
                self._clone(source, temporary)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise target_error(exc, f"{self.root}: linking failed") from exc
            return None
        return temporary

    def enqueue_adopted(self, temporary: str, name: str, size: int) -> None:
        self._add(temporary, name, size)

    def drop(self, temporary: str) -> None:
        with contextlib.suppress(OSError):  # what stays is removed with the run's directory
            self.files.unlink(temporary, self._run.fd)

    def _clone(self, source: str, temporary: str) -> None:
        origin = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            copy = self.files.open(temporary, _CREATE, self._run.fd)
            try:
                self.files.reflink(origin, copy)
            except BaseException:
                self.discard(copy, temporary)
                raise
            self.files.close(copy)
        finally:
            os.close(origin)

    # --- groups --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Returns when everything enqueued so far is on the disk under its name."""
        self._groups.join()
        self._raise_error()
        with self._lock:
            group = self._take()
        if group:
            self._sync(group)
        self._name_synced()
        self._sync_parents()
        self._raise_error()

    def replace(self, name: str, content: bytes) -> None:
        """The file `name` now holds `content`, on the disk; whoever opens it sees the old bytes or the new."""
        self.put(name, content)
        self.flush()

    def close(self) -> None:
        """Removes what has no name yet. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._groups.put(None)
            self._thread.join()
        self._name_synced()
        self._run.remove()
        os.close(self._root_fd)

    @property
    def root_fd(self) -> int:
        return self._root_fd

    def free_bytes(self) -> int | None:
        """Bytes that this user may still write here; None where the system cannot say."""
        try:
            status = os.fstatvfs(self._root_fd)
        except OSError:
            return None
        return status.f_bavail * status.f_frsize

    @property
    def failed(self) -> bool:
        return self._error is not None

    def _take(self) -> Group:
        group, self._pending, self._pending_bytes = self._pending, [], 0
        return group

    def _work(self) -> None:
        while (group := self._groups.get()) is not None:
            if self._error is None:
                self._sync(group)
            self._groups.task_done()

    def _sync(self, group: Group) -> None:
        with self._kept_errors():
            self._sync_data(group)
            self._synced.append(group)

    def _name_synced(self) -> None:
        """Gives their names to the files whose bytes are on the disk by now."""
        with self._naming, self._kept_errors():
            while self._synced and self._error is None:
                for temporary, name, _ in self._synced.popleft():
                    self.files.rename(temporary, name, self._run.fd, self._root_fd)
                    self._unsynced_parents[name.rpartition("/")[0]] = None

    @contextlib.contextmanager
    def _kept_errors(self) -> Iterator[None]:
        """What goes wrong is kept for whoever comes next, because a thread has nobody to raise it to."""
        try:
            yield
        except OSError as exc:
            self._error = target_error(exc, f"{self.root}: writing failed")
            self._error.__cause__ = exc
        except BaseException as exc:  # noqa: BLE001
            self._error = exc

    def sync_directory(self, name: str) -> None:
        fd = os.open(name or ".", _DIRECTORY, dir_fd=self._root_fd)
        try:
            self.files.sync_directory(fd)
        finally:
            os.close(fd)

    def _sync_parents(self) -> None:
        """A registry's tree has a directory for each file; many of them are synced at once."""
        with self._naming, self._kept_errors():
            parents, self._unsynced_parents = list(self._unsynced_parents), {}
            if len(parents) >= _SYNC_EACH_BELOW and self.files.sync_file_system(self._run.fd):
                return
            for parent in parents:
                self.sync_directory(parent)

    def _sync_data(self, group: Group) -> None:
        if len(group) >= _SYNC_EACH_BELOW and self.files.sync_file_system(self._run.fd):
            return
        for temporary, _, _ in group:
            fd = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._run.fd)
            try:
                self.files.sync(fd)
            finally:
                os.close(fd)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
