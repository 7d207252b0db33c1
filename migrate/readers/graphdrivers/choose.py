"""Chooses the storage driver that holds a Docker root's layers. If several hold layers, the error lists them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

from migrate.errors import AmbiguousSourceError, SourceError, SourceUnreadableError, UsageError
from migrate.model.legacy import LegacyID
from migrate.model.options import ReadOptions
from migrate.readers.graphdrivers.aufs import AufsDriver
from migrate.readers.graphdrivers.directory_driver import BtrfsDriver, VfsDriver
from migrate.readers.graphdrivers.driver import GraphDriver
from migrate.readers.graphdrivers.overlay import OverlayDriver
from migrate.readers.graphdrivers.zfs import MOUNT_HINT, ZfsDriver
from migrate.storage.tree import Tree, find_folder

_DIRECTORY_DRIVERS: Final = {
    driver.name: driver for driver in (AufsDriver, BtrfsDriver, OverlayDriver, VfsDriver, ZfsDriver)
}
PLACES: Final[Mapping[str, str]] = {
    name: _DIRECTORY_DRIVERS[name].folder if name in _DIRECTORY_DRIVERS else name
    for name in sorted([*_DIRECTORY_DRIVERS, "devicemapper"])
}
"""Driver → its folder in the root."""


def count_layers(root: Tree, ids: Collection[LegacyID]) -> Mapping[str, int]:
    """Driver → how many of the graph's `ids` it holds; drivers that hold none are left out."""
    wanted = frozenset[str](ids)
    counts: dict[str, int] = {}
    for driver, folder in PLACES.items():
        names: Collection[str] = ()
        with suppress(SourceError):
            place = root.follow(folder.encode())
            if driver == "devicemapper":  # a layer of it is no directory; records name the layers
                from migrate.readers.graphdrivers.devicemapper.catalogue import read_catalogue

                names = read_catalogue(place).records.keys()
            else:
                names = list(map(os.fsdecode, place.list_names(b"")))
        counts[driver] = len(wanted.intersection(names))
    if counts["zfs"]:
        zfs = ZfsDriver(root)
        # A directory in zfs/graph may be the empty mount point of a dataset that is not mounted.
        counts["zfs"] = sum(map(zfs.has_layer, ids))
    graph = find_folder(root, b"graph")
    if graph is not None:
        # Docker before 0.7 kept aufs layers in the graph.
        in_graph = sum(graph.is_folder(f"{legacy_id}/layer".encode()) for legacy_id in ids)
        counts["aufs"] = max(counts["aufs"], in_graph)
    return {name: count for name, count in counts.items() if count}


def choose_driver(root: Tree, counts: Mapping[str, int], total: int, options: ReadOptions) -> GraphDriver:
    """The driver that `options` names, or else the only one that holds layers of the graph.

    `counts` as from `count_layers`, of `total` IDs. Raises AmbiguousSourceError, SourceUnreadableError, UsageError.
    """
    name = options.driver
    if name is not None and name not in PLACES:
        raise UsageError(f"--driver {name}: not one of {', '.join(sorted(PLACES))}")
    listed = ", ".join(f"{driver} ({counts[driver]:,} of {total:,})" for driver in sorted(counts))
    if name is not None and name not in counts:
        found = listed or "no driver's directory holds layers of its graph"
        raise SourceUnreadableError(f"{root.location}: {name} holds none of its images' layers; {found}")
    if name is None and len(counts) == 1:
        (name,) = counts
    if name == "devicemapper":
        from migrate.readers.graphdrivers.devicemapper import open_devicemapper

        return open_devicemapper(root, options)
    if name is not None:
        return _DIRECTORY_DRIVERS[name](root)
    if counts:
        raise AmbiguousSourceError(
            f"{root.location}: several storage drivers hold layers: {listed}; choose one with --driver"
        )
    # The layers of the zfs driver are datasets. In a copy, or if they are not mounted, zfs/graph/ is there and empty.
    if find_folder(root, b"zfs") is not None:
        raise SourceUnreadableError(f"{root.location}: none of its layers is in zfs/graph/; {MOUNT_HINT}")
    raise SourceUnreadableError(
        f"{root.location}: graph/ names {total:,} layers, and none of {', '.join(PLACES.values())} holds one of them; "
        "was the storage driver's directory on another disk?"
    )
