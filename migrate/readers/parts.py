"""The parts of a directory that belong to the source in it, and its folders with documents (and not layers).

Everything else in the directory may be another source: for example an archive beside the members of an unpacked one.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from migrate.blobio.limits import JSON_BYTES
from migrate.blobio.source_files import open_source_file
from migrate.distribution.layout import ROOTS
from migrate.documents.docker_archive import ArchiveManifestEntry, parse_archive_manifest
from migrate.errors import MigrateError
from migrate.layout.names import ARCHIVE_MANIFEST
from migrate.model.legacy import SourceType
from migrate.readers.members import clean_name, is_archive_member

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

Steps = Sequence[str]
"""The path of a folder, relative to the source's directory, as a sequence of names."""


def is_called_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


class Parts(ABC):
    @abstractmethod
    def has(self, name: str, /) -> bool:
        """True if this entry of the directory belongs to the source."""

    def lists(self, steps: Steps, /) -> bool:
        """True for a folder whose entries have other names, sizes or times when the source has changed."""
        del steps
        return True


class ArchiveParts(Parts):
    """An unpacked `docker save` archive: folders of layers, and the files that manifest.json names, of any name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found: Sequence[ArchiveManifestEntry] = ()
        with (
            suppress(OSError, MigrateError),
            open(open_source_file(path / ARCHIVE_MANIFEST), "rb") as stream,
        ):
            found = parse_archive_manifest(stream.read(JSON_BYTES + 1))
        named = (name for entry in found for name in (entry.config, *entry.layers))
        self._named = frozenset((clean_name(name) or "").partition("/")[0] for name in named)

    def has(self, name: str, /) -> bool:
        if name in self._named or is_archive_member(name) or is_archive_member(f"{name}/"):
            return True
        return any(os.path.lexists(self._path / name / member) for member in ("json", "layer.tar"))


class RootParts(Parts):
    """A Docker root. All files are part of it, except those with an archive's suffix. Of the folders, only those that
    an engine makes are."""

    _DRIVERS: Final = frozenset({"aufs", "btrfs", "devicemapper", "overlay", "vfs", "zfs"})
    _DOCUMENTS: Final = frozenset({"graph", "containers", "image"})
    _OTHERS: Final = frozenset(
        {"builder", "buildkit", "execdriver", "init", "lost+found", "lxc", "network", "nuke", "overlay2", "plugins"}
        | {"runtimes", "swarm", "tmp", "trust", "volumes"}
    )

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str, /) -> bool:
        if (self._path / name).is_dir():
            return name in self._DRIVERS | self._DOCUMENTS | self._OTHERS
        return not is_called_archive(name)

    def lists(self, steps: Steps, /) -> bool:
        """True down to `graph/<id>`, `overlay/<id>` and `vfs/dir`. Below them are the files of layers and
        containers."""
        return len(steps) <= 2 and steps[0] in self._DRIVERS | self._DOCUMENTS


class RegistryV1Parts(Parts):
    """A v1 registry's storage. Its layers are files, so that all folders have documents."""

    def has(self, name: str, /) -> bool:
        return name in ("images", "repositories")


class RegistryV2Parts(Parts):
    """A v2 registry's storage. The directory may be its root, or one of the folders from there down to `v2/`."""

    def __init__(self, path: Path) -> None:
        found = (root for root in ROOTS if (path / root / "repositories").is_dir() and (path / root / "blobs").is_dir())
        self._root = tuple(step for step in next(found, "").split("/") if step)

    def has(self, name: str, /) -> bool:
        return name == self._root[0] if self._root else name in ("blobs", "repositories")

    def lists(self, steps: Steps, /) -> bool:
        """True for repositories, and for `blobs/sha256/<two digits>`, which changes when blobs are added or removed. No
        part of a repository's name is `_uploads`."""
        depth = len(self._root)
        if tuple(steps[:depth]) != self._root[: len(steps)]:
            return False
        inner = steps[depth:]
        if inner and inner[0] == "blobs":
            return len(inner) <= 3
        return "_uploads" not in inner


class ManifestFolderParts(Parts):
    """Folders with a manifest and its blobs each. All of the directory belongs to the source."""

    def has(self, name: str, /) -> bool:
        return not name.startswith((".", "_"))


class SeveralParts(Parts):
    """A directory that may be several types of source. Nothing is converted before the user chooses one."""

    def __init__(self, kinds: Sequence[Parts]) -> None:
        self._kinds = kinds

    def has(self, name: str, /) -> bool:
        return any(kind.has(name) for kind in self._kinds)

    def lists(self, steps: Steps, /) -> bool:
        return any(kind.has(steps[0]) and kind.lists(steps) for kind in self._kinds)


def parts_of(path: Path, types: Sequence[SourceType]) -> Parts:
    """`types`: the types that the directory may be (`detect`), or the one that the user chose."""
    makers: dict[SourceType, Callable[[], Parts]] = {
        SourceType.DOCKER_ARCHIVE: lambda: ArchiveParts(path),
        SourceType.DOCKER_ROOT: lambda: RootParts(path),
        SourceType.REGISTRY_V1: RegistryV1Parts,
        SourceType.REGISTRY_V2: lambda: RegistryV2Parts(path),
        SourceType.DIR: ManifestFolderParts,
    }
    kinds = [makers[kind]() for kind in dict.fromkeys(types)]
    return kinds[0] if len(kinds) == 1 else SeveralParts(kinds)
