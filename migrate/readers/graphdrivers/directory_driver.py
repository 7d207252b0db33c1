"""What the drivers that keep a layer in a plain directory have in common."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from migrate.blobio.source_files import list_source
from migrate.errors import MissingLayerError
from migrate.model.legacy import LegacyID, is_safe_name
from migrate.readers.graphdrivers.listings import ListingCache, RememberedTree
from migrate.storage.directory_tree import DirectoryTree, translated
from migrate.storage.tree import Tree


class DirectoryDriver:
    """`<root>/<folder>/<id>`, one directory a layer. Fills GraphDriver."""

    name: str
    folder: str
    holds_whole_trees = True

    def __init__(self, root: Path) -> None:
        self._root = root
        self._place = root / self.folder
        self._listings = ListingCache()

    def layer_ids(self) -> Sequence[str]:
        try:
            return sorted(list_source(self._place))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise translated(error, str(self._place)) from error

    def has_layer(self, legacy_id: LegacyID) -> bool:
        return self._find_named(legacy_id) is not None

    def layer_tree(self, legacy_id: LegacyID) -> Tree:
        place = self._find_named(legacy_id)
        if place is None:
            raise MissingLayerError(
                f"{self._place / legacy_id}: the {self.name} driver has no such layer", layer=legacy_id
            )
        return self._tree(legacy_id, place)

    def places(self, ids: Iterable[LegacyID]) -> list[Path]:
        """The directories of those of `ids` that the driver has."""
        return [place for legacy_id in ids if (place := self._find_named(legacy_id)) is not None]

    def close(self) -> None:
        self._listings = ListingCache()

    def _find_named(self, legacy_id: LegacyID) -> Path | None:
        """A parent's ID comes from a file and may be any text: one that is no name would lead out of the root."""
        return self._find(legacy_id) if is_safe_name(legacy_id) else None

    def _find(self, legacy_id: LegacyID) -> Path | None:
        place = self._place / legacy_id
        return place if is_real_directory(place) else None

    def _tree(self, legacy_id: LegacyID, place: Path) -> Tree:
        return RememberedTree(DirectoryTree(str(place)), self._listings.of(legacy_id))


def is_real_directory(path: Path) -> bool:
    """True for a directory that is no symbolic link."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise translated(error, str(path)) from error
