"""Parts of the archive targets: a spool directory beside the file, and a tar with the same bytes on every run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from migrate.errors import TargetError
from migrate.storage.directory_store import DirectoryStore, make_durable_directory, remove_empty
from migrate.storage.syscalls import (
    CREATE,
    SYSTEM_CALLS,
    SystemCalls,
    open_folder,
    open_regular,
    remove_tree,
    target_errors,
    write_all,
)

_BLOCK: Final = 1024 * 1024
_RECORD: Final = 10_240
_LOCK: Final = "owner"
_ARCHIVE: Final = "archive.tar"
_SCRATCH: Final = "layer.tar"
_OWNER: Final = "migrate"
"""The user name in every header. It marks archives of this program, which a later run may replace."""


class ArchiveSpool:
    """A directory for blobs until their archive is written; used by one run at a time.

    It is beside the file (`.NAME.migrate`), or in the system's temporary directory for standard output. It is left by a
    killed run, and the next run uses the blobs in it. It must belong to this user, and no file in it is opened through
    a link, because other users may be able to write to the directory of the archive.
    """

    def __init__(self, target: str, *, force: bool, files: SystemCalls = SYSTEM_CALLS) -> None:
        self.target = target
        self._files = files
        self._path = Path(target)
        self._parent_fd = self._lock_fd = -1
        self._made: list[str] = []
        with target_errors(target):
            mode = None if target == "-" or not self._path.exists() else self._path.stat().st_mode
            if mode is not None and stat.S_ISDIR(mode):
                raise TargetError(f"{target}: is a directory; an archive is a file")
            self.is_beside = target != "-" and (mode is None or stat.S_ISREG(mode))
            """True if the spool is beside the archive, on its file system."""
            if not self.is_beside:
                # standard output, a pipe or a device: there is no directory beside it, and no file to replace
                self.directory = Path(tempfile.mkdtemp(prefix="migrate-"))
                self.store = DirectoryStore(self.directory, files, durable=False, owner=os.geteuid())
                return
            if not (force or _is_ours(self._path)):
                raise TargetError(f"{target}: this file exists and was not written by migrate (--force replaces it)")
            # All files are opened relative to the descriptor of their folder, so that no link in a path is followed.
            self._made = make_durable_directory(self._path.parent, files)
            self._parent_fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.directory = self._path.parent / self._name
        try:
            with target_errors(str(self.directory)):
                self.store = self._open_store()
                try:
                    self._take_lock()
                except BaseException:
                    self.store.close()
                    raise
        except BaseException:
            for fd in (self._lock_fd, self._parent_fd):
                if fd >= 0:
                    os.close(fd)
            raise

    @property
    def _name(self) -> str:
        return f".{self._path.name}.migrate"

    def _open_store(self) -> DirectoryStore:
        owner = os.geteuid()
        try:
            self._files.make_directory(self._name, self._parent_fd, 0o700)
            made = True
        except FileExistsError:
            made = False
        fd = open_folder(self._name, self._parent_fd, str(self.directory))
        found = os.fstat(fd).st_uid
        # Only for an old spool: NFS with root_squash gives a directory that root creates to another user.
        if found != owner and not made:
            os.close(fd)
            raise TargetError(f"{self.directory}: belongs to user {found}, and not to this one ({owner}); remove it")
        return DirectoryStore(self.directory, self._files, root_fd=fd, durable=False, owner=found)

    def _take_lock(self) -> None:
        what = f"{self.directory}/{_LOCK}"
        fd = open_regular(_LOCK, os.O_RDWR | os.O_CREAT, self.store.root_fd, what, self._files)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:  # two runs would mix their blobs and write one archive
            owner = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            raise TargetError(f"{self.target}: another run (process {owner}) is writing it") from exc
        self._lock_fd = fd
        self._files.truncate(fd, 0)
        self._files.write(fd, f"{os.getpid()}\n".encode())

    @contextlib.contextmanager
    def open_archive(self) -> Iterator[DeterministicTar]:
        """The archive, which gets its name when the context ends without an error."""
        if self.target == "-":
            sys.stdout.flush()
            with target_errors("standard output"):
                with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
                    yield from _write_tar(stream.write)
            return
        with target_errors(self.target):
            if not self.is_beside:
                with open(self.target, "wb", buffering=0) as stream:
                    yield from _write_tar(stream.write)
                return
            # The content is durable before the name: a crash leaves the old archive or the new one.
            with self._new_file(_ARCHIVE) as fd:
                yield from _write_tar(partial(self._files.write, fd))
                self._files.sync(fd)
            self._files.rename(_ARCHIVE, self._path.name, self.store.root_fd, self._parent_fd)
            self._files.sync_directory(self._parent_fd)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[tuple[Callable[[bytes], None], BinaryIO]]:
        """A temporary file without a name: a function that writes to it, and a stream that reads it from the start."""
        with target_errors(str(self.directory)), self._new_file(_SCRATCH) as fd:
            self._files.unlink(_SCRATCH, self.store.root_fd)
            with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as stream:
                yield partial(write_all, self._files, fd, what=str(self.directory)), stream

    @contextlib.contextmanager
    def _new_file(self, name: str) -> Iterator[int]:
        with contextlib.suppress(FileNotFoundError):  # left by a run that was killed
            self._files.unlink(name, self.store.root_fd)
        fd = self._files.open(name, CREATE, self.store.root_fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self, *, done: bool) -> None:
        """Removes the spool if its archive is `done`. May be called twice."""
        self.store.close()
        if not self.is_beside:
            shutil.rmtree(self.directory, ignore_errors=True)
        elif self._parent_fd >= 0:
            try:
                if done:
                    with target_errors(str(self.directory)):
                        remove_tree(self._name, self._parent_fd, self._files, last=_LOCK)
            finally:
                os.close(self._lock_fd)
                os.close(self._parent_fd)
                self._parent_fd = -1

    def abandon(self) -> None:
        """Closes the spool, and removes it and the directories that were created for it."""
        self.close(done=True)
        remove_empty(self._made)


def _write_tar(write: Callable[[memoryview], int]) -> Iterator[DeterministicTar]:
    archive = DeterministicTar(write)
    yield archive
    archive.end()


def _is_ours(path: Path) -> bool:
    """True if the file may be replaced: it does not exist, is empty, or is an archive that this program wrote."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(512)
    except FileNotFoundError:
        return True
    return not head or head[265:297].rstrip(b"\0") == _OWNER.encode()


