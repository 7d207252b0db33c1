"""A bucket in memory, on fsspec's own file system for that."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def memory_bucket() -> Iterator[Any]:
    """The empty file system behind `memory://…`; everything in it is gone afterwards."""
    fsspec: Any = importlib.import_module("fsspec")
    filesystem = fsspec.filesystem("memory")
    _empty(filesystem)
    yield filesystem
    _empty(filesystem)


def _empty(filesystem: Any) -> None:
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def objects(filesystem: Any, prefix: str) -> dict[str, bytes]:
    """Every object below `prefix`, by the rest of its name."""
    top = f"/{prefix.strip('/')}/"
    return {name.removeprefix(top): filesystem.cat_file(name) for name in filesystem.find("/") if name.startswith(top)}
