"""btrfs on one device, with all its subvolumes, each at its name in the top subvolume.

Source of the format: Linux, Documentation "btrfs on-disk format"; include/uapi/linux/btrfs_tree.h; fs/btrfs/. All
integers are little-endian. The checksum of every block of metadata is verified. If a block is damaged and the device
has a second copy, that copy is read.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import BinaryIO, Final, NamedTuple, cast

from fastcrc import crc32

from migrate.blobio.compression import zstd_module
from migrate.blobio.stopping import check_stop
from migrate.blobio.stream import SeekableStream
from migrate.errors import DamagedError, LimitError, MissingLayerError, SourceError, UnsupportedError
from migrate.storage.blocks import Blocks
from migrate.storage.filesystems.filesystem import (
    DIRECTORY_NAMES,
    FILE_EXTENTS,
    LINK_BYTES,
    check_name,
    naming,
)
from migrate.storage.tree import Facts, Tree, TreeEntry, entries_of

SUPERBLOCK: Final = 0x10000
MAGIC: Final = b"_BHRfS_M"
_HEADER_BYTES: Final = 101
_SUPER_BYTES: Final = 4096
_KNOWN_FEATURES: Final = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400 | 0x800 | 0x10000
_STRIPED: Final = 0x8 | 0x40 | 0x80 | 0x100
_TOP: Final = 5
"""The ID of the top subvolume's tree."""
_INODE_ITEM, _XATTR, _DIR_INDEX, _EXTENT_DATA = 1, 24, 96, 108
_ROOT_ITEM, _ROOT_BACKREF, _CHUNK = 132, 144, 228
_EMPTY_FOLDER: Final = 2
"""The inode number of the empty folder that a snapshot has in place of a subvolume below its origin."""
_LAST: Final = (1 << 64) - 1
_KEY = struct.Struct("<QBQ")
_ITEM = struct.Struct("<QBQII")
_POINTER = struct.Struct("<QBQQQ")
_INODE = struct.Struct("<16xQ16xIIIIQ72xqI12x")
"""size, nlink, uid, gid, mode, rdev, mtime in seconds and nanoseconds"""
_ENTRY = struct.Struct("<QBQQHHB")
"""key of the target, transaction, length of the value and of the name, type"""
_EXTENT = struct.Struct("<8xQBBHB")
"""bytes when decoded, compression, encryption, other encoding, type"""
_PLACE = struct.Struct("<QQQQ")
_INLINE, _REGULAR, _UNWRITTEN = 0, 1, 2
_LARGEST_EXTENT: Final = 256 * 1024 * 1024
_COMPRESSED_EXTENT: Final = 128 * 1024
_KEPT_NODES: Final = 4_096
_KEPT_FOLDERS: Final = 4_096
_KEPT_PATHS: Final = 200_000
_DEEPEST: Final = 8

ItemKey = tuple[int, int, int]
"""(object, type, offset)"""
_FIRST_KEY: Final[ItemKey] = (0, 0, 0)
_LAST_KEY: Final[ItemKey] = (_LAST, 255, _LAST)


class _Node(NamedTuple):
    level: int
    keys: list[ItemKey]
    places: list[tuple[int, int]]
    """leaf: place of each item's data in `raw`, and its size; other nodes: block and generation of each child"""
    raw: bytes


class _Inode(NamedTuple):
    size: int
    nlink: int
    uid: int
    gid: int
    mode: int
    rdev: int
    mtime_ns: int


class _Extent(NamedTuple):
    """A piece of a file. `data`: its content, if it is in the tree itself. `place` 0 is a hole."""

    start: int
    length: int
    place: int
    stored: int
    skip: int
    decoded: int
    compression: int
    data: bytes | None

    @property
    def end(self) -> int:
        return self.start + self.length


