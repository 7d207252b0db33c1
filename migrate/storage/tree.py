"""Named files below a root, read-only. The root may be a directory, a tar, a bucket or a file system in a disk image.

All readers work on a `Tree`. A path is bytes, relative to the root, with components joined by `/` and no leading slash;
b"" is the root itself. Only `resolve` and `follow` follow symbolic links, in any component of a path.
"""

from __future__ import annotations

import os
import stat as _stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, Self

from msgspec import Struct

from migrate.blobio.limits import LINK_HOPS, read_limited
from migrate.blobio.payload import Extent
from migrate.errors import DamagedError, LimitError, MissingLayerError, SourceError
from migrate.storage.blocks import Blocks, FileBlocks, StreamBlocks
from migrate.tar.names import below_root

CAPABILITY = b"security.capability"


class TreeEntry(NamedTuple):
    """One name of a tree. `mode` is st_mode with the file type; `mtime_ns` nanoseconds since 1970, may be negative.

    `path` is relative to the tree's root, in bytes, without a leading slash, and b"" for the root itself.
    Entries with equal (device, inode) are one inode. (A tuple, and no Struct, since there are millions of entries.)
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: int
    device: int
    inode: int
    nlink: int

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    @property
    def is_file(self) -> bool:
        return _stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        return _stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return _stat.S_ISLNK(self.mode)


Facts = tuple[int, int, int, int, int, int, int, int, int]
"""The members of a TreeEntry without `path`, in the same order."""


class OpenedFile(Struct, frozen=True):
    """An open file of a tree. `extent` and `path` give the same bytes, if they are in a file of this machine."""

    stream: BinaryIO
    size: int
    extent: Extent | None = None
    path: str | None = None


class PoolParts(Struct, frozen=True):
    """A thin pool's two devices, by the name of the pool."""

    name: str
    data: Blocks
    metadata: Blocks


