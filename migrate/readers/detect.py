"""Chooses the reader for a location by its content. Two matches are an error that names both."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, BinaryIO, cast

from migrate.blobio.source_files import open_source_file
from migrate.blobio.spool import PlainStream, Seekable, open_plain
from migrate.errors import (
    AmbiguousSourceError,
    PermissionSourceError,
    SourceError,
    SourceUnreadableError,
    UnfitSourceError,
    UnrecognisedSourceError,
    UsageError,
)
from migrate.layout.names import split_prefix
from migrate.model.legacy import SourceType
from migrate.model.options import ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.members import is_archive_member
from migrate.tar.index import (
    Damage,
    FileWindow,
    HeadWindow,
    begins_tar,
    has_member,
    index_tar,
    iter_members,
    looks_like_tar,
)
from migrate.tar.members import Member, MemberKind

if TYPE_CHECKING:
    from migrate.readers.wrapping import Opener
    from migrate.storage.tree import Tree
    from migrate.tar.records import Record

# Most sources are plain archives. What other sources and errors need is imported by the functions that need it.

STDIN = "-"
_RAW_HEAD = 1024 * 1024
_PREFIXED = {
    "docker-archive": SourceType.DOCKER_ARCHIVE,
    "oci-archive": SourceType.DOCKER_ARCHIVE,
    "oci": SourceType.DOCKER_ARCHIVE,
    "registry-storage": SourceType.REGISTRY_V2,
    "dir": SourceType.DIR,
}
_SNIFFED_HEAD = 1024 * 1024
_SNIFFED_MEMBERS = 4_096
_BLOB_OF_FOLDER = re.compile(r"(?:\./)?(?:sha256(?:__|:|-))?[0-9a-f]{64}(?:\.tar(?:\.gz)?)?")
_LISTED = 5
_DAMAGED_HEAD = 64 * 1024
"""An archive whose first header is damaged is recognised by the next one, if it is that near."""


def open_source(location: str, options: ReadOptions | None = None) -> LegacySource:
    """Opens `location` (a path, `-`, or a URL) read-only. A prefix as in skopeo chooses the source type.

    Raises UnrecognisedSourceError, AmbiguousSourceError, PermissionSourceError or another SourceUnreadableError.
    """
    options = options or ReadOptions()
    prefix, location = split_prefix(location)
    if prefix is not None:
        options = dataclasses.replace(options, source_type=_PREFIXED[prefix])
    if location == STDIN:
        try:
            fd = os.dup(sys.stdin.fileno())
            os.read(fd, 0)  # fails if standard input is closed, or is a directory
        except OSError as error:
            raise SourceUnreadableError(f"standard input: cannot be read: {error.strerror}") from error
        return open_archive(STDIN, fd, options)
    if "://" in location:
        return _open_url(location, options)
    if stat.S_ISDIR(_mode_of(location)):
        from migrate.storage.directory_tree import DirectoryTree

        try:
            return open_in_tree(location, DirectoryTree(location), options)
        except PermissionSourceError:
            from migrate.readers.access import check_readable

            # The user gets the number of unreadable files, and not one after the other in several runs.
            check_readable([location])
            raise
    try:
        fd = open_source_file(location)
    except PermissionError as error:
        raise PermissionSourceError(f"{location}: may not be read by this user: run as root") from error
    except OSError as error:
        raise SourceUnreadableError(f"{location}: cannot be opened: {error.strerror}") from error
    try:
        return open_archive(location, fd, options)
    except SourceError as error:
        from migrate.readers.not_a_source import other_part

        other = other_part(location)
        if other is None:
            raise
        raise type(error)(
            f"{error.message}; {other} is beside it: if they are parts of one file, `cat PARTS | migrate convert - OUT`"
        ) from error


def open_in_tree(location: str, tree: Tree, options: ReadOptions) -> LegacySource:
    """The source in `tree`, which is taken over. `location` is the text that the user gave."""
    from migrate.readers.finding import inside_of
    from migrate.readers.wrapping import is_regular_file
    from migrate.storage.tree import SubTree

    try:
        inside = inside_of(options)
        if inside is not None:
            if is_regular_file(tree, inside):
                return _opener(options).open_wrapped(tree, inside)
            if not tree.is_folder(inside):
                raise SourceUnreadableError(f"{location}: --inside {options.inside}: there is no such folder or file")
            below = SubTree(tree, inside, tree.close)
            return open_in_tree(tree.shown(inside), below, dataclasses.replace(options, inside=None))
        return _open_as(options.source_type or _only_type(location, tree), location, tree, options)
    except BaseException:
        tree.close()
        raise


def detect(tree: Tree) -> list[SourceType]:
    """All types of source that the tree may be. Raises SourceError if it cannot be listed."""
    from migrate.readers import docker_archive, docker_root, manifest_folders, registry_v1, registry_v2
    from migrate.storage.named_files import NamedFiles

    files = NamedFiles(tree)
    # A registry's manifest.json is an object, that of `docker save` is an array. Both have blobs beside them, so this
    # check comes first.
    if manifest_folders.holds_manifest(files, ""):
        return [SourceType.DIR]
    claims: dict[SourceType, Callable[[], bool]] = {
        SourceType.DOCKER_ARCHIVE: lambda: docker_archive.is_archive(tree),
        # A bucket has no owners, permissions and links. Layers cannot be made from its files.
        SourceType.DOCKER_ROOT: lambda: tree.keeps_attributes and docker_root.is_docker_root(tree),
        SourceType.REGISTRY_V1: lambda: registry_v1.is_registry_v1(files),
        SourceType.REGISTRY_V2: lambda: registry_v2.is_registry_v2(files),
    }
    found = [source_type for source_type, claimed in claims.items() if claimed()]
    # Last, because it lists all folders of the tree.
    return found or ([SourceType.DIR] if manifest_folders.are_manifest_folders(files) else [])


def _only_type(location: str, tree: Tree) -> SourceType:
    from migrate.readers.finding import find_sources
    from migrate.readers.not_a_source import foreign_folder

    try:
        found = detect(tree)
    except SourceUnreadableError:
        raise
    except SourceError as error:
        raise SourceUnreadableError(error.message) from error
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(found)
        # No guess: the wrong reader could convert a few images and leave out the rest.
        raise AmbiguousSourceError(f"{location}: looks like more than one source ({names}); choose with --source-type")
    if (what := foreign_folder(tree)) is not None:
        raise UnfitSourceError(f"{location}: is {what}")
    if deeper := find_sources(tree, detect):
        listed = "; ".join(f"{tree.shown(place)} ({kind})" for place, kind in deeper[:_LISTED])
        more = f" and {len(deeper) - _LISTED:,} more" if len(deeper) > _LISTED else ""
        raise UnrecognisedSourceError(
            f"{location}: is no source itself, but holds {listed}{more}; name it, or choose it with --inside PATH"
        )
    raise UnrecognisedSourceError(
        f"{location}: neither an unpacked `docker save` archive (manifest.json, or <id>/json beside <id>/layer.tar), "
        "a Docker root (graph/ or repositories-<driver>), a registry's storage (images/ and repositories/, "
        "or docker/registry/v2/), nor a folder with a registry's manifest.json and its blobs; "
        "`migrate batch` finds those that are below it"
    )


def _mode_of(location: str) -> int:
    try:
        return os.stat(location).st_mode
    except FileNotFoundError as error:
        if os.path.islink(location):
            raise SourceUnreadableError(
                f"{location}: is a link to {os.readlink(location)}, which is not there"
            ) from error
        hint = _advice(location)
        raise SourceUnreadableError(f"{location}: {error.strerror}{f' ({hint})' if hint else ''}") from error
    except PermissionError as error:
        raise PermissionSourceError(f"{location}: may not be read by this user: run as root") from error
    except OSError as error:
        raise SourceUnreadableError(f"{location}: {error.strerror}") from error


def _advice(location: str) -> str | None:
    """A hint for a path that does not exist: a Windows path, a prefix of skopeo, an image's name."""
    path, colon, name = location.partition(":")
    if re.match(r"[A-Za-z]:[\\/]", location):
        return f"a Windows path; inside WSL it is /mnt/{path.lower()}/{name[1:]}"
    if path in ("docker-daemon", "containers-storage"):
        return f"images of a running engine are read through an archive: `docker save {name} | migrate convert - OUT`"
    if colon and os.path.exists(path):
        return f"images are chosen by --image: write {path} --image {name}"
    from migrate.readers.not_a_source import name_of_image

    return name_of_image(location)


