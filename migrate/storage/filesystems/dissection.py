"""Imports dissect, which the extras `devicemapper` and `disk` install.

dissect opens disk images and file systems: superblocks of all versions, and the geometry that follows from them. All
that decides the bytes of a layer (inodes, directories, extents, attributes, times) is read by `ext4` and `xfs` here,
with limits and checks. docs/formats/devicemapper.md lists the differences between dissect's reading of these and the
kernel's.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, BinaryIO, cast

from migrate.errors import DamagedError, UnsupportedError
from migrate.storage.filesystems.filesystem import naming


def open_dissected(name: str, opener: str, stream: BinaryIO) -> Any:
    """The file system as the class `opener` of the package dissect.`name` opens it: superblock (`sb`) and geometry."""
    package = import_dissect(f"dissect.{name}", "reading ext4 or XFS", "devicemapper")
    error = cast("type[Exception]", import_module(f"dissect.{name}.exceptions").Error)
    with naming(f"the {name} superblock"):
        try:
            return getattr(package, opener)(stream)
        except NotImplementedError as exc:
            raise UnsupportedError(f"the {name} file system is of a kind that is not read: {exc}") from exc
        except error as exc:
            raise DamagedError(f"the file system cannot be opened: {exc}") from exc


def import_dissect(name: str, purpose: str, extra: str) -> Any:
    """A module of dissect. Raises UnsupportedError, with the command to install it, if it is missing."""
    try:
        return import_module(name)
    except ImportError as exc:
        raise UnsupportedError(
            f"{purpose} needs the Python package {name}: pip install 'docker-legacy-migrate[{extra}]' ({exc})"
        ) from exc
