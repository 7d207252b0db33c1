"""The files of a target, in a directory or in a tar, read without following any link.

This is not a `Tree`, for two reasons: a check that used the code of the readers would have the same faults, and it must
find irregularities that a tree hides, such as a member that is in an archive twice.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from migrate.blobio.extents import open_extent
from migrate.blobio.limits import SMALL_FILE_BYTES, read_limited
from migrate.errors import SourceUnreadableError, UnrecognisedSourceError
from migrate.storage.store import STATE_DIRECTORY
from migrate.tar.index import index_tar, looks_like_tar
from migrate.tar.members import Member, MemberKind

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class OddEntry(NamedTuple):
    """A path below the root, and what is wrong with it."""

    where: str
    message: str


class Files(ABC):
    """The files of a target. Subclasses set `_names`, `_directories` and `_problems` in `__init__`."""

    _names: Mapping[str, int]
    _directories: set[str]
    _problems: list[OddEntry]

    def names(self) -> Mapping[str, int]:
        """Paths of the regular files, sorted, and their sizes in bytes, without those in `.migrate/`."""
        return self._names

    def directories(self) -> set[str]:
        """Names of the topmost directories."""
        return self._directories

    def problems(self) -> Sequence[OddEntry]:
        """Entries that are neither a regular file nor a directory, and damage of the tar itself."""
        return self._problems

    @abstractmethod
    def open(self, name: str, /) -> BinaryIO:
        """One of `names()`. Raises OSError; `read` of the stream raises OSError or SourceError."""

    @abstractmethod
    def state(self, name: str, /) -> bytes | None:
        """The first bytes of `.migrate/<name>`, or None if the file does not exist."""

    @abstractmethod
    def close(self) -> None: ...


def read_small(files: Files, name: str, limit: int) -> bytes:
    """Raises LimitError, SourceError or OSError."""
    with files.open(name) as stream:
        return read_limited(stream, limit, name)


def read_plain(path: str, limit: int) -> bytes | None:
    """The content of a regular file; None if there is none, if `path` is a link, or if it exceeds `limit` bytes."""
    try:
        with open(os.open(path, _FLAGS | os.O_NONBLOCK), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            content = stream.read(limit + 1)
    except OSError:
        return None
    return content if len(content) <= limit else None


class DirectoryFiles(Files):
    def __init__(self, root: str) -> None:
        self._root = root
        names: dict[str, int] = {}
        self._problems, self._directories = [], set()
        for name, status in sorted(_walk(root)):
            if stat.S_ISDIR(status):
                if "/" not in name:
                    self._directories.add(name)
            elif stat.S_ISREG(status):
                names[name] = os.lstat(os.path.join(root, name)).st_size
            else:
                self._problems.append(OddEntry(name, "is neither a regular file nor a directory"))
        self._names = names

    def open(self, name: str, /) -> BinaryIO:
        return os.fdopen(os.open(os.path.join(self._root, name), _FLAGS), "rb", buffering=0)

    def state(self, name: str, /) -> bytes | None:
        return read_plain(os.path.join(self._root, STATE_DIRECTORY, name), SMALL_FILE_BYTES)

    def close(self) -> None:
        pass


def _walk(root: str) -> Iterator[tuple[str, int]]:
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(os.path.join(root, directory)) as entries:
            for entry in entries:
                name = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield name, stat.S_IFDIR
                    if name not in (STATE_DIRECTORY, "lost+found"):
                        pending.append(name)
                else:
                    kind = stat.S_IFREG if entry.is_file(follow_symlinks=False) else stat.S_IFLNK
                    yield name, kind


class TarFiles(Files):
    def __init__(self, path: str, name: str | None = None) -> None:
        """`name` is the path in errors, if it is not `path`."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a FIFO must not block
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise SourceUnreadableError(f"{path}: neither a file nor a directory")
            shown = name or path
            if not looks_like_tar(os.pread(self._fd, 512, 0)):
                raise UnrecognisedSourceError(f"{shown}: not a tar archive")
            index = index_tar(self._fd, shown)
        except BaseException:
            os.close(self._fd)
            raise
        self._members: dict[str, Member] = {}
        self._directories = set()
        self._problems = [OddEntry(shown, damage.error.message) for damage in index.damages]
        for member in index.members:
            own = member.name.removeprefix("./").rstrip("/")
            if member.kind is MemberKind.DIRECTORY:
                self._directories.add(own.partition("/")[0])
            elif member.kind is not MemberKind.FILE:
                self._problems.append(OddEntry(own, f"is no regular file but a {member.kind}"))
            elif own in self._members:
                self._problems.append(OddEntry(own, "is in the archive twice"))
            else:
                self._members[own] = member
        self._names = {name: self._members[name].size for name in sorted(self._members)}

    def open(self, name: str, /) -> BinaryIO:
        member = self._members[name]
        return open_extent(self._fd, member.offset, member.size, name)

    def state(self, name: str, /) -> bytes | None:
        del name
        return None

    def close(self) -> None:
        os.close(self._fd)
