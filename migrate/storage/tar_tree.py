"""A plain tar of a directory tree, read in place. Nothing is unpacked, and only read access to the tar is needed.

The headers are read once, from front to back, and the metadata of each entry is kept in memory, in arrays. As when the
tar is unpacked, a later entry of a name replaces an earlier one. Entries with a name that leads out of the tar (`..`),
or below something that is no folder, are left out and named in `problems`.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO, Final

from migrate.blobio.extents import open_extent
from migrate.blobio.limits import TREE_ENTRIES
from migrate.blobio.payload import Extent
from migrate.blobio.stopping import check_stop
from migrate.errors import DamagedError, LimitError, MissingLayerError
from migrate.storage.blocks import Blocks, FileBlocks
from migrate.storage.pieces import BlocksPart, PiecedBlocks, PieceMap, open_blocks
from migrate.storage.tree import Facts, Tree, TreeEntry, entries_of
from migrate.tar.index import Damage, FileWindow
from migrate.tar.records import Record, clean_path, iter_records

_SECOND: Final = 1_000_000_000
_MOST_NAMED: Final = 20
"""Limit of the names of left-out entries in one problem."""
_MOST_DAMAGES: Final = 1_000
_NOTHING: Final[Mapping[bytes, bytes]] = {}
_FOLDER: Final = stat.S_IFDIR | 0o755


class TarTree(Tree):
    """The tree in a tar. `fd`, of a regular file or block device, is taken over. Raises SourceError if it cannot be
    read.

    `records`: the records of the tar as of `iter_records`, if reading them has begun already.
    A folder without an entry of its own has mode 0755, owner 0 and time 0; `require_whole` refuses it.
    """

    names_are_cheap = True

    def __init__(self, fd: int, location: str, records: Iterable[Record | Damage] | None = None) -> None:
        self.location = location
        self._fd = fd
        self._file = FileBlocks(fd, location)
        self._entries = _Entries(location)
        try:
            self._entries.read(iter_records(FileWindow(fd, location), location) if records is None else records)
        except BaseException:
            self._file.close()
            raise

    @property
    def has_whole_seconds(self) -> bool:
        """True if no time in the tar has a fraction of a second. The ustar and GNU forms have whole seconds only."""
        return not self._entries.has_fractions

    @property
    def has_no_xattrs(self) -> bool:
        return not self._entries.xattrs

    def problems(self) -> Sequence[str]:
        return self._entries.problems()

    def require_whole(self, path: bytes, /, *, names: bool = False) -> None:
        below = path + b"/" if path else b""
        for folder, reason in self._entries.incomplete.items():
            if folder == path or folder.startswith(below):
                raise DamagedError(f"{self.shown(folder)}: may have lost entries: {reason}")
        if names:
            return
        for folder in self._entries.implied:
            if folder == path or folder.startswith(below):
                raise DamagedError(
                    f"{self.shown(folder)}: the tar has no entry for this folder, so its mode, owner and time are lost"
                )

    def stat(self, path: bytes, /) -> TreeEntry:
        return TreeEntry(path, *self._entries.facts(self._number(path)))

    def entries(self, path: bytes, /) -> Sequence[TreeEntry]:
        return entries_of(path, self.list_facts(path))

    def list_facts(self, path: bytes, /) -> Mapping[bytes, Facts]:
        facts = self._entries.facts
        return {name: facts(number) for name, number in self._folder(path).items()}

    def list_names(self, path: bytes, /) -> Mapping[bytes, int]:
        return self._folder(path)

    def read_link(self, path: bytes, /) -> bytes:
        number = self._number(path)
        if not stat.S_ISLNK(self._entries.modes[number]):
            raise DamagedError(f"{self.shown(path)}: is not a symbolic link")
        return self._entries.links[number]

    def xattrs(self, path: bytes, /) -> Mapping[bytes, bytes]:
        return self._entries.xattrs.get(self._number(path), _NOTHING)

    def read_capability(self, path: bytes, /) -> bytes | None:
        return super().read_capability(path) if self._entries.xattrs else None

    def list_capabilities(self, path: bytes, /) -> Mapping[bytes, bytes]:
        return super().list_capabilities(path) if self._entries.xattrs else {}

    def open(self, path: bytes, /) -> BinaryIO:
        number = self._file_number(path)
        if number in self._entries.pieces:
            return open_blocks(self._sparse(number))
        entries = self._entries
        return open_extent(self._fd, entries.offsets[number], entries.sizes[number], self.shown(path))

    def extent(self, path: bytes, /) -> Extent | None:
        number = self._file_number(path)
        offset, size = self._entries.offsets[number], self._entries.sizes[number]
        if number in self._entries.pieces or offset + size > self._file.size:
            return None
        return Extent(fd=self._fd, offset=offset, size=size)

    def open_blocks(self, path: bytes, /) -> Blocks:
        number = self._file_number(path)
        if number in self._entries.pieces:
            return self._sparse(number)
        return BlocksPart(self._file, self._entries.offsets[number], self._entries.sizes[number])

    def close(self) -> None:
        self._file.close()
        self._fd = -1

    def _number(self, path: bytes) -> int:
        if not path:
            return 0
        folder, _, name = path.rpartition(b"/")
        number = self._entries.folders.get(folder, {}).get(name)
        if number is None:
            raise MissingLayerError(f"{self.shown(path)}: no such name in the tar")
        return number

    def _file_number(self, path: bytes) -> int:
        number = self._number(path)
        if not stat.S_ISREG(self._entries.modes[number]):
            raise DamagedError(f"{self.shown(path)}: is not a regular file")
        return number

    def _folder(self, path: bytes) -> Mapping[bytes, int]:
        check_stop()
        found = self._entries.folders.get(path)
        if found is None:
            raise MissingLayerError(f"{self.shown(path)}: no such folder in the tar")
        return found

    def _sparse(self, number: int) -> PiecedBlocks:
        """A sparse file. If its last piece is beyond the end of the tar, reading it raises an error."""
        return PiecedBlocks(self._file, self._entries.pieces[number], self._entries.sizes[number])


class _Entries:
    """The metadata of the entries by number, which is the inode number in the tree. 0 is the root."""

    def __init__(self, location: str) -> None:
        self._location = location
        # Arrays, since the backup of a store has a million entries, and one object for each would take several times
        # the memory.
        self.modes, self.uids, self.gids = array("L"), array("L"), array("L")
        self.sizes, self.times, self.rdevs = array("Q"), array("q"), array("Q")
        self.nlinks, self.offsets = array("L"), array("Q")
        self.links: dict[int, bytes] = {}
        self.xattrs: dict[int, Mapping[bytes, bytes]] = {}
        self.pieces: dict[int, PieceMap] = {}
        self.folders: dict[bytes, dict[bytes, int]] = {b"": {}}
        self.implied: set[bytes] = set()
        self.incomplete: dict[bytes, str] = {}
        """Folder → the damage that may have lost entries in it."""
        self.has_fractions = False
        self._damages: list[str] = []
        self._outside: list[bytes] = []
        self._below_others: list[bytes] = []
        self._lost_links: list[bytes] = []
        self._waiting: list[tuple[bytes, bytes]] = []
        self._last: bytes | None = None
        self._damage: str | None = None
        self._add(_FOLDER)

    def facts(self, number: int) -> Facts:
        return (
            self.modes[number],
            self.uids[number],
            self.gids[number],
            self.sizes[number],
            self.times[number],
            self.rdevs[number],
            1,
            number,
            self.nlinks[number],
        )

    def read(self, records: Iterable[Record | Damage]) -> None:
        for found in records:
            if isinstance(found, Damage):
                if len(self._damages) >= _MOST_DAMAGES:
                    raise LimitError(f"{self._location}: damaged in more than {_MOST_DAMAGES:,} places")
                self._damages.append(found.message)
                self._damage = found.error.message
                continue
            if self._damage is not None and found.path is not None:
                self._mark_incomplete(found.path)
            self._add_record(found)
        if self._damage is not None:
            self._mark_incomplete(None)
        # Hard links that came before their files.
        for path, target in self._waiting:
            self._link(path, target, last=True)
        self._waiting.clear()

    def problems(self) -> list[str]:
        where = self._location
        found = list(self._damages)
        for names, why in (
            (self._outside, "names that lead out of the tar"),
            (self._below_others, "entries below something that is not a folder"),
            (self._lost_links, "hard links to files that are not in the tar"),
        ):
            if names:
                shown = ", ".join(repr(name.decode("utf-8", "backslashreplace")) for name in names[:_MOST_NAMED])
                found.append(f"{where}: {len(names):,} {why}, left out: {shown}{', …' * (len(names) > _MOST_NAMED)}")
        return found

    def _mark_incomplete(self, path: bytes | None) -> None:
        """Marks the folders that may have lost entries between the last entry before the damage and `path`, the first
        entry behind it.

        A tar is written folder by folder, so the lost entries were in one of the folders at or above these two entries.
        Of the folders above both, only the deepest is marked: in the others a whole folder would be missing, and a
        reader notices that.
        """
        before, behind = _folders_of(self._last or b""), _folders_of(path or b"")
        if self._last in self.folders:
            before.append(self._last)
        common = 0
        while common < min(len(before), len(behind)) and before[common] == behind[common]:
            common += 1
        for folder in (*before[max(common - 1, 0) :], *behind[max(common - 1, 0) :]):
            self.incomplete.setdefault(folder, self._damage or "")
        self._damage = None

    def _add_record(self, record: Record) -> None:
        path = record.path
        if path is None:
            self._outside.append(record.name)
            return
        self._last = path
        if not record.mode:
            self._link(path, record.link)
            return
        if record.mtime_ns % _SECOND:
            self.has_fractions = True
        if not path:
            if stat.S_ISDIR(record.mode):
                self._set(0, record)
            return
        folder, _, name = path.rpartition(b"/")
        names = self.folders.get(folder)
        if names is None:
            names = self._add_implied_folders(folder)
            if names is None:
                self._below_others.append(path)
                return
        # As when the tar is unpacked: a second entry of a folder changes its metadata, and keeps its content. Any other
        # entry replaces the one before.
        before = names.get(name)
        if before is not None:
            if stat.S_ISDIR(record.mode) and stat.S_ISDIR(self.modes[before]):
                self._set(before, record)
                self.implied.discard(path)
                return
            self._remove(path, before)
        number = names[name] = self._add(record.mode)
        self._set(number, record)
        if stat.S_ISDIR(record.mode):
            self.folders[path] = {}

    def _set(self, number: int, record: Record) -> None:
        _, _, mode, uid, gid, size, mtime_ns, rdev, link, offset, xattrs, pieces = record
        self.modes[number], self.uids[number], self.gids[number] = mode, uid, gid
        self.sizes[number], self.times[number], self.rdevs[number] = size, mtime_ns, rdev
        self.offsets[number] = offset
        if xattrs:
            self.xattrs[number] = xattrs
        if pieces is not None:
            self.pieces[number] = _piece_map(pieces, offset)
        if stat.S_ISLNK(mode):
            self.links[number] = link
            self.sizes[number] = len(link)

    def _add(self, mode: int) -> int:
        number = len(self.modes)
        if number > TREE_ENTRIES:
            raise LimitError(f"{self._location}: more than {TREE_ENTRIES:,} entries (TREE_ENTRIES)")
        self.modes.append(mode)
        self.nlinks.append(2 if stat.S_ISDIR(mode) else 1)
        for numbers in (self.uids, self.gids, self.sizes, self.times, self.rdevs, self.offsets):
            numbers.append(0)
        return number

    def _add_implied_folders(self, path: bytes) -> dict[bytes, int] | None:
        """Adds a folder that has no entry so far, and those above it. Returns its names, or None if something above it
        is no folder."""
        missing = [path]
        while (above := missing[-1].rpartition(b"/")[0]) not in self.folders:
            missing.append(above)
        names = self.folders[above]
        for folder in reversed(missing):
            name = folder.rpartition(b"/")[2]
            # The name is there already, and is no folder.
            if name in names:
                return None
            names[name] = self._add(_FOLDER)
            names = self.folders[folder] = {}
            self.implied.add(folder)
        return names

    def _link(self, path: bytes, target: bytes, *, last: bool = False) -> None:
        file = clean_path(target)
        folder, _, name = path.rpartition(b"/")
        names = self.folders.get(folder)
        if names is None:
            names = self._add_implied_folders(folder)
        if not path or names is None:
            self._below_others.append(path)
            return
        above, _, base = (file or b"").rpartition(b"/")
        number = self.folders.get(above, {}).get(base) if file else None
        # A hard link may come before its file, and is made when all entries are known.
        if number is None or stat.S_ISDIR(self.modes[number]):
            if not last:
                self._waiting.append((path, target))
                return
            self._lost_links.append(path)
            self.incomplete.setdefault(folder, f"{path!r} is a hard link to {target!r}, which is not in the tar")
            return
        before = names.get(name)
        if before == number:
            # A second link of the same name to the same file.
            return
        if before is not None:
            self._remove(path, before)
        names[name] = number
        self.nlinks[number] += 1

    def _remove(self, path: bytes, number: int) -> None:
        if not stat.S_ISDIR(self.modes[number]):
            self.nlinks[number] -= 1
            return
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            names = self.folders.pop(folder)
            waiting.extend(folder + b"/" + name for name, inside in names.items() if stat.S_ISDIR(self.modes[inside]))


def _folders_of(path: bytes) -> list[bytes]:
    """The folders above a path, from the root (b"") down."""
    parts = path.split(b"/")[:-1]
    return [b"/".join(parts[:count]) for count in range(len(parts) + 1)]


def _piece_map(pieces: array[int], offset: int) -> PieceMap:
    """The pieces of a sparse file. Their bytes follow each other in the tar."""
    found = PieceMap()
    for start, length in zip(pieces[::2], pieces[1::2], strict=True):
        found.add(start, length, offset)
        offset += length
    return found
