"""What snapshots share is parsed once.

Blocks that snapshots share lie at one place of the pool, so an inode or a directory that lies at the same place in two
layers is the same. Docker's diff compares metadata only, never contents: the layers of a chain cost the inodes and
directories in which they differ, and a child and its parent hold the very same objects for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from migrate.readers.graphdrivers.devicemapper.filesystem import Directory, Extent, FileSystem, Inode, ReadsDevice

_MOST_KEPT: Final = 100_000


class ParsedInodes:
    """Inodes and directories of a pool by where they lie. Bounded: a full table is emptied and fills again."""

    def __init__(self) -> None:
        self._inodes: dict[tuple[int, int], Inode] = {}
        self._directories: dict[tuple[int, ...], Directory] = {}

    def inode(self, key: tuple[int, int]) -> Inode | None:
        return self._inodes.get(key)

    def directory(self, key: tuple[int, ...]) -> Directory | None:
        return self._directories.get(key)

    def keep_inode(self, key: tuple[int, int], inode: Inode) -> Inode:
        if len(self._inodes) >= _MOST_KEPT:
            self._inodes.clear()
        return self._inodes.setdefault(key, inode)

    def keep_directory(self, key: tuple[int, ...], directory: Directory) -> Directory:
        if len(self._directories) >= _MOST_KEPT:
            self._directories.clear()
        return self._directories.setdefault(key, directory)


class SharedFileSystem:
    """A FileSystem over another one, which looks at the pool's parsed inodes before it asks."""

    def __init__(self, inner: FileSystem, parsed: ParsedInodes) -> None:
        self._inner = inner
        self.device: ReadsDevice = inner.device
        self._parsed = parsed
        self._inodes: dict[int, Inode] = {}
        self._opened: dict[int, Directory] = {}

    @property
    def kind(self) -> str:
        return self._inner.kind

    @property
    def root(self) -> int:
        return self._inner.root

    def read_inode(self, number: int) -> Inode:
        known = self._inodes.get(number)
        if known is not None:
            return known
        position = self.pool_position(number)
        inode = None if position is None else self._parsed.inode((position, number))
        if inode is None:
            inode = self._inner.read_inode(number)
            if position is not None:
                inode = self._parsed.keep_inode((position, number), inode)
        if len(self._inodes) >= _MOST_KEPT:
            self._inodes.clear()
        self._inodes[number] = inode
        return inode

    def pool_position(self, number: int) -> int | None:
        """Where in the pool the inode lies, None if nowhere: at one place there is one inode, whatever the layer."""
        return self.device.pool_position(self._inner.inode_offset(number))

    def read_directory(self, inode: Inode) -> Directory:
        directory = self._opened.get(inode.number)
        if directory is None:
            if len(self._opened) >= _MOST_KEPT:
                self._opened.clear()
            directory = self._opened[inode.number] = self._shared_directory(inode)
        return directory

    def _shared_directory(self, inode: Inode) -> Directory:
        key = self._directory_key(inode)
        directory = None if key is None else self._parsed.directory(key)
        if directory is None:
            directory = self._inner.read_directory(inode)
            if key is not None:
                directory = self._parsed.keep_directory(key, directory)
        return directory

    def _directory_key(self, inode: Inode) -> tuple[int, ...] | None:
        """Where the inode and every piece of its content lie; None if any of it is not certain."""
        offsets = [self._inner.inode_offset(inode.number)]
        for extent in self._inner.read_extents(inode):
            offsets.extend(_pieces(extent, self.device.block_size))
        places = [self.device.pool_position(offset) for offset in offsets]
        known = tuple(place for place in places if place is not None)
        return known if len(known) == len(places) else None

    def read_link(self, inode: Inode) -> bytes:
        return self._inner.read_link(inode)

    def read_xattrs(self, inode: Inode) -> Mapping[bytes, bytes]:
        return self._inner.read_xattrs(inode)

    def read_extents(self, inode: Inode) -> Sequence[Extent]:
        return self._inner.read_extents(inode)


def _pieces(extent: Extent, block_size: int) -> list[int]:
    """The first byte of the extent in every pool block that it touches."""
    end = extent.offset + extent.length
    following = range((extent.offset // block_size + 1) * block_size, end, block_size)
    return [extent.offset, *following]
