"""Two trees, one on top of the other, as the kernel's overlay file system shows them.

Linux, Documentation/filesystems/overlayfs.rst: a character device 0:0 in the upper tree hides the name in the lower
one. A directory in the upper tree with the xattr `trusted.overlay.opaque` = `y` hides all of the lower directory.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final

from migrate.errors import DamagedError, MissingLayerError
from migrate.storage.tree import Tree, TreeEntry

_OPAQUE: Final = (b"trusted.overlay.opaque", b"user.overlay.opaque")


class UnionTree(Tree):
    """The union of two trees. Entries have the device and inode of the tree that they come from."""

    def __init__(self, upper: Tree, lower: Tree) -> None:
        self.location = upper.location
        self.upper, self.lower = upper, lower
        self._opaque: dict[bytes, bool] = {}

    def stat(self, path: bytes) -> TreeEntry:
        return self._find(path)[1]

    def entries(self, path: bytes) -> Sequence[TreeEntry]:
        entries: dict[bytes, TreeEntry] = {}
        if self._shows_lower(path) and self.lower.is_folder(path):
            entries = {entry.path: entry for entry in self.lower.entries(path)}
        if self.upper.is_folder(path):
            # A whiteout hides the name of the lower tree. Any other entry replaces it.
            for entry in self.upper.entries(path):
                if _is_whiteout(entry):
                    entries.pop(entry.path, None)
                else:
                    entries[entry.path] = entry
        elif not self._find(path)[1].is_folder:
            raise DamagedError(f"{path!r}: is no directory")
        return [entries[name] for name in sorted(entries)]

    def read_link(self, path: bytes) -> bytes:
        return self._find(path)[0].read_link(path)

    def xattrs(self, path: bytes) -> Mapping[bytes, bytes]:
        return self._find(path)[0].xattrs(path)

    def open(self, path: bytes) -> BinaryIO:
        return self._find(path)[0].open(path)

    @property
    def has_whole_seconds(self) -> bool:
        return self.upper.has_whole_seconds or self.lower.has_whole_seconds

    @property
    def has_no_xattrs(self) -> bool:
        return self.upper.has_no_xattrs

    def require_whole(self, path: bytes, *, names: bool = False) -> None:
        for tree in (self.upper, self.lower):
            tree.require_whole(path, names=names)

    def close(self) -> None:
        self.upper.close()
        self.lower.close()

    def _find(self, path: bytes) -> tuple[Tree, TreeEntry]:
        entry = self.upper.find(path)
        if entry is not None and not _is_whiteout(entry):
            return self.upper, entry
        if entry is None and self._shows_lower(path.rpartition(b"/")[0]):
            return self.lower, self.lower.stat(path)
        raise MissingLayerError(f"{path!r}: no such file")

    def _shows_lower(self, directory: bytes) -> bool:
        """True if neither `directory` nor a directory above it in the upper tree hides the lower tree."""
        unknown: list[bytes] = []
        while directory not in self._opaque:  # no recursion: a path may be deeper than Python's stack
            unknown.append(directory)
            if not directory:
                break
            directory = directory.rpartition(b"/")[0]
        opaque = self._opaque.get(directory, False)
        for place in reversed(unknown):
            entry = None if opaque else self.upper.find(place)
            if entry is not None:
                xattrs = self.upper.xattrs(place) if entry.is_folder else {}
                opaque = not entry.is_folder or any(xattrs.get(name) == b"y" for name in _OPAQUE)
            self._opaque[place] = opaque
        return not opaque


def _is_whiteout(entry: TreeEntry) -> bool:
    return stat.S_ISCHR(entry.mode) and entry.rdev == 0
