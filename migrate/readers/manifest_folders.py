"""Folders with one image each: a `manifest.json` and its blobs, as in skopeo's `dir:` and in Artifactory.

`manifest.json` is a registry's manifest, a JSON object; in `docker save` archives it is an array. A blob is a file with
its digest as name: the hex digits (skopeo), or `sha256__` and the hex digits (Artifactory). Sources: containers/image
`directory/directory_dest.go`; the layout of Artifactory's Docker repositories. See docs/formats/manifest-folders.md.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from msgspec import Struct

from migrate.blobio.limits import JSON_BYTES
from migrate.documents.json_text import load_json_lenient
from migrate.documents.schema1 import OpenedManifest, is_index, is_manifest, is_schema1, open_manifest, parse_schema1
from migrate.errors import (
    DocumentError,
    LimitError,
    MigrateError,
    MissingLayerError,
    SourceError,
    SourceUnreadableError,
)
from migrate.model.digest import Digest
from migrate.model.legacy import SourceType
from migrate.model.options import ReadOptions
from migrate.model.reference import Reference
from migrate.readers.manifest_source import StoredManifestSource
from migrate.readers.registry_images import RegistryImages, open_checked
from migrate.storage.named_files import Entry, NamedFiles
from migrate.storage.store import is_url
from migrate.tar.known_blobs import known_blob

MANIFEST: Final = "manifest.json"
LIST: Final = "list.manifest.json"
_FOLDERS: Final = 200_000
_DETECTED_FOLDERS: Final = 1_000
_DEPTH: Final = 12
_BLOB: Final = re.compile(r"(?:sha256(?:__|:|-))?([0-9a-f]{64})(?:\.tar(?:\.gz)?)?")
_NAMED_BLOB: Final = re.compile(r"sha256(?:__|:)([0-9a-f]{64})(\.marker)?")
"""The names in Artifactory. A file with `.marker` is in place of a blob that Artifactory has not fetched."""
_METADATA: Final = ".artifactory-metadata"
_CHILD: Final = re.compile(r"([0-9a-f]{64})\.manifest\.json")
_CHILD_FOLDER: Final = re.compile(r"sha256(?:__|:|-)([0-9a-f]{64})")


def are_manifest_folders(files: NamedFiles) -> bool:
    """True if every folder with files has a registry's manifest, or only blobs as in Artifactory. False if there are
    more folders than the limit."""
    holds_any = False
    pending = [("", 0)]
    for _ in range(_DETECTED_FOLDERS):
        if not pending:
            return holds_any
        folder, depth = pending.pop()
        entries = files.entries(folder)
        names = [entry.name for entry in entries if not (entry.is_folder or entry.name.startswith("."))]
        are_blobs = all(map(_NAMED_BLOB.fullmatch, names))
        if depth > _DEPTH or not (are_blobs or holds_manifest(files, folder)):
            return False
        holds_any |= bool(names)
        pending += [(path, depth + 1) for path in _folders_of_images(folder, entries)]
    return holds_any


def _folders_of_images(folder: str, entries: Iterable[Entry]) -> list[str]:
    """The folders in `folder`, without those that registries and tools use for their own data."""
    names = [entry.name for entry in entries if entry.is_folder]
    return [
        f"{folder}/{name}".lstrip("/")
        for name in names
        if not (name.startswith((".", "_")) or name.endswith(_METADATA))
    ]


def holds_manifest(files: NamedFiles, folder: str) -> bool:
    """True for a folder with a registry's manifest in it."""
    for name in (MANIFEST, LIST):
        with suppress(LimitError):
            content = files.read(f"{folder}/{name}".lstrip("/"), JSON_BYTES)
            if content is not None:
                return is_manifest(content)
    return False


class _Found(Struct, frozen=True):
    """A folder that holds a manifest: its path below the source, and the manifest's name in it."""

    folder: str
    manifest: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.manifest}".lstrip("/")

    @property
    def is_child(self) -> bool:
        """Artifactory keeps the images of a list in folders beside the tags, named by their digest."""
        return bool(_CHILD_FOLDER.fullmatch(posixpath.basename(self.folder)))


