"""The file system of a volume on a disk, as a tree that also gives the other volumes of the disk."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.errors import SourceError, UnsupportedError
from migrate.storage.disk.volumes import FILE_SYSTEMS, DiskContents, DiskVolume
from migrate.storage.filesystems.btrfs import BtrfsTree
from migrate.storage.filesystems.image_tree import ImageTree
from migrate.storage.filesystems.kept import KeptFileSystem
from migrate.storage.filesystems.probe import open_file_system
from migrate.storage.tree import PoolParts, SubTree, Tree


class DiskTree(SubTree):
    """The tree of a volume. `location` names it in errors. Raises SourceError if its file system cannot be opened."""

    def __init__(self, disk: DiskContents, volume: DiskVolume, location: str) -> None:
        self._disk = disk
        self._volume = volume
        self._doubt: str | None = None
        super().__init__(self._open(volume, location), b"")

    def _open(self, volume: DiskVolume, location: str) -> Tree:
        if volume.blocks is None or volume.kind not in FILE_SYSTEMS:
            raise UnsupportedError(f"{location}: {volume.description}")
        try:
            if volume.kind == "btrfs":
                return BtrfsTree(volume.blocks, location)
            file_system = open_file_system(volume.blocks, volume.kind)
            self._doubt = file_system.doubt
            return ImageTree(KeptFileSystem(file_system), 1, location=location)
        except SourceError as exc:
            raise type(exc)(f"{location}: {exc.message}") from exc

    def subtree(self, path: bytes, /) -> Tree:
        """A subtree of this tree, and not of the file system's, so that it gives the volumes of the disk, too."""
        return SubTree(self, path)

    def follow(self, path: bytes, /) -> Tree:
        return Tree.follow(self, path)

    def problems(self) -> Sequence[str]:
        return (*self._disk.problems, *([f"{self.location}: {self._doubt}"] if self._doubt else []))

    def contents(self) -> Sequence[str]:
        return [volume.description for volume in self._disk.volumes]

    def thin_pools(self) -> Sequence[PoolParts]:
        """The pools of the volume's LVM group, or else of the whole disk."""
        own = self._disk.pools.get(self._volume.group) if self._volume.group else None
        return own or [pool for pools in self._disk.pools.values() for pool in pools]