class Tree(ABC):
    """A tree of files. `location` names the root in errors. May be used from several threads unless a class excludes
    it.

    Errors are SourceError: MissingLayerError if a name is absent or a component is no folder, DamagedError if the name
    is of another kind, PermissionSourceError if this user may not read it.
    """

    location: str

    @abstractmethod
    def stat(self, path: bytes, /) -> TreeEntry:
        """The entry of a path, as lstat(2) gives it."""

    @abstractmethod
    def entries(self, path: bytes, /) -> Sequence[TreeEntry]:
        """The entries of a folder, sorted bytewise by name, without `.` and `..`."""

    @abstractmethod
    def read_link(self, path: bytes, /) -> bytes: ...

    @abstractmethod
    def xattrs(self, path: bytes, /) -> Mapping[bytes, bytes]: ...

    @abstractmethod
    def open(self, path: bytes, /) -> BinaryIO:
        """A regular file's content, unbuffered, from its start; the caller closes it. Device nodes, FIFOs and sockets
        are never opened."""

    def close(self) -> None:  # noqa: B027 - most trees have nothing to close
        """Closes open files. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    names_are_cheap: bool = False
    """True if `list_names` is much faster than `list_facts`."""
    is_remote: bool = False
    """True if a second reading of a file is as slow as the first one."""
    keeps_attributes: bool = True
    """False if owners, permissions, times and links are lost, as in a bucket. No layer can be made from such files."""

    # --- with defaults, which a class overrides if it can do better ------------------------------------------------

    def find(self, path: bytes, /) -> TreeEntry | None:
        """As `stat`; None if the name is absent."""
        try:
            return self.stat(path)
        except MissingLayerError:
            return None

    def is_folder(self, path: bytes, /) -> bool:
        """True for a folder; False for a link to one."""
        entry = self.find(path)
        return entry is not None and entry.is_folder

    @property
    def has_whole_seconds(self) -> bool:
        """True if no time in the tree has a fraction of a second, as in a tar of an old form."""
        return False

    @property
    def has_no_xattrs(self) -> bool:
        """True if the tree has no extended attribute at all. They may be lost, as in a tar that was made without
        them."""
        return False

    def problems(self) -> Sequence[str]:
        """The problems of the tar, disk image or file system as a whole, one line each."""
        return ()

    def contents(self) -> Sequence[str]:
        """One line for each volume of the disk image that this tree is in, for the user; empty for other trees."""
        return ()

    def thin_pools(self) -> Sequence[PoolParts]:
        """The thin pools of the disk that the tree is on."""
        return ()

    def require_whole(self, path: bytes, /, *, names: bool = False) -> None:  # noqa: B027 - most lose nothing
        """Raises DamagedError if a damaged tar has lost a name, or the metadata of a folder, at or below `path`; with
        `names`, for a lost name only. Needed if an absent name has a meaning, as in a layer made anew."""

    def read(self, path: bytes, limit: int, /) -> bytes:
        """A regular file whole; LimitError if it is larger than `limit` bytes."""
        with self.open(path) as stream:
            return read_limited(stream, limit, self.shown(path))

    def read_many(self, paths: Sequence[bytes], limit: int, /) -> Mapping[bytes, bytes | SourceError]:
        """Path → content or error, for many small files. Absent files are left out."""
        contents: dict[bytes, bytes | SourceError] = {}
        for path in paths:
            try:
                contents[path] = self.read(path, limit)
            except MissingLayerError:
                continue
            except SourceError as exc:
                contents[path] = exc
        return contents

    def extent(self, path: bytes, /) -> Extent | None:
        """The place of a regular file's bytes in a file of this machine; None if they are not in one piece there.

        The descriptor belongs to the tree, and is open as long as the tree.
        """
        del path
        return None

    def local_path(self, path: bytes, /) -> str | None:
        """The path of a file or folder on this machine; None if it has none."""
        del path
        return None

    @contextmanager
    def opened(self, path: bytes, /) -> Iterator[OpenedFile]:
        """An open regular file, with the place of its bytes if it is known."""
        size = self.stat(path).size
        with self.open(path) as stream:
            yield OpenedFile(stream, size, self.extent(path), self.local_path(path))

    def open_blocks(self, path: bytes, /) -> Blocks:
        """A regular file that is read by position. The caller closes it."""
        if (extent := self.extent(path)) is not None:
            return FileBlocks(os.dup(extent.fd), self.shown(path), extent.offset, extent.size)
        return StreamBlocks(self.open(path), self.shown(path), self.stat(path).size)

    def list_facts(self, path: bytes, /) -> Mapping[bytes, Facts]:
        """Name → facts of a folder's entries, in any order, without an object for each of their paths."""
        return {entry.name: entry[1:] for entry in self.entries(path)}

    def list_names(self, path: bytes, /) -> Mapping[bytes, int]:
        """Name → inode number of a folder's entries, in any order. The numbers are those in the folder's own record."""
        return {entry.name: entry.inode for entry in self.entries(path)}

    def list_kinds(self, path: bytes, /) -> Mapping[bytes, int]:
        """Name → file type (S_IFDIR, S_IFLNK, …) of a folder's entries; in any order."""
        return {name: _stat.S_IFMT(facts[0]) for name, facts in self.list_facts(path).items()}

    def read_capability(self, path: bytes, /) -> bytes | None:
        """`security.capability`, the one xattr that Docker looks at."""
        return self.xattrs(path).get(CAPABILITY)

    def list_capabilities(self, path: bytes, /) -> Mapping[bytes, bytes]:
        """Name → `security.capability`, of those entries of a folder that have one; in any order."""
        prefix = path + b"/" if path else b""
        found = {name: self.read_capability(prefix + name) for name in self.list_names(path)}
        return {name: value for name, value in found.items() if value is not None}

    def resolve(self, path: bytes, below: Callable[[bytes], bytes] | None = None, /) -> bytes:
        """`path` without symbolic links, each resolved inside the root and never out of it: `/` is the root, and `..`
        at the root stays there. MissingLayerError if a part of it is absent, LimitError beyond LINK_HOPS links.

        `below` is for trees whose links are those of the whole file system: it takes an absolute link, and `..` at the
        root, and returns the path below the root, or raises.
        """
        waiting = path.split(b"/")[::-1]
        done: list[bytes] = []
        hops = 0
        while waiting:
            part = waiting.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if not done and below is not None:
                    below(part)
                done = done[:-1]
                continue
            done.append(part)
            place = b"/".join(done)
            if not self.stat(place).is_link:
                continue
            hops += 1
            if hops > LINK_HOPS:
                raise LimitError(f"{self.shown(path)}: more than {LINK_HOPS} symbolic links in it (LINK_HOPS)")
            target = self.read_link(place)
            # An absolute link begins at the root of the tree. A relative one begins at the folder of the link.
            if target.startswith(b"/"):
                done, target = [], target if below is None else below(target)
            else:
                done.pop()
            waiting.extend(target.split(b"/")[::-1])
        return b"/".join(done)

    def subtree(self, path: bytes, /) -> Tree:
        """The tree below a folder. It can be used as long as this one is open; closing it does not close this one."""
        return SubTree(self, path)

    def follow(self, path: bytes, /) -> Tree:
        """The tree below a folder whose name is fixed by the source's format, never read from the source.

        The owner of the source may have moved the folder to another disk and left a link. The link is followed, as the
        program that wrote the source followed it. Raises MissingLayerError if there is no folder.
        """
        place = self.resolve(path)
        if not self.stat(place).is_folder:
            raise MissingLayerError(f"{self.shown(path)}: not a directory")
        return self.subtree(place)

    def shown(self, path: bytes, /) -> str:
        """The name of a path in errors."""
        return f"{self.location.rstrip('/')}/{os.fsdecode(path)}" if path else self.location


