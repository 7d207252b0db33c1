"""Estimates the size of a layer's blob from samples that are taken while the layer is hashed.

One piece of 32 KiB of every 8 MiB of a tar, at a place that depends on the position only, is compressed with ISA-L.
This takes a hundredth of the time of compressing everything. Of the first 8 MiB four pieces are taken, since most
layers are small. The result is multiplied by a factor for the chosen compression
(docs/decisions/0005-estimated-sizes.md has the measured errors).
"""

from __future__ import annotations

from typing import Any, Final

from migrate.model.options import Compression
from migrate.rehash.ports import JobKey, LayerJob, TarObserver

STRIDE: Final = 8 * 1024 * 1024
PIECE: Final = 32 * 1024
_SCALE: Final = {
    Compression.GZIP: 0.94,
    Compression.GZIP_FAST: 1.02,
    Compression.ZSTD: 0.875,
    Compression.NONE: 1.0,
}
"""Compression → bytes of its blobs for each byte that ISA-L's level 1 gives for pieces of 32 KiB."""
_GZIP: Final = 31
"""zlib's number for a window of 32 KiB in a gzip wrapper."""
_OVERHEAD: Final = 30
"""Bytes of a gzip member's header and trailer, and of the rest that a small tar cannot save."""


class SizeEstimate:
    """The samples of one run. `observe` may be called from several threads, the other methods after all layers were
    hashed."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._samplers: dict[JobKey, _Sampler] = {}

    def observe(self, job: LayerJob) -> TarObserver:
        """An ObserverFactory."""
        sampler = self._samplers[job.key] = _Sampler()
        return sampler

    def has_sampled(self, key: JobKey) -> bool:
        return key in self._samplers

    def size_of(self, key: JobKey, tar_size: int) -> int:
        """Estimated bytes of the blob of a tar of `tar_size` bytes."""
        sampler = self._samplers.get(key)
        if self._compression is Compression.NONE or sampler is None or not sampler.taken:
            return tar_size
        share = sampler.given * _SCALE[self._compression] / sampler.taken
        return min(tar_size, round(tar_size * share)) + _OVERHEAD


class _Sampler:
    def __init__(self) -> None:
        from isal import isal_zlib

        self._compress: Any = isal_zlib.compress
        self._position = 0
        self._next = 0
        self.taken = 0
        self.given = 0

    def feed(self, block: memoryview, /) -> None:
        end = self._position + len(block)
        while self._next < end:
            start = max(self._next - self._position, 0)
            piece = block[start : start + PIECE]
            self.taken += len(piece)
            self.given += len(self._compress(piece, 1, _GZIP))
            # The places of pieces are spread by a multiplicative hash (Knuth): with a regular distance they could all
            # be in the same kind of files.
            if self._next < STRIDE // 4:
                self._next = 4 * self._next + 4 * PIECE
            else:
                stride = self._next // STRIDE + 1
                self._next = stride * STRIDE + (stride * 0x9E3779B1 % (1 << 32) * (STRIDE - PIECE) >> 32)
        self._position = end

    def finish(self) -> None:
        pass
