"""Finds the garbage in a layout: untagged images, and blobs that no image needs. Reads nothing itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from migrate.documents.oci import IndexEntry
from migrate.errors import DamagedError
from migrate.layout.walk import Document
from migrate.model.digest import Digest

_HEX = re.compile(r"[0-9a-f]{64}")


class Garbage(Struct, frozen=True):
    """`entries` of index.json stay; `images` are the manifests to remove, `blobs` all blobs to remove and their
    size."""

    entries: tuple[IndexEntry, ...]
    images: tuple[Digest, ...]
    blobs: Mapping[Digest, int]

    @property
    def bytes(self) -> int:
        return sum(self.blobs.values())


def plan_garbage(
    entries: Sequence[IndexEntry], documents: Iterable[Document], blob_sizes: Mapping[str, int]
) -> Garbage:
    """`documents` are all that `entries` lead to; `blob_sizes` has the blobs, by the hex digits of their digests.

    Raises DamagedError if an image with a name cannot be read, because the blobs that it needs are unknown.
    """
    found = {document.digest: document for document in documents}
    kept = tuple(entry for entry in entries if entry.name is not None)
    needed = _needed(kept, found)
    images = [digest for digest, document in found.items() if digest not in needed and document.manifest is not None]
    blobs = {Digest(name): size for name, size in blob_sizes.items() if _HEX.fullmatch(name)}
    gone = {digest: size for digest, size in blobs.items() if digest not in needed}
    return Garbage(kept, tuple(sorted(images)), gone)


def _needed(entries: Iterable[IndexEntry], found: Mapping[Digest, Document]) -> set[Digest]:
    needed: set[Digest] = set()
    pending = [entry.descriptor.digest for entry in entries]
    while pending:
        digest = pending.pop()
        if digest in needed:
            continue
        needed.add(digest)
        document = found[digest]
        # An unreadable manifest may name any blob, so removing blobs now could destroy an image that can be repaired.
        if document.error is not None:
            raise DamagedError(
                f"{digest}: cannot be read, so nothing is removed: {document.error.message}"
                " (`migrate verify` lists all damage)"
            ) from document.error
        pending += [child.descriptor.digest for child in document.children]
        if document.manifest is not None:
            needed.add(document.manifest.config.digest)
            needed.update(layer.digest for layer in document.manifest.layers)
    return needed
