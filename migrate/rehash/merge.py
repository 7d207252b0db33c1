"""Which layers are the same, and which bytes are taken for them. Pure: values in, values out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TypeVar

from migrate.model.digest import DiffID
from migrate.model.image import StoredBlob

Item = TypeVar("Item")


def plan_reading(
    unread: Iterable[tuple[Item, int | None, DiffID | None]],
    *,
    known_sizes: Collection[int],
    known: Collection[DiffID],
) -> tuple[list[Item], list[Item]]:
    """Which layers are hashed and compressed in one pass, and which are read after them, as they may need no blob.

    `unread`: layers with the sizes of their tars, where known, and the diffIDs that are claimed for them. Two layers
    can be equal only if their tars have the same size and no different diffIDs are claimed. The first of those that can
    be equal is compressed while it is hashed: its blob is needed in any case. The others are hashed first, which costs
    a tenth of compressing. A layer whose size is that of a tar in `known_sizes`, or whose claimed diffID is in `known`,
    may have a blob already and counts as a twin. Keeps the order of `unread`.
    """
    first: list[Item] = []
    rest: list[Item] = []
    claimed: set[DiffID] = set(known)
    sizes: set[int] = set(known_sizes)
    unclaimed_sizes: set[int] = set(known_sizes)
    for layer, tar_size, diff_id in unread:
        if diff_id is not None:
            is_likely_equal = diff_id in claimed or tar_size in unclaimed_sizes
            claimed.add(diff_id)
        else:
            is_likely_equal = tar_size in sizes
            if tar_size is not None:
                unclaimed_sizes.add(tar_size)
        if tar_size is not None:
            sizes.add(tar_size)
        (rest if is_likely_equal else first).append(layer)
    return first, rest


def choose_blobs(candidates: Iterable[tuple[DiffID, StoredBlob]]) -> dict[DiffID, StoredBlob]:
    """Of the stored blobs that hold the same tar, the smallest; of equally small ones, the lowest digest."""
    by_diff_id: dict[DiffID, list[StoredBlob]] = defaultdict(list)
    for diff_id, blob in candidates:
        by_diff_id[diff_id].append(blob)
    return {
        diff_id: min(blobs, key=lambda blob: (blob.size, blob.digest))
        for diff_id, blobs in sorted(by_diff_id.items(), key=lambda item: item[0])
    }
