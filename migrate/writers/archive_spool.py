"""What the archive targets share: a spool directory beside the file, and a tar with the same bytes on every run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from migrate.errors import TargetError
from migrate.storage.staging import FileSystem, target_errors

_BLOCK: Final = 1024 * 1024
_RECORD: Final = 10_240
_OWNER: Final = "migrate"
"""The user name in every header: it tells an archive of ours, which a second run may replace, from any other file."""


class UnsyncedFileSystem(FileSystem):
    """For a spool, which no crash needs to survive."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, fd: int) -> None:
        pass

    def sync_file_system(self, fd: int) -> bool:
        return True


class ArchiveSpool:
    """A directory for blobs until their archive is written; held by one run at a time.

    It stands beside the file (`.NAME.migrate`), or in the system's temporary directory for standard output. A run that
    was killed leaves it, and the next one uses the blobs in it.
    """

    def __init__(self, target: str, *, force: bool) -> None:
        self.target = target
        self._stdout = target == "-"
        self._special = False
        self._lock_fd = -1
        path = Path(target)
        with target_errors(target):
            if self._stdout:
                self.directory = Path(tempfile.mkdtemp(prefix="migrate-"))
                return
            self._special = path.exists() and not stat.S_ISREG(path.stat().st_mode)
            if not (force or self._special or _is_ours(path)):
                raise TargetError(f"{target}: this file exists and was not written by migrate (--force replaces it)")
            if self._special:
                self.directory = Path(tempfile.mkdtemp(prefix="migrate-"))
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self.directory = path.parent / f".{path.name}.migrate"
            self.directory.mkdir(exist_ok=True)
            self._take_lock()

    @property
    def is_beside(self) -> bool:
        """True where the spool and the archive share a file system."""
        return not (self._stdout or self._special)

    def _take_lock(self) -> None:
        self._lock_fd = os.open(self.directory / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner = os.read(self._lock_fd, 20).decode("ascii", "replace").strip()
            os.close(self._lock_fd)
            raise TargetError(f"{self.target}: another run (process {owner}) is writing it") from exc
        os.ftruncate(self._lock_fd, 0)
        os.write(self._lock_fd, f"{os.getpid()}\n".encode())

    @contextlib.contextmanager
    def open_archive(self) -> Iterator[DeterministicTar]:
        """The archive, which gets its name when the context is left without an error."""
        if self._stdout:
            sys.stdout.flush()
            with target_errors("standard output"):
                with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
                    yield from _write_tar(stream)
            return
        with target_errors(self.target):
            if self._special:
                with open(self.target, "wb") as stream:
                    yield from _write_tar(stream)
                return
            temporary = self.directory / "archive.tar"
            with open(temporary, "wb", buffering=0) as stream:
                yield from _write_tar(stream)
                os.fsync(stream.fileno())
            temporary.replace(self.target)
            _sync_directory(Path(self.target).parent)

    def remove(self) -> None:
        with target_errors(str(self.directory)):
            shutil.rmtree(self.directory)

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        elif not self.is_beside:
            shutil.rmtree(self.directory, ignore_errors=True)


def _write_tar(stream: BinaryIO) -> Iterator[DeterministicTar]:
    archive = DeterministicTar(stream)
    yield archive
    archive.end()


def _is_ours(path: Path) -> bool:
    """True where nothing would be lost: no file, an empty one, or an archive that this program wrote."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(512)
    except FileNotFoundError:
        return True
    return not head or head[265:297].rstrip(b"\0") == _OWNER.encode()


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class DeterministicTar:
    """A tar of regular files without times and owners. Sizes from 8 GiB on are GNU base-256, which Go reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0

    def add(self, name: str, content: bytes) -> None:
        self._header(name, len(content))
        self._write(content)
        self._pad(512)

    def add_file(self, name: str, source: BinaryIO, size: int) -> None:
        """`size` bytes from `source`; TargetError where it holds fewer or more."""
        self._header(name, size)
        left = size
        while left:
            block = source.read(min(_BLOCK, left))
            if not block:
                raise TargetError(f"{name}: the spooled blob is {left:,} bytes shorter than {size:,}")
            self._write(block)
            left -= len(block)
        self._pad(512)

    def end(self) -> None:
        self._write(bytes(1024))
        self._pad(_RECORD)
        self._stream.flush()

    def _header(self, name: str, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o644
        member.uname = _OWNER
        self._write(member.tobuf(tarfile.GNU_FORMAT))

    def _pad(self, unit: int) -> None:
        self._write(bytes(-self._position % unit))

    def _write(self, block: bytes) -> None:
        self._position += len(block)
        view = memoryview(block)
        while view:
            written = self._stream.write(view)
            if not written:
                raise TargetError("the system wrote no byte of the archive")
            view = view[written:]