class ManifestFolderSource(StoredManifestSource):
    """A folder with an image, or a tree of such folders, in a directory or a bucket."""

    source_type = SourceType.DIR

    def __init__(self, location: str, files: NamedFiles, options: ReadOptions | None = None) -> None:
        super().__init__(location, files, options)
        self._blobs: dict[str, str] = {}
        self._children: dict[str, str] = {}
        self._markers: dict[str, str] = {}
        self._without_manifest: dict[str, frozenset[str]] = {}
        self._beside_manifest: set[str] = set()
        self._wanted: set[str] = set()

    def blob_path(self, digest: Digest, /) -> str | None:
        self._wanted.add(digest.hex)
        path = self._blobs.get(digest.hex)
        if path is None and digest.hex in self._markers and known_blob(digest) is None:
            marker = self._markers[digest.hex]
            raise MissingLayerError(
                f"blob {digest} is missing: there is only {marker}, since Artifactory has not fetched it",
                layer=digest.hex,
            )
        return path

    def read_manifest(self, repository: str, digest: Digest, /) -> OpenedManifest:
        del repository
        path = self._children.get(digest.hex) or self._blobs.get(digest.hex)
        content = None if path is None else self._files.read(path, JSON_BYTES)
        if content is None:
            raise SourceError(f"manifest {digest} is missing: no {digest.hex}.manifest.json, sha256__{digest.hex}/")
        return open_checked(content, digest, f"manifest {path}")

    # --- listing -------------------------------------------------------------------------------------------------

    def list_manifests(self, images: RegistryImages, /) -> None:
        # Children of lists last: a child that its list has added is not listed again.
        found = sorted(self._find(images), key=lambda entry: (entry.is_child, entry.path))
        if not found:
            blobs = f", only {len(self._blobs):,} blobs" if self._blobs else ""
            raise SourceUnreadableError(f"{self.location}: no folder with a {MANIFEST} of a registry in it{blobs}")
        for entry in found:
            place = entry.folder or posixpath.basename(self.location.rstrip("/"))
            try:
                content = self._files.read(entry.path, JSON_BYTES)
                if content is None or not is_manifest(content):
                    raise DocumentError(f"{entry.path}: not a registry's manifest: no object with a schemaVersion")
                manifest = open_manifest(content)
                references, warnings = self._names(entry, manifest)
            except MigrateError as error:
                images.fail(place, error)
                continue
            digest = Digest.of(manifest.payload)
            if not (entry.is_child and ("", digest) in images.children):
                images.add("", references, digest, manifest, warnings)
        for folder, blobs_there in self._without_manifest.items():
            # Artifactory may keep blobs in a folder without a manifest, for manifests in other folders. Such a folder
            # is lost only if no image needs one of its blobs.
            if not (self._wanted - self._beside_manifest) & blobs_there:
                text = f"{folder}: {len(blobs_there):,} blobs and no {MANIFEST}, which has their order and the config"
                images.fail(folder, SourceError(text))

    def _find(self, images: RegistryImages) -> Iterator[_Found]:
        """All folders with a manifest. Also records the path of each blob."""
        pending = [""]
        visited = 0
        while pending:
            folder = pending.pop()
            visited += 1
            if visited > _FOLDERS:
                raise LimitError(f"{self.location}: more than {_FOLDERS:,} folders")
            try:
                entries = self._files.entries(folder)
            except SourceError as error:
                # One damaged folder does not affect the others, but without the root there is nothing to read.
                if not folder:
                    raise
                images.fail(folder, error)
                continue
            files = [entry.name for entry in entries if not entry.is_folder]
            # `sha256__<hex>/manifest.json` is an image of a list in Artifactory. The folder's name is its digest.
            own = _CHILD_FOLDER.fullmatch(posixpath.basename(folder))
            if own is not None and MANIFEST in files:
                self._children.setdefault(own[1], f"{folder}/{MANIFEST}")
            named = frozenset(blob[1] for name in files if (blob := _NAMED_BLOB.fullmatch(name)))
            if {MANIFEST, LIST} & {*files}:
                self._beside_manifest |= named
            elif named:
                self._without_manifest[folder] = named
            for name in files:
                path = f"{folder}/{name}".lstrip("/")
                if (marker := _NAMED_BLOB.fullmatch(name)) and marker[2]:
                    self._markers.setdefault(marker[1], path)
                elif blob := _BLOB.fullmatch(name):
                    self._blobs.setdefault(blob[1], path)
                elif child := _CHILD.fullmatch(name):
                    self._children.setdefault(child[1], path)
            yield from (_Found(folder, name) for name in (LIST, MANIFEST) if name in files)
            pending += _folders_of_images(folder, entries)

    def _names(self, found: _Found, manifest: OpenedManifest) -> tuple[list[Reference], list[str]]:
        """(names, warnings). The name is the folder's path, NAME/TAG. For a single folder, and for a folder whose path
        is not the image's name, it is the name that a manifest of schema 1 states."""
        stated = None
        if is_schema1(load_json_lenient(manifest.payload, found.path)) and not is_index(manifest.payload):
            schema1 = parse_schema1(manifest.payload)
            stated = Reference(schema1.name, schema1.tag) if schema1.name and schema1.tag else None
        if found.is_child:
            return [], []
        name, _, tag = found.folder.rpartition("/")
        if ":" in tag or "@" in tag:  # `skopeo sync` gives a folder the whole last part of the name
            whole = Reference.parse(found.folder)
            if whole.is_digest:
                return [], []
            name, tag = whole.name, whole.tag
        # The location is a repository with a folder for each tag, and its own name is the image's name. Inside a tar or
        # a disk image there is no such name.
        if not name and found.folder and (os.path.isdir(self.location) or is_url(self.location)):
            name = posixpath.basename(self.location.rstrip("/"))
        if stated is not None and stated.is_valid:
            last = posixpath.basename(stated.name)
            if not name or (posixpath.basename(name) != last and tag != stated.tag):
                # A single folder, or one whose path has nothing to do with the image.
                return [stated], []
        if not name:
            return [], [f"{self.location}: {found.path} states no name, and a single folder gives none"]
        if stated is not None and f"/{name}".endswith(f"/{stated.name}"):
            name = stated.name  # without the name of Artifactory's repository, which is no part of the image's name
        return [Reference(name, tag)], []
