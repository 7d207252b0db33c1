"""aufs: `aufs/diff/<id>` is the layer alone, with its whiteouts as files. Docker before 0.7 had it in
`graph/<id>/layer`.

Docker 0.7 and later moved `graph/<id>/layer` to `aufs/diff/<id>`. If that failed, it left an absolute symbolic link in
`aufs/diff`. The link is followed to `graph/<id>/layer` in this root, wherever the root now is, and to no other place.
"""

from __future__ import annotations

from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.directory_driver import DirectoryDriver, Place
from migrate.storage.tree import Tree, find_folder

_METADATA = b".wh..wh."
_OPAQUE = b".wh..wh..opq"


class AufsDriver(DirectoryDriver):
    name = "aufs"
    folder = "aufs/diff"
    holds_whole_trees = False

    def __init__(self, root: Tree) -> None:
        super().__init__(root)
        self._graph = find_folder(root, b"graph")

    def _find(self, name: bytes) -> Place | None:
        old = name + b"/layer"
        if self._folder is not None and (found := self._folder.find(name)) is not None:
            if found.is_folder:
                return Place(self._folder, name)
            # Any other link is not Docker's, and could lead to files outside the root.
            if found.is_link and not self._folder.read_link(name).endswith(b"/graph/" + old):
                return None
        return Place(self._graph, old) if self._graph is not None and self._graph.is_folder(old) else None

    def _tree(self, legacy_id: LegacyID, place: Place) -> Tree:
        return place.tree.subtree(place.path)


def is_metadata(path: bytes) -> bool:
    """True for aufs's own files at a layer's top, which Docker leaves out of a layer. An opaque marker is none of them.

    moby 1.9, daemon/graphdriver/aufs/aufs.go (Diff)."""
    return path.startswith(_METADATA) and b"/" not in path and path != _OPAQUE
