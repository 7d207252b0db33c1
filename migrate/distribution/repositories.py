"""Walking the repositories of a v2 storage tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from migrate.errors import LimitError, SourceError
from migrate.storage.local_tree import TreeStorage

FOLDERS: Final = 200_000
"""Folders looked at below `repositories/`; links in a ring would otherwise lead round for ever."""
_NAME_LENGTH: Final = 255


def iter_repositories(
    tree: TreeStorage, root: str, unreadable: Callable[[str, SourceError], None] | None = None
) -> Iterator[str]:
    """Names of all repositories below `root`, each component in order: folders that hold `_manifests` or `_layers`.

    `unreadable` is told of each folder that cannot be listed, and the walk goes on; without it that error is raised.
    """
    base = f"{root}/repositories" if root else "repositories"
    pending = [""]
    visited = 0
    while pending:
        name = pending.pop()
        visited += 1
        if visited > FOLDERS:
            raise LimitError(f"{tree.location}: more than {FOLDERS:,} folders below repositories/")
        try:
            folders = [entry.name for entry in tree.entries(f"{base}/{name}".rstrip("/")) if entry.is_folder]
        except SourceError as error:
            if unreadable is None or not name:
                raise
            unreadable(name, error)
            continue
        if "_manifests" in folders or "_layers" in folders:
            yield name
        inner = [f"{name}/{child}".lstrip("/") for child in folders if not child.startswith("_")]
        pending += [child for child in reversed(inner) if len(child) <= _NAME_LENGTH]
