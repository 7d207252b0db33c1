"""The interface of every storage driver of a Docker root: one layer, one file tree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from migrate.model.legacy import LegacyID
from migrate.storage.tree import Tree


class GraphDriver(ABC):
    """A storage driver's part of a Docker root (`<root>/<driver>/`), opened read-only.

    `name` as in `repositories-<name>`: aufs, btrfs, devicemapper, overlay, vfs or zfs. `holds_whole_trees` is True if
    `layer_tree` has the files of the layer and of all its parents; False for aufs, whose tree is the layer alone.

    Every method may be called from several threads. Errors are SourceError.
    """

    name: str
    holds_whole_trees: bool = True

    @abstractmethod
    def layer_ids(self) -> Sequence[str]:
        """The names of everything that the driver stores, sorted: images, containers, leftovers."""

    @abstractmethod
    def has_layer(self, legacy_id: LegacyID, /) -> bool: ...

    @abstractmethod
    def layer_tree(self, legacy_id: LegacyID, /) -> Tree:
        """The tree that Docker reads the layer from. MissingLayerError if the driver has none.

        A later call may return the same tree. Closing a tree may free what it remembers; the tree can still be used.
        """

    @abstractmethod
    def close(self) -> None: ...

    def places(self, ids: Iterable[LegacyID], /) -> Sequence[str]:
        """The directories of this machine with the layers of `ids`; empty if the driver keeps layers in another way."""
        del ids
        return ()

    def check_access(self) -> None:
        """Raises PermissionSourceError if the layers are in files or devices that this user may not read."""
        return

    def find_problems(self) -> Sequence[str]:
        """The problems of the store as a whole, one line each, for the report. Reads no layer."""
        return ()

    def layer_doubts(self, legacy_id: LegacyID, /) -> Sequence[str]:
        """The problems of a layer that can be read nevertheless, for its row in the report. Complete after `layer_tree`
        was called."""
        del legacy_id
        return ()

    def layer_damage(self, legacy_id: LegacyID, /) -> Sequence[str]:
        """Checksums and counts of the store that do not match what was read for the layer. Complete after `layer_tree`
        was called."""
        del legacy_id
        return ()
