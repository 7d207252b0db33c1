"""What the rehasher needs from a source and from a target, and the jobs it takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from migrate.blobio.payload import Payload
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.legacy import LegacyLayer, PayloadRef


class OpensPayloads(Protocol):
    def open_payload(self, layer: LegacyLayer, /) -> AbstractContextManager[Payload]: ...


class OncePayload:
    """A payload that is open already, and can be read once."""

    def __init__(self, payload: Payload) -> None:
        self._payload = payload

    def open_payload(self, layer: LegacyLayer, /) -> AbstractContextManager[Payload]:
        del layer
        return nullcontext(self._payload)


class WritesBlob(Protocol):
    def write(self, block: bytes | bytearray | memoryview, /) -> object: ...
    def commit(self, digest: Digest, /) -> None: ...


class StoresBlobs(Protocol):
    def has_blob(self, digest: Digest, size: int, /) -> bool: ...
    def open_blob(self) -> AbstractContextManager[WritesBlob]: ...


class TarObserver(Protocol):
    """Sees a layer's uncompressed tar, block by block and in order, while it is hashed."""

    def feed(self, block: memoryview, /) -> None: ...
    def finish(self) -> None:
        """The whole tar was seen. Not called for a layer that failed."""


JobKey = tuple[int, str]
"""Index of the source in the run, and the payload's key in it."""


class LayerJob:
    """One distinct payload of one source: `payload` is that of `layer`, and is there."""

    __slots__ = ("key", "layer", "payload", "source", "source_index")

    def __init__(self, source_index: int, source: OpensPayloads, layer: LegacyLayer) -> None:
        assert layer.payload is not None
        self.source_index = source_index
        self.source = source
        self.layer = layer
        self.payload: PayloadRef = layer.payload
        self.key: JobKey = (source_index, layer.payload.key)


class _Several:
    def __init__(self, observers: Sequence[TarObserver]) -> None:
        self._observers = observers

    def feed(self, block: memoryview, /) -> None:
        for observer in self._observers:
            observer.feed(block)

    def finish(self) -> None:
        for observer in self._observers:
            observer.finish()


def observe_all(observers: Sequence[TarObserver]) -> TarObserver | None:
    """One observer for all of them; None for none."""
    if len(observers) < 2:
        return observers[0] if observers else None
    return _Several(observers)


ObserverFactory = Callable[[LayerJob], TarObserver | None]


@runtime_checkable
class RemembersBlobs(Protocol):
    """A store that knows from earlier runs which blob holds which tar (`writers.base.RemembersLayers`)."""

    def known_blob(self, diff_id: DiffID, compression: str, /) -> StoredBlob | None: ...
    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None: ...


@runtime_checkable
class LinksBlobs(Protocol):
    """A store that can take over a file without copying it (`writers.base.LinksBlobs`)."""

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool: ...


@runtime_checkable
class RemembersSizes(Protocol):
    """A store that also knows how large the tars were, so that it is clear without reading what cannot be known."""

    def remembered_sizes(self) -> Collection[int]: ...
    def remember_size(self, diff_id: DiffID, tar_size: int, /) -> None: ...


@runtime_checkable
class RemembersPayloads(Protocol):
    """A store that knows what a place of a source held when an earlier run read it (`rehash.recall`)."""

    def known_payload(self, place: str, /) -> bytes | None: ...
    def remember_payload(self, place: str, facts: bytes, /) -> None: ...
