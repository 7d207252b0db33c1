"""Makes one tar of an image's file system from its layers' tars, without unpacking any.

The layers are read twice. The first pass, from the top down, finds the entry of each name. The second pass, from the
base up, copies the entries. Names are kept in memory, and no content.

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
"""(index of the layer, base first; index of the entry in it)"""


class ExportLayer(Struct, frozen=True):
    """One layer. Each call of `open` gives its uncompressed tar."""

    diff_id: DiffID
    open: Callable[[], AbstractContextManager[BinaryIO]]


def export_tar(layers: Sequence[ExportLayer], write: Callable[[bytes], object], paths: Iterable[str] = ()) -> int:
    """Writes the tar and returns the number of its entries. `layers`: base first. `paths`: write only these and the
    files below them.

    The diffID of every layer is verified before the first byte is written. Raises IntegrityError for a wrong one,
    UsageError for a path that does not exist, DamagedError for a tar that cannot be read, LimitError for more than
    ARCHIVE_MEMBERS names.
    """
    plan = _Plan(tuple(cleaned for path in paths if (cleaned := _clean(path.encode("utf-8", "surrogateescape")))))
    # From the top down, the first entry of a name is the one in the image.
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
    """The name below the image's root. DamagedError for a name that Docker refuses to unpack."""
    if leads_out(name):
        raise DamagedError(f"an entry is named {shown_name(name)!r}, out of the image")
    return below_root(name)


class _LayerScan(TarScanner):
    """The entries of one layer. `last`: name → (its last entry, the entry's kind). `inodes`: name → the entry with its
    content, for names that a hard link may lead to. `links`: hard link → the entry with its content, or the target's
    name if it is in a lower layer. `origin`: entry with hard links to it → its name.
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
        # `.wh..wh.plnk` has AUFS's copies of files with several names. They are not in the image, but hard links lead
        # to them.
        is_meta = name.startswith(_META) or b"/" + _META in name
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
    """The entries that are written, and their names.

    `chosen`: a byte for each entry of a layer. `hidden`: names that an upper layer removes, or at which it has
    something other than a folder. `opaque`: folders whose content in lower layers is hidden. `folders`: all folders
    above the chosen names. `links`: hard link → its inode. `named`: inode with links → the name that it is written
    under: its own, or that of a link if its own name is hidden.
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
        """Called after the base layer. DamagedError for a hard link whose target is in no layer."""
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
        # Hard links of upper layers to entries of this layer.
        for target in self._waiting.keys() & (scan.inodes.keys() | scan.last.keys()):
            inode = scan.inodes.get(target)
            if inode is not None:
                scan.origin.setdefault(inode, target)
            # Without an inode the target is itself a hard link to a lower layer.
            to = inode if inode is not None else scan.links[scan.last[target][0]]
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
            # A link that has the inode's name was written as the file itself.
            if is_chosen and self._plan.named[inode] != _clean(entry.name):
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
