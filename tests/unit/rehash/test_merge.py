from __future__ import annotations

import pytest

from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.rehash.merge import choose_blobs, plan_reading

A, B = DiffID(Digest("a" * 64)), DiffID(Digest("b" * 64))


Unread = tuple[str, int | None, DiffID | None]


def unread(name: str, tar_size: int | None = None, diff_id: DiffID | None = None) -> Unread:
    return name, tar_size, diff_id


@pytest.mark.parametrize(
    ("layers", "first", "rest"),
    [
        ([unread("a", 5), unread("b", 6), unread("c", 7)], "abc", ""),
        ([unread("a", 5), unread("b", 5), unread("c", 5)], "a", "bc"),
        ([unread("a", 5, A), unread("b", 5, B), unread("c", 5, A)], "ab", "c"),
        ([unread("a", 5, A), unread("b", 5)], "a", "b"),
        ([unread("a", 5), unread("b", 5, B)], "a", "b"),
        ([unread("a"), unread("b"), unread("c", None, A), unread("d", None, A)], "abc", "d"),
        ([unread("a", 1), unread("b", 2, B)], "", "ab"),
    ],
)
def test_only_layers_of_one_size_can_be_twins(layers: list[Unread], first: str, rest: str) -> None:
    found = plan_reading(layers, known_sizes={1}, known={B} if layers[0][1] == 1 else set())
    assert tuple(map("".join, found)) == (first, rest)


def test_the_smallest_blob_stands_for_a_tar() -> None:
    def blob(digit: str, size: int) -> StoredBlob:
        return StoredBlob(digest=Digest(digit * 64), size=size, compression="gzip")

    candidates = [(A, blob("3", 9)), (B, blob("1", 9)), (A, blob("2", 8)), (A, blob("1", 8))]
    expected = {A: blob("1", 8), B: blob("1", 9)}
    assert choose_blobs(candidates) == choose_blobs(candidates[::-1]) == expected
