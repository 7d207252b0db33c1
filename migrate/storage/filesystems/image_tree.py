"""A directory of a file system as a Tree."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final

from migrate.errors import DamagedError, LimitError, MissingLayerError
from migrate.storage.filesystems.filesystem import (
    Directory,
    Inode,
    extents_as_blocks,
)
from migrate.storage.filesystems.kept import KeptFileSystem
from migrate.storage.pieces import PiecedBlocks, open_blocks
from migrate.storage.tree import CAPABILITY, Facts, Tree, TreeEntry, entries_of

PATH_DEPTH: Final = 2048
"""Components of one path. A path of PATH_MAX bytes has no more."""
_MOST_PATHS: Final = 200_000


class ImageTree(Tree):
    """A directory of a file system and all below it. May be used from several threads.

    `number`: a device number, which differs between the trees of one pool. `top`: the path of the tree's root in the
    file system. Raises MissingLayerError if there is no such directory.
    """

    def __init__(self, file_system: KeptFileSystem, number: int, top: bytes = b"", location: str | None = None) -> None:
        self.location = location or f"device {number}"
        self._file_system = file_system
        self._number = number
        chain: tuple[int, ...] = (file_system.root,)
        for name in top.split(b"/") if top else ():
            chain = (*chain, self._child(chain, name, top).number)
        self._top = chain
        self._chains = {b"": chain}

    def stat(self, path: bytes) -> TreeEntry:
        _, mode, uid, gid, size, mtime_ns, rdev, nlink, _ = inode = self._find(path)
        return TreeEntry(path, mode, uid, gid, size, mtime_ns, rdev, self._number, inode.number, nlink)

    def entries(self, path: bytes) -> Sequence[TreeEntry]:
        return entries_of(path, self.list_facts(path))

    def list_facts(self, path: bytes) -> Mapping[bytes, Facts]:
        read_inode, device = self._file_system.read_inode, self._number
        found: dict[bytes, Facts] = {}
        for name, number in self._directory(self._chain(path), path).names:
            _, mode, uid, gid, size, mtime_ns, rdev, nlink, _ = read_inode(number)
            found[name] = (mode, uid, gid, size, mtime_ns, rdev, device, number, nlink)
        return found

    def list_capabilities(self, path: bytes) -> Mapping[bytes, bytes]:
        read_inode, read_xattrs = self._file_system.read_inode, self._file_system.read_xattrs
        found: dict[bytes, bytes] = {}
        for name, number in self._directory(self._chain(path), path).names:
            value = read_xattrs(read_inode(number)).get(CAPABILITY)
            if value is not None:
                found[name] = value
        return found

    def read_link(self, path: bytes) -> bytes:
        inode = self._find(path)
        if not stat.S_ISLNK(inode.mode):
            raise DamagedError(f"{_shown(path)}: is no symbolic link")
        return self._file_system.read_link(inode)

    def xattrs(self, path: bytes) -> Mapping[bytes, bytes]:
        return self._file_system.read_xattrs(self._find(path))

    def open(self, path: bytes) -> BinaryIO:
        return open_blocks(self.open_blocks(path))

    def open_blocks(self, path: bytes) -> PiecedBlocks:
        inode = self._find(path)
        if not stat.S_ISREG(inode.mode):
            raise DamagedError(f"{_shown(path)}: is no regular file")
        return extents_as_blocks(self._file_system.device, self._file_system.read_extents(inode), inode.size)

    def _find(self, path: bytes) -> Inode:
        if not path:
            return self._file_system.read_inode(self._top[-1])
        head, _, name = path.rpartition(b"/")
        return self._child(self._chain(head), name, path)

    def _chain(self, path: bytes) -> tuple[int, ...]:
        """The inodes from the file system's root down to a directory. Each directory is looked up once."""
        missing = []
        above = path
        known = self._chains  # another thread may put an empty table in its place
        while above not in known:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        if len(missing) > PATH_DEPTH:
            raise LimitError(f"{_shown(path)}: deeper than {PATH_DEPTH:,} directories (PATH_DEPTH)")
        chain = known[above]
        for step in reversed(missing):
            chain = (*chain, self._child(chain, step.rpartition(b"/")[2], step).number)
            if len(self._chains) >= _MOST_PATHS:
                self._chains = {b"": self._top}
            self._chains[step] = chain
        return chain

    def _child(self, chain: tuple[int, ...], name: bytes, path: bytes) -> Inode:
        if stat.S_ISDIR(self._file_system.read_inode(chain[-1]).mode):
            number = self._directory(chain, path).find(name)
            if number is not None:
                return self._file_system.read_inode(number)
        raise MissingLayerError(f"{_shown(path)}: no such name in the layer's file system")

    def _directory(self, chain: tuple[int, ...], path: bytes) -> Directory:
        """The entries of a directory. Raises DamagedError if its `..` is not its parent here: so no cycle and no second
        parent is possible."""
        inode = self._file_system.read_inode(chain[-1])
        if not stat.S_ISDIR(inode.mode):
            raise DamagedError(f"{_shown(path)}: is no directory")
        directory = self._file_system.read_directory(inode)
        parent = chain[-2] if len(chain) > 1 else inode.number
        if directory.parent != parent or inode.number in chain[:-1]:
            raise DamagedError(
                f"{_shown(path)}: directory {inode.number} is below inode {parent}, but names {directory.parent} "
                "as its parent"
            )
        return directory


class EmptyTree(Tree):
    """A layer whose device has no `rootfs/`. Docker makes an empty one when it mounts such a device."""

    def __init__(self, number: int) -> None:
        self.location = f"device {number}"
        self._root = TreeEntry(b"", stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0, number, 0, 2)

    def stat(self, path: bytes) -> TreeEntry:
        if path:
            raise MissingLayerError(f"{_shown(path)}: the layer is empty")
        return self._root

    def entries(self, path: bytes) -> Sequence[TreeEntry]:
        self.stat(path)
        return ()

    def read_link(self, path: bytes) -> bytes:
        self.stat(path)
        raise DamagedError(f"{_shown(path)}: is no symbolic link")

    def xattrs(self, path: bytes) -> Mapping[bytes, bytes]:
        self.stat(path)
        return {}

    def open(self, path: bytes) -> BinaryIO:
        self.stat(path)
        raise DamagedError(f"{_shown(path)}: is no regular file")


def _shown(path: bytes) -> str:
    return repr(path.decode("utf-8", "backslashreplace") or "/")
