"""The interfaces that the rehasher needs of a source and of a target, and its jobs."""

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
    """A blob that is being written. If its context ends without `commit`, it is removed. Raises TargetError."""

    def write(self, block: bytes | bytearray | memoryview, /) -> object: ...

    def commit(self, digest: Digest, /) -> None:
        """Gives the blob its name. `digest` is that of the bytes that the caller wrote."""


class TargetMemory:
    """The facts that a target remembers of earlier runs. This base class remembers nothing.

    Remembered facts are hints. But a blob that `known_blob` returns is proven: its digest and the diffID of its content
    were verified (docs/decisions/0004-hints-are-proven.md).
    """

    keeps_payloads: ClassVar[bool] = False
    """True if `known_payload` can return a value."""

    def known_blob(
        self, diff_id: DiffID, compression: str, /, among: Collection[Digest] | None = None, tar_size: int | None = None
    ) -> StoredBlob | None:
        """The blob of a layer with this compression; with `among`, only a blob in it. `tar_size`: the size of the
        layer's tar, if known: for a small one, compressing may be faster than the proof."""
        del diff_id, compression, tar_size, among
        return None

    def is_right(self, diff_id: DiffID, blob: StoredBlob, /) -> bool:
        """True if the blob is in the target and has its digest and this layer. Reads all of the blob."""
        del diff_id, blob
        return False

    def remember_blob(self, diff_id: DiffID, blob: StoredBlob, /) -> None:
        """Remembers a blob that is in the target."""

    def known_sizes(self) -> Collection[int]:
        """The sizes of the tars that may have a known blob. A tar of another size is new."""
        return ()

    def remember_size(self, diff_id: DiffID, tar_size: int, /) -> None:
        """Remembers the size of a tar whose blob is remembered."""

    def read_again(self) -> None:
        """Forgets what was read of the records, to which another process has written."""

    def known_payload(self, place: str, /) -> bytes | None:
        """The facts that an earlier run remembered of a place in a source (`rehash.payload_memory`)."""
        del place
        return None

    def remember_payload(self, place: str, facts: bytes, /) -> None:
        """Remembers the facts of a place in a source."""

    def close(self) -> None:
        """Writes the facts that are not written yet."""


class BlobTarget(ABC):
    """A target for blobs. Every method raises TargetError only."""

    memory: TargetMemory = TargetMemory()
    takes_files: bool = False
    """True if `link_blob` may succeed."""

    @abstractmethod
    def has_blob(self, digest: Digest, size: int, /) -> bool: ...

    @abstractmethod
    def open_blob(self) -> AbstractContextManager[BlobWriter]: ...

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        """Takes the blob from a file without copying it. False if this is not possible."""
        del path, digest, size
        return False

    def flush(self) -> None:  # noqa: B027 - a target that keeps nothing has nothing to flush
        """Returns after all blobs committed so far are durable."""

    def free_bytes(self) -> int | None:
        """The number of bytes that this user can still write; None if it is not known."""
        return None

    def held_bytes(self) -> int:
        """The number of bytes of the blobs that are in the target already, and may be used by the run."""
        return 0


class TarObserver(Protocol):
    """Gets a layer's uncompressed tar in blocks, in order, while it is hashed."""

    def feed(self, block: memoryview, /) -> None: ...
    def finish(self) -> None:
        """Called after the whole tar. Not called for a layer that failed."""


JobKey = tuple[int, str]
"""(index of the source in the run, key of the payload in it)"""


class LayerJob:
    """One distinct payload of one source. `payload` is that of `layer`, and is not None."""

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
    """One observer that passes each call to all `observers`; None if there are none."""
    if len(observers) < 2:
        return observers[0] if observers else None
    return _Several(observers)


ObserverFactory = Callable[[LayerJob], TarObserver | None]