def _opener(options: ReadOptions, depth: int = 0) -> Opener:
    from migrate.readers.wrapping import Opener

    return Opener(open_in_tree, open_archive, detect, options, depth)


def open_archive(location: str, fd: int, options: ReadOptions, depth: int = 0) -> LegacySource:
    """The source in the archive, tar or disk image `fd`, which is taken over. `depth`: the number of files around
    it."""
    from migrate.readers.docker_archive import DockerArchiveSource, open_tar_members
    from migrate.readers.passing import PassingArchive

    content: Seekable | PlainStream = open_plain(fd, location, options.max_ratio)
    try:
        # Before the first decompressed byte is read: decompressing such a copy fails, with an error that gives no hint
        # at the cause.
        if isinstance(content, PlainStream):
            _refuse_text_copy(location, fd, is_damaged=False)
        head = content.head()
        if not head:
            raise UnrecognisedSourceError(f"{location}: is empty")
        if isinstance(content, PlainStream):
            # A stream: a pipe, or a compressed file. An archive is read in one pass, and only its documents and small
            # layers are kept in a temporary file. Tars of folders and disk images are read by position, so that all of
            # them goes into a temporary file.
            if _allows_archive(options) and _is_archive(content.head(_SNIFFED_HEAD)):
                passing = PassingArchive(location, content, options.temporary_directory, open_tar_members)
                return DockerArchiveSource(location, passing, salvage=options.salvage)
            from migrate.readers.wrapping import bytes_left, spool_whole
            from migrate.storage.disk.formats import looks_like_image

            if not looks_like_tar(head) and not looks_like_image(content.head(_SNIFFED_HEAD)):
                raise _no_archive(location, content.head(_DAMAGED_HEAD), is_compressed=True)
            stream = content  # whose members are read by position
            with closing(stream):
                spooled = spool_whole(
                    location, lambda _: bytes_left(stream.fd), stream.read, options.temporary_directory
                )
            content = Seekable(spooled, os.lseek(spooled, 0, os.SEEK_END))
        if begins_tar(head):
            is_archive, records = _begin_records(content.fd, location)
        else:
            from migrate.readers.wrapping import may_be_disk
            from migrate.storage.blocks import FileBlocks

            blocks = FileBlocks(os.dup(content.fd), location)
            if may_be_disk(blocks):
                # An image can name other files, such as a backing file, which are looked for beside it. Inside another
                # file there is no such place.
                path = None if location == STDIN or depth else location
                source = _opener(options, depth).open_disk(location, blocks, path)
                content.close()
                return source
            blocks.close()
            # It may be a tar whose first header is damaged or was overwritten with zeros, as rescue tools do.
            is_archive, records = has_member(content.head(_DAMAGED_HEAD), _is_own_member), None
        # Not an archive: a tar of a folder with a source in it, or a tar of archives or disk images.
        if not _allows_archive(options) or not is_archive:
            if not looks_like_tar(head) and not has_member(content.head(_DAMAGED_HEAD), is_archive_member):
                raise _no_archive(location, content.head(_DAMAGED_HEAD), is_compressed=False)
            found = _opener(options, depth).open_tar(location, content.fd, records)
            if found is not None:
                content.close()
                return found
            if not _allows_archive(options):
                place = f"in {options.inside}" if options.inside else f"of type {options.source_type}"
                raise UnrecognisedSourceError(f"{location}: holds no source {place}")
        index = index_tar(content.fd, location, is_archive_member)
        # Only with damage: a sound tar may consist of text files with CR LF.
        if index.damages:
            _refuse_text_copy(location, content.fd, is_damaged=True)
        members = open_tar_members(location, content.fd, content.size, index)
        return DockerArchiveSource(location, members, salvage=options.salvage)
    except BaseException:
        content.close()
        raise


