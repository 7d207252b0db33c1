"""Reads an OCI image layout for `push`: the images, by their names in index.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from msgspec import Struct

from migrate.documents.oci import IndexEntry
from migrate.errors import DamagedError, MigrateError, SourceUnreadableError
from migrate.layout.names import LAYOUT_FILE, blob_path
from migrate.layout.view import Layout
from migrate.model.digest import Digest
from migrate.model.image import Descriptor
from migrate.model.reference import Reference
from migrate.writers.push import PushedBlob, PushedManifest, PushedName, pushed_names
from migrate.writers.registry_names import UNTAGGED, RegistryNames

Naming = Callable[[Reference], Reference]


class LayoutImages(Struct):
    """The manifests and names to send. `left_out` counts images without a reference, which only `--all` sends."""

    manifests: dict[Digest, PushedManifest]
    names: list[PushedName]
    left_out: int = 0


def read_layout(layout: Layout, name: Naming, *, patterns: Sequence[str] = (), untagged: bool = False) -> LayoutImages:
    """Reads index.json and all manifests that it leads to. Of blobs only the size is checked.

    `name` gives the name in the registry. Raises SourceUnreadableError if the location is not a layout, or one that
    lacks files: it is not pushed in part. Raises TargetError if two images would get one name in the registry.
    """
    if not layout.has(LAYOUT_FILE):
        raise SourceUnreadableError(f"{layout.location}: not an OCI image layout: it has no {LAYOUT_FILE} file")
    names = RegistryNames("choose one of them with --image")
    try:
        chosen, left_out = _choose(layout.entries(), patterns, untagged)
        manifests: dict[Digest, PushedManifest] = {}
        for document in layout.documents([entry for entry, _ in chosen]):
            if document.error is not None:
                raise document.error
            media_type = document.entry.descriptor.media_type
            if document.manifest is None:
                children = tuple(child.descriptor.digest for child in document.children)
                manifests[document.digest] = PushedManifest(document.content, media_type, children=children)
                continue
            # the size is checked now, because a registry would refuse a wrong blob only after its upload
            named = (document.manifest.config, *document.manifest.layers)
            blobs = tuple(_blob(layout, blob) for blob in named)
            media_type = media_type or document.manifest.media_type
            manifests[document.digest] = PushedManifest(document.content, media_type, blobs)
    except MigrateError as error:
        raise SourceUnreadableError(f"{layout.location}: incomplete: {error.message}") from error
    for entry, reference in chosen:
        names.claim(name(reference), entry.descriptor.digest, reference)
    return LayoutImages(manifests, pushed_names(names), left_out)


def _choose(
    entries: Iterable[IndexEntry], patterns: Sequence[str], untagged: bool
) -> tuple[list[tuple[IndexEntry, Reference]], int]:
    """The entries to send with their names, and the number of those left out because they have none."""
    chosen: list[tuple[IndexEntry, Reference]] = []
    left_out = 0
    for entry in entries:
        name = entry.name
        if name is not None:
            reference = Reference.parse(name)
            if not patterns or any(reference.matches(pattern) for pattern in patterns):
                chosen.append((entry, reference))
        elif not patterns:  # `--image` chooses by name, so images without a name are not counted as left out
            if untagged:
                chosen.append((entry, Reference(UNTAGGED, entry.descriptor.digest.hex)))
            else:
                left_out += 1
    return chosen, left_out


def _blob(layout: Layout, descriptor: Descriptor) -> PushedBlob:
    path = blob_path(descriptor.digest)
    size = layout.size(path)
    if size != descriptor.size:
        raise DamagedError(f"{path}: {size:,} bytes instead of {descriptor.size:,}; `migrate verify` lists all damage")
    return PushedBlob(descriptor.digest, size, partial(layout.open, path))
