"""Decides which layers may be equal, and which blob is used for equal ones. Pure functions."""

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
    """(layers that are hashed and compressed in one pass, layers that are hashed after them and may need no blob).

    `unread`: layers with the sizes of their tars, if known, and their claimed diffIDs. Two layers can be equal only if
    their tars have the same size and their claimed diffIDs are not different. The first of several layers that can be
    equal is compressed while it is hashed, since its blob is needed in any case. The others are only hashed at first,
    which takes a tenth of the time of compressing. A layer with a size in `known_sizes` or a claimed diffID in `known`
    may have a blob already, so it is hashed first, too. Keeps the order of `unread`.
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
    """diffID → the smallest of its stored blobs; of equally small ones the one with the lowest digest."""
    by_diff_id: dict[DiffID, list[StoredBlob]] = defaultdict(list)
    for diff_id, blob in candidates:
        by_diff_id[diff_id].append(blob)
    return {
        diff_id: min(blobs, key=lambda blob: (blob.size, blob.digest))
        for diff_id, blobs in sorted(by_diff_id.items(), key=lambda item: item[0])
    }