def _allows_archive(options: ReadOptions) -> bool:
    """False if the options choose another type of source, or a place inside the tar."""
    return options.inside is None and options.source_type in (None, SourceType.DOCKER_ARCHIVE)


def _is_archive(head: bytes) -> bool:
    """True if the first bytes of a stream are those of a `docker save` archive."""

    def entries() -> Iterator[tuple[str, bool]]:
        with suppress(SourceError):
            for member in iter_members(HeadWindow(head), "head"):
                if isinstance(member, Member):
                    yield member.name, member.kind is MemberKind.FILE

    return _are_of_archive(entries()) or (
        not looks_like_tar(head) and has_member(head[:_DAMAGED_HEAD], is_archive_member)
    )


def _begin_records(fd: int, location: str) -> tuple[bool, Iterator[Record | Damage] | None]:
    """(whether it is a `docker save` archive, the entries of the tar), by the names of the first members.

    The entries are for a tar that is no archive: the first ones were read here, and no header is read twice. None for
    an archive, and if a header cannot be read; the next reader then finds the same damage and reports it.
    """
    from migrate.tar.records import iter_records

    records = iter_records(FileWindow(fd, location), location)
    begin: list[Record | Damage] = []
    broken = False

    def entries() -> Iterator[tuple[str, bool]]:
        nonlocal broken
        try:
            for found in islice(records, _SNIFFED_MEMBERS):
                begin.append(found)
                if isinstance(found, Damage):
                    return
                yield os.fsdecode(found.name), stat.S_ISREG(found.mode)
        except SourceError:
            broken = True

    is_archive = _are_of_archive(entries())
    return is_archive, None if is_archive or broken else chain(begin, records)


