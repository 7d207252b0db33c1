"""Reads devicemapper stores (thin pool, thin devices, ext4 or XFS in them) from their files, without a kernel
driver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver

if TYPE_CHECKING:
    from migrate.model.options import ReadOptions
    from migrate.storage.tree import Tree


def open_devicemapper(root: Tree, options: ReadOptions) -> DevicemapperDriver:
    """The driver of a Docker root. Raises MissingLayerError if there is none. The pool is opened with the first
    layer."""
    data = Path(options.dm_data) if options.dm_data else None
    metadata = Path(options.dm_metadata) if options.dm_metadata else None
    return DevicemapperDriver(root.follow(b"devicemapper"), data, metadata)
