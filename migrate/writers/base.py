"""The interface of every target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar

from migrate.documents.image_map import MappedImage
from migrate.documents.oci import IndexEntry, parse_index
from migrate.errors import SourceError, TargetError
from migrate.layout.catalog import ExistingImage
from migrate.model.digest import Digest
from migrate.model.image import ComposedImage
from migrate.model.options import Compression
from migrate.model.reference import Reference
from migrate.rehash.ports import BlobTarget


def index_entries(content: bytes) -> Sequence[IndexEntry]:
    """The entries of a manifest list or index that is to be written. Raises TargetError."""
    try:
        return parse_index(content).manifests
    except SourceError as exc:
        raise TargetError(f"index {Digest.of(content)}: {exc.message}") from exc


class ImageTarget(BlobTarget):
    """A place for images. Every method raises TargetError, and nothing else, when the target fails.

    Blobs come before the image that names them; nothing is visible under a reference before `finish`.
    """

    wants_compression: ClassVar[Compression | None] = None
    """Of a format that has one way to store layers, whatever `--compression` is."""
    names_have_hosts: ClassVar[bool] = True
    """False for a registry: its names have no host, so names that differ in the host alone are one."""

    @abstractmethod
    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        """Writes config and manifest of `image`, whose layer blobs are all there, and remembers its references."""

    @abstractmethod
    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        """Writes a manifest list or index whose children are all committed, and remembers its references."""

    @abstractmethod
    def finish(self, report: bytes, /) -> None:
        """Makes the index of everything committed, then the report, durable. Called once, last."""

    def finish_in_pieces(self, report: Iterable[bytes], /) -> None:
        """As `finish`; the pieces make the report, which need not be in memory as a whole."""
        self.finish(b"".join(report))

    def abandon(self) -> None:
        """Instead of `finish`, where nothing could be read: a target that this run has made is removed."""

    def close(self) -> None:
        """Releases everything; called after an error, too. What was committed stays valid."""

    # --- with defaults for targets that cannot do better -----------------------------------------------------------

    def existing_images(self) -> Sequence[ExistingImage]:
        """What the target holds already, so that a name is never taken from an image in silence."""
        return ()

    def begin_run(self) -> None:
        """Notes what the target holds, where `remember_run` may be called later."""

    def remember_run(self, key: str, /) -> None:
        """To be called before `finish` of a run without failures and conflicts: `writers.run_memory` shall know that
        it is done, where doing it again would change nothing."""

    def mapped_images(self) -> Sequence[MappedImage]:
        """What all earlier runs converted into the target, as far as it keeps that."""
        return ()

    def add_to_map(self, rows: Iterable[MappedImage], /) -> None:
        """What this run has converted, for the map that `finish` writes where the target has a place for one."""

    def note_blobs(self, repositories: Mapping[Digest, str], /) -> None:
        """Repositories of the target from which blobs of this run came: those need not be sent."""

    def blob_sizes(self) -> Mapping[str, int] | None:
        """Bytes of every blob, by the hex digits of its digest; None where that is not known at little cost. Nothing
        is read or proven."""
        return None

    def named_layers(self) -> Collection[Digest]:
        """Layer blobs that the images name which were there when the target was opened."""
        return ()

    def remove_blobs(self, digests: Iterable[Digest], /) -> None:
        """Removes those of `digests` that no image in the target names, where it can. Called after `finish`."""
