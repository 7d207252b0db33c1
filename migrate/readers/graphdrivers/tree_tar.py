"""A layer's tree, or what changed in it, as the tar that Docker itself makes where it kept none.

moby 1.10, pkg/archive: TarWithOptions (a whole tree) and ExportChanges (a change list), both through addTarFile.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Generator, Iterable
from typing import Final

from migrate.blobio import tarwriter
from migrate.blobio.tarwriter import HeaderEncoder, TarHeader
from migrate.errors import DamagedError
from migrate.readers.graphdrivers.changes import Change, capability_reader, find_changes, walk_tree
from migrate.readers.graphdrivers.tree import FileTree, TreeEntry

_BLOCK = 256 * 1024
_WHITEOUT: Final = b".wh."
_TYPEFLAGS = {
    stat.S_IFREG: tarwriter.REGULAR,
    stat.S_IFDIR: tarwriter.DIRECTORY,
    stat.S_IFLNK: tarwriter.SYMLINK,
    stat.S_IFCHR: tarwriter.CHARACTER,
    stat.S_IFBLK: tarwriter.BLOCK_DEVICE,
    stat.S_IFIFO: tarwriter.FIFO,
    stat.S_IFSOCK: tarwriter.NUL,  # Go 1.5 leaves a socket's type open
}
_HAS_DEVICE_BITS = 0x6000


class TreeTar:
    """The tar of one layer. `doubts` says, once all was read, why Docker's own bytes may differ."""

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree
        self._encoder = HeaderEncoder()
        self._capability = capability_reader(tree)
        self._first_names: dict[int, bytes] = {}
        self._whiteouts = 0

    def whole(self, skip: Callable[[bytes], bool] | None = None) -> Generator[bytes, None, None]:
        """All of the tree but what `skip` takes out. Raises SourceError."""
        return self._write(Change(entry.path, entry) for entry in walk_tree(self._tree, skip))

    def against(self, parent: FileTree) -> Generator[bytes, None, None]:
        """What changed since `parent`. Raises SourceError."""
        yield from self._write(find_changes(self._tree, parent))

    def doubts(self) -> tuple[str, ...]:
        found = []
        if self._whiteouts:
            found.append(f"{_count(self._whiteouts, 'deletion')} (Docker writes the time of its run, here it is 0)")
        if self._encoder.pax_entries:
            entries = _count(self._encoder.pax_entries, "entry with a pax header", "entries with pax headers")
            found.append(f"{entries} (Docker writes its process ID, here it is 0)")
        return tuple(found)

    def _write(self, changes: Iterable[Change]) -> Generator[bytes, None, None]:
        for path, entry in changes:
            if entry is None:
                yield self._whiteout(path)
            else:
                yield from self._entry(entry)
        yield tarwriter.END

    def _whiteout(self, path: bytes) -> bytes:
        self._whiteouts += 1
        directory, slash, name = path.rpartition(b"/")
        return self._encoder.encode(TarHeader(directory + slash + _WHITEOUT + name))

    def _entry(self, entry: TreeEntry) -> Generator[bytes, None, None]:
        header = self._header(entry)
        yield self._encoder.encode(header)
        if header.typeflag == tarwriter.REGULAR and header.size:
            yield from self._content(entry)

    def _header(self, entry: TreeEntry) -> TarHeader:
        kind = stat.S_IFMT(entry.mode)
        name, link, size = entry.path, b"", 0
        typeflag = _TYPEFLAGS[kind]
        if kind == stat.S_IFDIR:
            name += b"/"
        elif kind == stat.S_IFLNK:
            link = self._tree.read_link(entry.path)
        elif kind == stat.S_IFREG:
            size = entry.size
        if kind != stat.S_IFDIR and entry.nlink > 1:
            first = self._first_names.setdefault(entry.inode, name)
            if first is not name:
                typeflag, link, size = tarwriter.HARD_LINK, first, 0
        device = _device(entry.rdev) if entry.mode & _HAS_DEVICE_BITS else (0, 0)
        capability = self._capability(entry.path)
        xattrs = {b"security.capability": capability} if capability is not None else {}
        return TarHeader(
            name, entry.mode, entry.uid, entry.gid, size, entry.mtime_ns, typeflag, link, device, xattrs
        )  # fmt: skip

    def _content(self, entry: TreeEntry) -> Generator[bytes, None, None]:
        left = entry.size
        with self._tree.open_file(entry.path) as stream:
            while left > 0 and (block := stream.read(min(left, _BLOCK))):
                left -= len(block)
                yield block
        if left:
            raise DamagedError(
                f"{entry.path.decode('utf-8', 'backslashreplace')}: {left:,} bytes shorter than its size"
            )
        yield tarwriter.padding(entry.size)


def _device(rdev: int) -> tuple[int, int]:
    """(major, minor) as Docker takes them from Linux's device number: 12 and 20 bits."""
    return (rdev >> 8) & 0xFFF, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
