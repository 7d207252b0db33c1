"""An image's file system as one tar, made of its layers' tars without unpacking any.

The layers are read twice. The first time, from the top down, decides which entry of which layer each name is; the
second time, from the base up, their bytes are copied. Memory holds names, never content.

Whiteouts: AUFS's `.wh.NAME` and `.wh..wh..opq`, as Docker writes them (moby pkg/archive/whiteouts.go).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Final

from msgspec import Struct, field

from migrate.blobio import limits
from migrate.errors import DamagedError, IntegrityError, LimitError, UnsupportedError, UsageError
from migrate.model.digest import DiffID, Digest
from migrate.tar.entries import TarEntry, TarScanner
from migrate.tar.names import below_root, leads_out, shown_name
from migrate.tar.writer import END, HeaderEncoder, TarHeader, padding

_READ: Final = 1024 * 1024
_WHITEOUT, _META, _OPAQUE = b".wh.", b".wh..wh.", b".wh..wh..opq"
_DIRECTORY, _LINK = ord("5"), ord("1")
_DATA: Final = frozenset(b"07")
_KINDS: Final = frozenset(b"01234567")

EntryPlace = tuple[int, int]
"""The layer's place, base first, and the entry's place in it."""


class ExportLayer(Struct, frozen=True):
    """One layer; `open` gives its uncompressed tar as often as needed."""

    diff_id: DiffID
    open: Callable[[], AbstractContextManager[BinaryIO]]


def export_tar(layers: Sequence[ExportLayer], write: Callable[[bytes], object], paths: Iterable[str] = ()) -> int:
    """Writes the tar; the number of its entries. `layers` base first; `paths` take part of the tree.

    Every layer is proven by its diffID before the first byte is written. Raises IntegrityError where one has another,
    UsageError for a path that is not there, DamagedError for a tar that cannot be read, LimitError for more than
    ARCHIVE_MEMBERS names.
    """
    plan = _Plan(tuple(cleaned for path in paths if (cleaned := _clean(path.encode("utf-8", "surrogateescape")))))
    # from the top down: the first entry of a name that is met is the one that counts
    for place in reversed(range(len(layers))):
        plan.read_layer(place, layers[place])
    plan.end()
    if missing := set(plan.paths) - plan.found:
        raise UsageError(f"the image has no {', '.join(sorted(os.fsdecode(path) for path in missing))}")
    encoder = HeaderEncoder()
    for place, layer in enumerate(layers):
        writing = _Writing(plan, place, layer, encoder, write)
        with layer.open() as tar:
            _feed(writing, tar)
    write(END)
    return plan.count


def _feed(scanner: TarScanner, tar: BinaryIO, update: Callable[[bytes], object] | None = None) -> None:
    while block := tar.read(_READ):
        if update is not None:
            update(block)
        scanner.feed(memoryview(block))
    scanner.finish()


def _clean(name: bytes) -> bytes:
    """Below the image's root. DamagedError for what Docker refuses to unpack."""
    if leads_out(name):
        raise DamagedError(f"an entry is named {shown_name(name)!r}, out of the image")
    return below_root(name)


