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
    """The entries of a manifest list or index before it is written. Raises TargetError."""
    try:
        return parse_index(content).manifests
    except SourceError as exc:
        raise TargetError(f"index {Digest.of(content)}: {exc.message}") from exc


class ImageTarget(BlobTarget):
    """A target for images. Every method raises TargetError, and no other error, when the target fails.

    Blobs are written before the image that names them. No reference is visible before `finish`.
    """

    wants_compression: ClassVar[Compression | None] = None
    """The compression of a format that has only one; `--compression` is ignored."""
    names_have_hosts: ClassVar[bool] = True
    """False for a registry, whose names have no host: names that differ only in the host are one name there."""

    @abstractmethod
    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        """Writes config and manifest of `image`, and notes its references. All its layer blobs are written before."""

    @abstractmethod
    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        """Writes a manifest list or index, and notes its references. All its children are committed before."""

    @abstractmethod
    def finish(self, report: bytes, /) -> None:
        """Writes the index of all committed images, then the report, and makes both durable. Called once, last."""

    def finish_in_pieces(self, report: Iterable[bytes], /) -> None:
        """As `finish`, with the report in pieces, because the whole may be too large for memory."""
        self.finish(b"".join(report))

    def abandon(self) -> None:
        """Called instead of `finish` if nothing could be read: removes a target that this run has created."""

    def close(self) -> None:
        """Releases all resources, also after an error. Committed blobs stay valid."""

    # --- optional features -----------------------------------------------------------------------------------------

    @property
    def can_be_shared(self) -> bool:
        """True if other processes of the run may write into the target (`reopened`)."""
        return False

    def reopened(self) -> ImageTarget:
        """The target, for another process of this run, which writes images into it and finishes nothing. Only if
        `can_be_shared`."""
        raise NotImplementedError

    def read_again(self) -> None:
        """Called after other processes have written into the target: what is known of it is read anew."""

    def existing_images(self) -> Sequence[ExistingImage]:
        """The images in the target before this run, so that conflicts about their names are found."""
        return ()

    def begin_run(self) -> None:
        """Notes the state of the target, if `remember_run` may be called later."""

    def remember_run(self, key: str, /) -> None:
        """Called before `finish` of a run without failures and conflicts. If the same run would change nothing next
        time, the target records its key (`writers.run_memory`)."""

    def mapped_images(self) -> Sequence[MappedImage]:
        """The map rows of all earlier runs, if the target has a map."""
        return ()

    def add_to_map(self, rows: Iterable[MappedImage], /) -> None:
        """Adds rows of this run to the map that `finish` writes, if the target has one."""

    def note_blobs(self, repositories: Mapping[Digest, str], /) -> None:
        """Repositories of the target from which blobs of this run came: those need not be sent."""

    def blob_sizes(self) -> Mapping[str, int] | None:
        """Bytes of every blob, by the hex digits of its digest, or None if listing them would be slow. No blob is read
        or checked."""
        return None

    def named_layers(self) -> Collection[Digest]:
        """Layer blobs of the images that were in the target when it was opened."""
        return ()

    def remove_blobs(self, digests: Iterable[Digest], /) -> None:
        """Removes those of `digests` that no image in the target names, if the target can. Called after `finish`."""
