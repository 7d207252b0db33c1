"""The interface of every reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from migrate.blobio.payload import Extent, Payload

if TYPE_CHECKING:
    from migrate.model.container import Container, RunCommand, Volume
    from migrate.model.digest import DiffID
    from migrate.model.legacy import LegacyID, LegacyLayer, SourceListing, SourceType
    from migrate.storage.tree import Tree

TakeLayer = Callable[["LegacyLayer", Payload], None]


class LegacySource(ABC):
    """A legacy source, opened read-only.

    `location` is the text that the user gave. `listing`, `read_layer` and `open_payload` may be called in any order and
    any number of times; `open_payload` also from several threads at once.
    """

    location: str

    @property
    @abstractmethod
    def source_type(self) -> SourceType: ...

    @abstractmethod
    def listing(self) -> SourceListing:
        """The images, the layers, and the failures. Raises SourceUnreadableError if nothing can be read."""

    @abstractmethod
    def read_layer(self, legacy_id: LegacyID, /) -> LegacyLayer:
        """Raises SourceError (scope image) if the layer is absent or its documents are damaged."""

    @abstractmethod
    def open_payload(self, layer: LegacyLayer, /) -> AbstractContextManager[Payload]:
        """The layer's bytes as stored (compressed or not). Raises SourceError, also from the stream's `read`."""

    @abstractmethod
    def close(self) -> None:
        """Closes files and frees temporary space. May be called twice."""

    # --- optional features, with defaults ----------------------------------------------------------------------------

    def find_layers(self, wanted: Collection[DiffID], /) -> Mapping[DiffID, Sequence[LegacyLayer]]:
        """diffID → layers for `open_payload`. The diffIDs are those of the source's configs; reading a layer proves its
        diffID. Several layers of one diffID have different stored bytes. Raises the errors of `listing`."""
        found: dict[DiffID, dict[str, LegacyLayer]] = {}
        listing = self.listing()
        for image in (*listing.images, *(child for index in listing.indexes for child in index.children)):
            for layer in image.chain or ():
                payload = layer.payload
                diff_id = None if payload is None or payload.absent is not None else payload.diff_id
                if payload is not None and diff_id is not None and diff_id in wanted:
                    found.setdefault(diff_id, {}).setdefault(payload.key, layer)
        return {diff_id: tuple(layers.values()) for diff_id, layers in found.items()}

    def find_extent(self, layer: LegacyLayer, /) -> Extent | None:
        """Where the layer's stored bytes are, if they are in one piece of an open file and the source says so."""
        return None

    @property
    def is_read_once(self) -> bool:
        """True for a source that can be read from front to back only, such as a pipe."""
        return False

    @property
    def reads_one_file(self) -> bool:
        """True if the source is the one file at `location`, and no other file is read."""
        return False

    def stream_layers(self, take: TakeLayer, /) -> None:
        """Reads the source to its end and calls `take` for each large layer. The payload is valid during the call only,
        and the layer cannot be opened later.

        Only for a source with `is_read_once`, and before `listing`. If it is not called, `listing` keeps the whole
        source in a temporary file.
        """
        raise NotImplementedError

    def check_access(self, *, containers: bool = False) -> None:  # noqa: B027 - most sources are read at once
        """Raises PermissionSourceError with the first path that this user may not read, and the number of such paths.

        `containers`: the files of containers are checked, too."""

    @property
    def holds_rootfs(self) -> bool:
        """True if the source has the whole file system of each layer (overlay, vfs, btrfs, devicemapper)."""
        return False

    @property
    def checks_rootfs_by_default(self) -> bool:
        """True if comparing an image with that file system is cheap enough to be the default."""
        return False

    def open_rootfs(self, legacy_id: LegacyID, /) -> AbstractContextManager[Tree] | None:
        """The file system of the layer on top of all its parents; None if the source has none for this layer."""
        del legacy_id
        return None

    def measure_container(self, container: Container, most: int | None = None, /) -> Container:
        """`container`, one of `SourceListing.containers`, with its volumes and the number of bytes that it changed.
        Reads directories, and no file.

        `most`: the limit of directory entries that all calls with this value read together; sizes behind it are None.
        (`read_layer` and `open_payload` take the head of a container, too.)"""
        raise NotImplementedError

    def orphaned_volumes(self, most: int | None = None, /) -> Sequence[Volume]:
        """The volumes that no container names, sorted by path; `most` as in `measure_container`."""
        del most
        return ()

    def run_container(self, container: Container, image: str, /) -> RunCommand:
        """How to run `image` as the container was run. `container` as from `measure_container`."""
        raise NotImplementedError

    def finish_container(self, container: Container, /) -> tuple[Container, tuple[str, ...]]:
        """`container` with its volumes and with the changes that Docker does not see, and the warnings about it."""
        raise NotImplementedError
