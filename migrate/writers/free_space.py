"""Is there room for the run? An estimate from the sizes that the sources state, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from migrate.errors import TargetError
from migrate.model.legacy import PayloadRef
from migrate.model.options import Compression, ConvertOptions, ImageOptions
from migrate.rehash.ports import BlobTarget

_PERCENT: Final = {Compression.GZIP: 35, Compression.GZIP_FAST: 35, Compression.ZSTD: 30, Compression.NONE: 100}
"""What layers of distributions and packages shrink to, at the least that is usual: a refusal should be right."""


def estimate_bytes(payloads: Iterable[PayloadRef], options: ImageOptions) -> int:
    """Bytes that the blobs of these layers will take. Layers of unknown size count nothing, equal ones once."""
    sizes: dict[object, int] = {}
    for payload in payloads:
        if payload.size is not None:
            percent = 100 if payload.keep or payload.digest is not None else _PERCENT[options.compression]
            sizes[payload.diff_id or payload.digest or payload.key] = payload.size * percent // 100
    return sum(sizes.values())


def check_target_room(payloads: Iterable[PayloadRef], target: BlobTarget | None, options: ConvertOptions) -> None:
    """Raises TargetError where the target clearly lacks room; `--force` goes on all the same."""
    _refuse_over(estimate_bytes(payloads, options), target, options)


def check_target_room_for_streams(paths: Iterable[str], target: BlobTarget | None, options: ConvertOptions) -> None:
    """As `check_target_room`, before archives are read whose layers are not listed. The blobs of a compressed file take
    about what the file takes; several may hold the same layers, so the largest counts. What is no file counts nothing.
    """
    sizes = (os.path.getsize(path) for path in paths if os.path.isfile(path))
    _refuse_over(max(sizes, default=0), target, options)


def _refuse_over(needed: int, target: BlobTarget | None, options: ConvertOptions) -> None:
    free = None if target is None or options.force else target.free_bytes()
    if target is None or free is None:
        return
    if needed > free:
        needed -= target.held_bytes()  # a run that goes on has written part of it
    if needed > free:
        raise TargetError(
            f"the target lacks room: about {needed:,} bytes will be needed and {free:,} are free"
            " (make room, or go on with --force)"
        )
