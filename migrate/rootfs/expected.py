"""The file system that a layer's tar makes of its parent's tree, as Docker 1.9 and 1.10 unpack it.

moby 1.10, pkg/archive/diff.go (UnpackLayer) and archive.go (createTarFile). Only the names in the tar are kept here;
all other names are looked up in the parent's tree.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec import Struct

from migrate.blobio.limits import LINK_HOPS
from migrate.rootfs.tar_listing import ListedEntry
from migrate.tar.names import shown_name

_WHITEOUT: Final = b".wh."
_METADATA: Final = b".wh..wh."
_OPAQUE: Final = b".wh..wh..opq"
_BELOW: Final = 0
"""The time of all files of the parent's tree. Each entry of the tar has a later time."""
_KINDS: Final = {
    b"0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"S": stat.S_IFREG,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}


class ExpectedFile(Struct):
    """A file as it should be. Names that are hard links of one another share one object.

    `mode` includes the file type. `known` is False for a directory without an entry, whose mode and owner depend on
    Docker's version. `size` is None for a sparse file, `crc` for a file of the parent's tree. `read_from`: the path of
    the file whose content was put into the tar.
    """

    mode: int
    known: bool = True
    uid: int = 0
    gid: int = 0
    size: int | None = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    capability: bytes | None = None
    crc: int | None = None
    read_from: bytes = b""

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


FindBelow = Callable[[bytes], ExpectedFile | None]


class ExpectedTree:
    """The expected tree. `take` gets the layer's entries in order; then `find` and `touched` give the result."""

    def __init__(self, below: FindBelow) -> None:
        self._below = below
        self._nodes: dict[bytes, tuple[int, ExpectedFile | None]] = {}
        self._removed: dict[bytes, int] = {}
        self._opaque: set[bytes] = set()
        self._time = _BELOW
        self._resolved: dict[bytes, bytes] = {b"": b""}
        self._present: set[bytes] = {b""}
        self.problems: dict[bytes, str] = {}

    @property
    def cleared(self) -> Iterator[bytes]:
        """The directories whose content in the parent's tree the layer hides."""
        yield from self._opaque
        yield from self._removed

    def touched(self) -> Iterator[bytes]:
        yield from self._nodes

    def is_touched(self, path: bytes) -> bool:
        return path in self._nodes

    def take(self, entries: Iterable[ListedEntry]) -> None:
        for entry in entries:
            self._time += 1
            # Docker ignores aufs's own files, `.wh..wh.*` in the root, except the mark of an opaque root (UnpackLayer).
            if entry.path and not entry.path.startswith(_METADATA):
                directory, _, name = entry.path.rpartition(b"/")
                directory = self._resolve(directory)
                if name == _OPAQUE:
                    self._opaque.add(directory)
                elif name.startswith(_WHITEOUT):
                    self._remove(_join(directory, name[len(_WHITEOUT) :]))
                else:
                    self._make_directories(directory)
                    self._put(_join(directory, name), entry)
            elif entry.path == _OPAQUE:
                self._opaque.add(b"")

    def find(self, path: bytes) -> ExpectedFile | None:
        """The file at `path`, of which no part is a symbolic link; None if there is none."""
        time, node = self._nodes.get(path, (_BELOW, None))
        parent = path
        while parent:
            if self._removed.get(parent, -1) > time:
                return None
            parent = parent.rpartition(b"/")[0]
            if time == _BELOW:
                found = self._nodes.get(parent)
                # The layer has replaced the directory by something else, which removes its content.
                is_replaced = found is not None and (found[1] is None or found[1].kind != stat.S_IFDIR)
                if is_replaced or parent in self._opaque:
                    return None
        return self._below(path) if time == _BELOW else node

    def _put(self, path: bytes, entry: ListedEntry) -> None:
        before = self.find(path)
        if entry.kind == b"5" and before is not None and before.kind == stat.S_IFDIR:
            self._set(path, _node_of(entry, path))
            return
        if before is not None:
            self._remove(path)
        if entry.kind == b"1":
            directory, _, name = entry.link.rpartition(b"/")
            target = _join(self._resolve(directory), name)
            node = self.find(target)
            if node is None:
                self.problems[path] = f"a hard link to {shown_name(target)}, which is not there"
                return
            # Docker applies the owner, the mode and the capability of the link's header to the shared file.
            node.uid, node.gid, node.capability, node.known = entry.uid, entry.gid, entry.capability, True
            if node.kind != stat.S_IFLNK:
                node.mode = node.kind | (entry.mode & 0o7777)
            node.read_from = node.read_from or target
            self._nodes.setdefault(target, (self._time, node))
            self._set(path, node)
        elif entry.kind in _KINDS:
            self._set(path, _node_of(entry, path))

    def _set(self, path: bytes, node: ExpectedFile | None) -> None:
        self._time += 1
        self._nodes[path] = (self._time, node)
        if path in self._resolved or path in self._present:
            self._resolved, self._present = {b"": b""}, {b""}

    def _remove(self, path: bytes) -> None:
        self._set(path, None)
        self._removed[path] = self._time - 1

    def _make_directories(self, directory: bytes) -> None:
        """Makes missing directories, as Docker does; their mode depends on its version."""
        if directory in self._present:
            return
        missing, wanted = [], directory
        while directory and self.find(directory) is None:
            missing.append(directory)
            directory = directory.rpartition(b"/")[0]
        for path in reversed(missing):
            self._set(path, ExpectedFile(stat.S_IFDIR, known=False))
        self._present.add(wanted)

    def _resolve(self, directory: bytes) -> bytes:
        """`directory` with its symbolic links resolved inside the tree, as in Docker's chroot."""
        known = self._resolved.get(directory)
        if known is not None:
            return known
        waiting = directory.split(b"/")[::-1]
        done: list[bytes] = []
        hops = 0
        while waiting:
            part = waiting.pop()
            if part in (b"", b".", b".."):
                done = done[:-1] if part == b".." else done
                continue
            done.append(part)
            node = self.find(b"/".join(done))
            if node is not None and node.kind == stat.S_IFLNK and hops < LINK_HOPS:
                hops += 1
                done = [] if node.link.startswith(b"/") else done[:-1]
                waiting.extend(node.link.split(b"/")[::-1])
        self._resolved[directory] = b"/".join(done)
        return self._resolved[directory]


def _node_of(entry: ListedEntry, path: bytes) -> ExpectedFile:
    kind = _KINDS[entry.kind]
    if kind == stat.S_IFREG and stat.S_ISSOCK(entry.mode):
        kind = stat.S_IFSOCK  # Docker writes a socket's mode, and no typeflag
    return ExpectedFile(
        mode=kind | (entry.mode & 0o7777),
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        link=entry.link if kind == stat.S_IFLNK else b"",
        device=entry.device,
        capability=entry.capability,
        crc=entry.crc if entry.size is not None else None,
        read_from=path,
    )


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
