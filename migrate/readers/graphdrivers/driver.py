"""The port that every storage driver of a Docker root fills: one layer, one file tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from migrate.model.legacy import LegacyID
from migrate.storage.tree import Tree


class GraphDriver(Protocol):
    """A storage driver's part of a Docker root (`<root>/<driver>/`), opened read-only.

    Every method may be called from several threads. Errors are SourceError.
    """

    @property
    def name(self) -> str:
        """As in `repositories-<name>`: aufs, btrfs, devicemapper, overlay or vfs."""

    @property
    def holds_whole_trees(self) -> bool:
        """True where `layer_tree` is the layer and all below it; False for aufs, whose tree is the layer alone."""

    def layer_ids(self) -> Sequence[str]:
        """The names of everything that the driver stores, sorted: images, containers, leftovers."""

    def has_layer(self, legacy_id: LegacyID, /) -> bool: ...

    def layer_tree(self, legacy_id: LegacyID, /) -> Tree:
        """The tree that Docker reads the layer from. MissingLayerError if the driver has none.

        A tree may be kept and handed out again; whoever calls this does not close it.
        """

    def close(self) -> None: ...


@runtime_checkable
class FindsProblems(Protocol):
    """A driver whose store as a whole can be damaged and still be read in part."""

    def find_problems(self) -> Sequence[str]:
        """One line for each problem, for the report; without reading any layer."""


@runtime_checkable
class ChecksAccess(Protocol):
    """A driver whose layers lie in files or devices that not every user may read."""

    def check_access(self) -> None:
        """PermissionSourceError where this user may not."""


@runtime_checkable
class DoubtsLayers(Protocol):
    """A driver that can read a layer and still have something to say about it."""

    def layer_doubts(self, legacy_id: LegacyID, /) -> Sequence[str]:
        """For the layer's row in the report; known once `layer_tree` was called."""
