"""Compares a layer's tree in the store with the tree that its tar makes of its parent's tree."""

from __future__ import annotations

import copy
import marshal
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from isal.isal_zlib import crc32
from msgspec import Struct

from migrate.errors import MissingLayerError
from migrate.readers.graphdrivers.changes import Comparison, walk_tree
from migrate.readers.graphdrivers.tree_tar import device_numbers
from migrate.rootfs.expected import ExpectedFile, ExpectedTree
from migrate.rootfs.tar_listing import ListedEntry
from migrate.storage.tree import Tree, TreeEntry
from migrate.tar.names import shown_name

_BLOCK = 256 * 1024
Owners = tuple[int, int]
"""(amount added to a user's number, amount added to a group's number)"""
_HIGH = 65_536
"""The default size of the first range of a daemon's subordinate IDs (useradd, subuid(5))."""
_FEWEST_SHIFTED = 2


class Shift(NamedTuple):
    """The amounts added to the numbers of users and groups in the store. Numbers from _HIGH on may be in another range
    of the daemon, and have amounts of their own."""

    users: int = 0
    groups: int = 0
    high_users: int = 0
    high_groups: int = 0

    def at(self, uid: int, gid: int) -> Owners:
        return (
            self.high_users if uid >= _HIGH else self.users,
            self.high_groups if gid >= _HIGH else self.groups,
        )

    def taken_off(self, uid: int, gid: int) -> Owners:
        """The owner in the image → the owner without the shift."""
        user, group = uid - self.users, gid - self.groups
        return (
            user if 0 <= user < _HIGH else uid - self.high_users,
            group if 0 <= group < _HIGH else gid - self.high_groups,
        )


NOT_SHIFTED = Shift()
_SOCKET_BECOMES = (stat.S_IFSOCK, stat.S_IFIFO, stat.S_IFREG)
"""Docker's copies of a layer have other types in place of sockets, or nothing."""
_TYPE_NAMES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class LayerCheck(Struct, frozen=True):
    """The result for one layer. `differences`: path → the difference. `copies`: the number of files with the same
    metadata as the parent's that are other inodes. `shift`: the amounts by which all owners are higher in the store
    than in the image. The paths of the tar are packed, since they are seldom needed."""

    differences: dict[bytes, str]
    copies: int
    shift: Shift
    _packed: bytes

    def touched(self) -> set[bytes]:
        """The paths in the tar."""
        return {path for path, _, _ in self._unpack()}

    def contents(self) -> dict[bytes, tuple[int, int]]:
        """Path → (size, CRC-32) of the files in the tar."""
        return {path: (size, crc) for path, size, crc in self._unpack() if size is not None and crc is not None}

    def _unpack(self) -> list[tuple[bytes, int | None, int | None]]:
        found: list[tuple[bytes, int | None, int | None]] = marshal.loads(zlib.decompress(self._packed))
        return found


def check_layer(
    entries: Callable[[], Iterable[ListedEntry]], tree: Tree, parent: Tree | None, known: Shift = NOT_SHIFTED
) -> LayerCheck:
    """Compares one layer. `entries` gives the tar's entries at each call; `known`: the shift of other layers of the
    store.

    In a store of a daemon with user namespaces all owners are shifted by one amount, and those from _HIGH on perhaps by
    another. If most owners differ by the same amount, it is subtracted before owners are compared. Raises SourceError
    if a tree cannot be read.
    """
    check, owners = _check_shifted(entries(), tree, parent, known)
    shift = owners.common_shift(known)
    return check if shift == known else _check_shifted(entries(), tree, parent, shift)[0]


