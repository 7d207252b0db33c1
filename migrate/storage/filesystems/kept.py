"""A file system that keeps parsed inodes and folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks
    from migrate.storage.filesystems.filesystem import Directory, FileExtent, FileSystem, Inode

MOST_KEPT: Final = 100_000
"""Limit of the kept inodes, and of the kept directories. A full table is emptied."""


class KeptFileSystem:
    """A FileSystem that parses each inode and directory of another FileSystem once."""

    def __init__(self, inner: FileSystem) -> None:
        self._inner = inner
        self.device: Blocks = inner.device
        self._inodes: dict[int, Inode] = {}
        self._directories: dict[int, Directory] = {}

    @property
    def kind(self) -> str:
        return self._inner.kind

    @property
    def root(self) -> int:
        return self._inner.root

    @property
    def doubt(self) -> str | None:
        return self._inner.doubt

    def inode_offset(self, number: int) -> int:
        return self._inner.inode_offset(number)

    def read_inode(self, number: int) -> Inode:
        inode = self._inodes.get(number)
        if inode is None:
            if len(self._inodes) >= MOST_KEPT:
                self._inodes.clear()
            inode = self._inodes[number] = self._parse_inode(number)
        return inode

    def read_directory(self, inode: Inode) -> Directory:
        directory = self._directories.get(inode.number)
        if directory is None:
            if len(self._directories) >= MOST_KEPT:
                self._directories.clear()
            directory = self._directories[inode.number] = self._parse_directory(inode)
        return directory

    def _parse_inode(self, number: int) -> Inode:
        return self._inner.read_inode(number)

    def _parse_directory(self, inode: Inode) -> Directory:
        return self._inner.read_directory(inode)

    def read_link(self, inode: Inode) -> bytes:
        return self._inner.read_link(inode)

    def read_xattrs(self, inode: Inode) -> Mapping[bytes, bytes]:
        return self._inner.read_xattrs(inode)

    def read_extents(self, inode: Inode) -> Sequence[FileExtent]:
        return self._inner.read_extents(inode)
