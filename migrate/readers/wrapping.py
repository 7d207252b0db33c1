"""Sources inside a file: a tar of a directory, a disk image, a block device, also several files deep."""

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
"""(the user's text for the location, the source's tree, which is taken over, options)"""
OpenDescriptor = Callable[[str, int, ReadOptions, int], LegacySource]
"""(its name in errors, a descriptor, which is taken over, options, the number of files around it)"""
_AT_TOP: Final = FoundPlace(b"", SourceType.DOCKER_ARCHIVE)


class FoundSource(NamedTuple):
    """A source that was found: its tree, and its place and type."""

    tree: Tree
    found: FoundPlace

    @property
    def shown(self) -> str:
        return f"{self.tree.shown(self.found.path)} ({self.found.source_type})"


class Opener:
    """Opens sources inside files. `depth`: the number of files around the one that is opened."""

    def __init__(
        self, open_tree: OpenTree, open_file: OpenDescriptor, detect: Detect, options: ReadOptions, depth: int = 0
    ) -> None:
        self._open_tree = open_tree
        self._open_file = open_file
        self._detect = detect
        self._options = options
        self._depth = depth

    def open_tar(self, location: str, fd: int, records: Iterable[Record | Damage] | None = None) -> LegacySource | None:
        """The source in a plain tar; None if there is none, or if the tar is itself an archive, which may have another
        archive behind it. The caller keeps the descriptor, and keeps it open meanwhile. `records` as for TarTree."""
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
            # No folder is a source: take the file that the options name, or the only file with a source in it. In a
            # root file system, or another folder of a known kind, no files are searched.
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
        """The source in a regular file of `tree`, which is taken over. The file is an archive, a tar or a disk image.

        A disk image is read in its place. Any other file is copied into a temporary file, since it may be compressed,
        and its readers need a descriptor.
        """
        name = tree.shown(path)
        if self._depth >= WRAPPING_DEPTH:
            raise SourceUnreadableError(
                f"{name}: is inside {self._depth} other files (WRAPPING_DEPTH): unpack it, and name it"
            )
        options = dataclasses.replace(self._options, inside=None)
        with unreadable(name):
            blocks, size = tree.open_blocks(path), tree.stat(path).size
            is_disk = may_be_disk(blocks)
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
        """Those of `files`, one at most, with a source in them, or with an error other than that there is none. Raises
        AmbiguousSourceError at the second one, without opening the rest: there may be hundreds."""
        found: list[bytes] = []
        for path in files:
            try:
                with closing(self.open_wrapped(SubTree(tree, b""), path)) as source:
                    source.listing()
            except (NoImageError, UnrecognisedSourceError):
                continue
            except SourceError:
                pass  # if it is the only file, opening it again gives this error to the user
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
        """The source on a disk, whose image is taken over. `path`: the path of the image; other files of the image are
        beside it. `close_outer` is called when the source is closed."""
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
                # A file system that cannot be read does not affect the others. Its error is shown if no source is
                # found.
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
    """True for a disk image, and for a raw disk or partition of a known kind. (The zeros at the start of a partition
    could also be the end marker of an empty tar.)"""
    if begins_tar(blocks.read_at(0, min(blocks.size, BLOCK))):
        return False
    from migrate.storage.disk.formats import probe_format
    from migrate.storage.disk.volumes import looks_like_disk

    try:
        return probe_format(blocks) != "raw" or looks_like_disk(blocks)
    except SourceError:
        return False


def is_regular_file(tree: Tree, path: bytes) -> bool:
    """True for a regular file; False also if the path cannot be read."""
    try:
        entry = tree.find(path)
    except SourceError:
        return False
    return entry is not None and entry.is_file


def spool_whole(location: str, left: Callable[[int], int], read: Callable[[int], bytes], directory: str | None) -> int:
    """Copies all that `read` gives into a temporary file, and returns its descriptor. Blocks of zeros need no space.

    `left`: number of bytes in the temporary file → number of bytes, as stored in the source, that are still to be read.
    Raises TargetError if the file system has no room for these, at the start or later. The final size is not known
    before: zeros need no space, and a compressed source becomes larger.
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
            # Other programs write to the file system, too, so the room is checked again from time to time.
            if spool.size - checked >= _CHECKED:
                checked = spool.size
                check_spool_room(location, left(spool.size), spool)
    finally:
        spool.close()


_BLOCK: Final = 1024 * 1024
_CHECKED: Final = 4 * 1024 * 1024
"""After so many bytes the free space is checked again."""


def bytes_left(fd: int) -> int:
    """The bytes of a regular file behind the current position; 0 for other kinds of files, which have no size."""
    status = os.fstat(fd)
    return status.st_size - os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else 0


def check_spool_room(location: str, left: int, spool: Spool) -> None:
    """Raises TargetError if the file system of the temporary file has no room for `left` more bytes."""
    free = spool.free_bytes()
    if left > free:
        done = f"{spool.size:,} bytes are written, " if spool.size else ""
        raise TargetError(
            f"{location}: is unpacked into a temporary file: {done}the rest has {left:,} bytes as stored, but only "
            f"{free:,} bytes are free; set TMPDIR to a place with more room, or unpack it yourself"
        )
