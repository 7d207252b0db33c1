"""The tar of a layer's tree or of its changes, as Docker makes it for a layer without tar-split.

Source: moby 1.10, pkg/archive: TarWithOptions (a whole tree), ExportChanges (a list of changes), addTarFile (both).
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final, NamedTuple

from msgspec import Struct

from migrate.errors import DamagedError
from migrate.readers.graphdrivers.changes import Change, walk_tree
from migrate.storage.tree import Tree, TreeEntry
from migrate.tar import writer as tarwriter
from migrate.tar.writer import HeaderEncoder, TarHeader

PLANNED_PARTS: Final = 20_000
"""The headers of up to so many entries are made before the first byte is read, so that the tar's size is known."""
_BLOCK = 256 * 1024
_WHITEOUT: Final = b".wh."
_TYPEFLAGS = {
    stat.S_IFREG: tarwriter.REGULAR,
    stat.S_IFDIR: tarwriter.DIRECTORY,
    stat.S_IFLNK: tarwriter.SYMLINK,
    stat.S_IFCHR: tarwriter.CHARACTER,
    stat.S_IFBLK: tarwriter.BLOCK_DEVICE,
    stat.S_IFIFO: tarwriter.FIFO,
    stat.S_IFSOCK: tarwriter.NUL,  # Go 1.5 gives a socket no typeflag
}
_HAS_DEVICE_BITS = 0x6000


class Part(NamedTuple):
    """A piece of the tar: header blocks, then the content of `entry` if it is not None."""

    header: bytes
    entry: TreeEntry | None


class TreeTar(Struct, frozen=True):
    """A tar that can be read once. `size` is None if `parts` are made while it is read.

    `doubts` gives the reasons why Docker's own bytes may differ; `counted` the bytes of the files in the tar, and those
    of the targets of its symbolic links. If `size` is None, both are complete only after the last read.
    """

    tree: Tree
    parts: Iterable[Part]
    size: int | None
    doubts: Callable[[], tuple[str, ...]]
    counted: Callable[[], tuple[int, int]]

    @property
    def is_empty(self) -> bool:
        """True if the tar has its end marker only."""
        return self.size == len(tarwriter.END)

    def read(self) -> Generator[bytes, None, None]:
        """The tar's bytes, in pieces. Raises SourceError."""
        for header, entry in self.parts:
            yield header
            if entry is not None:
                left = entry.size
                with self.tree.open(entry.path) as stream:
                    while left > 0 and (block := stream.read(min(left, _BLOCK))):
                        left -= len(block)
                        yield block
                if left:
                    # The header with the full size was already handed out: a short file would shift everything behind
                    # it.
                    name = entry.path.decode("utf-8", "backslashreplace")
                    raise DamagedError(f"{name}: ends {left:,} bytes before its size of {entry.size:,}")
                yield tarwriter.padding(entry.size)


def tar_of_tree(tree: Tree, skip: Callable[[bytes], bool] | None = None) -> TreeTar:
    """All of `tree` without the paths that `skip` excludes. Raises SourceError, here or when read."""
    return tar_of_changes(tree, (Change(entry.path, entry) for entry in walk_tree(tree, skip)))


def tar_of_changes(tree: Tree, changes: Iterable[Change], unsure: int = 0) -> TreeTar:
    """The tar of `changes` in `tree`, as `Comparison.changes` lists them. Raises SourceError, here or when read.

    `unsure`: the number of files that count as unchanged by their size and a time in whole seconds.
    """
    headers = _Headers(tree, unsure)
    parts = headers.parts(changes)
    planned = list(itertools.islice(parts, PLANNED_PARTS + 1))
    if len(planned) > PLANNED_PARTS:
        return TreeTar(tree, itertools.chain(planned, parts), None, headers.doubts, headers.counted)
    contents = [part.entry.size for part in planned if part.entry is not None]
    size = sum(len(part.header) for part in planned) + sum(one + len(tarwriter.padding(one)) for one in contents)
    return TreeTar(tree, planned, size, headers.doubts, headers.counted)


class _Headers:
    """Makes the parts of one tar, in order."""

    def __init__(self, tree: Tree, unsure: int) -> None:
        self._tree = tree
        self._unsure = unsure
        self._encoder = HeaderEncoder()
        self._capability = tree.read_capability
        self._first_names: dict[int, bytes] = {}
        self._whiteouts = 0
        self._file_bytes = 0
        self._link_bytes = 0

    def counted(self) -> tuple[int, int]:
        return self._file_bytes, self._link_bytes

    def parts(self, changes: Iterable[Change]) -> Iterator[Part]:
        for path, entry in changes:
            if entry is None:
                self._whiteouts += 1
                directory, slash, name = path.rpartition(b"/")
                yield Part(self._encoder.encode(TarHeader(directory + slash + _WHITEOUT + name)), None)
                continue
            header = self._header(entry)
            has_content = header.typeflag == tarwriter.REGULAR and header.size > 0
            yield Part(self._encoder.encode(header), entry if has_content else None)
        yield Part(tarwriter.END, None)

    def doubts(self) -> tuple[str, ...]:
        found = []
        if self._whiteouts:
            found.append(f"{_count(self._whiteouts, 'deletion')} (Docker writes the time of its run, here it is 0)")
        if self._encoder.pax_entries:
            entries = _count(self._encoder.pax_entries, "entry with a pax header", "entries with pax headers")
            found.append(f"{entries} (Docker writes its process ID, here it is 0)")
        if self._unsure:
            files = _count(self._unsure, "file")
            found.append(f"{files} taken as unchanged by size and time, of which this source has whole seconds alone")
        return tuple(found)

    def _header(self, entry: TreeEntry) -> TarHeader:
        kind = stat.S_IFMT(entry.mode)
        name, link, size = entry.path, b"", 0
        typeflag = _TYPEFLAGS[kind]
        if kind == stat.S_IFDIR:
            name += b"/"
        elif kind == stat.S_IFLNK:
            link = self._tree.read_link(entry.path)
            self._link_bytes += len(link)
        elif kind == stat.S_IFREG:
            size = entry.size
        # The first name of an inode has the content, later ones are hard links to it. As in Docker 1.10, the key is the
        # inode number alone, and all types but directories count.
        if kind != stat.S_IFDIR and entry.nlink > 1:
            first = self._first_names.setdefault(entry.inode, name)
            if first is not name:
                typeflag, link, size = tarwriter.HARD_LINK, first, 0
        self._file_bytes += size
        # The only extended attribute that Docker writes into a layer.
        capability = self._capability(entry.path)
        xattrs = {b"security.capability": capability} if capability is not None else {}
        return TarHeader(
            name, entry.mode, entry.uid, entry.gid, size, entry.mtime_ns, typeflag, link, device_numbers(entry), xattrs
        )  # fmt: skip


def device_numbers(entry: TreeEntry) -> tuple[int, int]:
    """(major, minor) of Linux's device number as Docker computes them, with 12 and 20 bits."""
    if not entry.mode & _HAS_DEVICE_BITS:
        return 0, 0
    return (entry.rdev >> 8) & 0xFFF, (entry.rdev & 0xFF) | ((entry.rdev >> 12) & 0xFFF00)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
