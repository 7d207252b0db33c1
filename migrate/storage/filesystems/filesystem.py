"""Types and limits that all file systems share."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from msgspec import Struct

from migrate.errors import DamagedError, LimitError
from migrate.storage.pieces import PiecedBlocks, PieceMap

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks

DIRECTORY_BYTES: Final = 256 * 1024 * 1024
"""Limit of one directory's own blocks, which a million long names need."""
DIRECTORY_NAMES: Final = 2_000_000
"""Limit of the names in one directory."""
LINK_BYTES: Final = 4096
"""Limit of a symbolic link's target (PATH_MAX)."""
XATTR_BYTES: Final = 64 * 1024
"""Limit of one extended attribute (XATTR_SIZE_MAX)."""
FILE_EXTENTS: Final = 4_000_000
"""Limit of the pieces of one file."""

FOREIGN: Final = (
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    ValueError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
)


class Inode(NamedTuple):
    """An inode with the values of stat(2). `raw`: its bytes, for the file system that made it."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: int
    nlink: int
    raw: bytes


class FileExtent(NamedTuple):
    """A piece of a file, in bytes: `start` in the file, `offset` on the device. Gaps between extents are zeros."""

    start: int
    length: int
    offset: int


class Directory(Struct, frozen=True):
    """A directory. `parent`: the inode of `..`. `names`: (name, inode), sorted bytewise, without `.` and `..`."""

    parent: int
    names: tuple[tuple[bytes, int], ...]

    def find(self, name: bytes) -> int | None:
        at = bisect_left(self.names, (name,))
        return self.names[at][1] if at < len(self.names) and self.names[at][0] == name else None


class FileSystem(Protocol):
    """A file system, opened. Methods may be called from any thread; errors are SourceError."""

    @property
    def kind(self) -> str: ...
    @property
    def root(self) -> int: ...
    @property
    def device(self) -> Blocks:
        """The blocks that it is read from."""

    @property
    def doubt(self) -> str | None:
        """Why files may be missing or wrong, as the rest of a sentence with the file system as subject; else None."""

    def inode_offset(self, number: int, /) -> int:
        """The place of the inode on the device, in bytes."""

    def read_inode(self, number: int, /) -> Inode: ...
    def read_directory(self, inode: Inode, /) -> Directory: ...
    def read_link(self, inode: Inode, /) -> bytes: ...
    def read_xattrs(self, inode: Inode, /) -> Mapping[bytes, bytes]: ...
    def read_extents(self, inode: Inode, /) -> Sequence[FileExtent]:
        """The extents, ascending, without overlap. Empty if the content is in the inode itself (links and
        directories)."""


def extents_as_blocks(device: Blocks, extents: Sequence[FileExtent], size: int) -> PiecedBlocks:
    """A file's content as blocks."""
    pieces = PieceMap()
    for extent in extents:
        try:
            pieces.add(*extent)
        except ValueError as error:
            raise DamagedError(f"a file's extents: {error}") from error
    return PiecedBlocks(device, pieces, size)


def check_name(name: bytes, where: str) -> bytes:
    """`name`. Raises DamagedError for a name that no kernel writes."""
    if not name or b"/" in name or b"\0" in name:
        raise DamagedError(f"{where}: holds the impossible name {name!r}")
    return name


def collect_names(entries: Iterable[tuple[bytes, int]], where: str) -> list[tuple[bytes, int]]:
    names = list(islice(entries, DIRECTORY_NAMES + 1))
    if len(names) > DIRECTORY_NAMES:
        raise LimitError(f"{where}: more than {DIRECTORY_NAMES:,} names (DIRECTORY_NAMES)")
    return names


def sorted_names(names: list[tuple[bytes, int]], where: str) -> tuple[tuple[bytes, int], ...]:
    names.sort()
    for (name, _), (following, _) in pairwise(names):
        if name == following:
            raise DamagedError(f"{where}: holds the name {name!r} twice")
    return tuple(names)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Turns the errors of slicing and unpacking damaged bytes into a DamagedError with the place in it."""
    try:
        yield
    except FOREIGN as exc:
        raise DamagedError(f"{where}: cannot be understood: {type(exc).__name__}: {exc}") from exc
