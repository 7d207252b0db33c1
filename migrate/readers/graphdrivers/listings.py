"""Directory listings that are kept from one layer to the next.

A layer is compared with its parent, and is then the parent that its children are compared with. Where every layer is a
whole copy (vfs, btrfs), its entries are described once and remembered for that second reading.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from migrate.storage.tree import Facts, SubTree, Tree

KEPT_ENTRIES: Final = 60_000
"""Entries of all remembered layers together, some 400 bytes each. The two that were used last are kept in any case."""


class Listings:
    """What is remembered of one layer's tree."""

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
            while len(self._layers) > 2 and sum(kept.entries for kept in self._layers.values()) > self._limit:
                self._layers.popitem(last=False)
            return listings


class RememberedTree(SubTree):
    """A tree whose listings are kept. What it adds to `listings` is seen by every tree that shares them."""

    def __init__(self, tree: Tree, listings: Listings) -> None:
        super().__init__(tree, b"", tree.close)
        self.names_are_cheap = False  # whole copies share no inode, so that every entry is described in any case
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
