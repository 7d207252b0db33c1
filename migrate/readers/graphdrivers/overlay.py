"""overlay (the first one, not overlay2): `overlay/<id>/root` is a whole file system.

Files that a layer did not touch are hard links into its parent's `root`, so a comparison needs names and inode numbers
only, and describes no file that both share. A layer into which nothing was ever unpacked has no `root` but `upper`, and
`lower-id` names the layer below it (moby 1.9, daemon/graphdriver/overlay/overlay.go).
"""

from __future__ import annotations

from pathlib import Path

from migrate.blobio.limits import SMALL_FILE_BYTES
from migrate.errors import DamagedError, MissingLayerError
from migrate.model.legacy import LegacyID, is_safe_name
from migrate.readers.graphdrivers.directory_driver import DirectoryDriver, is_real_directory
from migrate.readers.graphdrivers.union import UnionTree
from migrate.readers.regular_file import read_whole
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import Tree


class OverlayDriver(DirectoryDriver):
    name = "overlay"
    folder = "overlay"

    def _find(self, legacy_id: LegacyID) -> Path | None:
        place = self._place / legacy_id
        if not is_real_directory(place):
            return None
        return next((place / name for name in ("root", "upper") if is_real_directory(place / name)), None)

    def _tree(self, legacy_id: LegacyID, place: Path) -> Tree:
        tree = DirectoryTree(str(place))
        return tree if place.name == "root" else UnionTree(tree, self._lower_tree(legacy_id))

    def _lower_tree(self, legacy_id: LegacyID) -> Tree:
        path = self._place / legacy_id / "lower-id"
        lower = read_whole(path, SMALL_FILE_BYTES).decode("utf-8", "replace").strip()
        root = self._place / lower / "root"
        if not is_safe_name(lower):
            raise DamagedError(f"{path}: names no layer: {lower[:80]!r}", layer=legacy_id)
        if not is_real_directory(root):
            raise MissingLayerError(f"{root}: the layer below {legacy_id} is not there", layer=legacy_id)
        return DirectoryTree(str(root))
