"""devicemapper stores, read from their files: thin pool, thin devices, and the ext4 or XFS inside; no kernel driver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver

if TYPE_CHECKING:
    from migrate.model.options import ReadOptions


def open_devicemapper(root: Path, options: ReadOptions) -> DevicemapperDriver:
    """The driver of a Docker root. The pool itself is opened when the first layer is asked for."""
    data = Path(options.dm_data) if options.dm_data else None
    metadata = Path(options.dm_metadata) if options.dm_metadata else None
    return DevicemapperDriver(root / "devicemapper", data, metadata)
