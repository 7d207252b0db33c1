"""`.migrate/` inside a target: the lock that runs share, and one directory of temporary files for each run.

A run holds a lock on its own directory as long as its process exists. The kernel releases the lock, however the process
ends. So the next run can remove the files of a dead run, and leaves those of a running one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from typing import Final

from migrate.storage.store import STATE_DIRECTORY
from migrate.storage.syscalls import DIRECTORY, SystemCalls, open_folder, open_regular, remove_tree, try_lock

_RUN_NAME = re.compile(r"tmp-[0-9a-f]{16}")
_OWNER: Final = "owner"
_LOCK_FILE: Final = os.O_RDWR | os.O_CREAT
NO_LOCKS: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of file systems that have no locks. On these, files of dead runs stay, and the user must not start two runs at
once."""


def is_run_directory(name: str) -> bool:
    """True for the name of a run's temporary directory in `.migrate/`."""
    return _RUN_NAME.fullmatch(name) is not None


class RunDirectory:
    """The temporary directory of this run. Opening it removes those of dead runs.

    Raises OSError, and TargetError if `.migrate` is no folder.
    """

    def __init__(self, location: str, root_fd: int, files: SystemCalls) -> None:
        self._shown = f"{location}/{STATE_DIRECTORY}"
        self._files = files
        with contextlib.suppress(FileExistsError):
            files.make_directory(STATE_DIRECTORY, root_fd)
        self._state_fd = open_folder(STATE_DIRECTORY, root_fd, self._shown)
        self._name = f"tmp-{os.urandom(8).hex()}"
        try:
            with self.exclusive_lock():
                # Under the shared lock: another run cannot be between making its directory and locking it, where it
                # would look dead.
                for name in self._all():
                    if self._is_dead(name):
                        with contextlib.suppress(OSError):
                            remove_tree(name, self._state_fd, self._files, last=_OWNER)
                files.make_directory(self._name, self._state_fd)
                self.fd = os.open(self._name, DIRECTORY, dir_fd=self._state_fd)
                self._owner_fd = files.open(_OWNER, _LOCK_FILE | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, self.fd)
                try_lock(self._owner_fd, without_locks=False)
        except BaseException:
            os.close(self._state_fd)
            raise

    @contextlib.contextmanager
    def exclusive_lock(self) -> Iterator[None]:
        """Held by one process, and one thread, at a time for one target. Raises OSError."""
        fd = open_regular("lock", _LOCK_FILE, self._state_fd, f"{self._shown}/lock", self._files)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as exc:
                if exc.errno not in NO_LOCKS:
                    raise
            yield
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Removes the directory with all files in it. Files that cannot be removed are left for the next run."""
        with contextlib.suppress(OSError):
            remove_tree(self._name, self._state_fd, self._files, last=_OWNER)
        for fd in (self.fd, self._owner_fd, self._state_fd):
            os.close(fd)

    def is_alone(self) -> bool:
        """False if another run uses the target. The caller holds the shared lock. Raises OSError."""
        return all(name == self._name or self._is_dead(name) for name in self._all())

    def _all(self) -> list[str]:
        return [name for name in os.listdir(self._state_fd) if is_run_directory(name)]

    def _is_dead(self, name: str) -> bool:
        """True if no process holds the owner's lock. The file is made under the shared lock, so if it is absent, the
        run is dead."""
        try:
            fd = os.open(name, DIRECTORY, dir_fd=self._state_fd)
        except OSError:
            # After any other error, the folder is kept: a folder too many is harmless, and the loss of a running
            # process's files is not.
            return False
        try:
            owner = os.open(_OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
        try:
            return try_lock(owner, without_locks=False)
        finally:
            os.close(owner)
