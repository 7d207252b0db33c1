"""Finds the containers of a Docker root that Docker had begun to remove.

Docker 1.6 and later write `Dead` into the record before they remove anything. Docker up to 1.5 does not, but its
removal left traces (moby 1.3, daemon/delete.go): it removed first the names, then the layer (with vfs entry by entry),
then the record.
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
"""Docker mounts something on each of these paths in every running container, so the container cannot remove them."""


class Removals:
    """The half-removed containers of one root. May be used from several threads."""

    def __init__(self, root: Tree, driver: GraphDriver) -> None:
        self._root = root
        self._driver = driver

    def reason(self, container: LegacyID, record: ContainerRecord) -> str | None:
        """Why the container counts as half removed; None if it does not."""
        if record.is_dead:
            return "its record has the state Dead"
        if record.can_be_dead:
            return None
        # A removal deletes the name first. A later start of the daemon gives a container without a name a random one,
        # so another name counts, too.
        if record.name and self._names and record.name not in self._names.get(container, ()):
            return "its name is no longer in linkgraph.db"
        init = LegacyID(f"{container}-init")
        # aufs keeps only the container's own files, which do not show what is missing. A thin device is removed at
        # once.
        if not self._driver.holds_whole_trees or self._driver.name == "devicemapper":
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
        """Container → its names; empty if linkgraph.db cannot be read. Then the files alone decide."""
        try:
            return parse_link_graph(self._root.read(_NAMES, JSON_BYTES), self._root.shown(_NAMES))
        except SourceError:
            return {}
