"""A file system that fails, or ends the process, at the Nth call that changes something; and one that keeps a diary."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from migrate.storage.syscalls import SystemCalls

KILLED = 137


class FaultyFileSystem(SystemCalls):
    """Counts calls; before call number `at` it runs `fault`, which raises or does not return."""

    def __init__(self, at: int | None = None, fault: Callable[[], None] | None = None) -> None:
        self.calls = 0
        self._at = at
        self._fault = fault

    def _step(self) -> None:
        self.calls += 1
        if self._at is not None and self.calls >= self._at and self._fault is not None:
            self._fault()

    def open(self, path: str, flags: int, directory: int | None = None) -> int:
        self._step()
        return super().open(path, flags, directory)

    def write(self, fd: int, block: bytes | bytearray | memoryview) -> int:
        self._step()
        return super().write(fd, block)

    def sync(self, fd: int) -> None:
        self._step()
        super().sync(fd)

    def sync_directory(self, fd: int) -> None:
        self._step()
        super().sync_directory(fd)

    def sync_file_system(self, fd: int) -> bool:
        self._step()
        return super().sync_file_system(fd)

    def rename(self, old: str, new: str, old_directory: int, new_directory: int) -> None:
        self._step()
        super().rename(old, new, old_directory, new_directory)

    def make_directory(self, path: str, directory: int | None = None, mode: int = 0o755) -> None:
        self._step()
        super().make_directory(path, directory, mode)

    def remove_directory(self, path: str, directory: int) -> None:
        self._step()
        super().remove_directory(path, directory)

    def unlink(self, path: str, directory: int) -> None:
        self._step()
        super().unlink(path, directory)

    def truncate(self, fd: int, size: int) -> None:
        self._step()
        super().truncate(fd, size)

    def hard_link(self, source: str, target: str, directory: int) -> None:
        self._step()
        super().hard_link(source, target, directory)


class Killed(BaseException):
    """The process is gone: nobody may catch this."""


class FaultyObjects:
    """An fsspec file system; before its change number `at`, and before every later one, it runs `fault`."""

    _CHANGES = frozenset({"pipe", "pipe_file", "put_file", "rm", "rm_file"})

    def __init__(self, filesystem: Any, at: int | None = None, fault: Callable[[], None] | None = None) -> None:
        self._filesystem = filesystem
        self.calls = 0
        self._at = at
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._filesystem, name)
        if name not in self._CHANGES:
            return method

        def change(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self._at is not None and self.calls >= self._at and self._fault is not None:
                self._fault()
            return method(*args, **kwargs)

        return change


def dies() -> None:
    raise Killed


def raises(number: int) -> Callable[[], None]:
    def fault() -> None:
        raise OSError(number, os.strerror(number))

    return fault


def kills() -> None:
    """As SIGKILL would: nothing is closed, flushed or removed."""
    os._exit(KILLED)


class ShortWrites(SystemCalls):
    """Writes a few bytes a call, as the system may."""

    def write(self, fd: int, block: bytes | bytearray | memoryview) -> int:
        return super().write(fd, memoryview(block)[:7])


class FullDisk(SystemCalls):
    """Takes `room` bytes, the last write in part, and is full until `room` is raised."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, fd: int, block: bytes | bytearray | memoryview) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(fd, memoryview(block)[: self.room])
        self.room -= written
        return written


@dataclass
class Diary(SystemCalls):
    """Remembers in which order data and names reached the disk, by inode."""

    events: list[tuple[str, str]] = field(default_factory=list)
    _dirty: set[tuple[int, int]] = field(default_factory=set)
    _unsynced_names: dict[str, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)

    def write(self, fd: int, block: bytes | bytearray | memoryview) -> int:
        self._dirty.add(_inode(fd))
        return super().write(fd, block)

    def sync(self, fd: int) -> None:
        self.events.append(("sync", ""))
        super().sync(fd)
        self._dirty.discard(_inode(fd))

    def sync_file_system(self, fd: int) -> bool:
        self.events.append(("sync all", ""))
        done = super().sync_file_system(fd)
        if done:
            self._dirty.clear()
        return done

    def sync_directory(self, fd: int) -> None:
        self.events.append(("sync directory", ""))
        super().sync_directory(fd)
        directory = os.readlink(f"/proc/self/fd/{fd}")
        self._unsynced_names = {new: where for new, where in self._unsynced_names.items() if where != directory}

    def rename(self, old: str, new: str, old_directory: int, new_directory: int) -> None:
        self.events.append(("rename", new))
        status = os.stat(old, dir_fd=old_directory)
        if (status.st_dev, status.st_ino) in self._dirty:
            self.mistakes.append(f"{new} got its name before its data were on the disk")
        unsynced = [name for name in self._unsynced_names if name != "oci-layout"]
        if new == "index.json" and unsynced:
            self.mistakes.append(f"index.json was replaced before the names {unsynced} were on the disk")
        super().rename(old, new, old_directory, new_directory)
        root = os.readlink(f"/proc/self/fd/{new_directory}")
        self._unsynced_names[new] = os.path.dirname(f"{root}/{new}")


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
