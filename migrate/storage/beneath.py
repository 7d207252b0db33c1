"""Opening a file by a name that a tar gave it, inside a tree and nowhere else.

When the layer was unpacked, the tree was the whole world: a name that goes through a symbolic link went where that
link leads inside the tree. So do we, link by link, as openat2's RESOLVE_IN_ROOT does; a link out of the tree leads
to the tree's own root.
"""

from __future__ import annotations

from typing import BinaryIO

from migrate.errors import DamagedError, MissingLayerError
from migrate.storage.tree import Tree
from migrate.tar.names import below_root


def open_beneath(tree: Tree, name: bytes) -> BinaryIO:
    """The regular file that `name` stands for. Raises SourceError."""
    path = below_root(name)
    try:
        return tree.open(path)
    except (DamagedError, MissingLayerError):
        resolved = tree.resolve(path)
        if resolved == path:
            raise
    return tree.open(resolved)
