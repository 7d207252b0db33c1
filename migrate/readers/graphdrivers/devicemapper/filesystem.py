"""What the two file systems that Docker made on thin devices have in common."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from migrate.blobio.stream import ByteStream
from migrate.errors import DamagedError, LimitError

if TYPE_CHECKING:
    from migrate.readers.graphdrivers.devicemapper.device import ThinDevice

DIRECTORY_BYTES: Final = 256 * 1024 * 1024
"""One directory's own blocks. A million long names take as much."""
DIRECTORY_NAMES: Final = 2_000_000
"""Names in one directory."""
LINK_BYTES: Final = 4096
"""A symbolic link's target (PATH_MAX)."""
XATTR_BYTES: Final = 64 * 1024
"""One extended attribute (XATTR_SIZE_MAX)."""
FILE_EXTENTS: Final = 4_000_000
"""Pieces of one file."""

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
    """An inode as stat(2) would show it. `raw` is the inode itself, for the file system that made it."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: int
    nlink: int
    raw: bytes


class Extent(NamedTuple):
    """A piece of a file, in bytes: `start` in the file, `offset` on the device. What no extent covers is zeros."""

    start: int
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class Directory:
    """`parent` is the inode that `..` names; `names` are sorted bytewise and hold neither `.` nor `..`."""

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
    def device(self) -> ReadsDevice:
        """What it reads from."""

    def inode_offset(self, number: int, /) -> int:
        """Where on the device the inode lies."""

    def read_inode(self, number: int, /) -> Inode: ...
    def read_directory(self, inode: Inode, /) -> Directory: ...
    def read_link(self, inode: Inode, /) -> bytes: ...
    def read_xattrs(self, inode: Inode, /) -> Mapping[bytes, bytes]: ...
    def read_extents(self, inode: Inode, /) -> Sequence[Extent]:
        """Ascending, without overlap. Empty for what lies in the inode itself (links and directories only)."""


class ReadsDevice(Protocol):
    """A thin device, or one with a journal's blocks laid over it."""

    size: int
    block_size: int

    def read_into(self, view: memoryview, offset: int, /) -> None: ...
    def read_at(self, offset: int, size: int, /) -> bytes: ...
    def pool_position(self, offset: int, /) -> int | None: ...


class ExtentFile(ByteStream):
    """A file's content over its extents, unbuffered. A read is short only at the end."""

    def __init__(self, device: ReadsDevice, extents: Sequence[Extent], size: int) -> None:
        super().__init__()
        self._device = device
        self._extents = extents
        self._next = 0
        self._size = size
        self._position = 0

    def tell(self) -> int:
        return self._position

    def read_block(self, limit: int, /) -> bytes:
        count = min(limit, self._size - self._position)
        if count <= 0:
            return b""
        extent = self._current()
        if extent is not None and extent.start <= self._position and self._position + count <= _end(extent):
            content = self._device.read_at(extent.offset + self._position - extent.start, count)
            self._position += count
            return content
        joined = bytearray(count)
        self.read_view(memoryview(joined))
        return bytes(joined)

    def read_view(self, view: memoryview, /) -> int:
        count = max(0, min(len(view), self._size - self._position))
        done = 0
        while done < count:
            done += self._read_piece(view[done:count])
        return count

    def _read_piece(self, view: memoryview) -> int:
        extent = self._current()
        if extent is None or extent.start > self._position:
            gap = len(view) if extent is None else min(len(view), extent.start - self._position)
            view[:gap] = bytes(gap)
            self._position += gap
            return gap
        inside = self._position - extent.start
        piece = view[: extent.length - inside]
        self._device.read_into(piece, extent.offset + inside)
        self._position += len(piece)
        return len(piece)

    def _current(self) -> Extent | None:
        """The extent that holds the position, or the next one."""
        while self._next < len(self._extents) and self._position >= _end(self._extents[self._next]):
            self._next += 1
        return self._extents[self._next] if self._next < len(self._extents) else None


def _end(extent: Extent) -> int:
    return extent.start + extent.length


def check_name(name: bytes, where: str) -> bytes:
    """DamagedError for a name that no kernel would have written."""
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
    """Turns what slicing and unpacking damaged bytes can raise into a DamagedError that says where."""
    try:
        yield
    except FOREIGN as exc:
        raise DamagedError(f"{where}: cannot be understood: {type(exc).__name__}: {exc}") from exc


def probe_kind(device: ThinDevice) -> str | None:
    """`ext4`, `xfs` or `btrfs` by their magics, as Docker's ProbeFsType finds them; None for anything else."""
    head = device.read_at(0, min(device.size, 0x10048))
    if head[0x10040:0x10048] == b"_BHRfS_M":
        return "btrfs"
    if head[0x438:0x43A] == b"\x53\xef":
        return "ext4"
    if head[:4] == b"XFSB":
        return "xfs"
    return None
