"""Walks through the repositories in the storage of a v2 registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from migrate.errors import LimitError, SourceError
from migrate.storage.named_files import NamedFiles

FOLDERS: Final = 200_000
"""Limit of the folders below `repositories/`. A cycle of links would have no end."""
_NAME_LENGTH: Final = 255


def iter_repositories(
    files: NamedFiles, root: str, unreadable: Callable[[str, SourceError], None] | None = None
) -> Iterator[str]:
    """The names of all repositories below `root`, sorted by component. A repository is a folder with `_manifests` or
    `_layers`.

    `unreadable` is called for each folder that cannot be listed; without it the error is raised.
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
        # A component of a repository's name begins with a letter or digit. Folders with `_` are the registry's own.
        inner = [f"{name}/{child}".lstrip("/") for child in folders if not child.startswith("_")]
        pending += [child for child in reversed(inner) if len(child) <= _NAME_LENGTH]