class _FoundOwners:
    """Counts the amounts by which owners in the store are higher than in the image."""

    def __init__(self) -> None:
        self._low: Counter[Owners] = Counter()
        self._high_users: Counter[int] = Counter()
        self._high_groups: Counter[int] = Counter()

    def note(self, entry: TreeEntry, uid: int, gid: int) -> Owners:
        """Counts one entry. `uid` and `gid`: its owners in the image. Returns the two amounts."""
        higher = (entry.uid - uid, entry.gid - gid)
        if uid >= _HIGH:
            self._high_users[higher[0]] += 1
        if gid >= _HIGH:
            self._high_groups[higher[1]] += 1
        if uid < _HIGH and gid < _HIGH:
            self._low[higher] += 1
        return higher

    def common_shift(self, known: Shift) -> Shift:
        """The shift of most owners; `known` if no amount is that of most."""
        low = _most_frequent(self._low) or (known.users, known.groups)
        high = (known.high_users, known.high_groups) if low == (known.users, known.groups) else low
        users, groups = _most_frequent(self._high_users), _most_frequent(self._high_groups)
        return Shift(*low, high[0] if users is None else users, high[1] if groups is None else groups)


_Amount = TypeVar("_Amount")


def _most_frequent(found: Counter[_Amount]) -> _Amount | None:
    """The amount of more than half of the owners, and of at least two: a single one may have been changed by hand."""
    if not found:
        return None
    (amount, count), *_ = found.most_common(1)
    return amount if count >= _FEWEST_SHIFTED and count * 2 > found.total() else None


def _check_shifted(
    entries: Iterable[ListedEntry], tree: Tree, parent: Tree | None, shift: Shift
) -> tuple[LayerCheck, _FoundOwners]:
    expected = ExpectedTree(_ParentFiles(parent, shift))
    expected.take(entries)
    view = _StoredLayer(tree, shift)
    differences = dict(expected.problems)
    for path in expected.touched():
        _note(differences, path, view.difference(path, expected.find(path)))
    top = lookup(tree, b"")
    if top is not None and not expected.is_touched(b""):
        view.owners.note(top, 0, 0)
    for path in _iter_unhidden(expected, tree):
        differences[path] = "in the store only"
    # Only the owners in the tar show the shift. The owner of any other path is that of the parent's tree.
    owners = copy.deepcopy(view.owners)
    changed: Iterable[tuple[bytes, TreeEntry | None]] = ((entry.path, entry) for entry in walk_tree(tree))
    copies = 0
    if parent is not None:
        comparison = Comparison(tree, parent)
        changed, copies = comparison.run().items(), comparison.copies
    for path, entry in changed:
        if not expected.is_touched(path) and path not in differences:
            _note(differences, path, view.difference(path, expected.find(path), entry, parent))
    rows: list[tuple[bytes, int | None, int | None]] = []
    for path in expected.touched():
        node = expected.find(path)
        is_file = node is not None and node.kind == stat.S_IFREG
        rows.append((path, node.size, node.crc) if node is not None and is_file else (path, None, None))
    return LayerCheck(differences, copies, shift, zlib.compress(marshal.dumps(rows), 1)), owners


def content_crc(tree: Tree, path: bytes) -> int:
    """The CRC-32 of a file. Raises SourceError."""
    crc = 0
    with tree.open(path) as stream:
        while block := stream.read(_BLOCK):
            crc = crc32(block, crc)
    return crc


def _note(differences: dict[bytes, str], path: bytes, difference: str | None) -> None:
    if difference is not None:
        differences[path] = difference


class _ParentFiles:
    """The files of the parent's tree as ExpectedFile; none if there is no parent."""

    def __init__(self, tree: Tree | None, shift: Shift) -> None:
        self._tree = tree
        self._shift = shift
        self._capability = tree.read_capability if tree is not None else None

    def __call__(self, path: bytes) -> ExpectedFile | None:
        if self._tree is None or self._capability is None:
            return None
        entry = lookup(self._tree, path)
        if entry is None:
            return None
        # With userns-remap, the store has shifted owners, and the image has the owners without the shift.
        uid, gid = self._shift.taken_off(entry.uid, entry.gid)
        return ExpectedFile(
            mode=entry.mode,
            uid=uid,
            gid=gid,
            size=entry.size if stat.S_ISREG(entry.mode) else 0,
            link=self._tree.read_link(path) if stat.S_ISLNK(entry.mode) else b"",
            device=device_numbers(entry),
            capability=self._capability(path) if stat.S_ISREG(entry.mode) else None,
        )


