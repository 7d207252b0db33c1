"""overlay (the first one, not overlay2): `overlay/<id>/root` is a whole file system.

Files that a layer did not touch are hard links into its parent's `root`, so a comparison needs names and inode numbers
only, and describes no file that both share.
"""

from __future__ import annotations

from pathlib import Path

from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.directory_driver import DirectoryDriver, is_real_directory
from migrate.readers.graphdrivers.directory_tree import DirectoryTree
from migrate.readers.graphdrivers.tree import FileTree


class OverlayDriver(DirectoryDriver):
    name = "overlay"
    folder = "overlay"

    def _find(self, legacy_id: LegacyID) -> Path | None:
        place = self._place / legacy_id
        if not is_real_directory(place):
            return None
        return place / "root" if is_real_directory(place / "root") else None

    def _tree(self, legacy_id: LegacyID, place: Path) -> FileTree:
        return DirectoryTree(str(place))
