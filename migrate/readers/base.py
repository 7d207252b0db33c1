"""The port that every reader fills, and the optional abilities a reader can add."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from migrate.blobio.payload import Payload

if TYPE_CHECKING:
    from migrate.model.container import Container, RunCommand
    from migrate.model.legacy import LegacyID, LegacyLayer, SourceListing, SourceType


class LegacySource(Protocol):
    """A legacy source, opened read-only.

    `location` is what the user named. The three methods may be called in any order and any number of times;
    `open_payload` also from several threads at once.
    """

    @property
    def location(self) -> str: ...
    @property
    def source_type(self) -> SourceType: ...

    def listing(self) -> SourceListing:
        """Images, layers and what is wrong with the rest. Raises SourceUnreadableError if nothing can be read."""

    def read_layer(self, legacy_id: LegacyID, /) -> LegacyLayer:
        """Raises SourceError (scope image) if the layer is absent or its documents are damaged."""

    def open_payload(self, layer: LegacyLayer, /) -> AbstractContextManager[Payload]:
        """The layer's bytes as stored (compressed or not). Raises SourceError, also from the stream's `read`."""

    def close(self) -> None:
        """Lets go of files and temporary space. May be called twice."""


TakeLayer = Callable[["LegacyLayer", Payload], None]


@runtime_checkable
class StreamsLayers(Protocol):
    """A source that may be readable only once, such as a pipe."""

    def stream_layers(self, take: TakeLayer, /) -> None:
        """Calls `take` with large layers as they come by, each with a payload that lives no longer than the call; a
        layer so taken cannot be opened later. Does nothing where the source can be read in place. Called before
        `listing`, or not at all: then everything is kept in a temporary file.
        """


@runtime_checkable
class ChecksAccess(Protocol):
    """A source of many files, some of which this user may not be allowed to read."""

    def check_access(self) -> None:
        """PermissionSourceError naming the first unreadable path and how many there are; before hours of work."""


@runtime_checkable
class HoldsTrees(Protocol):
    """A source in which the whole file system of a layer stands beside the layer (overlay, vfs, btrfs)."""

    @property
    def holds_rootfs(self) -> bool: ...

    @property
    def checks_rootfs_by_default(self) -> bool: ...

    def open_payload(self, layer: LegacyLayer, /) -> AbstractContextManager[Payload]: ...

    def open_rootfs(self, legacy_id: LegacyID, /) -> AbstractContextManager[Any] | None:
        """The tree of the layer and all below it, as a Tree; None where this layer has none."""


@runtime_checkable
class HoldsContainers(Protocol):
    """A source with containers: `SourceListing.containers`, whose heads `read_layer` and `open_payload` take, too."""

    def measure_container(self, container: Container, /) -> Container:
        """With its volumes, and the bytes that it changed; reads file trees, and no file."""

    def run_container(self, container: Container, image: str, /) -> RunCommand:
        """How to run `image` as the container was run. `container` as from `measure_container`."""

    def finish_container(self, container: Container, /) -> tuple[Container, tuple[str, ...]]:
        """With its volumes, and the changes that Docker does not see; and what was odd about it when it was read."""
