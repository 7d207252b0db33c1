"""btrfs: `btrfs/subvolumes/<id>` is a snapshot of the parent, then changed; plain file access reads it."""

from __future__ import annotations

from migrate.readers.graphdrivers.directory_driver import DirectoryDriver


class BtrfsDriver(DirectoryDriver):
    name = "btrfs"
    folder = "btrfs/subvolumes"
