"""Reads one layer once: its stored bytes, the tar in them, and checks of both against the source's claims."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from migrate.blobio.compression import HEAD_BYTES, DecompressedStream, detect_compression
from migrate.blobio.hashing import StoredStream
from migrate.blobio.payload import Payload
from migrate.blobio.stream import ByteStream
from migrate.errors import DamagedError, IntegrityError, MigrateError, SourceError
from migrate.model.digest import DiffID, Digest
from migrate.rehash.ports import LayerJob, TarObserver
from migrate.tar.inspector import FLAG_AFTER_STREAM, TarFacts, TarInspector

TRAILING: Final = "gzip-and-more"
"""The kind of a gzip stream with bytes behind it. It is not taken over as a blob, since Docker refuses it."""
OPAQUE: Final = "opaque"
"""The kind of a payload that is no layer tar, in a carried-over manifest's list of layers."""
_LAYER_TYPES: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


class TakesBlocks(Protocol):
    """A sink for the blocks of a tar. Every block but the last is full."""

    def buffer(self) -> memoryview:
        """A free buffer, which the caller fills from its start."""

    def take(self, block: memoryview, /) -> None:
        """Takes the filled part of the last buffer, which the caller must not use any more."""


class LayerFacts(Struct, frozen=True, kw_only=True):
    """The result of a whole reading. `stored_digest` is None if it was not requested and is not the diffID."""

    kind: str
    stored_digest: Digest | None
    stored_size: int
    diff_id: DiffID
    tar: TarFacts
    origin: str
    exact: bool
    note: str | None
    damaged: bool = False


def layer_name(job: LayerJob) -> str:
    return f"layer {job.layer.legacy_id}"


def as_layer_error(error: MigrateError | OSError, job: LayerJob) -> MigrateError:
    """The error with its layer. An OSError becomes a SourceError."""
    if isinstance(error, OSError):
        message = f"{layer_name(job)}: cannot be read: {error.strerror or error}"
        return SourceError(message, layer=job.layer.legacy_id)
    if error.layer is not None or error.scope == "run":
        return error
    return error.at_layer(job.layer.legacy_id)


class OpenLayer:
    """An open payload. Only its first bytes were read, for `kind`."""

    def __init__(self, job: LayerJob, payload: Payload, max_ratio: int | None = None) -> None:
        self._job = job
        self._max_ratio = max_ratio
        self.payload = payload
        self._what = layer_name(job)
        self._trailing: str | None = None
        self.path = payload.path
        self.stored = StoredStream(payload, self._what)
        claim = job.payload
        is_opaque = claim.keep and claim.media_type is not None and not claim.media_type.startswith(_LAYER_TYPES)
        self.kind = OPAQUE if is_opaque else detect_compression(self.stored.peek(HEAD_BYTES))

    @property
    def is_extent(self) -> bool:
        return self.payload.extent is not None

    def known_tar_size(self) -> int | None:
        """The tar's size if it is stored uncompressed, else None."""
        if self.kind not in ("none", OPAQUE):
            return None
        extent = self.payload.extent
        return extent.size if extent is not None else self.payload.size

    def read(
        self,
        sink: TakesBlocks,
        *,
        with_digest: bool = False,
        observer: TarObserver | None = None,
        check_stop: Callable[[], None],
    ) -> LayerFacts:
        """Reads the payload to its end and checks all claims. Raises SourceError and IntegrityError."""
        if self.kind not in ("none", OPAQUE) and (with_digest or self._job.payload.digest is not None):
            self.stored.start_digest()
        diff_id, tar = self._read_tar(sink, observer, check_stop)
        return self._facts(diff_id, tar, observer)

    def read_small(self, observer: TarObserver | None) -> tuple[bytes, LayerFacts]:
        """As `read`, for a small extent with a plain tar. Returns the whole tar and the facts."""
        content = self.stored.whole_extent()
        block = memoryview(content)
        inspector = TarInspector(self._what)
        inspector.feed(block)
        if observer is not None:
            observer.feed(block)
        diff_id = DiffID(Digest.of(content))
        return content, self._facts(diff_id, inspector.finish(), observer)

    def _facts(self, diff_id: DiffID, tar: TarFacts, observer: TarObserver | None) -> LayerFacts:
        facts = LayerFacts(
            kind=self.kind if self._trailing is None else TRAILING,
            stored_digest=diff_id if self.kind in ("none", OPAQUE) else self.stored.digest(),
            stored_size=self.stored.size,
            diff_id=diff_id,
            tar=tar,
            origin=self.payload.origin,
            exact=self.payload.exact,
            note=self.payload.note,
            damaged=self.payload.damaged,
        )
        self.check_claims(facts)
        if observer is not None:
            observer.finish()
        return facts

    def _read_tar(
        self, sink: TakesBlocks, observer: TarObserver | None, check_stop: Callable[[], None]
    ) -> tuple[DiffID, TarFacts]:
        stream: ByteStream = self.stored
        if self.kind not in ("none", OPAQUE):
            stream = DecompressedStream(
                self.stored.as_binary(), self.kind, self._what, self._max_ratio, is_lenient=True
            )
        fill = stream.fill
        inspector = None if self.kind == OPAQUE else TarInspector(self._what)
        sha256 = hashlib.sha256()
        size = 0
        while True:
            buffer = sink.buffer()
            count = fill(buffer)
            check_stop()  # before a block is written: the run may have been stopped while the block was read
            block = buffer[:count]
            sha256.update(block)
            size += count
            if inspector is not None:
                inspector.feed(block)
            if observer is not None:
                observer.feed(block)
            if count or not size:  # an empty tar has one empty block
                sink.take(block)
            if count < len(buffer):
                break
        tar = TarFacts(size=size, empty=False, flags=()) if inspector is None else inspector.finish()
        if isinstance(stream, DecompressedStream) and stream.trailing is not None:
            # gzip ignores bytes behind a stream. But without the tar's end marker, they may be the damaged rest of the
            # layer.
            if inspector is not None and not inspector.has_ended:
                raise DamagedError(
                    f"{self._what}: bytes that are not gzip follow the compressed stream, and the tar in it has no end"
                )
            self._trailing = stream.trailing
            flags, flagged = (*tar.flags, FLAG_AFTER_STREAM), (*tar.flagged, (FLAG_AFTER_STREAM, stream.trailing))
            tar = replace(tar, flags=tuple(sorted(flags)), flagged=tuple(sorted(flagged)))
        return DiffID(Digest.of_hash(sha256)), tar

    def check_claims(self, facts: LayerFacts) -> None:
        """Raises IntegrityError if `facts` contradict the claims of the source's documents."""
        claim = self._job.payload
        self._check("size", claim.size, facts.stored_size)
        self._check("size", self.payload.size, facts.stored_size)
        if facts.stored_digest is not None:
            self._check("digest", claim.digest, facts.stored_digest)
        if self.kind != OPAQUE:
            self._check("diffID", claim.diff_id, facts.diff_id)

    def _check(self, field: str, expected: object, got: object) -> None:
        if expected is not None and expected != got:
            raise IntegrityError(
                f"{self._what}: {field} does not match: expected {expected}, got {got}",
                layer=self._job.layer.legacy_id,
            )
