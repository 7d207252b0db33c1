"""zfs: the driver mounts dataset `<pool>/…/<id>` at `zfs/graph/<id>`: a clone of the parent's, with the layer's
changes.

A dataset that is not mounted leaves an empty directory, which is no empty layer (moby 1.9,
daemon/graphdriver/zfs/zfs.go).
"""

from __future__ import annotations

from typing import Final

from migrate.readers.graphdrivers.directory_driver import DirectoryDriver, Place

MOUNT_HINT: Final = (
    "zfs keeps each layer in a dataset of its pool; mount them read-only where Docker does, `zpool import -o "
    "readonly=on POOL` and `mount -t zfs -o ro POOL/…/ID zfs/graph/ID` for each, and convert again"
)


class ZfsDriver(DirectoryDriver):
    name = "zfs"
    folder = "zfs/graph"
    hint = f"; {MOUNT_HINT}"

    def _find(self, name: bytes) -> Place | None:
        place = super()._find(name)
        if place is None or place.tree.list_names(place.path):
            return place
        # An empty directory on the same file system as `zfs/graph` is a mount point with nothing mounted on it. On
        # another file system it is an empty layer.
        return place if place.tree.stat(place.path).device != place.tree.stat(b"").device else None
