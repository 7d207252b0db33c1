"""A file tree, read-only, wherever it stands: in a directory or in a file system image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable


class TreeEntry(NamedTuple):
    """One name of a tree. `mode` is st_mode with the file type; `mtime_ns` nanoseconds since 1970, may be negative.

    `path` is relative to the tree's root, in bytes, without a leading slash, and b"" for the root itself.
    `device` tells file systems apart: equal (device, inode) is one inode. A tuple, because there are millions of them.
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: int
    device: int
    inode: int
    nlink: int

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]


class FileTree(Protocol):
    """Nothing here follows a symbolic link, in any component of a path. Errors are SourceError."""

    def lstat(self, path: bytes, /) -> TreeEntry:
        """MissingLayerError if there is no such name."""

    def list_directory(self, path: bytes, /) -> Sequence[TreeEntry]:
        """Sorted bytewise by name, without `.` and `..`."""

    def read_link(self, path: bytes, /) -> bytes: ...

    def read_xattrs(self, path: bytes, /) -> Mapping[bytes, bytes]: ...

    def open_file(self, path: bytes, /) -> BinaryIO:
        """A regular file's content."""


Facts = tuple[int, int, int, int, int, int, int, int, int]
"""A TreeEntry without its path, in the same order."""


@runtime_checkable
class ListsFacts(Protocol):
    """A tree that can describe a directory's entries without an object for each of their paths."""

    def list_facts(self, path: bytes, /) -> Mapping[bytes, Facts]:
        """Name → facts, in any order."""


@runtime_checkable
class ListsNames(Protocol):
    """A tree that can name a directory's entries for less than it takes to describe each of them."""

    def list_names(self, path: bytes, /) -> Mapping[bytes, int]:
        """Name → inode number, as the directory's own record has it; in any order."""


@runtime_checkable
class ReadsCapability(Protocol):
    """A tree that can read `security.capability`, the one xattr that Docker looks at, without reading all of them."""

    def read_capability(self, path: bytes, /) -> bytes | None: ...


@runtime_checkable
class ListsCapabilities(Protocol):
    """A tree that can do that for a whole directory for less than it takes name by name."""

    def list_capabilities(self, path: bytes, /) -> Mapping[bytes, bytes]:
        """Name → `security.capability`, of those entries that have one; in any order."""


def entries_of(directory: bytes, facts: Mapping[bytes, Facts]) -> list[TreeEntry]:
    """A directory's entries, sorted bytewise by name."""
    prefix = directory + b"/" if directory else b""
    return [TreeEntry(prefix + name, *facts[name]) for name in sorted(facts)]


def close_tree(tree: FileTree) -> None:
    """Lets go of what the tree keeps open, if it is of a kind that does."""
    close = getattr(tree, "close", None)
    if close is not None:
        close()
