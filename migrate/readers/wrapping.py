"""Sources inside a file: a tar of a directory, a disk image, a block device, and such files inside one another."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from migrate.blobio.limits import WRAPPING_DEPTH
from migrate.blobio.spool import Spool, unreadable
from migrate.errors import (
    AmbiguousSourceError,
    NoImageError,
    SourceError,
    SourceUnreadableError,
    TargetError,
    UnrecognisedSourceError,
)
from migrate.model.legacy import SourceType
from migrate.model.options import ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.finding import Detect, FoundPlace, find_sources, find_wrappings, inside_of, types_at
from migrate.readers.not_a_source import foreign_folder
from migrate.storage.blocks import Blocks
from migrate.storage.tree import SubTree, Tree
from migrate.tar.header import BLOCK
from migrate.tar.index import begins_tar

if TYPE_CHECKING:
    from migrate.tar.index import Damage
    from migrate.tar.records import Record

OpenTree = Callable[[str, Tree, ReadOptions], LegacySource]
"""(what the user named, the source's tree, which is taken over, options)"""
OpenDescriptor = Callable[[str, int, ReadOptions, int], LegacySource]
"""(what errors name it, a descriptor, which is taken over, options, how many files it is inside of)"""


_AT_TOP: Final = FoundPlace(b"", SourceType.DOCKER_ARCHIVE)


class FoundSource(NamedTuple):
    """A find: where, of what type, and the tree that it is in."""

    tree: Tree
    found: FoundPlace

    @property
    def shown(self) -> str:
        return f"{self.tree.shown(self.found.path)} ({self.found.source_type})"


class Opener:
    """`depth`: how many files the one that is opened is inside of."""

    def __init__(
        self, open_tree: OpenTree, open_file: OpenDescriptor, detect: Detect, options: ReadOptions, depth: int = 0
    ) -> None:
        self._open_tree = open_tree
        self._open_file = open_file
        self._detect = detect
        self._options = options
        self._depth = depth

    def open_tar(self, location: str, fd: int, records: Iterable[Record | Damage] | None = None) -> LegacySource | None:
        """The source in a plain tar, None where there is none, or the tar is an archive itself, which may have another
        one behind it. The descriptor is still the caller's, and has to stay open meanwhile. `records` as TarTree takes
        them."""
        from migrate.storage.tar_tree import TarTree

        with unreadable(location):
            tree = TarTree(os.dup(fd), location, records)
        try:
            places = [FoundSource(tree, found) for found in self._found(tree)]
            if [place.found for place in places] == [_AT_TOP] and self._options.inside is None:
                tree.close()
                return None
            if places:
                return self._open(location, places, tree.close)
            # Next the file that the options name, or the only one that holds a source.
            inside = inside_of(self._options)
            if inside is not None:
                files = [inside] if is_regular_file(tree, inside) else []
            else:
                files = find_wrappings(tree, self._options.max_ratio) if foreign_folder(tree) is None else []
            if len(files) > 1:
                files = self._holding_sources(location, tree, files)
            if files:
                return self.open_wrapped(tree, files[0])
            tree.close()
            return None
        except BaseException:
            tree.close()
            raise

    def open_wrapped(self, tree: Tree, path: bytes) -> LegacySource:
        """The source in a regular file of `tree`, which is taken over: an archive, a tar or a disk image itself.

        A disk image is read where it is. Anything else becomes a temporary file: it may be compressed, and its readers
        need a descriptor.
        """
        name = tree.shown(path)
        if self._depth >= WRAPPING_DEPTH:
            raise SourceUnreadableError(
                f"{name}: is inside {self._depth} other files (WRAPPING_DEPTH): take it out, and name it"
            )
        options = dataclasses.replace(self._options, inside=None)
        with unreadable(name):
            blocks, size = tree.open_blocks(path), tree.stat(path).size
            is_disk = may_be_disk(blocks)
        # A disk image is read in place, through the file that holds it.
        if is_disk:
            opener = Opener(self._open_tree, self._open_file, self._detect, options, self._depth + 1)
            return opener.open_disk(name, blocks, None, tree.close)
        blocks.close()
        with unreadable(name), tree.open(path) as stream:
            fd = spool_whole(name, lambda done: size - done, stream.read, options.temporary_directory)
        os.lseek(fd, 0, os.SEEK_SET)
        source = self._open_file(name, fd, options, self._depth + 1)
        tree.close()
        return source

    def _holding_sources(self, location: str, tree: Tree, files: Sequence[bytes]) -> list[bytes]:
        """The file that holds a source, if any does, or may hold one, and cannot be read. Raises AmbiguousSourceError
        at the second: this may be an archive of hundreds."""
        found: list[bytes] = []
        for path in files:
            try:
                with closing(self.open_wrapped(SubTree(tree, b""), path)) as source:
                    source.listing()
            except (NoImageError, UnrecognisedSourceError):
                continue
            except SourceError:
                pass  # opening it again gives the reason, where it is the only one
            found.append(path)
            if len(found) > 1:
                listed = ", ".join(map(tree.shown, found))
                raise AmbiguousSourceError(
                    f"{location}: holds more than one archive or disk with a source: {listed}; choose one with "
                    "--inside PATH, or unpack it, and run `migrate batch` on the directory"
                )
        return found

    def open_disk(
        self, location: str, image_file: Blocks, path: str | None, close_outer: Callable[[], None] = lambda: None
    ) -> LegacySource:
        """The source on a disk, whose image is taken over. `path`: of the image, beside which its other files are.
        `close_outer` is called when the source is closed."""
        from migrate.storage.disk.disk_tree import DiskTree
        from migrate.storage.disk.formats import open_image
        from migrate.storage.disk.volumes import read_contents

        def close() -> None:
            image.close()
            close_outer()

        with unreadable(location):
            image = open_image(image_file, location, path)
        try:
            with unreadable(location):
                contents = read_contents(image.blocks)
            places: list[FoundSource] = []
            files: list[Tree] = []
            errors: list[str] = []
            for volume in contents.file_systems:
                # One file system that cannot be read costs no other; the reasons are given where no source is found.
                try:
                    tree = DiskTree(contents, volume, f"{location}, {volume.name}")
                    places.extend(FoundSource(tree, found) for found in self._found(tree))
                    inside = inside_of(self._options)
                    if inside is not None and is_regular_file(tree, inside):
                        files.append(tree)
                except SourceError as error:
                    errors.append(error.message)
            if len(files) == 1 and not places and inside is not None:
                return self.open_wrapped(SubTree(files[0], b"", close), inside)
            if not places:
                volumes = "; ".join(volume.description for volume in contents.volumes)
                why = f" ({'; '.join(errors)})" if errors else ""
                raise NoImageError(
                    f"{location}: no Docker root was found on this disk ({image.format}){why}; it has: "
                    f"{volumes or 'no partition and no file system'}"
                )
            return self._open(location, places, close)
        except BaseException:
            image.close()
            raise

    def _found(self, tree: Tree) -> list[FoundPlace]:
        inside = inside_of(self._options)
        found = find_sources(tree, self._detect) if inside is None else types_at(tree, inside, self._detect)
        wanted = self._options.source_type
        return [one for one in found if wanted is None or one.source_type == wanted]

    def _open(self, location: str, places: Sequence[FoundSource], close: Callable[[], None]) -> LegacySource:
        if len(places) > 1:
            listed = "; ".join(place.shown for place in places)
            raise AmbiguousSourceError(f"{location}: holds more than one source: {listed}; choose with --inside PATH")
        tree, (path, source_type) = places[0]
        options = dataclasses.replace(self._options, source_type=source_type, inside=None)
        return self._open_tree(location, SubTree(tree, path, close), options)


def may_be_disk(blocks: Blocks) -> bool:
    """Whether this is a disk image, or a raw disk or partition with something that is known. A partition may begin with
    zeros, which are the end marker of an empty tar, too."""
    if begins_tar(blocks.read_at(0, min(blocks.size, BLOCK))):
        return False
    from migrate.storage.disk.formats import probe_format
    from migrate.storage.disk.volumes import looks_like_disk

    try:
        return probe_format(blocks) != "raw" or looks_like_disk(blocks)
    except SourceError:
        return False


def is_regular_file(tree: Tree, path: bytes) -> bool:
    """False also where it cannot be found out."""
    try:
        entry = tree.find(path)
    except SourceError:
        return False
    return entry is not None and entry.is_file


def spool_whole(location: str, left: Callable[[int], int], read: Callable[[int], bytes], directory: str | None) -> int:
    """A descriptor of a temporary file with all that `read` gives. Blocks of zeros take no room in it.

    `left`: how many bytes, as they are in the source, are still to be read when so many are in the temporary file.
    TargetError where its file system has not even room for these: at the beginning, and again on the way. How many
    bytes it will be is not known before: zeros need no room, and a compressed source becomes more.
    """
    spool = Spool(directory, location)
    try:
        check_spool_room(location, left(0), spool)
        checked = 0
        while True:
            with unreadable(location):
                block = read(_BLOCK)
            if not block:
                return spool.detach()
            spool.append_sparse(block)
            if spool.size - checked >= _CHECKED:
                checked = spool.size
                check_spool_room(location, left(spool.size), spool)
    finally:
        spool.close()


_BLOCK: Final = 1024 * 1024
_CHECKED: Final = 4 * 1024 * 1024
"""After so many bytes the room is looked at again."""


def bytes_left(fd: int) -> int:
    """Of a regular file behind the place where it is read; 0 of anything else, which does not have a size."""
    status = os.fstat(fd)
    return status.st_size - os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else 0


def check_spool_room(location: str, left: int, spool: Spool) -> None:
    """TargetError where there is no room for `left` more bytes in the file system of the temporary file."""
    free = spool.free_bytes()
    if left > free:
        done = f"{spool.size:,} bytes of it are there, and " if spool.size else ""
        raise TargetError(
            f"{location}: is unpacked into a temporary file: {done}what is left has {left:,} bytes as it is, for which "
            f"there are {free:,} bytes of room; set TMPDIR to a place with more, or unpack it yourself"
        )
