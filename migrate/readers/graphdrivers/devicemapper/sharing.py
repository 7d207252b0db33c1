"""Parses the inodes and directories that snapshots share only once.

A block that two snapshots share is at one place of the pool. So an inode or a directory at the same place in two layers
is the same one. Docker's diff compares metadata only, so each further layer of a chain needs only those inodes and
directories to be parsed in which it differs. For the rest, a child and its parent share the objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrate.storage.filesystems.journal import ReplayedBlocks
from migrate.storage.filesystems.kept import MOST_KEPT, KeptFileSystem

if TYPE_CHECKING:
    from migrate.storage.filesystems.filesystem import Directory, FileSystem, Inode
    from migrate.storage.thin.device import ThinDevice


class ParsedInodes:
    """Inodes and directories of a pool by their place in it. A full table is emptied."""

    def __init__(self) -> None:
        self._inodes: dict[tuple[int, int], Inode] = {}
        self._directories: dict[tuple[int, ...], Directory] = {}

    def inode(self, key: tuple[int, int]) -> Inode | None:
        return self._inodes.get(key)

    def directory(self, key: tuple[int, ...]) -> Directory | None:
        return self._directories.get(key)

    def keep_inode(self, key: tuple[int, int], inode: Inode) -> Inode:
        if len(self._inodes) >= MOST_KEPT:
            self._inodes.clear()
        return self._inodes.setdefault(key, inode)

    def keep_directory(self, key: tuple[int, ...], directory: Directory) -> Directory:
        if len(self._directories) >= MOST_KEPT:
            self._directories.clear()
        return self._directories.setdefault(key, directory)


class SharedFileSystem(KeptFileSystem):
    """A file system on a thin device that uses the pool's parsed inodes and directories."""

    def __init__(self, inner: FileSystem, parsed: ParsedInodes, device: ThinDevice) -> None:
        super().__init__(inner)
        self._parsed = parsed
        self._thin = device

    def _parse_inode(self, number: int) -> Inode:
        position = self.pool_position(number)
        inode = None if position is None else self._parsed.inode((position, number))
        if inode is None:
            inode = self._inner.read_inode(number)
            if position is not None:
                inode = self._parsed.keep_inode((position, number), inode)
        return inode

    def _position(self, offset: int) -> int | None:
        """The place of a byte in the pool; None if it is not mapped, or if the journal has a newer byte, which is in
        this layer only."""
        if isinstance(self.device, ReplayedBlocks) and self.device.replaces(offset):
            return None
        return self._thin.pool_position(offset)

    def pool_position(self, number: int) -> int | None:
        """The place of the inode in the pool, None if it has none."""
        return self._position(self._inner.inode_offset(number))

    def _parse_directory(self, inode: Inode) -> Directory:
        # The key: the places of the inode and of every pool block with its content. A snapshot that changed any of them
        # has it at another place. None if a place is unknown.
        offsets = [self._inner.inode_offset(inode.number)]
        block = self._thin.block_size
        for extent in self._inner.read_extents(inode):
            # the first byte of the extent in every pool block that it touches
            following = range((extent.offset // block + 1) * block, extent.offset + extent.length, block)
            offsets.extend([extent.offset, *following])
        places = [self._position(offset) for offset in offsets]
        known = tuple(place for place in places if place is not None)
        key = known if len(known) == len(places) else None
        directory = None if key is None else self._parsed.directory(key)
        if directory is None:
            directory = self._inner.read_directory(inode)
            if key is not None:
                directory = self._parsed.keep_directory(key, directory)
        return directory
