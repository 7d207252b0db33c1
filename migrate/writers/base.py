"""The port that every target fills."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from migrate.layout.catalog import ExistingImage
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, StoredBlob
from migrate.model.options import Compression
from migrate.model.reference import Reference


class BlobWriter(Protocol):
    """One blob on its way. Leaving its context without `commit` leaves no trace."""

    def write(self, block: bytes | bytearray | memoryview, /) -> object: ...

    def commit(self, digest: Digest, /) -> None:
        """Gives the blob its name; the caller has hashed what it wrote. Raises TargetError."""


class ImageTarget(Protocol):
    """A place for images. Every method raises TargetError, and nothing else, when the target fails.

    Blobs come before the image that names them; nothing is visible under a reference before `finish`.
    """

    def has_blob(self, digest: Digest, size: int, /) -> bool: ...

    def open_blob(self) -> AbstractContextManager[BlobWriter]: ...

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        """Writes config and manifest of `image`, whose layer blobs are all there, and remembers its references."""

    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        """Writes a manifest list or index whose children are all committed, and remembers its references."""

    def finish(self, report: bytes, /) -> None:
        """Makes the index of everything committed, then the report, durable. Called once, last."""

    def close(self) -> None:
        """Lets go; after an error too. What was committed stays valid."""


@runtime_checkable
class ListsImages(Protocol):
    """A target that can say what it holds already, so that a name is never taken from an image in silence."""

    def existing_images(self) -> Sequence[ExistingImage]: ...


@runtime_checkable
class NamesImages(Protocol):
    """A target whose names are not those of an engine: a registry's have no host."""

    def local_reference(self, reference: Reference, /) -> Reference:
        """The name that the target will give; the same for a name that it gave."""


@runtime_checkable
class RemembersLayers(Protocol):
    """A target that knows from earlier runs which blob holds which diffID (a hint, checked before use)."""

    def known_blob(self, diff_id: DiffID, compression: str, /) -> StoredBlob | None: ...

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None: ...


@runtime_checkable
class RemembersNamedLayers(Protocol):
    """The same of a target that remembers every blob that a layer ever had."""

    def named_blob(self, diff_id: DiffID, named: Collection[Digest], /) -> StoredBlob | None:
        """One of the digests in `named` that holds the layer, compressed as the run asks for; proven."""


@runtime_checkable
class LinksBlobs(Protocol):
    """A target on a file system, which can take a blob over by hard link or reflink instead of by copy."""

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        """True if the blob now stands in the target without its bytes having been copied."""


@runtime_checkable
class RemovesBlobs(Protocol):
    """A target that can let go of layer blobs that turned out to be needless."""

    def remove_blobs(self, digests: Iterable[Digest], /) -> None:
        """Removes those of `digests` that no image in the target names. Called after `finish`."""


@runtime_checkable
class ListsBlobs(Protocol):
    """A target that can say at little cost which blobs stand in it, and which of them its images need."""

    def blob_sizes(self) -> Mapping[str, int]:
        """Bytes of every blob, by the hex digits of its digest. Nothing is read or proven."""

    def named_layers(self) -> Collection[Digest]:
        """Layer blobs that the images name which stood there when the target was opened."""


@runtime_checkable
class TakesLargeReports(Protocol):
    """A target whose report need not be in memory as a whole."""

    def finish_in_pieces(self, report: Iterable[bytes], /) -> None:
        """As `finish`; the pieces make the report."""


@runtime_checkable
class WantsCompression(Protocol):
    """A target whose format has one way to store layers, whatever `--compression` says."""

    @property
    def wants_compression(self) -> Compression: ...