class BtrfsTree(Tree):
    """The top subvolume and all below it. As in the kernel, each subvolume has its own device number.

    Raises SourceError; UnsupportedError for several devices, and for a log tree, which is not replayed.
    """

    def __init__(self, blocks: Blocks, location: str) -> None:
        self.location = location
        self._pool = _Pool(blocks)
        self._roots: dict[int, int] = {}
        self._top = (_TOP, self._root_of(_TOP)[1])
        self._places: dict[bytes, tuple[int, int]] = {b"": self._top}
        self._listed = lru_cache(maxsize=_KEPT_FOLDERS)(self._list_inode)

    def stat(self, path: bytes, /) -> TreeEntry:
        tree, number = self._find(path)
        return TreeEntry(path, *self._facts(tree, number))

    def entries(self, path: bytes, /) -> Sequence[TreeEntry]:
        return entries_of(path, self.list_facts(path))

    def list_facts(self, path: bytes, /) -> Mapping[bytes, Facts]:
        check_stop()
        return {name: self._facts(*place) for name, place in self._names(path).items()}

    def read_link(self, path: bytes, /) -> bytes:
        tree, number = self._find(path)
        inode = self._inode(tree, number)
        if not stat.S_ISLNK(inode.mode):
            raise DamagedError(f"{self.shown(path)}: is not a symbolic link")
        if inode.size > LINK_BYTES:
            raise LimitError(f"{self.shown(path)}: a link of {inode.size:,} bytes; the limit is {LINK_BYTES:,}")
        with naming(self.shown(path)):
            extents = self._extents(tree, number)
            if len(extents) != 1 or extents[0].data is None:
                raise DamagedError(f"{self.shown(path)}: the link's text is not in its inode")
            return _decode(extents[0], extents[0].data)[: inode.size]

    def xattrs(self, path: bytes, /) -> Mapping[bytes, bytes]:
        tree, number = self._find(path)
        found: dict[bytes, bytes] = {}
        with naming(self.shown(path)):
            for _, raw in self._items(tree, number, _XATTR):
                # Attributes with the same hash of the name share one item.
                at = 0
                while at < len(raw):
                    *_, value_length, name_length, _ = _ENTRY.unpack_from(raw, at)
                    at += _ENTRY.size
                    name, value = raw[at : at + name_length], raw[at + name_length : at + name_length + value_length]
                    at += name_length + value_length
                    if at > len(raw):
                        raise DamagedError(f"{self.shown(path)}: the attribute {name!r} reaches beyond its item")
                    found[name] = value
        return found

    def open(self, path: bytes, /) -> BinaryIO:
        tree, number = self._find(path)
        inode = self._inode(tree, number)
        if not stat.S_ISREG(inode.mode):
            raise DamagedError(f"{self.shown(path)}: is not a regular file")
        with naming(self.shown(path)):
            return cast(BinaryIO, _FileStream(self._pool, self._extents(tree, number), inode.size, self.shown(path)))

    # --- trees ------------------------------------------------------------------------------------------------------

    def _root_of(self, subvolume: int) -> tuple[int, int]:
        """(block of its tree, its top folder). Of several items the last one is the newest."""
        found: bytes | None = None
        for _, raw in self._pool.items(self._pool.root, subvolume, _ROOT_ITEM):
            found = raw
        if found is None or len(found) < 184:
            raise DamagedError(f"{self.location}: there is no subvolume {subvolume}")
        top, block = struct.unpack_from("<QQ", found, 168)
        self._roots[subvolume] = block
        return block, top

    def _items(self, tree: int, number: int, kind: int) -> Iterator[tuple[int, bytes]]:
        root = self._roots.get(tree)
        return self._pool.items(self._root_of(tree)[0] if root is None else root, number, kind)

    def _inode(self, tree: int, number: int) -> _Inode:
        if number == _EMPTY_FOLDER:
            return _Inode(0, 1, 0, 0, stat.S_IFDIR | 0o755, 0, 0)
        where = f"{self.location}: inode {number} of subvolume {tree}"
        with naming(where):
            for _, raw in self._items(tree, number, _INODE_ITEM):
                size, nlink, uid, gid, mode, rdev, seconds, nanoseconds = _INODE.unpack_from(raw)
                return _Inode(size, nlink, uid, gid, mode, rdev, seconds * 1_000_000_000 + nanoseconds)
        raise DamagedError(f"{where}: is not there")

    def _facts(self, tree: int, number: int) -> Facts:
        size, nlink, uid, gid, mode, rdev, mtime_ns = self._inode(tree, number)
        device = os.makedev(rdev >> 20 & 0xFFF, rdev & 0xFFFFF) if rdev else 0
        return mode, uid, gid, size, mtime_ns, device, tree, number, nlink

    def _find(self, path: bytes) -> tuple[int, int]:
        """(subvolume, inode) of a path."""
        known = self._places.get(path)
        if known is not None:
            return known
        folder, _, name = path.rpartition(b"/")
        place = self._names(folder).get(name)
        if place is None:
            raise MissingLayerError(f"{self.shown(path)}: no such name in the file system")
        return place

    def _names(self, path: bytes) -> dict[bytes, tuple[int, int]]:
        place = self._places.get(path)
        if place is None:
            place = self._find(path)
            if not stat.S_ISDIR(self._inode(*place).mode):
                raise MissingLayerError(f"{self.shown(path)}: is not a folder")
            if len(self._places) >= _KEPT_PATHS:
                self._places = {b"": self._top}
            if path.count(b"/") > 2_048:
                raise LimitError(f"{self.shown(path)}: deeper than 2,048 folders")
            self._places[path] = place
        return self._listed(*place)

    def _list_inode(self, tree: int, number: int) -> dict[bytes, tuple[int, int]]:
        where = f"{self.location}: folder {number} of subvolume {tree}"
        found: dict[bytes, tuple[int, int]] = {}
        if number == _EMPTY_FOLDER:
            return found
        with naming(where):
            for _, raw in self._items(tree, number, _DIR_INDEX):
                target, kind, _, _, _, length, _ = _ENTRY.unpack_from(raw)
                name = check_name(raw[_ENTRY.size : _ENTRY.size + length], where)
                if name in found:
                    raise DamagedError(f"{where}: holds the name {name!r} twice")
                # The name of a subvolume leads to the root folder of another tree.
                found[name] = self._subvolume_at(tree, target) if kind == _ROOT_ITEM else (tree, target)
                if len(found) > DIRECTORY_NAMES:
                    raise LimitError(f"{where}: more than {DIRECTORY_NAMES:,} names (DIRECTORY_NAMES)")
        return found

    def _subvolume_at(self, tree: int, subvolume: int) -> tuple[int, int]:
        """(subvolume, inode) of a name that leads to a subvolume. A snapshot also has the names of the subvolumes below
        its origin. In the snapshot these are empty folders, and no back reference leads to it."""
        if not any(parent == tree for parent, _ in self._pool.items(self._pool.root, subvolume, _ROOT_BACKREF)):
            return tree, _EMPTY_FOLDER
        return subvolume, self._root_of(subvolume)[1]

    def _extents(self, tree: int, number: int) -> list[_Extent]:
        found: list[_Extent] = []
        end = 0
        where = f"{self.location}: inode {number} of subvolume {tree}"
        for start, raw in self._items(tree, number, _EXTENT_DATA):
            decoded, compression, encryption, other, kind = _EXTENT.unpack_from(raw)
            if encryption or other or kind > _UNWRITTEN or compression > 3:
                raise UnsupportedError(f"{where}: its content is encrypted or encoded in a way that is not read")
            if start < end:
                raise DamagedError(f"{where}: its pieces overlap at byte {start:,}")
            if kind == _INLINE:
                found.append(_Extent(start, decoded, 0, 0, 0, decoded, compression, raw[_EXTENT.size :]))
                end = start + decoded
                continue
            # A file may use a part of a stored extent: `length` bytes behind the first `skip` bytes.
            place, stored, skip, length = _PLACE.unpack_from(raw, _EXTENT.size)
            end = start + length
            if kind == _REGULAR and place:
                if max(stored, decoded) > _LARGEST_EXTENT or (compression and decoded > _COMPRESSED_EXTENT):
                    raise DamagedError(f"{where}: a piece of {max(stored, decoded):,} bytes")
                found.append(_Extent(start, length, place, stored, skip, decoded, compression, None))
            if len(found) > FILE_EXTENTS:
                raise LimitError(f"{where}: more than {FILE_EXTENTS:,} pieces (FILE_EXTENTS)")
        return found


