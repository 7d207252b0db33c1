"""aufs: `aufs/diff/<id>` is the layer alone, with its whiteouts as files. Before Docker 0.7, `graph/<id>/layer` was.

Docker 0.7 and later moved `graph/<id>/layer` to `aufs/diff/<id>`, and where that failed, left an absolute symbolic link
there. It is followed to where it points beneath this root, wherever the root now is, and nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path

from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.directory_driver import DirectoryDriver, is_real_directory
from migrate.storage.directory_tree import DirectoryTree, translated
from migrate.storage.tree import Tree

_METADATA = b".wh..wh."
_OPAQUE = b".wh..wh..opq"


class AufsDriver(DirectoryDriver):
    name = "aufs"
    folder = "aufs/diff"
    holds_whole_trees = False

    def _find(self, legacy_id: LegacyID) -> Path | None:
        place = self._place / legacy_id
        if is_real_directory(place):
            return place
        old = self._root / "graph" / legacy_id / "layer"
        moved = not place.is_symlink() or _read_link(place).endswith(f"/graph/{legacy_id}/layer")
        return old if moved and is_real_directory(old) else None

    def _tree(self, legacy_id: LegacyID, place: Path) -> Tree:
        return DirectoryTree(str(place))


def is_metadata(path: bytes) -> bool:
    """True for aufs's own files at a layer's top, which Docker leaves out; an opaque marker is none of them."""
    return path.startswith(_METADATA) and b"/" not in path and path != _OPAQUE


def _read_link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        raise translated(error, str(path)) from error
