"""`.migrate/` inside a target: the lock that runs share, and one directory of temporary files for each run.

A run holds a lock on its own directory for as long as it lives, however it ends; so the next run can tell the
leftovers of a dead run, which it removes, from the files of a run that is still at work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from migrate.storage.staging import FileSystem

STATE_DIRECTORY: Final = ".migrate"
_RUN_NAME = re.compile(r"tmp-[0-9a-f]{16}")
_OWNER: Final = "owner"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_LOCK_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_LOCKS: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Said by file systems that have no locks. There, leftovers stay, and two runs at once are the user's affair."""


def is_run_directory(name: str) -> bool:
    """True for the name of a run's temporary directory in `.migrate/`."""
    return _RUN_NAME.fullmatch(name) is not None


@contextlib.contextmanager
def exclusive_lock(root_fd: int) -> Iterator[None]:
    """Only one process (and one thread) at a time is inside, for one target. Raises OSError."""
    fd = os.open(f"{STATE_DIRECTORY}/lock", _LOCK_FILE, 0o644, dir_fd=root_fd)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as exc:
            if exc.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(fd)


class RunDirectory:
    """The temporary directory of this run. Opening it removes those of dead runs. Raises OSError."""

    def __init__(self, root: Path, root_fd: int, files: FileSystem) -> None:
        self._root = root
        self._root_fd = root_fd
        self._files = files
        with contextlib.suppress(FileExistsError):
            files.make_directory(STATE_DIRECTORY, root_fd)
        self._name = f"{STATE_DIRECTORY}/tmp-{os.urandom(8).hex()}"
        with exclusive_lock(root_fd):
            self._remove_leftovers()
            files.make_directory(self._name, root_fd)
            self.fd = os.open(self._name, _DIRECTORY, dir_fd=root_fd)
            self._owner_fd = files.open(_OWNER, _LOCK_FILE, self.fd)
            _try_lock(self._owner_fd)

    def remove(self) -> None:
        """Removes the directory with all that is in it; what cannot be removed is left to the next run."""
        with contextlib.suppress(OSError):
            _remove_tree(self._files, self._root_fd, self._name)
        os.close(self.fd)
        os.close(self._owner_fd)

    def is_alone(self) -> bool:
        """False while another run is at work on the target. To be asked under the shared lock. Raises OSError."""
        return all(path == self._name or _is_dead(path, self._root_fd) for path in self._all())

    def _remove_leftovers(self) -> None:
        for path in self._all():
            if _is_dead(path, self._root_fd):
                with contextlib.suppress(OSError):
                    _remove_tree(self._files, self._root_fd, path)

    def _all(self) -> list[str]:
        state = os.open(STATE_DIRECTORY, _DIRECTORY, dir_fd=self._root_fd)
        try:
            return [f"{STATE_DIRECTORY}/{name}" for name in os.listdir(state) if is_run_directory(name)]
        finally:
            os.close(state)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_dead(path: str, root_fd: int) -> bool:
    """True if nobody holds the owner's lock. Creation happens under the shared lock, so an absent file means dead."""
    try:
        fd = os.open(f"{path}/{_OWNER}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root_fd)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return _try_lock(fd)
    finally:
        os.close(fd)


def _remove_tree(files: FileSystem, root_fd: int, path: str) -> None:
    """A run's directory is flat: its files are numbers, and the owner's file goes last."""
    fd = os.open(path, _DIRECTORY, dir_fd=root_fd)
    try:
        for name in sorted(os.listdir(fd), key=lambda name: name == _OWNER):
            files.unlink(name, fd)
    finally:
        os.close(fd)
    os.rmdir(path, dir_fd=root_fd)
