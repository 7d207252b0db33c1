"""zfs: the driver mounts dataset `<pool>/…/<id>` at `zfs/graph/<id>`, a clone of the parent's, then changed.

A dataset that is not mounted leaves an empty directory there, which must not be taken for an empty layer (moby 1.9,
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
        return place if place is not None and _is_filled(place) else None


def _is_filled(place: Place) -> bool:
    """False for an empty directory on the file system of `zfs/graph` itself, on which nothing is mounted."""
    if place.tree.list_names(place.path):
        return True
    return place.tree.stat(place.path).device != place.tree.stat(b"").device