class _Pool:
    """The device: superblock, chunks, and the nodes of its trees."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        raw = blocks.read_at(SUPERBLOCK, _SUPER_BYTES)
        if raw[64:72] != MAGIC:
            raise DamagedError("holds no btrfs superblock")
        self._checksum = _checksum_of(struct.unpack_from("<H", raw, 196)[0])
        if self._checksum is not None and self._checksum(raw[32:]) != raw[: len(self._checksum(b""))]:
            raise DamagedError("the btrfs superblock does not have its checksum")
        self._fsid = raw[32:48]
        self.root, chunk_root, log_root = struct.unpack_from("<QQQ", raw, 80)
        devices, self.sector, self._node_bytes = struct.unpack_from("<QII", raw, 136)
        (features,) = struct.unpack_from("<Q", raw, 188)
        if features & 0x400 and any(raw[571:587]):  # METADATA_UUID: the UUID was changed later, but not in the nodes
            self._fsid = raw[571:587]
        if devices != 1:
            raise UnsupportedError(
                f"the btrfs file system spans {devices} devices; mount it on a machine that has all of them, and pack "
                "the Docker root there with `tar`"
            )
        if features & ~_KNOWN_FEATURES:
            raise UnsupportedError(f"the btrfs file system uses features that are not read (incompat {features:#x})")
        if log_root:
            raise UnsupportedError(
                "the btrfs file system was not unmounted and has a log tree, which is not replayed; mount a copy of "
                "the image once, or run `btrfs rescue zero-log` on a copy, and convert that"
            )
        if not 4096 <= self._node_bytes <= 65536 or self.sector not in (4096, 8192, 16384, 32768, 65536):
            raise DamagedError(f"the btrfs superblock names nodes of {self._node_bytes:,} bytes")
        self._starts: list[int] = []
        self._chunks: list[tuple[int, int, tuple[int, ...]]] = []
        # The superblock has the chunks with the chunk tree itself. That tree has all other chunks.
        (size,) = struct.unpack_from("<I", raw, 160)
        with naming("the chunks of the btrfs superblock"):
            self._take_system_chunks(raw[811 : 811 + min(size, 2048)])
        self.node = lru_cache(maxsize=_KEPT_NODES)(self._node)
        for _, start, raw in self._walk(chunk_root, _FIRST_KEY, _LAST_KEY, _CHUNK):
            self._take_chunk(start, raw)

    def read_into(self, view: memoryview, logical: int) -> None:
        """Reads content. If there are several copies, the first one is read: checksums of content are
        not verified."""
        done = 0
        while done < len(view):
            places, room = self._places(logical + done)
            part = view[done : done + room]
            self._blocks.read_into(part, places[0])
            done += len(part)

    def items(self, root: int, number: int, kind: int) -> Iterator[tuple[int, bytes]]:
        """(offset in the key, data) of every item of one kind of one object."""
        for _, offset, raw in self._walk(root, (number, kind, 0), (number, kind, _LAST), kind):
            yield offset, raw

    def _walk(self, root: int, first: ItemKey, last: ItemKey, kind: int) -> Iterator[tuple[int, int, bytes]]:
        """Items of one kind from `first` to `last`: (object, offset, data). A child must have a lower level than its
        parent, and keys within the parent's bounds, so that the walk ends for any input."""
        waiting: list[tuple[int, int | None, ItemKey, ItemKey]] = [(root, None, _FIRST_KEY, _LAST_KEY)]
        while waiting:
            place, level, lowest, highest = waiting.pop()
            node = self.node(place)
            inside = not node.keys or (lowest <= node.keys[0] and node.keys[-1] <= highest)
            if level is not None and (node.level != level or not inside):
                raise DamagedError(f"btrfs node {place:#x}: does not have the level or the keys of its parent's entry")
            if node.level == 0:
                for at in range(bisect_left(node.keys, first), bisect_right(node.keys, last)):
                    number, found, offset = node.keys[at]
                    if found == kind:
                        start, size = node.places[at]
                        yield number, offset, node.raw[start : start + size]
                continue
            # The child before the first greater key may hold items from `first` on. The stack returns the last child
            # that was added, so the children are added in reverse.
            start = max(0, bisect_right(node.keys, first) - 1)
            end = bisect_right(node.keys, last)
            bounds = [*node.keys[1:], highest]
            waiting.extend(
                (node.places[at][0], node.level - 1, node.keys[at], bounds[at]) for at in range(end - 1, start - 1, -1)
            )

    def _node(self, place: int) -> _Node:
        where = f"btrfs node {place:#x}"
        places, room = self._places(place)
        if room < self._node_bytes:
            raise DamagedError(f"{where}: reaches beyond its chunk")
        # With the profile DUP every node is on the device twice. The second copy is used if the first is damaged.
        error: SourceError | None = None
        for copy in places:
            try:
                return self._checked_node(self._blocks.read_at(copy, self._node_bytes), place, where)
            except SourceError as exc:
                error = error or exc
        assert error is not None
        raise error

    def _checked_node(self, raw: bytes, place: int, where: str) -> _Node:
        if self._checksum is not None:
            # The field of the checksum is the first 32 bytes of the header, and is not part of the sum (struct
            # btrfs_header).
            computed = self._checksum(raw[32:])
            if raw[: len(computed)] != computed:
                raise DamagedError(f"{where}: does not have its checksum")
        (number,) = struct.unpack_from("<Q", raw, 48)
        count, level = struct.unpack_from("<IB", raw, 96)
        # A node of an earlier file system on the device, or one that was written to a wrong place, can have a right
        # checksum.
        if raw[32:48] != self._fsid or number != place or level > _DEEPEST:
            raise DamagedError(f"{where}: is not a node of this file system")
        form = _POINTER if level else _ITEM
        if _HEADER_BYTES + count * form.size > len(raw):
            raise DamagedError(f"{where}: {count:,} entries do not fit")
        keys: list[ItemKey] = []
        places: list[tuple[int, int]] = []
        for object_id, kind, offset, first, second in form.iter_unpack(
            raw[_HEADER_BYTES : _HEADER_BYTES + count * form.size]
        ):
            keys.append((object_id, kind, offset))
            places.append((first, second) if level else (_HEADER_BYTES + first, second))
        if any(left >= right for left, right in pairwise(keys)):
            raise DamagedError(f"{where}: its keys do not ascend")
        if not level and any(start + size > len(raw) for start, size in places):
            raise DamagedError(f"{where}: an item reaches beyond it")
        return _Node(level, keys, places, raw if not level else b"")

    def _take_system_chunks(self, raw: bytes) -> None:
        at = 0
        while at < len(raw):
            _, kind, start = _KEY.unpack_from(raw, at)
            at += _KEY.size
            if kind != _CHUNK:
                raise DamagedError("the btrfs superblock holds something else among its chunks")
            (stripes,) = struct.unpack_from("<H", raw, at + 44)
            self._take_chunk(start, raw[at : at + 48 + stripes * 32])
            at += 48 + stripes * 32

    def _take_chunk(self, start: int, raw: bytes) -> None:
        with naming(f"btrfs chunk {start:#x}"):
            length, _, _, kind = struct.unpack_from("<QQQQ", raw)
            (count,) = struct.unpack_from("<H", raw, 44)
            if kind & _STRIPED:
                raise UnsupportedError("the btrfs file system is striped over devices, which is not read")
            places = tuple(struct.unpack_from("<QQ", raw, 48 + at * 32)[1] for at in range(count))
        if not places or not length:
            raise DamagedError(f"btrfs chunk {start:#x}: has no place on the device")
        at = bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == start:
            return
        self._starts.insert(at, start)
        self._chunks.insert(at, (start, length, places))

    def _places(self, logical: int) -> tuple[tuple[int, ...], int]:
        """(place of a logical byte on the device for each copy, number of bytes from there to the end of the chunk)."""
        at = bisect_right(self._starts, logical) - 1
        if at >= 0:
            start, length, places = self._chunks[at]
            inside = logical - start
            if inside < length:
                return tuple(place + inside for place in places), length - inside
        raise DamagedError(f"the btrfs file system has no chunk with byte {logical:#x}")


