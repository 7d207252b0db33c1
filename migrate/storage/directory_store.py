"""A store in a directory of this machine: temporary file, sync of the data, rename, sync of the directory.

Syncs are grouped. A file is written immediately, but gets its name only when the data of its whole group is on the
disk. So ten thousand small files need a few dozen flushes, and a crash never leaves a name for a file with missing
bytes. docs/decisions/0003-grouped-syncs.md has the measurements.

Every folder is opened by its name in the folder above it, and no link is followed. So a target that another user
prepared, or changes during the run, cannot redirect reads or writes to another place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import stat
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import BinaryIO, Final, cast

from migrate.errors import TargetError
from migrate.storage.run_directory import RunDirectory, is_run_directory
from migrate.storage.store import NOT_OURS, STATE_DIRECTORY, Store
from migrate.storage.syscalls import (
    CREATE,
    DIRECTORY,
    SYSTEM_CALLS,
    SystemCalls,
    WrongKindError,
    open_folder,
    open_regular,
    remove_tree,
    target_error,
    target_errors,
    try_lock,
    write_all,
    wrong_kind,
)

GROUP_FILES: Final = 512
GROUP_BYTES: Final = 64 * 1024 * 1024
"""A group is synced when it holds this many files or bytes."""
_BUFFER_BYTES: Final = 128 * 1024
"""A smaller file is kept in memory until it is complete, and is written with one `write`."""
_SYNC_EACH_BELOW: Final = 12
"""Groups of fewer files are synced file by file. syncfs would also flush the unwritten data of other programs."""
_OPEN_FOLDERS: Final = 32
"""Number of folders whose descriptors are kept open. A registry's storage has one folder for each file."""
_SECOND: Final = 1_000_000_000
_FATAL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""After one of these errors of a link, a copy would fail, too."""


def make_durable_directory(path: str | PathLike[str], files: SystemCalls = SYSTEM_CALLS) -> list[str]:
    """Makes `path` and the folders above it that are missing. On return the new names are on the disk. Returns the
    folders that were made, the deepest first. Raises OSError."""
    made: list[str] = []
    missing = [os.fspath(path).rstrip("/") or "/"]
    while not os.path.exists(parent := _parent(missing[-1])):
        missing.append(parent)
    for directory in reversed(missing):
        try:
            files.make_directory(directory)
        except FileExistsError:
            continue
        made.insert(0, directory)
        # A new name is durable only after its folder was synced (fsync(2)).
        fd = os.open(_parent(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.sync_directory(fd)
        finally:
            os.close(fd)
    return made


def _parent(path: str) -> str:
    return os.path.dirname(path) or "."


def remove_empty(directories: Iterable[str]) -> None:
    """Removes the folders that `make_durable_directory` has made. A folder that is not empty stays, and those above
    it."""
    with contextlib.suppress(OSError):
        for directory in directories:
            os.rmdir(directory)


def _is_private(status: os.stat_result, owners: Collection[int], writers: int) -> bool:
    """True if the file belongs to one of the `owners`, and none of the `writers` (bits of its mode) may write it."""
    return status.st_uid in owners and not status.st_mode & writers


def version_of(status: os.stat_result) -> str | None:
    """A text that changes with the file: inode, size and times. None if the file was changed less than two seconds ago
    on a file system with whole seconds (ext3, some network file systems): another change may have the same time."""
    if not stat.S_ISREG(status.st_mode):
        return None
    modified, changed = status.st_mtime_ns, status.st_ctime_ns
    if not changed % _SECOND and time.time_ns() - changed < 2 * _SECOND:
        return None
    return f"{status.st_ino} {status.st_size} {modified} {changed}"


Group = list[tuple[str, str, int]]
"""Complete files without their names: (temporary name, name, size in bytes)."""


class _Folders:
    """Descriptors of the folders of a target, of which those used last are kept. The caller holds `lock`.

    `unsynced`: folders with names that are not durable yet. With `owner`, a folder of another user is refused.
    """

    def __init__(self, location: str, root_fd: int, files: SystemCalls, owner: int | None) -> None:
        self.lock = threading.RLock()
        self.unsynced: dict[str, None] = {}
        self._location = location
        self._root_fd = root_fd
        self._files = files
        self._owner = owner
        self._open: OrderedDict[str, int] = OrderedDict()

    def fd(self, path: str, *, make: bool = False, durable: bool = True) -> int:
        """A descriptor of the folder `path`, open until the next call. An absent folder is made, or is a
        FileNotFoundError."""
        if not path:
            return self._root_fd
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        parent, _, name = path.rpartition("/")
        above = self.fd(parent, make=make, durable=durable)
        what = f"{self._location}/{path}"
        try:
            fd = open_folder(name, above, what)
        except FileNotFoundError:
            if not make:
                raise
            # Another run may make the folder at this moment.
            with contextlib.suppress(FileExistsError):
                self._files.make_directory(name, above)
                if durable:
                    self.unsynced[parent] = None
            fd = open_folder(name, above, what)
        try:
            # The owner of a folder can exchange its files at any time. So what a run reads there is not what it has
            # written.
            if self._owner is not None and (found := os.fstat(fd).st_uid) != self._owner:
                raise TargetError(
                    f"{what}: belongs to user {found}, and not to this one ({self._owner}); remove it first"
                )
        except BaseException:
            os.close(fd)
            raise
        self._open[path] = fd
        if len(self._open) > _OPEN_FOLDERS:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def check(self) -> None:
        """Raises TargetError if the path of an open folder now leads to another folder: files would have been written
        into a folder that was moved away."""
        before = {path: _inode(fd) for path, fd in self._open.items()}
        self.close()
        for path, inode in before.items():
            what = f"{self._location}/{path}"
            with target_errors(what):
                if _inode(self.fd(path)) != inode:
                    raise TargetError(f"{what}: another folder was put in its place while this run wrote into it")

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class _NewFile:
    """A file without its name. Small files are kept in memory until they are complete."""

    __slots__ = ("_fd", "_held", "_held_bytes", "_store", "_temporary", "size")

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
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
            self._fd, self._temporary = self._store._create()
            held, self._held, self._held_bytes = self._held, [], 0
            if held:
                write_all(self._store.files, self._fd, b"".join(held), self._store.write_failed)
        write_all(self._store.files, self._fd, block, self._store.write_failed)
        return length

    def publish(self, name: str, /, *, replace: bool = True) -> None:
        del replace  # a rename is as fast as finding out whether the file exists
        if self._fd < 0:
            self._store.put(name, b"".join(self._held))
        else:
            fd, self._fd = self._fd, -1
            self._store._close(fd)
            self._store._add(self._temporary, name, self.size)

    def __enter__(self) -> _NewFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._held = []
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._store._discard(fd, self._temporary)


class _AppendedFile:
    def __init__(self, store: DirectoryStore, name: str, fd: int) -> None:
        self._store = store
        self._name = name
        self._fd = fd

    def append(self, block: bytes, /) -> None:
        write_all(self._store.files, self._fd, block, self._store.shown(self._name))

    def sync(self) -> None:
        if self._store.durable:
            with target_errors(self._store.shown(self._name)):
                self._store.files.sync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class DirectoryStore(Store):
    """All files are temporary files in `root/.migrate/` first, which is made by the first write.

    A background thread syncs full groups. Its error is raised by the next call, and by every later one. The threads
    that write rename the files: renames in the background thread would compete with them for Python's lock.

    Without `durable` nothing is synced, for files that need not survive a crash. With `owner` every folder must belong
    to that user, so that no other user can change the files.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        files: SystemCalls = SYSTEM_CALLS,
        *,
        root_fd: int | None = None,
        durable: bool = True,
        owner: int | None = None,
        made: Sequence[str] = (),
    ) -> None:
        """`root_fd`: a descriptor of `root`, if it is open already; the store closes it. `made`: the root and the
        directories above it, if they were made for this store, the deepest first."""
        self._made = made
        self.location = str(root)
        self.write_failed = f"{self.location}: writing failed"
        self.files = files
        self.durable = durable
        self._lock = threading.Lock()
        self._pending: Group = []
        self._pending_bytes = 0
        self._count = 0
        self._error: BaseException | None = None
        # Bounded: a killed run loses at most these groups, and a slow disk slows down the writers.
        self._groups: queue.Queue[Group | None] = queue.Queue(maxsize=2)
        self._naming = threading.Lock()
        self._synced: deque[Group] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._started: RunDirectory | None = None
        with target_errors(self.location):
            self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if root_fd is None else root_fd
            self._folders = _Folders(self.location, self.root_fd, files, owner)

    def reopened(self) -> DirectoryStore:
        """A store of the same folder, also if its name now leads elsewhere, for another process."""
        with target_errors(self.location):
            # not a duplicate of the descriptor, which would share the position of listings
            fd = os.open(".", DIRECTORY, dir_fd=self.root_fd)
        return DirectoryStore(self.location, self.files, root_fd=fd, durable=self.durable)

    @property
    def _run(self) -> RunDirectory:
        if self._started is None:
            with self._folders.lock, target_errors(self.location):
                if self._started is None:
                    self._started = RunDirectory(self.location, self.root_fd, self.files)
        return self._started

    # --- reading -------------------------------------------------------------------------------------------------

    def open(self, name: str, /) -> BinaryIO | None:
        try:
            folder, _, last = name.rpartition("/")
            with self._folders.lock:
                fd = open_regular(last, os.O_RDONLY, self._folders.fd(folder), self.shown(name))
            return open(fd, "rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise target_error(exc, self.shown(name)) from exc

    def names(self, folder: str = "", /) -> list[str]:
        try:
            with self._folders.lock:
                return sorted(os.listdir(self._folders.fd(folder)))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise target_error(exc, self.shown(folder)) from exc

    def sizes(self, folder: str, /) -> dict[str, int]:
        try:
            with self._folders.lock, os.scandir(self._folders.fd(folder)) as entries:
                return {
                    entry.name: entry.stat(follow_symlinks=False).st_size
                    for entry in entries
                    if entry.is_file(follow_symlinks=False)
                }
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise target_error(exc, self.shown(folder)) from exc

    def version(self, name: str, /) -> str | None:
        folder, _, last = name.rpartition("/")
        try:
            with self._folders.lock:
                status = os.stat(last, dir_fd=self._folders.fd(folder), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise target_error(exc, self.shown(name)) from exc
        return version_of(status)

    def iter_versions(self) -> Iterator[tuple[str, int, str | None]]:
        """As in Store, without the temporary files of runs."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            with target_errors(self.shown(folder)):
                with self._folders.lock:
                    # A descriptor of `_folders` is closed when other folders are opened, and the caller may open some
                    # between two entries. A duplicate of it would share its position, which other calls set back.
                    fd = open_folder(".", self._folders.fd(folder), self.shown(folder))
                try:
                    with os.scandir(fd) as entries:
                        for entry in entries:
                            name = f"{folder}/{entry.name}" if folder else entry.name
                            if not entry.is_dir(follow_symlinks=False):
                                status = entry.stat(follow_symlinks=False)
                                yield name, status.st_size, version_of(status)
                            elif folder != STATE_DIRECTORY or not is_run_directory(entry.name):
                                waiting.append(name)
                finally:
                    os.close(fd)

    def read_record(self, name: str, limit: int, /, *, private: bool = False) -> bytes:
        folder, _, last = name.rpartition("/")
        try:
            with self._folders.lock:
                above = self._folders.fd(folder)
                owners = {0, self._owner_of_new_files()}
                ours = _is_private(os.fstat(above), owners, stat.S_IWOTH)
                fd = open_regular(last, os.O_RDONLY, above, self.shown(name))
        except FileNotFoundError:
            return b""
        except OSError as exc:
            raise target_error(exc, self.shown(name)) from exc
        with open(fd, "rb", buffering=0) as stream, target_errors(self.shown(name)):
            status = os.fstat(fd)
            # More than one link: another user may have linked the record's name to any file of this user.
            ours = ours and _is_private(status, owners, stat.S_IWGRP | stat.S_IWOTH) and status.st_nlink == 1
            return stream.readall() if status.st_size <= limit and (ours or not private) else b""

    def is_growing(self, name: str, /) -> bool:
        try:
            stream = self.open(name)
        except TargetError:  # reading it gives the error
            return False
        if stream is None:
            return False
        with stream:
            return not try_lock(stream.fileno(), without_locks=True)

    def foreign_owner(self, name: str, /) -> int | None:
        stream = self.open(name)
        if stream is None:
            return None
        with stream, target_errors(self.shown(name)):
            owner = os.fstat(stream.fileno()).st_uid
        if owner in (os.geteuid(), 0):
            return None
        with contextlib.suppress(TargetError, OSError):
            if owner == self._owner_of_new_files():
                return None
        return owner

    def _owner_of_new_files(self) -> int:
        """This user is the owner of a directory that the run has made. On a network file system, files that root makes
        may belong to another user (root_squash)."""
        return os.fstat(self._run.fd).st_uid

    # --- writing -------------------------------------------------------------------------------------------------

    def new_file(self) -> _NewFile:
        return _NewFile(self)

    def put(self, name: str, content: bytes, /) -> None:
        temporary = self._write_temporary(content)
        self._add(temporary, name, len(content))

    def put_now(self, name: str, content: bytes, /) -> None:
        temporary = self._write_temporary(content)
        with target_errors(self.shown(name)):
            self._rename(temporary, name, durable=False)

    def update(self, contents: Mapping[str, bytes], /) -> None:
        for name, content in contents.items():
            try:
                held = self.read(name, len(content))
            except WrongKindError:
                raise
            except TargetError:
                held = None
            if held != content:
                # A file with the same content keeps its inode and times, by which later runs recognise an unchanged
                # target.
                self.put(name, content)

    def remove(self, names: Iterable[str], /) -> None:
        for name in names:
            folder, _, last = name.rpartition("/")
            with target_errors(self.shown(name)), self._folders.lock, contextlib.suppress(FileNotFoundError):
                self.files.unlink(last, self._folders.fd(folder))

    def make_folder(self, name: str, /) -> None:
        with target_errors(self.shown(name)), self._folders.lock:
            self._folders.fd(name, make=True)

    def take_over(self, path: str, name: str, is_right: Callable[[BinaryIO], bool], /, *, hard: bool) -> bool:
        self._raise_error()
        temporary = self._new_name()
        # If no link can be made (another file system, no reflinks), the caller copies the file.
        try:
            if hard:
                self.files.hard_link(path, temporary, self._run.fd)
            else:
                self._clone(path, temporary)
        except OSError as exc:
            if exc.errno in _FATAL:
                raise target_error(exc, f"{self.location}: linking failed") from exc
            return False
        with target_errors(f"{self.location}: a linked file cannot be read"):
            with open(os.open(temporary, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._run.fd), "rb", buffering=0) as stream:
                size = os.fstat(stream.fileno()).st_size
                # Read through the new name: the file could have changed after it was hashed
                # (docs/decisions/0004-hints-are-proven.md).
                matches = is_right(cast(BinaryIO, stream))
        if matches:
            self._add(temporary, name, size)
        else:
            self._drop(temporary)
        return matches

    def append_to(self, name: str, /, *, alone: bool = False) -> _AppendedFile:
        folder, _, last = name.rpartition("/")
        with target_errors(self.shown(name)), self._folders.lock:
            above = self._folders.fd(folder, make=True)
            fd = open_regular(last, os.O_WRONLY | os.O_CREAT | os.O_APPEND, above, self.shown(name), self.files)
        if alone and not try_lock(fd, without_locks=True):
            os.close(fd)
            raise TargetError(f"{self.shown(name)}: another run is at work on it")
        return _AppendedFile(self, name, fd)

    def _clone(self, source: str, temporary: str) -> None:
        origin = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            copy = self.files.open(temporary, CREATE, self._run.fd)
            try:
                self.files.reflink(origin, copy)
            except BaseException:
                self._discard(copy, temporary)
                raise
            self.files.close(copy)
        finally:
            os.close(origin)

    # --- temporary files -----------------------------------------------------------------------------------------

    def _new_name(self) -> str:
        with self._lock:
            self._count += 1
            return str(self._count)

    def _create(self) -> tuple[int, str]:
        """A new temporary file: its descriptor and its name in the run's directory."""
        self._raise_error()
        temporary = self._new_name()
        with target_errors(f"{self.location}: a temporary file cannot be made"):
            return self.files.open(temporary, CREATE, self._run.fd), temporary

    def _write_temporary(self, content: bytes) -> str:
        fd, temporary = self._create()
        try:
            write_all(self.files, fd, content, self.write_failed)
        except BaseException:
            self._discard(fd, temporary)
            raise
        self._close(fd)
        return temporary

    def _close(self, fd: int) -> None:
        with target_errors(self.write_failed):
            self.files.close(fd)

    def _discard(self, fd: int, temporary: str) -> None:
        with contextlib.suppress(OSError):
            os.close(fd)
        self._drop(temporary)

    def _drop(self, temporary: str) -> None:
        with contextlib.suppress(OSError):  # a file that stays is removed with the run's directory
            self.files.unlink(temporary, self._run.fd)

    # --- groups --------------------------------------------------------------------------------------------------

    def _add(self, temporary: str, name: str, size: int) -> None:
        """Adds the complete file `temporary`, which gets the name `name`, to the current group."""
        with self._lock:
            self._pending.append((temporary, name, size))
            self._pending_bytes += size
            if len(self._pending) < GROUP_FILES and self._pending_bytes < GROUP_BYTES:
                return
            group = self._take()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="target-sync", daemon=True)
                self._thread.start()
        # Outside the lock: if the queue is full, because the disk is slow, this waits for the thread.
        self._groups.put(group)
        self._name_synced()

    def flush(self) -> None:
        # First the groups of the thread, then the rest, which is no full group. Names are given after all bytes are on
        # the disk, and the folders are synced last.
        self._groups.join()
        self._raise_error()
        with self._lock:
            group = self._take()
        if group:
            self._sync(group)
        self._name_synced()
        self._sync_folders()
        self._raise_error()

    def abandon(self, is_unused: Callable[[], bool], /) -> None:
        self.flush()
        with self.lock():
            removed = self.is_alone() and is_unused()
            # `.migrate` is removed last: its lock keeps other runs out.
            for name in sorted(self.names(), key=lambda name: name == STATE_DIRECTORY) if removed else ():
                if name not in NOT_OURS:
                    with target_errors(self.shown(name)):
                        if stat.S_ISDIR(os.stat(name, dir_fd=self.root_fd, follow_symlinks=False).st_mode):
                            remove_tree(name, self.root_fd, self.files)
                        else:
                            self.files.unlink(name, self.root_fd)
        self.close()
        if removed:
            remove_empty(self._made)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._error is None:  # the next run need not make these complete files again
                with contextlib.suppress(TargetError):
                    self.flush()
        finally:
            if self._thread is not None:
                self._groups.put(None)
                self._thread.join()
            if self._started is not None:
                self._started.remove()
            self._folders.close()
            os.close(self.root_fd)

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
        """Renames the files whose bytes are on the disk."""
        with self._naming, self._kept_errors():
            while self._synced and self._error is None:
                for temporary, name, size in self._synced.popleft():
                    self._rename(temporary, name)
                    if self.on_named is not None:
                        self.on_named(name, size, self.version(name))

    def _rename(self, temporary: str, name: str, *, durable: bool = True) -> None:
        folder, _, last = name.rpartition("/")
        with self._folders.lock:
            above = self._folders.fd(folder, make=True, durable=durable)
            try:
                self.files.rename(temporary, last, self._run.fd, above)
            except IsADirectoryError as exc:
                raise wrong_kind(self.shown(name), stat.S_IFDIR, "a file") from exc
            if durable:
                self._folders.unsynced[folder] = None

    @contextlib.contextmanager
    def _kept_errors(self) -> Iterator[None]:
        """Keeps an error for the next call, since the thread that syncs has no caller."""
        try:
            yield
        except OSError as exc:
            self._error = target_error(exc, f"{self.location}: writing failed")
            self._error.__cause__ = exc
        except BaseException as exc:  # noqa: BLE001
            self._error = exc

    def _sync_folders(self) -> None:
        """Makes the new names durable. Many folders are synced at once by syncfs: a registry's tree has one for each
        file."""
        with self._naming, self._kept_errors(), self._folders.lock:
            folders, self._folders.unsynced = list(self._folders.unsynced), {}
            self._folders.check()
            if not self.durable or (len(folders) >= _SYNC_EACH_BELOW and self.files.sync_file_system(self.root_fd)):
                return
            for folder in folders:
                self.files.sync_directory(self._folders.fd(folder))

    def _sync_data(self, group: Group) -> None:
        if not self.durable or (len(group) >= _SYNC_EACH_BELOW and self.files.sync_file_system(self._run.fd)):
            return
        for temporary, _, _ in group:
            # fdatasync flushes the file's data through any descriptor of it. The writer has closed its own.
            fd = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._run.fd)
            try:
                self.files.sync(fd)
            finally:
                os.close(fd)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    # --- runs ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        with target_errors(self.location), self._run.exclusive_lock():
            yield

    def is_alone(self) -> bool:
        with target_errors(self.location):
            return self._run.is_alone()

    def free_bytes(self) -> int | None:
        try:
            status = os.fstatvfs(self.root_fd)
        except OSError:
            return None
        return status.f_bavail * status.f_frsize
