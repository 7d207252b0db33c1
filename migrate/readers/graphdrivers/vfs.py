"""vfs: `vfs/dir/<id>` is a whole copy of the file system."""

from __future__ import annotations

from migrate.readers.graphdrivers.directory_driver import DirectoryDriver


class VfsDriver(DirectoryDriver):
    name = "vfs"
    folder = "vfs/dir"
