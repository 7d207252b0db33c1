"""The changes of a layer in its parent's tree, by the rules of Docker's own comparison.

Source: moby 1.10, pkg/archive/changes.go and changes_linux.go. File contents are never read. A name that has the same
inode in two directories of one device is unchanged, with all below it. Otherwise type, permissions, owner, device
number and `security.capability` are compared, and size and time of all but directories. Docker's test for a directory
is one bit, 0x4000, which block devices and sockets have, too. The test here is the same.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from migrate.errors import LimitError
from migrate.storage.tree import Tree, TreeEntry

_DIRECTORY_BIT = 0x4000
_DEPTH = 2_048
"""Limit of nested directories: PATH_MAX (4096 bytes) allows no more."""
_TYPE_MASK = 0o170000
_SECOND = 10**9


class Change(NamedTuple):
    """`entry` is the new state of `path`, None if the path was deleted."""

    path: bytes
    entry: TreeEntry | None


class Budget:
    """A limit of directory entries to read. `spend` raises LimitError if there are more."""

    def __init__(self, entries: int | None = None) -> None:
        self._left = entries

    def spend(self, entries: int) -> None:
        if self._left is not None:
            self._left -= entries
            if self._left < 0:
                raise LimitError("more directory entries than are looked at for this")


def walk_tree(tree: Tree, skip: Callable[[bytes], bool] | None = None) -> Iterator[TreeEntry]:
    """Every entry but the root, a directory before what it holds, names in bytewise order (Go's filepath.Walk).

    A path for which `skip` is true is left out with all below it.
    """
    # A stack in place of recursion: a tree may be nested deeper than Python's stack allows.
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
    """Compares two trees. `copies` counts the files of `new` that count as unchanged although they are other inodes
    than those of `old`."""

    def __init__(self, new: Tree, old: Tree, budget: Budget | None = None) -> None:
        self.copies = 0
        self._budget = budget or Budget()
        self._found: dict[bytes, TreeEntry | None] = {}
        self._new, self._old = new, old
        self._compares_names = new.names_are_cheap and old.names_are_cheap
        self._pending: list[tuple[TreeEntry, TreeEntry | None]] = []

    def changes(self, leave_out: Callable[[bytes, TreeEntry | None], bool] | None = None) -> list[Change]:
        """The changes, sorted bytewise by path, as Docker writes them. A deleted directory is one change.

        A directory with a change below it is in the list even if it did not change itself. `leave_out` gets the path
        and the new entry of a change; if it is true, the change is left out.
        """
        found = self.run()
        if leave_out is not None:
            found = {path: entry for path, entry in found.items() if not leave_out(path, entry)}
        # Docker lists the directories above each change as modified, too (pkg/archive/changes.go, changesDirs).
        for path in list(found):
            while (path := path.rpartition(b"/")[0]) and path not in found:
                found[path] = self._new.stat(path)
        return [Change(path, found[path]) for path in sorted(found)]

    def run(self) -> dict[bytes, TreeEntry | None]:
        """Path → the new entry, None if it was deleted; without the directories that did not change themselves."""
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
            elif old_is_directory:
                # `new` is a block device or a socket, which Docker takes for a directory without entries (the bit
                # test).
                self._found.update((entry.path, None) for entry in self._old.entries(new.path))
        return self._found

    def _compare_directories(self, new: TreeEntry, old: TreeEntry) -> None:
        # Equal inodes on one device are one file, which is unchanged: overlay's hard links. On two devices inode
        # numbers mean nothing, and the metadata decides.
        same_device = new.device == old.device
        if same_device and self._compares_names:
            self._compare_names(new.path)
            return
        prefix = new.path + b"/" if new.path else b""
        news, olds = self._new.list_facts(new.path), dict(self._old.list_facts(new.path))
        self._budget.spend(len(news) + len(olds))
        # Name → whether it is another inode, of regular files with equal metadata, which are most. Their capabilities
        # are read for the whole directory at once.
        alike: dict[bytes, bool] = {}
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
        """Compares two directories on one device. Only names with different inodes need a system call each."""
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
        # Docker considers the old children only if the new entry passes its directory test.
        if stat.S_ISDIR(new.mode) or (new.mode & _DIRECTORY_BIT and stat.S_ISDIR(old.mode)):
            self._pending.append((new, old))

    def _add(self, entry: TreeEntry) -> None:
        self._found[entry.path] = entry
        if stat.S_ISDIR(entry.mode):
            self._pending.append((entry, None))


def differ(new: TreeEntry, old: TreeEntry) -> bool:
    """True if Docker counts the entry as changed. Its `security.capability` is not compared here."""
    if new[1:7] == old[1:7]:  # mode to rdev
        return False
    if new[1:4] != old[1:4] or new.rdev != old.rdev:
        return True
    if old.mode & _DIRECTORY_BIT:
        return False
    if new.size != old.size or new.mtime_ns // _SECOND != old.mtime_ns // _SECOND:
        return True
    # Docker's sameFsTime: a time without a fraction of a second may have lost it in a tar, as when Docker 1.5 and later
    # copied vfs layers.
    return new.mtime_ns != old.mtime_ns and bool(new.mtime_ns % _SECOND and old.mtime_ns % _SECOND)
