"""What `push` sends: the images of an OCI image layout, by the names that its index.json gives them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from migrate.blobio.limits import JSON_BYTES, read_limited
from migrate.documents.oci import IndexEntry, parse_index, parse_manifest
from migrate.errors import DamagedError, IntegrityError, MissingLayerError, SourceUnreadableError
from migrate.layout.catalog import IMAGE_NAME, REF_NAME
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, MediaType
from migrate.model.reference import Reference
from migrate.writers.push import PushedBlob, PushedManifest, PushedName, pushed_names
from migrate.writers.registry import opener
from migrate.writers.registry_names import RegistryNames
from migrate.writers.registry_storage import UNTAGGED

_INDEX_TYPES = (MediaType.OCI_INDEX, MediaType.DOCKER_LIST)
Naming = Callable[[Reference], Reference]


@dataclass(slots=True)
class LayoutImages:
    """Everything to send; `left_out` counts images without a reference that were not asked for."""

    manifests: dict[Digest, PushedManifest]
    names: list[PushedName]
    left_out: int = 0


def read_layout(path: Path, name: Naming, *, patterns: Sequence[str] = (), untagged: bool = False) -> LayoutImages:
    """Reads index.json and every document below it; layer blobs are only looked at for their size.

    `name` gives the place in the registry. Raises SourceUnreadableError for what is no layout, and DamagedError,
    IntegrityError or MissingLayerError for one that is not whole: such a layout is better verified than sent. Raises
    TargetError if two images would get one name there.
    """
    return _Layout(path).read(name, patterns, untagged)


class _Layout:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._manifests: dict[Digest, PushedManifest] = {}

    def read(self, name: Naming, patterns: Sequence[str], untagged: bool) -> LayoutImages:
        if not (self._path / "oci-layout").is_file():
            raise SourceUnreadableError(f"{self._path}: not an OCI image layout: it has no oci-layout file")
        names = RegistryNames("choose one of them with --image")
        left_out = 0
        for entry in parse_index(self._read_file(self._path / "index.json")).manifests:
            reference = _reference_of(entry)
            if not _is_chosen(reference, patterns):
                continue
            if reference is None and not untagged:
                left_out += 1
                continue
            digest = entry.descriptor.digest
            self._add(entry.descriptor)
            reference = reference or Reference(UNTAGGED, digest.hex)
            names.claim(name(reference), digest, reference)
        return LayoutImages(self._manifests, pushed_names(names), left_out)

    def _add(self, descriptor: Descriptor) -> None:
        pending = [descriptor]  # no recursion: indexes may be nested deeper than Python's stack
        while pending:
            descriptor = pending.pop()
            if descriptor.digest not in self._manifests:
                self._manifests[descriptor.digest], below = self._read_manifest(descriptor)
                pending += below

    def _read_manifest(self, descriptor: Descriptor) -> tuple[PushedManifest, list[Descriptor]]:
        """With the manifests that it names."""
        content = self._read_blob(descriptor.digest)
        if descriptor.media_type in _INDEX_TYPES:
            below = [entry.descriptor for entry in parse_index(content).manifests]
            children = tuple(child.digest for child in below)
            return PushedManifest(content, descriptor.media_type, children=children), below
        facts = parse_manifest(content)
        blobs = tuple(self._blob(blob) for blob in (facts.config, *facts.layers))
        return PushedManifest(content, descriptor.media_type or facts.media_type, blobs), []

    def _blob(self, descriptor: Descriptor) -> PushedBlob:
        path = self._blob_path(descriptor.digest)
        try:
            size = os.stat(path).st_size
        except OSError as exc:
            raise MissingLayerError(f"{path}: {exc.strerror}", layer=descriptor.digest.hex) from exc
        if size != descriptor.size:
            raise DamagedError(f"{path}: {size:,} bytes instead of {descriptor.size:,}; `migrate verify` tells more")
        return PushedBlob(descriptor.digest, size, opener(path))

    def _read_blob(self, digest: Digest) -> bytes:
        content = self._read_file(self._blob_path(digest))
        if Digest.of(content) != digest:
            raise IntegrityError(f"{self._blob_path(digest)} has the digest {Digest.of(content)}")
        return content

    def _blob_path(self, digest: Digest) -> Path:
        return self._path / "blobs" / "sha256" / digest.hex

    def _read_file(self, path: Path) -> bytes:
        try:
            with open(path, "rb") as stream:
                return read_limited(stream, JSON_BYTES, str(path))
        except OSError as exc:
            raise SourceUnreadableError(f"{path}: {exc.strerror}") from exc


def _reference_of(entry: IndexEntry) -> Reference | None:
    """`repo:tag` as this program writes it; layouts by others may hold a bare tag, beside containerd's full name."""
    name = entry.annotations.get(REF_NAME)
    if name is None or ":" in name or "/" in name:
        return None if name is None else Reference.parse(name)
    full = entry.annotations.get(IMAGE_NAME)
    return Reference.parse(full) if full else Reference.parse(name)


def _is_chosen(reference: Reference | None, patterns: Sequence[str]) -> bool:
    if not patterns:
        return True
    return reference is not None and any(fnmatchcase(str(reference), pattern) for pattern in patterns)
