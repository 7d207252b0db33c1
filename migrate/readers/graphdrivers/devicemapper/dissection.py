"""The door to dissect, which the extra `devicemapper` installs; nothing else of migrate imports it.

What is taken from it are the structures on disk and the geometry that follows from the superblock. Directories,
extents, attributes and times are read by `ext4` and `xfs` of this package, bounded and checked, because a layer must
come out to the byte; docs/formats/devicemapper.md lists where dissect's own walk of them would differ from the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, BinaryIO, cast

from migrate.errors import DamagedError, UnsupportedError
from migrate.readers.graphdrivers.devicemapper.filesystem import naming

_INSTALL = "pip install 'docker-legacy-migrate[devicemapper]'"


def open_extfs(stream: BinaryIO) -> tuple[Any, Any]:
    """(dissect's ExtFS with superblock and geometry, its structures)."""
    return _open("extfs", "ExtFS", "c_ext", stream)


def open_xfs(stream: BinaryIO) -> tuple[Any, Any]:
    """(dissect's XFS with superblock and geometry, its structures)."""
    return _open("xfs", "XFS", "c_xfs", stream)


def _open(name: str, opener: str, structures: str, stream: BinaryIO) -> tuple[Any, Any]:
    package = _import(f"dissect.{name}")
    layouts = _import(f"dissect.{name}.{structures}")
    with naming(f"the {name} superblock"), _foreign(package, name):
        return getattr(package, opener)(stream), getattr(layouts, structures)


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise UnsupportedError(
            f"reading a devicemapper store needs the Python package {name}: {_INSTALL} ({exc})"
        ) from exc


@contextmanager
def _foreign(package: Any, name: str) -> Iterator[None]:
    error = cast("type[Exception]", _import(f"dissect.{name}.exceptions").Error)
    try:
        yield
    except error as exc:
        raise DamagedError(f"the file system cannot be opened: {exc}") from exc
