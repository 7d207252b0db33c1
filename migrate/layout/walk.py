"""Reads the documents of an OCI layout: from index entries, through nested indexes, to image manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from migrate.blobio import limits
from migrate.documents.oci import IndexEntry, ManifestFacts, parse_index, parse_manifest
from migrate.errors import IntegrityError, LimitError, MigrateError, MissingLayerError
from migrate.model.digest import Digest
from migrate.model.image import INDEX_TYPES, MediaType

ReadBlobs = Callable[[Sequence[Digest]], Mapping[Digest, "bytes | MigrateError"]]
"""Reads small blobs. The result has the content or the error of each; missing blobs are left out. Digests need not be
checked: `read_documents` does that."""

_IMAGE_TYPES: Final = frozenset({MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST})
_AT_ONCE: Final = 256
"""Documents that are read in one call, which a bucket does in parallel. They are in memory at the same time."""


class Document(Struct, frozen=True, kw_only=True):
    """A manifest (`manifest` is set), an index (`children` are its entries), or one that could not be read (`error`).

    `entry` is the first index entry that names it.
    """

    entry: IndexEntry
    content: bytes = b""
    manifest: ManifestFacts | None = None
    children: tuple[IndexEntry, ...] = ()
    error: MigrateError | None = None

    @property
    def digest(self) -> Digest:
        return self.entry.descriptor.digest


def read_documents(
    entries: Iterable[IndexEntry], read: ReadBlobs, is_known: Callable[[Digest], bool] = lambda digest: False
) -> Iterator[Document]:
    """Every manifest and index that `entries` lead to, each once, level by level. Documents for which `is_known` is
    true are left out, with all that they lead to.

    Indexes may be nested to a depth of INDEX_DEPTH; deeper documents are returned with an error.
    """
    # Level by level, so that a bucket can read many documents of a level at once, and without recursion: indexes of an
    # untrusted archive may be nested deeper than Python's stack, or contain each other.
    level = list(entries)
    seen: set[Digest] = set()
    for _ in range(limits.INDEX_DEPTH):
        level = _unseen(level, seen, is_known)
        below: list[IndexEntry] = []
        for start in range(0, len(level), _AT_ONCE):
            some = level[start : start + _AT_ONCE]
            contents = read([entry.descriptor.digest for entry in some])
            for entry in some:
                document = _document(entry, contents.get(entry.descriptor.digest))
                yield document
                below += document.children
        if not below:
            return
        level = below
    for entry in _unseen(level, seen, is_known):
        text = f"{entry.descriptor.digest}: more than {limits.INDEX_DEPTH:,} indexes lead to it (INDEX_DEPTH)"
        yield Document(entry=entry, error=LimitError(text))


def _unseen(entries: Iterable[IndexEntry], seen: set[Digest], is_known: Callable[[Digest], bool]) -> list[IndexEntry]:
    """The first entry for each digest that is new."""
    new: list[IndexEntry] = []
    for entry in entries:
        digest = entry.descriptor.digest
        if digest not in seen and not is_known(digest):
            seen.add(digest)
            new.append(entry)
    return new


def _document(entry: IndexEntry, content: bytes | MigrateError | None) -> Document:
    digest = entry.descriptor.digest
    try:
        if content is None:
            raise MissingLayerError(f"there is no blob {digest}", layer=digest.hex)
        if isinstance(content, MigrateError):
            raise content
        if (actual := Digest.of(content)) != digest:
            raise IntegrityError(f"blob {digest} has the digest {actual}")
        # Some tools write entries without a media type or with a wrong one; then the content decides.
        media_type = entry.descriptor.media_type
        if media_type in INDEX_TYPES or (media_type not in _IMAGE_TYPES and _is_index(content)):
            return Document(entry=entry, content=content, children=parse_index(content).manifests)
        return Document(entry=entry, content=content, manifest=parse_manifest(content))
    except MigrateError as error:
        return Document(entry=entry, error=error)


def one_by_one(read: Callable[[Digest], bytes | None]) -> ReadBlobs:
    """A `ReadBlobs` from a function that reads one blob. `read` returns None for a missing blob, or raises
    MigrateError."""

    def read_all(digests: Sequence[Digest]) -> Mapping[Digest, bytes | MigrateError]:
        found: dict[Digest, bytes | MigrateError] = {}
        for digest in digests:
            try:
                content = read(digest)
            except MigrateError as error:
                found[digest] = error
            else:
                if content is not None:
                    found[digest] = content
        return found

    return read_all


def _is_index(content: bytes) -> bool:
    from migrate.documents.schema1 import is_index  # imported only here: nearly all layouts have media types

    return is_index(content)
