"""The interface of every storage driver of a Docker root: one layer, one file tree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from migrate.model.legacy import LegacyID
from migrate.storage.tree import Tree


class GraphDriver(ABC):
    """A storage driver's part of a Docker root (`<root>/<driver>/`), opened read-only.

    `name` as in `repositories-<name>`: aufs, btrfs, devicemapper, overlay, vfs or zfs. `holds_whole_trees` where
    `layer_tree` is the layer and all below it; False for aufs, whose tree is the layer alone.

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

        A tree may be kept and handed out again; closing it may let go of what it keeps, and leaves it usable.
        """

    @abstractmethod
    def close(self) -> None: ...

    def places(self, ids: Iterable[LegacyID], /) -> Sequence[str]:
        """The directories of this machine that hold those of `ids` that the driver has; none where they are no
        directories."""
        del ids
        return ()

    def check_access(self) -> None:
        """PermissionSourceError where the layers are in files or devices that this user may not read."""
        return

    def find_problems(self) -> Sequence[str]:
        """One line for each thing that is wrong with the store as a whole, for the report; reads no layer."""
        return ()

    def layer_doubts(self, legacy_id: LegacyID, /) -> Sequence[str]:
        """What is wrong with a layer that can be read nevertheless, for its row in the report; complete once
        `layer_tree` was called."""
        del legacy_id
        return ()

    def layer_damage(self, legacy_id: LegacyID, /) -> Sequence[str]:
        """Checksums and counts of the store that disagree with what was read for the layer; complete as soon."""
        del legacy_id
        return ()
