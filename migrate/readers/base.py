"""The interface of every reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from migrate.blobio.payload import Payload

if TYPE_CHECKING:
    from migrate.model.container import Container, RunCommand, Volume
    from migrate.model.legacy import LegacyID, LegacyLayer, SourceListing, SourceType
    from migrate.storage.tree import Tree

TakeLayer = Callable[["LegacyLayer", Payload], None]


class LegacySource(ABC):
    """A legacy source, opened read-only.

    `location` is what the user named. `listing`, `read_layer` and `open_payload` may be called in any order and any
    number of times; `open_payload` also from several threads at once.
    """

    location: str

    @property
    @abstractmethod
    def source_type(self) -> SourceType: ...

    @abstractmethod
    def listing(self) -> SourceListing:
        """Images, layers and what is wrong with the rest. Raises SourceUnreadableError if nothing can be read."""

    @abstractmethod
    def read_layer(self, legacy_id: LegacyID, /) -> LegacyLayer:
        """Raises SourceError (scope image) if the layer is absent or its documents are damaged."""

    @abstractmethod
    def open_payload(self, layer: LegacyLayer, /) -> AbstractContextManager[Payload]:
        """The layer's bytes as stored (compressed or not). Raises SourceError, also from the stream's `read`."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of files and temporary space. May be called twice."""

    # --- with defaults, for what only some sources can do ------------------------------------------------------------

    @property
    def is_read_once(self) -> bool:
        """True for a source that can be read from front to back only, such as a pipe."""
        return False

    @property
    def reads_one_file(self) -> bool:
        """True where all that is read of the source is the file at `location`."""
        return False

    def stream_layers(self, take: TakeLayer, /) -> None:
        """Calls `take` with large layers as they come by, each with a payload that lives no longer than the call; a
        layer so taken cannot be opened later. Only where `is_read_once`, and before `listing`, or not at all: then
        everything is kept in a temporary file.
        """
        raise NotImplementedError

    def check_access(self, *, containers: bool = False) -> None:  # noqa: B027 - most sources are read at once
        """PermissionSourceError naming the first path that this user may not read, and how many there are; before
        hours of work. `containers`: of those of its containers, too."""

    @property
    def holds_rootfs(self) -> bool:
        """True where the whole file system of a layer is kept beside the layer (overlay, vfs, btrfs, devicemapper)."""
        return False

    @property
    def checks_rootfs_by_default(self) -> bool:
        """True where comparing an image with that file system costs little."""
        return False

    def open_rootfs(self, legacy_id: LegacyID, /) -> AbstractContextManager[Tree] | None:
        """The tree of the layer and all below it; None where this layer has none."""
        del legacy_id
        return None

    def measure_container(self, container: Container, most: int | None = None, /) -> Container:
        """One of `SourceListing.containers`, whose heads `read_layer` and `open_payload` take, too: with its volumes,
        and the bytes that it changed; reads file trees, and no file. `most`: sizes are None from where all calls with
        it have looked at so many directory entries."""
        raise NotImplementedError

    def orphaned_volumes(self, most: int | None = None, /) -> Sequence[Volume]:
        """The volumes that no container names, by place; `most` as in `measure_container`."""
        del most
        return ()

    def run_container(self, container: Container, image: str, /) -> RunCommand:
        """How to run `image` as the container was run. `container` as from `measure_container`."""
        raise NotImplementedError

    def finish_container(self, container: Container, /) -> tuple[Container, tuple[str, ...]]:
        """With its volumes, and the changes that Docker does not see; and what was odd about it when it was read."""
        raise NotImplementedError
