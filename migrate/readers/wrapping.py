"""Sources inside a file: a tar of a directory, a disk image, a block device."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from migrate.blobio.spool import Spool, unreadable
from migrate.errors import AmbiguousSourceError, NoImageError, SourceError, SourceUnreadableError, TargetError
from migrate.model.options import ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.finding import Detect, Found, find_sources, inside_of, types_at
from migrate.storage.blocks import FileBlocks
from migrate.storage.tree import SubTree, Tree

if TYPE_CHECKING:
    from migrate.tar.index import Damage
    from migrate.tar.records import Record

OpenTree = Callable[[str, Tree, ReadOptions], LegacySource]
"""(what the user named, the source's tree, which is taken over, options)"""


class Place(NamedTuple):
    """A find: where, of what type, and the tree that it is in."""

    tree: Tree
    found: Found

    @property
    def shown(self) -> str:
        return f"{self.tree.shown(self.found.path)} ({self.found.source_type})"


class Opener:
    def __init__(self, open_tree: OpenTree, detect: Detect, options: ReadOptions) -> None:
        self._open_tree = open_tree
        self._detect = detect
        self._options = options

    def open_tar(self, location: str, fd: int, records: Iterable[Record | Damage] | None = None) -> LegacySource | None:
        """The source in a plain tar, None where there is none. The descriptor is still the caller's, and has to stay
        open meanwhile. `records` as TarTree takes them."""
        from migrate.storage.tar_tree import TarTree

        with unreadable(location):
            tree = TarTree(os.dup(fd), location, records)
        try:
            places = [Place(tree, found) for found in self._found(tree)]
            if not places:
                tree.close()
                return None
            return self._open(location, places, tree.close)
        except BaseException:
            tree.close()
            raise

    def open_disk(self, location: str, fd: int, path: str | None) -> LegacySource:
        """The source on a disk. `path`: of the image, beside which its other files are. The descriptor is still the
        caller's."""
        from migrate.storage.disk.disk_tree import DiskTree
        from migrate.storage.disk.formats import open_image
        from migrate.storage.disk.volumes import read_contents

        with unreadable(location):
            image = open_image(FileBlocks(os.dup(fd), location), path)
        try:
            with unreadable(location):
                contents = read_contents(image.blocks)
            places: list[Place] = []
            errors: list[str] = []
            for volume in contents.file_systems:
                try:
                    tree = DiskTree(contents, volume, f"{location}, {volume.name}")
                    places.extend(Place(tree, found) for found in self._found(tree))
                except SourceError as error:
                    errors.append(error.message)
            if not places:
                raise _nothing_on_disk(
                    location, image.format, [volume.description for volume in contents.volumes], errors
                )
            return self._open(location, places, image.close)
        except BaseException:
            image.close()
            raise

    def _found(self, tree: Tree) -> list[Found]:
        inside = inside_of(self._options)
        found = find_sources(tree, self._detect) if inside is None else types_at(tree, inside, self._detect)
        wanted = self._options.source_type
        return [one for one in found if wanted is None or one.source_type == wanted]

    def _open(self, location: str, places: Sequence[Place], closing: Callable[[], None]) -> LegacySource:
        if len(places) > 1:
            listed = "; ".join(place.shown for place in places)
            raise AmbiguousSourceError(f"{location}: holds more than one source: {listed}; choose with --inside PATH")
        tree, (path, source_type) = places[0]
        options = replace(self._options, source_type=source_type, inside=None)
        return self._open_tree(location, SubTree(tree, path, closing), options)


def spool_whole(location: str, fd: int, read: Callable[[int], bytes], directory: str | None) -> int:
    """A descriptor of a temporary file with all that `read` gives. Blocks of zeros take no room in it.

    TargetError where the file system of the temporary file has not even room for what is left of `fd` as it is: at the
    beginning, and again on the way. How many bytes it will be is not known before: zeros need no room.
    """
    spool = Spool(directory, location)
    try:
        check_room(location, fd, spool)
        checked = 0
        while True:
            with unreadable(location):
                block = read(_BLOCK)
            if not block:
                return spool.detach()
            spool.append_sparse(block)
            if spool.size - checked >= _CHECKED:
                checked = spool.size
                check_room(location, fd, spool)
    finally:
        spool.close()


_BLOCK: Final = 1024 * 1024
_CHECKED: Final = 4 * 1024 * 1024
"""After so many bytes the room is looked at again."""


def check_room(location: str, fd: int, spool: Spool) -> None:
    status, free = os.fstat(fd), spool.free_bytes()
    if not stat.S_ISREG(status.st_mode):
        return
    left = status.st_size - os.lseek(fd, 0, os.SEEK_CUR)
    if left > free:
        done = f"{spool.size:,} bytes of it are there, and " if spool.size else ""
        raise TargetError(
            f"{location}: is unpacked into a temporary file: {done}what is left has {left:,} bytes as it is, for which "
            f"there are {free:,} bytes of room; set TMPDIR to a place with more, or unpack it yourself"
        )


def _nothing_on_disk(location: str, form: str, volumes: Sequence[str], errors: Sequence[str]) -> SourceUnreadableError:
    seen = "; ".join(volumes) or "no partition and no file system"
    why = f" ({'; '.join(errors)})" if errors else ""
    return NoImageError(f"{location}: no Docker root was found on this disk ({form}){why}; it has: {seen}")