class _LayerScan(TarScanner):
    """What one layer has. `last` gives the entry that counts of those with one name, and its kind; `inodes` every name
    that a hard link may mean, `links` what those of this layer mean: an entry of it, or a name in a lower layer.
    `origin` is the name of an entry that hard links mean.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"layer {what}")
        self.entries = 0
        self.last: dict[bytes, tuple[int, int]] = {}
        self.inodes: dict[bytes, int] = {}
        self.links: dict[int, int | bytes] = {}
        self.origin: dict[int, bytes] = {}
        self.removed: set[bytes] = set()
        self.opaque: set[bytes] = set()
        self.unsupported: dict[int, str] = {}

    def on_entry(self, entry: TarEntry) -> None:
        ordinal, self.entries = self.entries, self.entries + 1
        name = _clean(entry.name)
        folder, _, base = name.rpartition(b"/")
        if not name:
            return  # the root folder
        if base == _OPAQUE:
            self.opaque.add(folder)
            return
        is_meta = name.startswith(_META) or b"/" + _META in name  # of AUFS; hard links may lead there
        if base.startswith(_WHITEOUT) and not is_meta:
            self.removed.add(folder + b"/" + base[4:] if folder else base[4:])
            return
        if entry.kind == _LINK:
            target = _clean(entry.link)
            inode = self.inodes.get(target)
            if inode is None:
                self.links[ordinal] = target
                self.inodes.pop(name, None)
            else:
                self.links[ordinal] = self.inodes[name] = inode
                self.origin.setdefault(inode, target)
        else:
            self.inodes[name] = ordinal
        if self.is_sparse or entry.kind not in _KINDS:
            self.unsupported[ordinal] = f"a tar entry of type {chr(entry.kind)!r}"
        if not is_meta:
            self.last[name] = (ordinal, entry.kind)


class _Plan(Struct):
    """Which entries are written, and under which name.

    `chosen` has a byte for each entry of a layer. `hidden` are names that an upper layer has removed or that are no
    folders, `opaque` folders of which only upper layers' entries count, `folders` all above what is there.
    `links` gives the inode of each hard link, and `named` the name under which an inode with links is written: its own,
    or that of a link where its own is hidden.
    """

    paths: tuple[bytes, ...]
    count: int = 0
    found: set[bytes] = field(default_factory=set)
    chosen: dict[int, bytearray] = field(default_factory=dict)
    taken: set[bytes] = field(default_factory=set)
    hidden: set[bytes] = field(default_factory=set)
    opaque: set[bytes] = field(default_factory=set)
    folders: set[bytes] = field(default_factory=set)
    links: dict[EntryPlace, EntryPlace] = field(default_factory=dict)
    named: dict[EntryPlace, bytes] = field(default_factory=dict)
    _waiting: dict[bytes, list[tuple[EntryPlace, bytes]]] = field(default_factory=dict)

    def read_layer(self, place: int, layer: ExportLayer) -> None:
        scan = _LayerScan(str(layer.diff_id))
        sha256 = hashlib.sha256()
        with layer.open() as tar:
            _feed(scan, tar, sha256.update)
        found = Digest.of_hash(sha256)
        if found != layer.diff_id:
            raise IntegrityError(
                f"layer {layer.diff_id}: unpacks to the diffID {found}; `migrate verify` lists all damage"
            )
        self._take(place, scan)

    def end(self) -> None:
        """After the base. DamagedError for a hard link to what is nowhere."""
        if self._waiting:
            target, links = next(iter(self._waiting.items()))
            name, missing = (text.decode("utf-8", "backslashreplace") for text in (links[0][1], target))
            raise DamagedError(f"{name} is a hard link to {missing}, which no layer has")

    def _take(self, place: int, scan: _LayerScan) -> None:
        bits = self.chosen[place] = bytearray(scan.entries)
        visible = [(name, *scan.last[name]) for name in scan.last if self._is_visible(name, scan.last[name][1])]
        for name, ordinal, _ in visible:
            leading = [path for path in self.paths if name == path or name.startswith(path + b"/")]
            self.found.update(leading)
            if leading or not self.paths:
                bits[ordinal] = 1
                self.count += 1
        # Links of upper layers to what this one has.
        for target in self._waiting.keys() & (scan.inodes.keys() | scan.last.keys()):
            inode = scan.inodes.get(target)
            if inode is not None:
                scan.origin.setdefault(inode, target)
            to = inode if inode is not None else scan.links[scan.last[target][0]]  # a link itself, to a lower layer
            for link, name in self._waiting.pop(target):
                self._resolve(place, scan, link, name, to)
        for name, ordinal, kind in visible:
            if bits[ordinal] and ordinal in scan.unsupported:
                raise UnsupportedError(f"{name.decode('utf-8', 'backslashreplace')}: {scan.unsupported[ordinal]}")
            if bits[ordinal] and kind == _LINK:
                self._resolve(place, scan, (place, ordinal), name, scan.links[ordinal])
            self.taken.add(name)
            above = name.rpartition(b"/")[0]
            while above and above not in self.folders:
                self.folders.add(above)
                above = above.rpartition(b"/")[0]
        self.hidden |= scan.removed | {name for name, (_, kind) in scan.last.items() if kind != _DIRECTORY}
        self.opaque |= scan.opaque
        if len(self.taken) > limits.ARCHIVE_MEMBERS:
            raise LimitError(f"the image has more than {limits.ARCHIVE_MEMBERS:,} names (ARCHIVE_MEMBERS)")

    def _is_visible(self, name: bytes, kind: int) -> bool:
        if name in self.taken or name in self.hidden or (kind != _DIRECTORY and name in self.folders):
            return False
        above = name
        while above:
            above = above.rpartition(b"/")[0]
            if above in self.hidden or above in self.opaque:
                return False
        return True

    # --- hard links ------------------------------------------------------------------------------------------------

    def _resolve(self, place: int, scan: _LayerScan, link: EntryPlace, name: bytes, to: int | bytes) -> None:
        if isinstance(to, bytes):
            self._waiting.setdefault(to, []).append((link, name))
            return
        inode = self.links[link] = (place, to)
        self.named.setdefault(inode, scan.origin[to] if self.chosen[place][to] else name)


class _Writing(TarScanner):
    """Copies the chosen entries of one layer."""

    def __init__(
        self, plan: _Plan, place: int, layer: ExportLayer, encoder: HeaderEncoder, write: Callable[[bytes], object]
    ) -> None:
        super().__init__(f"layer {layer.diff_id}")
        self._plan = plan
        self._place = place
        self._encoder = encoder
        self._write = write
        self._ordinal = -1
        self._size: int | None = None

    def on_entry(self, entry: TarEntry) -> None:
        self._ordinal += 1
        here = (self._place, self._ordinal)
        is_chosen = self._plan.chosen[self._place][self._ordinal]
        inode = self._plan.links.get(here)
        name = self._plan.named.get(here)
        if inode is not None:
            if is_chosen and self._plan.named[inode] != _clean(entry.name):  # else it was written in the inode's place
                self._write(self._encoder.encode(_header(entry, _clean(entry.name), self._plan.named[inode])))
        elif is_chosen or name is not None:
            own = _clean(entry.name) if is_chosen else name or b""
            self._write(self._encoder.encode(_header(entry, own, entry.link)))
            self._size = entry.size

    def on_content(self, piece: memoryview) -> None:
        if self._size is not None:
            self._write(bytes(piece))

    def on_end(self) -> None:
        if self._size is not None:
            self._write(padding(self._size))
            self._size = None


def _header(entry: TarEntry, name: bytes, link: bytes) -> TarHeader:
    return TarHeader(
        name=name + b"/" if entry.kind == _DIRECTORY else name,
        mode=entry.mode & 0o177777,
        uid=entry.uid & 0xFFFFFFFF,
        gid=entry.gid & 0xFFFFFFFF,
        size=entry.size,
        mtime_ns=entry.mtime * 10**9,
        typeflag=b"0" if entry.kind in _DATA else bytes([entry.kind]),
        link_name=link if entry.kind in b"12" else b"",
        device=(entry.major, entry.minor),
        xattrs={key.encode("utf-8", "surrogateescape"): value for key, value in entry.xattrs},
    )