class _FileStream(SeekableStream):
    """A file's content. Gaps between its pieces are zeros."""

    def __init__(self, pool: _Pool, extents: Sequence[_Extent], size: int, where: str) -> None:
        super().__init__(size)
        self._pool = pool
        self._extents = extents
        self._where = where
        self._next = 0
        self._decoded: tuple[_Extent, bytes] | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        super().seek(offset, whence)
        self._next = max(0, bisect_right(self._extents, self._position, key=attrgetter("start")) - 1)
        return self._position

    def read_view(self, view: memoryview, /) -> int:
        count = max(0, min(len(view), self._size - self._position))
        done = 0
        while done < count:
            done += self._read_piece(view[done:count])
        return count

    def _read_piece(self, view: memoryview) -> int:
        while self._next < len(self._extents) and self._position >= self._extents[self._next].end:
            self._next += 1
        extent = self._extents[self._next] if self._next < len(self._extents) else None
        if extent is None or extent.start > self._position:
            # A range without an extent is a hole, and reads as zeros.
            room = len(view) if extent is None else min(len(view), extent.start - self._position)
            view[:room] = bytes(room)
        else:
            inside = self._position - extent.start
            room = min(len(view), extent.length - inside)
            if extent.data is None and not extent.compression:
                check_stop()
                self._pool.read_into(view[:room], extent.place + extent.skip + inside)
            else:
                view[:room] = self._content(extent)[extent.skip + inside : extent.skip + inside + room]
        self._position += room
        return room

    def _content(self, extent: _Extent) -> bytes:
        """The whole piece, decoded. The last one is kept, since reads are smaller than a piece."""
        if self._decoded is None or self._decoded[0] is not extent:
            if extent.data is None:
                raw = bytearray(extent.stored)
                self._pool.read_into(memoryview(raw), extent.place)
                data = bytes(raw)
            else:
                data = extent.data
            try:
                content = _decode(extent, data, self._pool.sector)
            except DamagedError as exc:
                raise DamagedError(f"{self._where}: {exc.message}") from exc
            self._decoded = (extent, content)
        return self._decoded[1]


