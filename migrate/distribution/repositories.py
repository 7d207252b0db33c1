"""Walking the repositories of a v2 storage files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from migrate.errors import LimitError, SourceError
from migrate.storage.named_files import NamedFiles

FOLDERS: Final = 200_000
"""Folders looked at below `repositories/`; links in a ring would otherwise never end."""
_NAME_LENGTH: Final = 255


def iter_repositories(
    files: NamedFiles, root: str, unreadable: Callable[[str, SourceError], None] | None = None
) -> Iterator[str]:
    """Names of all repositories below `root`, each component in order: folders that hold `_manifests` or `_layers`.

    `unreadable` is called with each folder that cannot be listed, and the walk goes on; without it the error is raised.
    """
    base = f"{root}/repositories" if root else "repositories"
    pending = [""]
    visited = 0
    while pending:
        name = pending.pop()
        visited += 1
        if visited > FOLDERS:
            raise LimitError(f"{files.location}: more than {FOLDERS:,} folders below repositories/")
        try:
            folders = [entry.name for entry in files.entries(f"{base}/{name}".rstrip("/")) if entry.is_folder]
        except SourceError as error:
            if unreadable is None or not name:
                raise
            unreadable(name, error)
            continue
        if "_manifests" in folders or "_layers" in folders:
            yield name
        inner = [f"{name}/{child}".lstrip("/") for child in folders if not child.startswith("_")]
        pending += [child for child in reversed(inner) if len(child) <= _NAME_LENGTH]
