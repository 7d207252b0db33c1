"""What a layer changed in the tree below it, by the rules of Docker's own comparison.

moby 1.10, pkg/archive/changes.go and changes_linux.go. File contents are never read: a name that has the same inode in
two directories of one device is the same, with all below it; else type, permissions, owner, device number and
`security.capability` count, and for what is no directory also size and time. Docker's test for "a directory" looks at
one bit, 0x4000, which block devices and sockets carry too; so does this one.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from migrate.errors import LimitError
from migrate.storage.tree import Tree, TreeEntry

_DIRECTORY_BIT = 0x4000
_DEPTH = 2_048
"""Directories within one another: PATH_MAX allows no more."""
_TYPE_MASK = 0o170000
_SECOND = 10**9


class Change(NamedTuple):
    """`entry` is the new state of `path`, None where the path is gone."""

    path: bytes
    entry: TreeEntry | None


class Budget:
    """How many directory entries may be looked at; LimitError from `spend` when there are more."""

    def __init__(self, entries: int | None = None) -> None:
        self._left = entries

    def spend(self, entries: int) -> None:
        if self._left is not None:
            self._left -= entries
            if self._left < 0:
                raise LimitError("more directory entries than are looked at for this")


def walk_tree(tree: Tree, skip: Callable[[bytes], bool] | None = None) -> Iterator[TreeEntry]:
    """Every entry but the root, a directory before what it holds, names in bytewise order (Go's filepath.Walk).

    What is under a path for which `skip` is true is not looked at.
    """
    waiting: list[Iterator[TreeEntry]] = [iter(tree.entries(b""))]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            continue
        if skip is not None and skip(entry.path):
            continue
        yield entry
        if stat.S_ISDIR(entry.mode):
            if len(waiting) >= _DEPTH:
                raise LimitError(f"{entry.path!r}: directories nested deeper than the limit of {_DEPTH:,}")
            waiting.append(iter(tree.entries(entry.path)))


class Comparison:
    """Of two trees. `copies` counts the files of `new` that look like those of `old` and are not known to be them."""

    def __init__(self, new: Tree, old: Tree, budget: Budget | None = None) -> None:
        self.copies = 0
        self._budget = budget or Budget()
        self._found: dict[bytes, TreeEntry | None] = {}
        self._new, self._old = new, old
        self._compares_names = new.names_are_cheap and old.names_are_cheap
        self._pending: list[tuple[TreeEntry, TreeEntry | None]] = []

    def changes(self, leave_out: Callable[[bytes, TreeEntry | None], bool] | None = None) -> list[Change]:
        """Sorted bytewise by path, as Docker writes them. A tree that is gone is one change, its top.

        A directory below which something changed is among them, whether it changed itself or not. Changes for which
        `leave_out` is true, given the path and the new entry, count as if they had never been made.
        """
        found = self.run()
        if leave_out is not None:
            found = {path: entry for path, entry in found.items() if not leave_out(path, entry)}
        for path in list(found):
            while (path := path.rpartition(b"/")[0]) and path not in found:
                found[path] = self._new.stat(path)
        return [Change(path, found[path]) for path in sorted(found)]

    def run(self) -> dict[bytes, TreeEntry | None]:
        """Path → the new entry, None where it is gone; without the directories that did not change themselves."""
        self._pending = [(self._new.stat(b""), self._old.stat(b""))]
        while self._pending:
            new, old = self._pending.pop()
            if new.path.count(b"/") > _DEPTH:
                raise LimitError(f"{new.path!r}: directories nested deeper than the limit of {_DEPTH:,}")
            new_is_directory = stat.S_ISDIR(new.mode)
            old_is_directory = old is not None and stat.S_ISDIR(old.mode)
            if new_is_directory and old is not None and old_is_directory:
                self._compare_directories(new, old)
            elif new_is_directory:
                for entry in self._new.entries(new.path):
                    self._add(entry)
            elif old_is_directory:  # a block device or a socket in a directory's place: the bit test at work
                self._found.update((entry.path, None) for entry in self._old.entries(new.path))
        return self._found

    def _compare_directories(self, new: TreeEntry, old: TreeEntry) -> None:
        # On one device equal inodes are one file, unchanged; on two, facts alone can show that a file is a copy.
        same_device = new.device == old.device
        if same_device and self._compares_names:
            self._compare_names(new.path)
            return
        prefix = new.path + b"/" if new.path else b""
        news, olds = self._new.list_facts(new.path), dict(self._old.list_facts(new.path))
        self._budget.spend(len(news) + len(olds))
        alike: dict[bytes, bool] = {}  # most files; and whether one is a copy of the other
        for name, facts in news.items():
            before = olds.pop(name, None)
            if before is None:
                self._add(TreeEntry(prefix + name, *facts))
            elif facts[7] == before[7] and same_device:
                continue
            elif facts[:6] == before[:6] and facts[0] & _TYPE_MASK == stat.S_IFREG:
                alike[name] = facts[7] != before[7]
            else:
                self._compare(TreeEntry(prefix + name, *facts), TreeEntry(prefix + name, *before))
        if alike:
            now, then = self._new.list_capabilities(new.path), self._old.list_capabilities(new.path)
            for name in (now.keys() | then.keys()) & alike.keys():
                if now.get(name) != then.get(name):
                    self._found[prefix + name] = TreeEntry(prefix + name, *news[name])
                    del alike[name]
        self.copies += sum(alike.values())
        self._found.update((prefix + name, None) for name in olds)

    def _compare_names(self, path: bytes) -> None:
        """Two directories on one device: entries are described only where names or inodes differ."""
        news, olds = self._new.list_names(path), self._old.list_names(path)
        self._budget.spend(len(news) + len(olds))
        if news == olds:
            return
        prefix = path + b"/" if path else b""
        for name, inode in news.items():
            before = olds.get(name)
            if before == inode:
                continue
            entry = self._new.stat(prefix + name)
            if before is None:
                self._add(entry)
            else:
                self._compare(entry, self._old.stat(prefix + name))
        self._found.update((prefix + name, None) for name in olds.keys() - news.keys())

    def _compare(self, new: TreeEntry, old: TreeEntry) -> None:
        if differ(new, old) or self._new.read_capability(new.path) != self._old.read_capability(old.path):
            self._found[new.path] = new
        elif new.inode != old.inode and stat.S_ISREG(new.mode):
            self.copies += 1
        if stat.S_ISDIR(new.mode) or (new.mode & _DIRECTORY_BIT and stat.S_ISDIR(old.mode)):
            self._pending.append((new, old))

    def _add(self, entry: TreeEntry) -> None:
        self._found[entry.path] = entry
        if stat.S_ISDIR(entry.mode):
            self._pending.append((entry, None))


def differ(new: TreeEntry, old: TreeEntry) -> bool:
    """What Docker takes for a change of an entry, but for its `security.capability`."""
    if new[1:7] == old[1:7]:  # mode to rdev
        return False
    if new[1:4] != old[1:4] or new.rdev != old.rdev:
        return True
    if old.mode & _DIRECTORY_BIT:
        return False
    if new.size != old.size or new.mtime_ns // _SECOND != old.mtime_ns // _SECOND:
        return True
    # A time without a fraction of a second may have lost it on its way through a tar.
    return new.mtime_ns != old.mtime_ns and bool(new.mtime_ns % _SECOND and old.mtime_ns % _SECOND)
