"""overlay (the first one, not overlay2): `overlay/<id>/root` is a whole file system.

Files that a layer did not change are hard links into its parent's `root`. A comparison therefore needs only names and
inode numbers for them. A layer into which nothing was ever unpacked has `upper` in place of `root`, and `lower-id`
names the layer below it (moby 1.9, daemon/graphdriver/overlay/overlay.go).
"""

from __future__ import annotations

from migrate.blobio.limits import SMALL_FILE_BYTES
from migrate.errors import DamagedError, MissingLayerError
from migrate.model.legacy import LegacyID, is_safe_name
from migrate.readers.graphdrivers.directory_driver import DirectoryDriver, Place
from migrate.readers.graphdrivers.union import UnionTree
from migrate.storage.tree import Tree


class OverlayDriver(DirectoryDriver):
    name = "overlay"
    folder = "overlay"

    def _find(self, name: bytes) -> Place | None:
        return super()._find(name + b"/root") or super()._find(name + b"/upper")

    def _tree(self, legacy_id: LegacyID, place: Place) -> Tree:
        folder, tree = place.tree, place.tree.subtree(place.path)
        if place.path.endswith(b"/root"):
            return tree
        path = place.path.removesuffix(b"upper") + b"lower-id"
        lower = folder.read(path, SMALL_FILE_BYTES).decode("utf-8", "replace").strip()
        if not is_safe_name(lower):
            raise DamagedError(f"{folder.shown(path)}: names no layer: {lower[:80]!r}", layer=legacy_id)
        root = lower.encode() + b"/root"
        if not folder.is_folder(root):
            raise MissingLayerError(f"{folder.shown(root)}: the layer below {legacy_id} is not there", layer=legacy_id)
        return UnionTree(tree, folder.subtree(root))
