"""The base of the sources that hold a registry's manifests, and blobs with their digest as name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from migrate.blobio.payload import Payload
from migrate.distribution.replay import Replay
from migrate.documents.schema1 import OpenedManifest
from migrate.errors import IntegrityError, MissingLayerError
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import LegacyID, LegacyLayer, Origin, SourceListing
from migrate.model.options import ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.registry_images import (
    LayerSearch,
    RegistryImages,
    check_signatures,
    known_payload,
    missing_blob,
)
from migrate.storage.named_files import MissingFileError, NamedFiles
from migrate.tar.known_blobs import known_blob


class ManifestSource(LegacySource):
    """A source of a registry's manifests, and the `ManifestStore` of the manifests that `list_manifests` adds."""

    def __init__(self, location: str, options: ReadOptions | None, *, is_remote: bool) -> None:
        self.location = location
        self._salvage = bool(options and options.salvage)
        self._replay = Replay.of(options, is_remote=is_remote)
        self._listing: SourceListing | None = None
        self._layers: dict[LegacyID, LegacyLayer] | None = None

    @abstractmethod
    def list_manifests(self, images: RegistryImages, /) -> None:
        """Adds every manifest to `images`. Raises SourceUnreadableError if the source cannot be read."""

    @abstractmethod
    def read_manifest(self, repository: str, digest: Digest, /) -> OpenedManifest: ...

    @abstractmethod
    def blob_size(self, repository: str, digest: Digest, /) -> int | None: ...

    @abstractmethod
    def fetch_blob(self, repository: str, digest: Digest, limit: int, /) -> bytes:
        """The blob's bytes, not checked against the digest. Raises MissingLayerError if there is none."""

    def listing(self) -> SourceListing:
        if self._listing is None:
            images = RegistryImages(self, salvage=self._salvage)
            self.list_manifests(images)
            self._listing = images.listing()
        return self._listing

    def find_layers(self, wanted: Collection[DiffID], /) -> Mapping[DiffID, Sequence[LegacyLayer]]:
        """Also finds layers whose diffIDs `listing` does not use, as those of blobs that schema 1 names, too. Keeps no
        document in memory."""
        search = LayerSearch(self, wanted)
        self.list_manifests(search)
        return {diff_id: tuple(layers.values()) for diff_id, layers in search.found.items()}

    def read_layer(self, legacy_id: LegacyID, /) -> LegacyLayer:
        """A layer of a schema-1 image, by its v1 ID. If two manifests differ about it, the first in listing order
        counts."""
        if self._layers is None:
            self._layers = {}
            listing = self.listing()
            for image in (*listing.images, *(child for index in listing.indexes for child in index.children)):
                for layer in image.chain or ():
                    self._layers.setdefault(layer.legacy_id, layer)
        if legacy_id not in self._layers:
            raise MissingLayerError(f"no manifest names a layer {legacy_id}", layer=legacy_id)
        return self._layers[legacy_id]

    def read_blob(self, repository: str, digest: Digest, limit: int, /) -> bytes:
        content = self.fetch_blob(repository, digest, limit)
        if Digest.of(content) != digest:
            raise IntegrityError(f"blob {digest} does not match its digest: got {Digest.of(content)}", layer=digest.hex)
        return content

    def find_blob(self, repository: str, name: str, /) -> Digest | None:
        return None

    def signature_warnings(self, repository: str, digest: Digest, manifest: OpenedManifest, /) -> tuple[str, ...]:
        del repository
        return check_signatures(manifest, f"manifest {digest}")

    def close(self) -> None:
        self._replay.close()


class StoredManifestSource(ManifestSource):
    """Manifests and blobs are files of a directory, a tar or a bucket."""

    def __init__(self, location: str, files: NamedFiles, options: ReadOptions | None = None) -> None:
        """`location` is the text that the user gave; `files`, the files there, are taken over."""
        super().__init__(location, options, is_remote=files.is_remote)
        self._files = files

    @abstractmethod
    def blob_path(self, digest: Digest, /) -> str | None:
        """The path of the blob, whether it exists or not; None if no file has the digest as its name."""

    def fetch_blob(self, repository: str, digest: Digest, limit: int, /) -> bytes:
        del repository
        path = self.blob_path(digest)
        content = None if path is None else self._files.read(path, limit)
        if content is None:
            raise missing_blob(digest)
        return content

    def blob_size(self, repository: str, digest: Digest, /) -> int | None:
        del repository
        path = self.blob_path(digest)
        size = None if path is None else self._files.size(path)
        made = known_blob(digest)
        if made is not None:
            return len(made)
        if size is None:
            raise missing_blob(digest)
        return size

    @contextmanager
    def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
        assert layer.payload is not None and layer.payload.digest is not None
        digest = layer.payload.digest
        path = self.blob_path(digest)
        made = known_payload(digest)
        try:
            # A blob of an empty tar can be made from its digest if it is missing, or has 0 bytes after a power cut.
            if path is None or (made is not None and self._files.size(path) != made.size):
                raise MissingFileError(f"{self.location}: no file has the name {digest}")
            with self._replay.opened(digest.hex, lambda: self._files.open(path)) as opened:
                yield Payload(
                    stream=opened.stream, origin=Origin.BLOB, size=opened.size, extent=opened.extent, path=opened.path
                )
        except MissingFileError as exc:
            if made is None:
                raise missing_blob(digest) from exc
            yield made

    def close(self) -> None:
        self._files.close()
        super().close()
