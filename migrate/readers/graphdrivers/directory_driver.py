"""The base of the drivers that keep each layer in a plain directory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from migrate.errors import MissingLayerError
from migrate.model.legacy import LegacyID, is_safe_name
from migrate.readers.graphdrivers.driver import GraphDriver
from migrate.readers.graphdrivers.listings import ListingCache, RememberedTree
from migrate.storage.tree import Tree, find_folder


class Place(NamedTuple):
    """A layer's directory: its path in one of the root's folders."""

    tree: Tree
    path: bytes


class DirectoryDriver(GraphDriver):
    """`<root>/<folder>/<id>`, one directory a layer."""

    folder: str
    hint: str = ""
    """What to do if a layer is missing, for the end of the error."""

    def __init__(self, root: Tree) -> None:
        self._root = root
        self._folder = find_folder(root, self.folder.encode())
        self._listings = ListingCache()

    def layer_ids(self) -> Sequence[str]:
        return sorted(map(os.fsdecode, self._folder.list_names(b""))) if self._folder is not None else []

    def has_layer(self, legacy_id: LegacyID) -> bool:
        return self._find_named(legacy_id) is not None

    def layer_tree(self, legacy_id: LegacyID) -> Tree:
        place = self._find_named(legacy_id)
        if place is None:
            raise MissingLayerError(
                f"{self._root.location}/{self.folder}/{legacy_id}: the {self.name} driver has no such layer{self.hint}",
                layer=legacy_id,
            )
        return self._tree(legacy_id, place)

    def places(self, ids: Iterable[LegacyID]) -> Sequence[str]:
        found = [place for legacy_id in ids if (place := self._find_named(legacy_id)) is not None]
        return [path for place in found if (path := place.tree.local_path(place.path)) is not None]

    def close(self) -> None:
        self._listings = ListingCache()

    def _find_named(self, legacy_id: LegacyID) -> Place | None:
        """The layer's directory, None if there is none. A parent's ID comes from a file and may be any text; only a
        safe name is looked up, since `..` would lead out of the root."""
        return self._find(legacy_id.encode("utf-8", "replace")) if is_safe_name(legacy_id) else None

    def _find(self, name: bytes) -> Place | None:
        """The layer's directory in the driver's folder; None if there is none, or if it is a symbolic link."""
        if self._folder is None or not self._folder.is_folder(name):
            return None
        return Place(self._folder, name)

    def _tree(self, legacy_id: LegacyID, place: Place) -> Tree:
        return RememberedTree(place.tree.subtree(place.path), self._listings.of(legacy_id))


class BtrfsDriver(DirectoryDriver):
    """`btrfs/subvolumes/<id>` is a snapshot of the parent with the layer's changes. It is read as plain files."""

    name = "btrfs"
    folder = "btrfs/subvolumes"


class VfsDriver(DirectoryDriver):
    """`vfs/dir/<id>` is a whole copy of the file system."""

    name = "vfs"
    folder = "vfs/dir"
