"""Checks the free space of the target before a run, by an estimate from the sizes that the sources record."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from migrate.errors import TargetError
from migrate.model.legacy import PayloadRef
from migrate.model.options import Compression, ConvertOptions, ImageOptions
from migrate.rehash.ports import BlobTarget

_PERCENT: Final = {Compression.GZIP: 35, Compression.GZIP_FAST: 35, Compression.ZSTD: 30, Compression.NONE: 100}
"""Compressed size of layers in percent. Low values for layers of distributions and packages, so that a run is refused
only if it would most likely fail."""


def estimate_bytes(payloads: Iterable[PayloadRef], options: ImageOptions) -> int:
    """Bytes that the blobs of these layers will need. Equal layers count once; layers of unknown size do not count."""
    sizes: dict[object, int] = {}
    for payload in payloads:
        if payload.size is not None:
            # layers with a digest are blobs of a manifest, and are stored as they are
            percent = 100 if payload.keep or payload.digest is not None else _PERCENT[options.compression]
            sizes[payload.diff_id or payload.digest or payload.key] = payload.size * percent // 100
    return sum(sizes.values())


def check_target_room(payloads: Iterable[PayloadRef], target: BlobTarget | None, options: ConvertOptions) -> None:
    """Raises TargetError if the target has clearly too little free space. `--force` skips the check."""
    _refuse_over(estimate_bytes(payloads, options), target, options)


def check_target_room_for_streams(paths: Iterable[str], target: BlobTarget | None, options: ConvertOptions) -> None:
    """As `check_target_room`, for compressed archives, whose layers are not known before they are read. The blobs of an
    archive need about as much space as the file. Several archives may have the same layers, so only the largest counts.
    Pipes do not count.
    """
    sizes = (os.path.getsize(path) for path in paths if os.path.isfile(path))
    _refuse_over(max(sizes, default=0), target, options)


def _refuse_over(needed: int, target: BlobTarget | None, options: ConvertOptions) -> None:
    free = None if target is None or options.force else target.free_bytes()
    if target is None or free is None:
        return
    if needed > free:
        # A run that is continued has written a part already. Counting it takes long, so it is done only if needed.
        needed -= target.held_bytes()
    if needed > free:
        raise TargetError(
            f"too little free space in the target: about {needed:,} bytes are needed and {free:,} are free"
            " (free some space, or use --force)"
        )