def lookup(tree: Tree, path: bytes) -> TreeEntry | None:
    try:
        return tree.stat(path)
    except MissingLayerError:
        return None


def _iter_unhidden(expected: ExpectedTree, tree: Tree) -> Iterator[bytes]:
    """Names in the store that the layer's whiteouts should have hidden."""
    for directory in expected.cleared:
        entry = lookup(tree, directory)
        if entry is None or not stat.S_ISDIR(entry.mode):
            continue
        waiting = [directory]
        while waiting:
            for entry in tree.entries(waiting.pop()):
                if expected.find(entry.path) is None:
                    yield entry.path
                elif stat.S_ISDIR(entry.mode):
                    waiting.append(entry.path)


class _StoredLayer:
    """The layer's tree in the store."""

    def __init__(self, tree: Tree, shift: Shift) -> None:
        self._tree = tree
        self._shift = shift
        self.owners = _FoundOwners()
        self._capability = tree.read_capability

    def difference(
        self, path: bytes, node: ExpectedFile | None, entry: TreeEntry | None = None, parent: Tree | None = None
    ) -> str | None:
        """The difference at `path`, None if there is none. `parent`: given for a path that is not in the tar."""
        entry = lookup(self._tree, path) if entry is None else entry
        if node is None:
            return "in the store only" if entry is not None else None
        if node.kind == stat.S_IFSOCK and (entry is None or stat.S_IFMT(entry.mode) in _SOCKET_BECOMES):
            return None
        if entry is None:
            return "not in the store"
        found = list(self._metadata(node, entry))
        if not found and stat.S_ISREG(entry.mode):
            found = list(self._content(node, entry, parent))
        return "; ".join(found) or None

    def _metadata(self, node: ExpectedFile, entry: TreeEntry) -> Iterator[str]:
        kind = stat.S_IFMT(entry.mode)
        if kind != node.kind:
            yield f"a {_TYPE_NAMES.get(kind, '?')} in the store, a {_TYPE_NAMES.get(node.kind, '?')} in the image"
            return
        if not node.known:
            return
        # Linux has no modes of symbolic links: all have 0777 on disk, whatever the tar states.
        if kind != stat.S_IFLNK and entry.mode != node.mode:
            yield f"mode {entry.mode & 0o7777:04o} in the store, {node.mode & 0o7777:04o} in the image"
        if self.owners.note(entry, node.uid, node.gid) != self._shift.at(node.uid, node.gid):
            yield f"owner {entry.uid}:{entry.gid} in the store, {node.uid}:{node.gid} in the image"
        if kind == stat.S_IFLNK and (link := self._tree.read_link(entry.path)) != node.link:
            yield f"leads to {shown_name(link)} in the store, to {shown_name(node.link)} in the image"
        if kind in (stat.S_IFCHR, stat.S_IFBLK) and (device := device_numbers(entry)) != node.device:
            yield f"device {device[0]}:{device[1]} in the store, {node.device[0]}:{node.device[1]} in the image"
        if kind == stat.S_IFREG:
            if node.size is not None and entry.size != node.size:
                yield f"{entry.size:,} bytes in the store, {node.size:,} in the image"
            if self._capability(entry.path) != node.capability:
                yield "its security.capability differs"

    def _content(self, node: ExpectedFile, entry: TreeEntry, parent: Tree | None) -> Iterator[str]:
        if parent is not None:
            if content_crc(self._tree, entry.path) != content_crc(parent, entry.path):
                yield "its content differs"
            return
        if node.read_from == entry.path or node.crc is None:
            return  # the tar's content was read from this file
        first = lookup(self._tree, node.read_from)
        if first is not None and (first.device, first.inode) == (entry.device, entry.inode):
            return
        if content_crc(self._tree, entry.path) != node.crc:
            yield "its content differs"
