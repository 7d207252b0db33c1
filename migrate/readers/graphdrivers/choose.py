"""Which storage driver holds a Docker root's layers. Never a guess: two that could are an error that lists them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from migrate.errors import AmbiguousSourceError, SourceError, SourceUnreadableError, UsageError
from migrate.model.legacy import LegacyID
from migrate.model.options import ReadOptions
from migrate.readers.graphdrivers.aufs import AufsDriver
from migrate.readers.graphdrivers.btrfs import BtrfsDriver
from migrate.readers.graphdrivers.driver import GraphDriver
from migrate.readers.graphdrivers.overlay import OverlayDriver
from migrate.readers.graphdrivers.vfs import VfsDriver
from migrate.readers.graphdrivers.zfs import MOUNT_HINT, ZfsDriver
from migrate.storage.tree import Tree, find_folder

PLACES: Final = {
    "aufs": "aufs/diff",
    "btrfs": "btrfs/subvolumes",
    "devicemapper": "devicemapper",
    "overlay": "overlay",
    "vfs": "vfs/dir",
    "zfs": "zfs/graph",
}


def count_layers(root: Tree, ids: Collection[LegacyID]) -> Mapping[str, int]:
    """Driver → how many of the graph's `ids` it holds; drivers that hold none are left out."""
    wanted = frozenset[str](ids)
    counts = {name: len(wanted.intersection(_names(root, place))) for name, place in PLACES.items()}
    counts["devicemapper"] = len(wanted.intersection(_devicemapper_names(root)))
    if counts["zfs"]:
        zfs = ZfsDriver(root)
        counts["zfs"] = sum(map(zfs.has_layer, ids))
    graph = find_folder(root, b"graph")
    if graph is not None:
        in_graph = sum(graph.is_folder(f"{legacy_id}/layer".encode()) for legacy_id in ids)
        counts["aufs"] = max(counts["aufs"], in_graph)
    counts["devicemapper"] = counts["devicemapper"] or len(wanted.intersection(_unsplit_names(root)))
    return {name: count for name, count in counts.items() if count}


def choose_driver(root: Tree, counts: Mapping[str, int], total: int, options: ReadOptions) -> GraphDriver:
    """The driver that `options` names, or else the only one that holds layers of the graph.

    `counts` as from `count_layers`, of `total` IDs. Raises AmbiguousSourceError, SourceUnreadableError, UsageError.
    """
    name = options.driver
    if name is not None and name not in PLACES:
        raise UsageError(f"--driver {name}: not one of {', '.join(sorted(PLACES))}")
    if name is None:
        name = _only_one(root, counts, total)
    elif name not in counts:
        found = _listed(counts, total) or "no driver's directory holds layers of its graph"
        raise SourceUnreadableError(f"{root.location}: {name} holds none of its images' layers; {found}")
    return _OPENERS[name](root, options)


def _only_one(root: Tree, counts: Mapping[str, int], total: int) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    if counts:
        raise AmbiguousSourceError(
            f"{root.location}: several storage drivers hold layers: {_listed(counts, total)}; choose one with --driver"
        )
    if find_folder(root, b"zfs") is not None:
        raise SourceUnreadableError(f"{root.location}: none of its layers is in zfs/graph/; {MOUNT_HINT}")
    raise SourceUnreadableError(
        f"{root.location}: graph/ names {total:,} layers, and none of {', '.join(PLACES.values())} holds one of them; "
        "was the storage driver's directory on another disk?"
    )


def _listed(counts: Mapping[str, int], total: int) -> str:
    return ", ".join(f"{name} ({counts[name]:,} of {total:,})" for name in sorted(counts))


def _names(root: Tree, place: str) -> list[str]:
    try:
        return list(map(os.fsdecode, root.follow(place.encode()).list_names(b"")))
    except SourceError:
        return []


def _unsplit_names(root: Tree) -> Collection[str]:
    """The devices of a store whose records Docker 0.7 and 0.8 kept in one file. A file that is damaged names none."""
    from migrate.readers.graphdrivers.devicemapper.catalogue import read_catalogue

    try:
        return read_catalogue(root.follow(b"devicemapper")).records.keys()
    except SourceError:
        return ()


def _devicemapper_names(root: Tree) -> Sequence[str]:
    """Its layers are not directories of their own: the driver's records name them."""
    try:
        return _open_devicemapper(root, ReadOptions()).layer_ids()
    except SourceError:
        return ()


def _open_devicemapper(root: Tree, options: ReadOptions) -> GraphDriver:
    from migrate.readers.graphdrivers.devicemapper import open_devicemapper

    return open_devicemapper(root, options)


_OPENERS: Final[Mapping[str, Callable[[Tree, ReadOptions], GraphDriver]]] = {
    "aufs": lambda root, options: AufsDriver(root),
    "btrfs": lambda root, options: BtrfsDriver(root),
    "devicemapper": _open_devicemapper,
    "overlay": lambda root, options: OverlayDriver(root),
    "vfs": lambda root, options: VfsDriver(root),
    "zfs": lambda root, options: ZfsDriver(root),
}