def _decode(extent: _Extent, data: bytes, sector: int = 4096) -> bytes:
    """The decoded content, of exactly `decoded` bytes. A shorter stored content is followed by zeros."""
    if not extent.compression:
        return data
    # 1: zlib, 2: LZO, 3: zstd (fs/btrfs/compression.h).
    try:
        if extent.compression == 1:
            content = zlib.decompressobj().decompress(data, extent.decoded)
        elif extent.compression == 2:
            content = _decode_lzo(data, sector, extent.decoded)
        else:
            content = zstd_module().ZstdDecompressor().decompress(data, extent.decoded)
    except (zlib.error, struct.error, ValueError, EOFError, IndexError, zstd_module().ZstdError) as exc:
        raise DamagedError(f"a compressed piece at byte {extent.start:,} cannot be decoded: {exc}") from exc
    return bytes(content[: extent.decoded]).ljust(extent.decoded, b"\0")


def _decode_lzo(data: bytes, sector: int, size: int) -> bytes:
    """The total length, then pieces of at most one sector, each behind its length. A length is never split by the end
    of a sector: the bytes before the end are left unused (fs/btrfs/lzo.c)."""
    from dissect.util.compression import lzo

    (end,) = struct.unpack_from("<I", data)
    at, content = 4, bytearray()
    while at + 4 <= min(end, len(data)) and len(content) < size:
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        content += lzo.decompress(data[at : at + length], False, sector)
        at += length
        if sector - at % sector < 4:
            at += sector - at % sector
    return bytes(content)


def _checksum_of(kind: int) -> Callable[[bytes], bytes] | None:
    """The checksum function. None for xxHash if its package is not installed: then nothing is checked."""
    if kind == 0:
        return lambda content: crc32.iscsi(content).to_bytes(4, "little")
    if kind == 1:
        try:
            import xxhash
        except ImportError:
            return None
        return lambda content: xxhash.xxh64_intdigest(content).to_bytes(8, "little")
    if kind == 2:
        return lambda content: hashlib.sha256(content).digest()
    if kind == 3:
        return lambda content: hashlib.blake2b(content, digest_size=32).digest()
    raise UnsupportedError(f"the btrfs file system has checksums of the unknown kind {kind}")
