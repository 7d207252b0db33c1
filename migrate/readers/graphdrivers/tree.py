"""A file tree, read-only, wherever it stands: in a directory or in a file system image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name of a tree. `mode` is st_mode with the file type; `mtime_ns` nanoseconds since 1970, may be negative.

    `path` is relative to the tree's root, in bytes, without a leading slash, and b"" for the root itself.
    `device` tells file systems apart: equal (device, inode) is one inode.
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
