"""A target for dry runs, which counts blobs and images and keeps nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from migrate.model.digest import Digest
from migrate.model.image import ComposedImage
from migrate.model.options import Compression
from migrate.model.reference import Reference
from migrate.rehash.ports import BlobWriter
from migrate.writers.base import ImageTarget


class Discard(ImageTarget):
    """`blobs` maps each committed blob's digest to its size in bytes; `images` counts commits."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, int] = {}
        self.images = 0
        self.indexes = 0
        self.references: list[Reference] = []
        self.report: bytes | None = None

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self.blobs.get(digest) == size

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return _CountedBlob(self)

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        self.images += 1
        self.references.extend(references)

    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        self.indexes += 1
        self.references.extend(references)

    def finish(self, report: bytes, /) -> None:
        self.report = report


class DiscardArchive(Discard):
    """In place of a target that stores plain tars (`docker-archive:`)."""

    wants_compression: ClassVar[Compression | None] = Compression.NONE


class DiscardRepositories(Discard):
    """In place of a registry, whose names have no host."""

    names_have_hosts = False


class _CountedBlob:
    def __init__(self, target: Discard) -> None:
        self._target = target
        self._size = 0

    def write(self, block: bytes | bytearray | memoryview, /) -> int:
        self._size += len(block)
        return len(block)

    def commit(self, digest: Digest, /) -> None:
        self._target.blobs[digest] = self._size

    def __enter__(self) -> _CountedBlob:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass
