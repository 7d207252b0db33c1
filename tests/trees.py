"""Trees for tests: one that can do no more than a Tree has to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from migrate.storage.tree import Tree, TreeEntry


class BareTree(Tree):
    """Another tree with nothing but the methods that have no default: no extents, no paths, no cheap names."""

    def __init__(self, tree: Tree, location: str | None = None) -> None:
        self.location = location or tree.location
        self._tree = tree

    def stat(self, path: bytes, /) -> TreeEntry:
        return self._tree.stat(path)

    def entries(self, path: bytes, /) -> Sequence[TreeEntry]:
        return self._tree.entries(path)

    def read_link(self, path: bytes, /) -> bytes:
        return self._tree.read_link(path)

    def xattrs(self, path: bytes, /) -> Mapping[bytes, bytes]:
        return self._tree.xattrs(path)

    def open(self, path: bytes, /) -> BinaryIO:
        return self._tree.open(path)

    def close(self) -> None:
        self._tree.close()