def _are_of_archive(entries: Iterable[tuple[str, bool]]) -> bool:
    """True if a tar that begins with these entries (name, whether it is a regular file) is a `docker save` archive.

    A manifest.json counts unless a blob of a registry's folder comes before the next name that only `docker save`
    gives: such a folder has a manifest.json, too."""
    has_manifest = False
    for name, is_file in entries:
        # A blob at the top: the tar has the content of a folder as of skopeo's `dir:`.
        if is_file and _BLOB_OF_FOLDER.fullmatch(name):
            return False
        if _is_own_member(name):
            has_manifest = True
            # No other name is in both kinds of tars.
            if name.removeprefix("./") != "manifest.json":
                break
    return has_manifest


def _is_own_member(name: str) -> bool:
    """True for a name that only `docker save` gives. The names excluded here are in Docker roots and registries'
    storage, too."""
    top = name.removeprefix("./").rstrip("/")
    return is_archive_member(name) and top not in ("repositories", "blobs", "blobs/sha256")


def _refuse_text_copy(location: str, fd: int, *, is_damaged: bool) -> None:
    """Raises UnfitSourceError for a file that was copied as text. `is_damaged`: it is a tar with damage."""
    from migrate.readers.not_a_source import TEXT_COPY, is_text_copy

    try:
        head = os.pread(fd, _RAW_HEAD, 0)  # not decompressed
    except OSError:  # a pipe
        return
    if is_text_copy(head, is_damaged=is_damaged):
        raise UnfitSourceError(f"{location}: {TEXT_COPY}")


