"""Which containers of a Docker root Docker had begun to remove.

From 1.6 on the record has `Dead`, before anything is removed. Up to 1.5 it has nothing, but the removal left traces
(moby 1.3, daemon/delete.go): the names went first, then the layer, entry by entry with vfs, then the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

from migrate.blobio.limits import JSON_BYTES
from migrate.documents.containers import ContainerRecord
from migrate.documents.link_graph import parse_link_graph
from migrate.errors import SourceError
from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.driver import GraphDriver
from migrate.storage.tree import Tree

_NAMES: Final = b"linkgraph.db"
_MOUNT_POINTS: Final = (
    *(b"dev", b"proc", b"sys", b"dev/pts", b"dev/shm", b"dev/console"),
    *(b".dockerinit", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"),
)
"""What Docker mounts something on in every running container: nothing in the container can remove it."""


class Removals:
    """Of one root. May be used from several threads."""

    def __init__(self, root: Tree, driver: GraphDriver) -> None:
        self._root = root
        self._driver = driver

    def trace(self, container: LegacyID, record: ContainerRecord) -> str | None:
        """Why the container counts as half removed, None where it does not."""
        if record.is_dead:
            return "its record says Dead"
        if record.can_be_dead:
            return None
        if record.name and self._names and record.name not in self._names.get(container, ()):
            return "its name is no longer in linkgraph.db"
        init = LegacyID(f"{container}-init")
        if not self._driver.holds_whole_trees or self._driver.name == "devicemapper":  # a thin device goes as a whole
            return None
        if not (self._driver.has_layer(container) and self._driver.has_layer(init)):
            return None
        try:
            tree, before = self._driver.layer_tree(container), self._driver.layer_tree(init)
            lost = [path for path in _MOUNT_POINTS if before.find(path) is not None and tree.find(path) is None]
            names = [entry.name for entry in before.entries(b"")]
            gone = [name for name in names if tree.find(name) is None]
        except SourceError:
            return None
        if lost:
            return f"/{lost[0].decode()} is gone, on which Docker mounts something"
        if len(gone) * 2 > len(names):
            return f"{len(gone)} of the {len(names)} names at the top of its image are gone"
        return None

    @cached_property
    def _names(self) -> Mapping[str, frozenset[str]]:
        """Nothing where they cannot be read: then the files alone count."""
        try:
            return parse_link_graph(self._root.read(_NAMES, JSON_BYTES), self._root.shown(_NAMES))
        except SourceError:
            return {}