class DeterministicTar:
    """A tar of files and folders without times and owners. Sizes of 8 GiB and more are GNU base-256, which Go reads."""

    def __init__(self, write: Callable[[memoryview], int]) -> None:
        """`write` is that of an unbuffered file: it may write fewer bytes than it gets."""
        self._write_some = write
        self._position = 0

    def add_folder(self, name: str) -> None:
        self._header(name, tarfile.DIRTYPE, 0o755)

    def add(self, name: str, content: bytes) -> None:
        self._header(name, tarfile.REGTYPE, 0o644, len(content))
        self._write(content)
        self._pad(512)

    def add_file(self, name: str, source: BinaryIO, size: int) -> None:
        """Adds `size` bytes from `source`. Raises TargetError if it has fewer."""
        self._header(name, tarfile.REGTYPE, 0o644, size)
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

    def _header(self, name: str, kind: bytes, mode: int, size: int = 0) -> None:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.size = size
        member.mode = mode
        member.uname = _OWNER
        self._write(member.tobuf(tarfile.GNU_FORMAT))

    def _pad(self, unit: int) -> None:
        self._write(bytes(-self._position % unit))

    def _write(self, block: bytes) -> None:
        self._position += len(block)
        view = memoryview(block)
        while view:
            written = self._write_some(view)
            if not written:
                raise TargetError("the system wrote no byte of the archive")
            view = view[written:]