def _no_archive(location: str, head: bytes, *, is_compressed: bool) -> SourceUnreadableError:
    """The error for a file that is neither a tar nor a disk image. `head`: its first bytes, decompressed."""
    from migrate.readers.not_a_source import altered_form, foreign_form, twice_compressed

    if is_compressed and (what := twice_compressed(head)) is not None:
        return UnfitSourceError(f"{location}: is {what}")
    if (what := foreign_form(head)) is not None:
        return UnrecognisedSourceError(f"{location}: is {what}")
    if (what := altered_form(head)) is not None:
        return UnfitSourceError(f"{location}: is {what}")
    return UnrecognisedSourceError(
        f"{location}: is neither a tar archive, plain or compressed by gzip, bzip2, xz or zstd, nor a disk image with "
        "partitions or a file system that is known"
    )


# --- URLs --------------------------------------------------------------------------------------------------------


def _open_url(location: str, options: ReadOptions) -> LegacySource:
    """`docker://…`, or an archive or a tree of objects at any URL that fsspec opens, recognised by its content."""
    from migrate.storage.bucket import bring_object, open_tree
    from migrate.storage.named_files import NamedFiles, require_readable
    from migrate.storage.store import is_url
    from migrate.storage.syscalls import target_error

    source_type = options.source_type
    if location.startswith("docker://"):
        from migrate.readers.remote_registry import RegistryOverHttp

        if source_type not in (None, SourceType.REGISTRY_V1, SourceType.REGISTRY_V2):
            raise UsageError(f"{location}: --source-type {source_type} does not go with docker://")
        return RegistryOverHttp(location, options, v1=source_type == SourceType.REGISTRY_V1)
    if not is_url(location):
        raise UsageError(f"{location}: not a URL that can be read")
    if source_type == SourceType.DOCKER_ROOT and not location.startswith("file://"):
        raise UsageError(
            f"{location}: a Docker root cannot be read from a bucket, which keeps no owners, permissions and times"
        )
    if source_type in (None, SourceType.DOCKER_ARCHIVE):
        import tempfile  # few runs need it

        # An archive in a single object comes to a temporary file first, as its members are read in any order.
        with tempfile.NamedTemporaryFile(prefix="migrate-", dir=options.temporary_directory, buffering=0) as spool:
            try:
                is_object = bring_object(location, cast(BinaryIO, spool))
            except OSError as exc:
                raise target_error(exc, "a temporary file") from exc
            if is_object:
                return open_archive(location, os.open(spool.name, os.O_RDONLY | os.O_CLOEXEC), options)
    tree = open_tree(location)
    require_readable(NamedFiles(tree))
    return open_in_tree(location, tree, options)


def _open_as(source_type: SourceType, location: str, tree: Tree, options: ReadOptions) -> LegacySource:
    """Opens the reader of `source_type`. Only the module of that reader is imported, which makes a start faster."""
    from migrate.storage.named_files import NamedFiles

    match source_type:
        case SourceType.DOCKER_ARCHIVE:
            from migrate.readers.docker_archive import DockerArchiveSource
            from migrate.readers.members import TreeMembers

            return DockerArchiveSource(location, TreeMembers(location, tree), salvage=options.salvage)
        case SourceType.DOCKER_ROOT:
            from migrate.readers.docker_root import DockerRootSource

            return DockerRootSource(location, tree, options)
        case SourceType.REGISTRY_V1:
            from migrate.readers.registry_v1 import RegistryV1Source

            return RegistryV1Source(location, NamedFiles(tree), options)
        case SourceType.REGISTRY_V2:
            from migrate.readers.registry_v2 import RegistryV2Source

            return RegistryV2Source(location, NamedFiles(tree), options)
        case SourceType.DIR:
            from migrate.readers.manifest_folders import ManifestFolderSource

            return ManifestFolderSource(location, NamedFiles(tree), options)
