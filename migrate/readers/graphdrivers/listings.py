"""Directory listings that are kept from one layer to the next.

A layer is compared with its parent, and later its children are compared with it. With drivers that keep a whole copy
for each layer (vfs, btrfs), the listings of a layer are kept for the second comparison.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from migrate.storage.tree import Facts, SubTree, Tree

KEPT_ENTRIES: Final = 60_000
"""Limit of the entries of all layers together, some 400 bytes each. The two layers used last are kept in any case."""


class Listings:
    """The remembered listings of one layer's tree."""

    def __init__(self) -> None:
        self.directories: dict[bytes, Mapping[bytes, Facts]] = {}
        self.capabilities: dict[bytes, Mapping[bytes, bytes]] = {}
        self.entries = 0


class ListingCache:
    """Listings by layer, the least recently used ones dropped first. For any number of threads."""

    def __init__(self, limit: int = KEPT_ENTRIES) -> None:
        self._limit = limit
        self._layers: OrderedDict[str, Listings] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, layer: str) -> Listings:
        with self._lock:
            listings = self._layers.setdefault(layer, Listings())
            self._layers.move_to_end(layer)
            # Two: the layer that is being compared, and its parent.
            while len(self._layers) > 2 and sum(kept.entries for kept in self._layers.values()) > self._limit:
                self._layers.popitem(last=False)
            return listings


class RememberedTree(SubTree):
    """A tree whose listings are kept in `listings`, which other trees of the same layer share."""

    def __init__(self, tree: Tree, listings: Listings) -> None:
        super().__init__(tree, b"", tree.close)
        # Whole copies share no inodes, so that the metadata of every entry is needed in any case.
        self.names_are_cheap = False
        self._listings = listings

    def list_facts(self, path: bytes) -> Mapping[bytes, Facts]:
        found = self._listings.directories.get(path)
        if found is None:
            found = self._tree.list_facts(path)
            self._listings.directories[path] = found
            self._listings.entries += len(found)
        return found

    def read_capability(self, path: bytes) -> bytes | None:
        directory, _, name = path.rpartition(b"/")
        return self.list_capabilities(directory).get(name) if path else self._tree.read_capability(path)

    def list_capabilities(self, path: bytes) -> Mapping[bytes, bytes]:
        found = self._listings.capabilities.get(path)
        if found is None:
            found = self._listings.capabilities[path] = self._tree.list_capabilities(path)
        return found
