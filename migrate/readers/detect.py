"""Which reader a location needs, told by its content; two matches are an error that says so, never a guess."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from migrate.blobio.source_files import open_source_file
from migrate.blobio.spool import PlainStream, open_plain
from migrate.errors import (
    AmbiguousSourceError,
    PermissionSourceError,
    SourceUnreadableError,
    UnrecognisedSourceError,
    UsageError,
)
from migrate.model.legacy import SourceType
from migrate.model.options import ReadOptions
from migrate.readers.base import LegacySource
from migrate.tar.index import has_member, index_tar, looks_like_tar

STDIN = "-"
_DAMAGED_HEAD = 64 * 1024
"""An archive whose first header is damaged is known by the next one, if it stands so near."""


def open_source(location: str, options: ReadOptions | None = None) -> LegacySource:
    """Opens `location` (a path, `-`, or a URL) read-only.

    Raises UnrecognisedSourceError, AmbiguousSourceError, PermissionSourceError or another SourceUnreadableError.
    """
    options = options or ReadOptions()
    source_type = options.source_type
    if location == STDIN:
        if source_type not in (None, SourceType.DOCKER_ARCHIVE):
            raise UsageError(f"--source-type {source_type} asks for a directory, and standard input is none")
        return _open_archive_stream(options)
    if "://" in location:
        from migrate.readers.remote import open_remote

        return open_remote(location, options)
    path = Path(location)
    mode = _mode_of(path)
    if stat.S_ISDIR(mode):
        return _OPENERS[_directory_type(path, source_type)](location, options)
    if source_type not in (None, SourceType.DOCKER_ARCHIVE):
        raise UsageError(f"{location}: --source-type {source_type} asks for a directory, and this is a file")
    return _open_archive_file(location, options)


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise SourceUnreadableError(f"{path}: is a link to {os.readlink(path)}, which is not there") from error
        raise SourceUnreadableError(f"{path}: there is no such file or directory") from error
    except PermissionError as error:
        raise PermissionSourceError(f"{path}: may not be read by this user") from error
    except OSError as error:
        raise SourceUnreadableError(f"{path}: {error.strerror}") from error


def detect_directory(path: Path) -> list[SourceType]:
    """All types whose reader claims the directory."""
    from migrate.readers import docker_archive, docker_root, manifest_folders, registry_v1, registry_v2
    from migrate.storage.directory_tree import DirectoryTree

    detectors: list[tuple[SourceType, Callable[[Path], bool]]] = [
        (SourceType.DOCKER_ARCHIVE, docker_archive.detect),
        (SourceType.DOCKER_ROOT, lambda path: docker_root.detect(DirectoryTree(str(path)))),
        (SourceType.REGISTRY_V1, registry_v1.detect),
        (SourceType.REGISTRY_V2, registry_v2.detect),
    ]
    if manifest_folders.holds_manifest(path):
        return [SourceType.DIR]
    found = [source_type for source_type, detect in detectors if detect(path)]
    return found or ([SourceType.DIR] if manifest_folders.detect(path) else [])


def _directory_type(path: Path, source_type: SourceType | None) -> SourceType:
    if source_type is not None:
        return source_type
    try:
        found = detect_directory(path)
    except PermissionError as error:
        raise PermissionSourceError(
            f"{error.filename}: may not be read by this user; run as root or on a readable copy"
        ) from error
    except OSError as error:
        raise SourceUnreadableError(f"{path}: {error.strerror}") from error
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(found)
        raise AmbiguousSourceError(f"{path}: looks like more than one source ({names}); choose with --source-type")
    raise UnrecognisedSourceError(
        f"{path}: neither an unpacked `docker save` archive (manifest.json, or <id>/json beside <id>/layer.tar), "
        "a Docker root (graph/ or repositories-<driver>), a registry's storage (images/ and repositories/, "
        "or docker/registry/v2/), nor a folder with a registry's manifest.json and its blobs; "
        "`migrate batch` finds those that lie below it"
    )


def _open_archive_file(location: str, options: ReadOptions) -> LegacySource:
    try:
        fd = open_source_file(location)
    except OSError as error:
        kind = PermissionSourceError if isinstance(error, PermissionError) else SourceUnreadableError
        raise kind(f"{location}: cannot be opened: {error.strerror}") from error
    return open_archive(location, fd, options)


def _open_archive_stream(options: ReadOptions) -> LegacySource:
    try:
        fd = os.dup(sys.stdin.fileno())
        os.read(fd, 0)  # fails on what is not open for reading: closed, or a directory
    except OSError as error:
        raise SourceUnreadableError(f"standard input: cannot be read: {error.strerror}") from error
    return open_archive(STDIN, fd, options)


def open_archive(location: str, fd: int, options: ReadOptions) -> LegacySource:
    """The archive behind `fd`, which is taken over."""
    from migrate.readers.docker_archive import DockerArchiveSource
    from migrate.readers.members import TarMembers, is_archive_member
    from migrate.readers.passing import PassingArchive

    content = open_plain(fd, location, options.max_ratio)
    try:
        head = content.head()
        if not head:
            raise UnrecognisedSourceError(f"{location}: is empty")
        if not looks_like_tar(head) and not has_member(content.head(_DAMAGED_HEAD), is_archive_member):
            raise UnrecognisedSourceError(
                f"{location}: is neither a tar archive nor one compressed by gzip, bzip2, xz or zstd"
            )
        if isinstance(content, PlainStream):
            return DockerArchiveSource(location, PassingArchive(location, content, options.temporary_directory))
        members = TarMembers(location, content.fd, content.size, index_tar(content.fd, location, is_archive_member))
        return DockerArchiveSource(location, members)
    except BaseException:
        content.close()
        raise


def _open_directory_archive(location: str, options: ReadOptions) -> LegacySource:
    from migrate.readers.docker_archive import DockerArchiveSource
    from migrate.readers.members import DirectoryMembers

    del options
    return DockerArchiveSource(location, DirectoryMembers(location))


def _open_docker_root(location: str, options: ReadOptions) -> LegacySource:
    from migrate.readers.docker_root import DockerRootSource
    from migrate.storage.directory_tree import DirectoryTree

    return DockerRootSource(location, DirectoryTree(location), options)


def _open_registry_v1(location: str, options: ReadOptions) -> LegacySource:
    from migrate.readers.registry_v1 import RegistryV1Source

    return RegistryV1Source(location, options)


def _open_registry_v2(location: str, options: ReadOptions) -> LegacySource:
    from migrate.readers.registry_v2 import RegistryV2Source

    return RegistryV2Source(location, options)


def _open_manifest_folders(location: str, options: ReadOptions) -> LegacySource:
    from migrate.readers.manifest_folders import ManifestFolderSource

    return ManifestFolderSource(location, options)


_OPENERS: dict[SourceType, Callable[[str, ReadOptions], LegacySource]] = {
    SourceType.DOCKER_ARCHIVE: _open_directory_archive,
    SourceType.DOCKER_ROOT: _open_docker_root,
    SourceType.REGISTRY_V1: _open_registry_v1,
    SourceType.REGISTRY_V2: _open_registry_v2,
    SourceType.DIR: _open_manifest_folders,
}
