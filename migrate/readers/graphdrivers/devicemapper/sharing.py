"""What snapshots share is parsed once.

Blocks that snapshots share lie at one place of the pool, so an inode or a directory that lies at the same place in two
layers is the same. Docker's diff compares metadata only, never contents: the layers of a chain cost the inodes and
directories in which they differ, and a child and its parent hold the very same objects for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrate.storage.filesystems.journal import ReplayedBlocks
from migrate.storage.filesystems.kept import MOST_KEPT, KeptFileSystem

if TYPE_CHECKING:
    from migrate.storage.filesystems.filesystem import Directory, FileSystem, Inode
    from migrate.storage.thin.device import ThinDevice


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
        if len(self._inodes) >= MOST_KEPT:
            self._inodes.clear()
        return self._inodes.setdefault(key, inode)

    def keep_directory(self, key: tuple[int, ...], directory: Directory) -> Directory:
        if len(self._directories) >= MOST_KEPT:
            self._directories.clear()
        return self._directories.setdefault(key, directory)


class SharedFileSystem(KeptFileSystem):
    """A file system on a thin device, which looks at the pool's parsed inodes before it parses its own."""

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
        """Where in the pool a byte is; None if nowhere, or if the journal has a newer one. At one place there is one
        inode, whatever the layer."""
        if isinstance(self.device, ReplayedBlocks) and self.device.replaces(offset):
            return None
        return self._thin.pool_position(offset)

    def pool_position(self, number: int) -> int | None:
        """Where in the pool the inode lies, None if nowhere."""
        return self._position(self._inner.inode_offset(number))

    def _parse_directory(self, inode: Inode) -> Directory:
        # The key is where the inode and every piece of its content are; None if any of it is not certain.
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
