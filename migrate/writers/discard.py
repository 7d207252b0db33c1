"""A target for dry runs: takes everything, keeps counts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

from migrate.model.digest import Digest
from migrate.model.image import ComposedImage
from migrate.model.options import Compression
from migrate.model.reference import Reference
from migrate.model.rename import repository_reference
from migrate.writers.base import BlobWriter


class Discard:
    """Fills ImageTarget. `blobs` maps each committed blob's digest to its size in bytes; `images` counts commits."""

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

    def close(self) -> None:
        pass


class DiscardArchive(Discard):
    """Stands for a target that stores plain tars (`docker-archive:`). Fills WantsCompression too."""

    wants_compression: Final = Compression.NONE


class DiscardRepositories(Discard):
    """Stands for a registry, in whose names no host stands. Fills NamesImages too."""

    def local_reference(self, reference: Reference, /) -> Reference:
        return repository_reference(reference)


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
