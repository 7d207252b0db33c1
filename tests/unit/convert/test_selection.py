"""Which images are converted."""

from __future__ import annotations

import pytest

from migrate.convert.selection import ambiguous_prefixes, select_failures, select_images, select_index
from migrate.model.legacy import Failure, LegacyID, LegacyImage, ReadyIndex, SourceListing
from migrate.model.reference import Reference

A, B, C = (LegacyID(letter * 64) for letter in "abc")
LISTING = SourceListing(
    images=[
        LegacyImage(head=B, references=(Reference("busybox", "latest"), Reference("team/app", "1.0"))),
        LegacyImage(head=C),
    ],
    layers=[A, B, C],
)


def heads(*patterns: str, all_layers: bool = False) -> list[str]:
    return [image.head[0] for image in select_images(LISTING, patterns, all_layers=all_layers)[0]]


def test_without_a_choice_all_listed_images_are_taken() -> None:
    assert heads() == ["b", "c"]


def test_all_adds_every_other_layer() -> None:
    assert heads(all_layers=True) == ["b", "c", "a"]


@pytest.mark.parametrize(
    "pattern",
    [
        *("busybox", "busybox:latest", "docker.io/library/busybox", "docker.io/library/busybox:latest", "*box:latest"),
        *("team/app", "docker.io/team/app", "team/*:1.*", "team/*", "b" * 64, "bbbb"),
    ],
)
def test_a_pattern_is_a_reference_a_glob_or_an_id(pattern: str) -> None:
    assert heads(pattern) == ["b"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ([], "busybox:latest team/app:1.0"),
        (["busybox"], "team/app:1.0"),
        (["team/*", "docker.io/library/busybox:2"], "busybox:latest"),
        (["*:1.0"], "busybox:latest"),
        (["busybox", "team/app:1.0"], None),
        (["*"], None),
        (["bbbb"], None),
    ],
)
@pytest.mark.parametrize("patterns", [[], ["bbbb"]])
@pytest.mark.parametrize("all_layers", [False, True])
def test_an_image_loses_the_names_that_are_excluded(
    exclude: list[str], left: str | None, patterns: list[str], all_layers: bool
) -> None:
    chosen, _ = select_images(LISTING, patterns, all_layers=all_layers, exclude=exclude)
    found = [" ".join(map(str, image.references)) for image in chosen if image.head == B]
    assert found == ([] if left is None else [left])


def test_what_is_excluded_does_not_match_and_does_not_fail() -> None:
    assert select_images(LISTING, ["busybox"], all_layers=False, exclude=["busybox"]) == ([], set())
    failures = [failure("team/lost:latest", "team/lost:1"), failure("other:1"), failure()]
    chosen, _ = select_failures(SourceListing(images=[], failures=failures), [], ["team/*"])
    assert chosen == failures[1:]


@pytest.mark.parametrize(
    ("exclude", "names", "heads"),
    [
        (["multi:1"], "multi:latest", "ab"),
        (["multi"], None, ""),
        (["aaaa"], None, "b"),
        (["other"], "multi:latest multi:1", "ab"),
    ],
)
def test_a_list_loses_names_too(exclude: list[str], names: str | None, heads: str) -> None:
    references = (Reference("multi", "latest"), Reference("multi", "1"))
    children = (LegacyImage(head=A), LegacyImage(head=B))
    index = ReadyIndex(content=b"", media_type="", references=references, children=children)
    listed, images, _ = select_index(index, [], exclude)
    assert (" ".join(map(str, listed.references)) if listed else None) == names
    assert "".join(image.head[0] for image in images) == heads


def test_an_intermediate_layer_can_be_chosen_by_id() -> None:
    assert heads("aaa") == ["a"]


def test_patterns_that_match_nothing_are_told() -> None:
    _, matched = select_images(LISTING, ["busybox", "nothing"], all_layers=False)
    assert matched == {"busybox"}


def test_a_prefix_of_two_ids_is_ambiguous_unless_it_is_a_name() -> None:
    listing = SourceListing(images=[], layers=[LegacyID("ab" * 32), LegacyID("ac" * 32)])
    assert ambiguous_prefixes([listing], ["a", "ab"]) == {"a": ["ab" * 32, "ac" * 32]}
    named = SourceListing(images=[LegacyImage(head=B, references=(Reference("a", "latest"),))], layers=listing.layers)
    assert ambiguous_prefixes([named], ["a"]) == {}


def failure(*references: str, legacy_id: str | None = None) -> Failure:
    identity = None if legacy_id is None else LegacyID(legacy_id)
    return Failure(source="a.tar", references=references, legacy_id=identity, error="missing-layer", message="gone")


@pytest.mark.parametrize(
    ("patterns", "numbers", "matched"),
    [
        ([], [0, 1, 2], set()),
        (["busybox"], [2], set()),
        (["team/lost"], [0, 2], {"team/lost"}),
        (["team/*:1*", "nothing"], [2], set()),
        (["c" * 8], [1, 2], {"c" * 8}),
    ],
)
def test_what_cannot_be_given_is_told_of_what_is_wanted(
    patterns: list[str], numbers: list[int], matched: set[str]
) -> None:
    failures = [failure("team/lost:latest"), failure(legacy_id=C), failure()]
    chosen, hits = select_failures(SourceListing(images=[], failures=failures), patterns)
    assert ([failures.index(one) for one in chosen], hits) == (numbers, matched)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], (True, "ab", set())),
        (["multi"], (True, "ab", {"multi"})),
        (["aaaa"], (False, "a", {"aaaa"})),
        (["busybox"], (False, "", set())),
    ],
)
def test_a_list_is_taken_whole_or_by_its_images(patterns: list[str], expected: tuple[bool, str, set[str]]) -> None:
    children = (LegacyImage(head=A), LegacyImage(head=B))
    index = ReadyIndex(content=b"", media_type="", references=(Reference("multi", "latest"),), children=children)
    listed, images, matched = select_index(index, patterns)
    assert (listed is not None, "".join(image.head[0] for image in images), matched) == expected
