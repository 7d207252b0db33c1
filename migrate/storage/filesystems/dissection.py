"""dissect, which the extras `devicemapper` and `disk` install; no other module of migrate imports it.

dissect opens a disk image, and a file system: the superblocks of every version and the geometry that follows from them.
What a layer is made of to the byte (inodes, directories, extents, attributes, times) is read by `ext4` and `xfs` here,
bounded and checked; docs/formats/devicemapper.md lists where dissect's own walk of them differs from the kernel's.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, BinaryIO, cast

from migrate.errors import DamagedError, UnsupportedError
from migrate.storage.filesystems.filesystem import naming


def open_dissected(name: str, opener: str, stream: BinaryIO) -> Any:
    """`opener` of the package dissect.`name`, such as ExtFS: superblock (`sb`) and geometry."""
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
    """A module of dissect; UnsupportedError with how to install it."""
    try:
        return import_module(name)
    except ImportError as exc:
        raise UnsupportedError(
            f"{purpose} needs the Python package {name}: pip install 'docker-legacy-migrate[{extra}]' ({exc})"
        ) from exc
