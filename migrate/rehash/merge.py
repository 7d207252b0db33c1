"""Which layers are the same, and which bytes are taken for them. Pure: values in, values out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from migrate.model.digest import DiffID
from migrate.model.image import StoredBlob

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread(Generic[Key]):
    """A layer that was not hashed yet. `tar_size` and `diff_id` are None where nothing is known or claimed."""

    key: Key
    tar_size: int | None
    diff_id: DiffID | None


@dataclass(frozen=True, slots=True)
class ReadingPlan(Generic[Key]):
    """`first` are hashed and compressed in one pass; `rest`, read after them, may turn out to need no blob."""

    first: tuple[Key, ...]
    rest: tuple[Key, ...]


def plan_reading(
    unread: Iterable[Unread[Key]], *, known_sizes: Collection[int], known: Collection[DiffID]
) -> ReadingPlan[Key]:
    """Two layers can be equal only if their tars have the same size and no different diffIDs are claimed for them.

    The first of those that can be equal is compressed while it is hashed: its blob is needed in any case. The others
    are hashed first, which costs a tenth of compressing. A layer whose size is that of a tar in `known_sizes`, or
    whose claimed diffID is in `known`, may have a blob already and counts as a twin. Keeps the order of `unread`.
    """
    first: list[Key] = []
    rest: list[Key] = []
    claimed: set[DiffID] = set(known)
    sizes: set[int] = set(known_sizes)
    unclaimed_sizes: set[int] = set(known_sizes)
    for layer in unread:
        if layer.diff_id is not None:
            is_likely_equal = layer.diff_id in claimed or layer.tar_size in unclaimed_sizes
            claimed.add(layer.diff_id)
        else:
            is_likely_equal = layer.tar_size in sizes
            if layer.tar_size is not None:
                unclaimed_sizes.add(layer.tar_size)
        if layer.tar_size is not None:
            sizes.add(layer.tar_size)
        (rest if is_likely_equal else first).append(layer.key)
    return ReadingPlan(tuple(first), tuple(rest))


def choose_blobs(candidates: Iterable[tuple[DiffID, StoredBlob]]) -> dict[DiffID, StoredBlob]:
    """Of the stored blobs that hold the same tar, the smallest; of equally small ones, the lowest digest."""
    by_diff_id: dict[DiffID, list[StoredBlob]] = defaultdict(list)
    for diff_id, blob in candidates:
        by_diff_id[diff_id].append(blob)
    return {
        diff_id: min(blobs, key=lambda blob: (blob.size, blob.digest))
        for diff_id, blobs in sorted(by_diff_id.items(), key=lambda item: item[0])
    }