def open_inside(tree: Tree, name: bytes) -> BinaryIO:
    """The regular file that a name in a layer's tar names, always inside the tree. Raises SourceError.

    Docker unpacked the layer in a chroot to the tree. So a symbolic link in a name led to a place inside the tree. It
    is resolved in the same way here, as by openat2's RESOLVE_IN_ROOT.
    """
    path = below_root(name)
    # Few names go through a link. Only if the plain name fails, it is resolved.
    try:
        return tree.open(path)
    except (DamagedError, MissingLayerError):
        resolved = tree.resolve(path)
        if resolved == path:
            raise
    return tree.open(resolved)


def entries_of(directory: bytes, facts: Mapping[bytes, Facts]) -> list[TreeEntry]:
    """A directory's entries, sorted bytewise by name."""
    prefix = directory + b"/" if directory else b""
    return [TreeEntry(prefix + name, *facts[name]) for name in sorted(facts)]


class SubTree(Tree):
    """A tree whose root is a folder of another tree. `close` calls `closing`, or does nothing without it."""

    def __init__(self, tree: Tree, top: bytes, closing: Callable[[], None] | None = None) -> None:
        self._closing = closing
        self.location = tree.shown(top)
        self.names_are_cheap = tree.names_are_cheap
        self.is_remote, self.keeps_attributes = tree.is_remote, tree.keeps_attributes
        self._tree = tree
        self._top = top

    def close(self) -> None:
        if self._closing is not None:
            self._closing()

    def _below(self, path: bytes) -> bytes:
        if not self._top:
            return path
        return self._top + b"/" + path if path else self._top

    def subtree(self, path: bytes, /) -> Tree:
        return SubTree(self._tree, self._below(path))

    def stat(self, path: bytes, /) -> TreeEntry:
        return TreeEntry(path, *self._tree.stat(self._below(path))[1:])

    def entries(self, path: bytes, /) -> Sequence[TreeEntry]:
        return entries_of(path, self.list_facts(path))

    def read_link(self, path: bytes, /) -> bytes:
        return self._tree.read_link(self._below(path))

    def xattrs(self, path: bytes, /) -> Mapping[bytes, bytes]:
        return self._tree.xattrs(self._below(path))

    def open(self, path: bytes, /) -> BinaryIO:
        return self._tree.open(self._below(path))

    def extent(self, path: bytes, /) -> Extent | None:
        return self._tree.extent(self._below(path))

    def local_path(self, path: bytes, /) -> str | None:
        return self._tree.local_path(self._below(path))

    def follow(self, path: bytes, /) -> Tree:
        return self._tree.follow(self._below(path))

    @property
    def has_whole_seconds(self) -> bool:
        return self._tree.has_whole_seconds

    @property
    def has_no_xattrs(self) -> bool:
        return self._tree.has_no_xattrs

    def problems(self) -> Sequence[str]:
        return self._tree.problems()

    def contents(self) -> Sequence[str]:
        return self._tree.contents()

    def thin_pools(self) -> Sequence[PoolParts]:
        return self._tree.thin_pools()

    def require_whole(self, path: bytes, /, *, names: bool = False) -> None:
        self._tree.require_whole(self._below(path), names=names)

    def list_facts(self, path: bytes, /) -> Mapping[bytes, Facts]:
        return self._tree.list_facts(self._below(path))

    def list_names(self, path: bytes, /) -> Mapping[bytes, int]:
        return self._tree.list_names(self._below(path))

    def list_kinds(self, path: bytes, /) -> Mapping[bytes, int]:
        return self._tree.list_kinds(self._below(path))

    def read_capability(self, path: bytes, /) -> bytes | None:
        return self._tree.read_capability(self._below(path))

    def list_capabilities(self, path: bytes, /) -> Mapping[bytes, bytes]:
        return self._tree.list_capabilities(self._below(path))


def find_folder(tree: Tree, path: bytes) -> Tree | None:
    """As `Tree.follow`; None if there is no such folder."""
    try:
        return tree.follow(path)
    except MissingLayerError:
        return None
