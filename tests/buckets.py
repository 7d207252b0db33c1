"""A bucket in memory, on fsspec's own file system for that, and the objects of any bucket as files."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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


def write_files(contents: Mapping[str, bytes], directory: Path) -> Path:
    """`directory`, with files of these names below it."""
    for name, content in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory
