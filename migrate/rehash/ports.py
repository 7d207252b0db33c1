"""What the rehasher needs from a source and from a target, and the jobs it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Protocol

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


class BlobWriter(Protocol):
    """A blob that is being written. Leaving its context without `commit` leaves no trace. Raises TargetError."""

    def write(self, block: bytes | bytearray | memoryview, /) -> object: ...

    def commit(self, digest: Digest, /) -> None:
        """Gives the blob its name; the caller has hashed what it wrote."""


class TargetMemory:
    """What a target remembers from earlier runs; this one remembers nothing.

    All of it are hints. A blob that `known_blob` returns is proven: it has its digest, and its content the diffID.
    """

    keeps_payloads: ClassVar[bool] = False
    """True if `known_payload` can give anything."""

    def known_blob(
        self, diff_id: DiffID, compression: str, /, among: Collection[Digest] | None = None, tar_size: int | None = None
    ) -> StoredBlob | None:
        """The blob of this layer, compressed in this way; only one of `among`, if that is given. `tar_size` is that of
        the layer, where it is known: a small one may be quicker to make than to find."""
        del diff_id, compression, tar_size, among
        return None

    def is_right(self, diff_id: DiffID, blob: StoredBlob, /) -> bool:
        """True if the blob is in the target, has its digest, and holds this layer: all of it is read."""
        del diff_id, blob
        return False

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        """A blob that is in the target."""

    def known_sizes(self) -> Collection[int]:
        """Bytes of the tars for which a blob may be known: a tar of another size is new."""
        return ()

    def remember_size(self, diff_id: DiffID, tar_size: int, /) -> None:
        """Bytes of a tar whose blob is remembered."""

    def known_payload(self, place: str, /) -> bytes | None:
        """What a place of a source held when an earlier run read it (`rehash.payload_memory`)."""
        del place
        return None

    def remember_payload(self, place: str, facts: bytes, /) -> None:
        """What a place of a source held."""

    def close(self) -> None:
        """Writes what is not written yet."""


class BlobTarget(ABC):
    """A place for blobs. Every method raises TargetError, and nothing else, when the target fails."""

    memory: TargetMemory = TargetMemory()
    takes_files: bool = False
    """True if `link_blob` may succeed."""

    @abstractmethod
    def has_blob(self, digest: Digest, size: int, /) -> bool: ...

    @abstractmethod
    def open_blob(self) -> AbstractContextManager[BlobWriter]: ...

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        """True if the blob is now in the target without its bytes having been copied from the file by the caller."""
        del path, digest, size
        return False

    def flush(self) -> None:  # noqa: B027 - nothing waits where nothing is kept
        """Returns when all blobs committed so far are durable."""

    def free_bytes(self) -> int | None:
        """Bytes that this user may still write; None where that is not known."""
        return None

    def held_bytes(self) -> int:
        """Bytes of the blobs that are there already, which a run may continue with."""
        return 0


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
