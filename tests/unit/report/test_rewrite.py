"""Texts with old IDs, digests and names in them."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from migrate.documents.image_map import MappedImage
from migrate.model.digest import Digest, ImageID
from migrate.report.rewrite import Rewriter


def hexdigits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def mapped(name: str, references: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> MappedImage:
    return MappedImage(
        legacy_id=hexdigits(name),
        image_id=ImageID(Digest(hexdigits(f"{name} image"))),
        manifest_digest=Digest(hexdigits(f"{name} manifest")),
        references=references,
        names=names,
        containers=(),
        legacy_digests=(Digest(hexdigits(f"{name} old digest")),),
        platform="linux/amd64",
        sources=("shelf/a.tar",),
    )


ROWS = [
    mapped("a", ("old/app:1.0", "old/app:latest"), ("new/app:1.0", "new/app:latest")),
    mapped("b", ("b:1",), ("b:1",)),
    mapped("c", ("loser:1",), ()),
]
OLD, NEW = hexdigits("a"), hexdigits("a image")
PIN, MANIFEST = hexdigits("a old digest"), hexdigits("a manifest")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"image: {OLD[:12]}", f"image: {NEW[:12]}"),
        (f'"{OLD}"', f'"{NEW}"'),
        (f"ID={OLD}\nX=1", f"ID={NEW}\nX=1"),
        (f"({OLD[:12]}), {OLD[:12]}.", f"({NEW[:12]}), {NEW[:12]}."),
        (f"old/app@sha256:{PIN}", f"new/app@sha256:{MANIFEST}"),
        (f"old/app:1.0@sha256:{PIN}", f"new/app:1.0@sha256:{MANIFEST}"),
        (f"b@sha256:{hexdigits('b old digest')}", f"b@sha256:{hexdigits('b manifest')}"),
        (f"sha256:{PIN}", f"sha256:{MANIFEST}"),
        ("image: old/app:1.0", "image: new/app:1.0"),
        ("  image: 'old/app'", "  image: 'new/app'"),
        ("image: docker.io/old/app:latest # x", "image: new/app:latest # x"),
        ("FROM old/app\n", "FROM new/app\n"),
        ("docker run -d old/app sh", "docker run -d new/app sh"),
        ("skopeo copy docker://old/app:1.0 dir:x", "skopeo copy docker://new/app:1.0 dir:x"),
        ("['old/app:1.0','b:1']", "['new/app:1.0','b:1']"),
    ],
)
def test_what_is_replaced(before: str, after: str) -> None:
    assert Rewriter.of(ROWS).rewrite(before).text == after


@pytest.mark.parametrize(
    "text",
    [
        f"x{OLD}",
        f"{OLD}0",
        f"{OLD[:13]}",
        f"{OLD[:11]}",
        OLD.upper(),
        f"550e8400-e29b-41d4-a716-{OLD[:12]}",
        f"{OLD[:12]}-1",
        f"app:{OLD[:12]}",
        f"/graph/{OLD}/json",
        f"{OLD}/json",
        f"sha256:{OLD}",
        "old/app:1.0-rc",
        "old/app:1",
        "old/app/sub:1.0",
        "registry.example.com/old/app:1.0",
        "https://example.com/old/app:1.0",
        "cd old/app",
        "b:1",
        "loser:1",
        "x@old/app:1.0",
    ],
)
def test_what_is_left(text: str) -> None:
    assert Rewriter.of(ROWS).rewrite(text).text == text


def test_a_word_that_could_be_two_images_is_left_and_named() -> None:
    twin = replace(ROWS[0], image_id=ImageID(Digest(hexdigits("twin"))))
    found = Rewriter.of([*ROWS, twin]).rewrite(f"run {OLD}")
    assert (found.text, found.count, found.doubts) == (f"run {OLD}", 0, (OLD,))


def test_an_image_that_a_later_run_made_of_the_same_old_one_counts_alone() -> None:
    earlier = replace(ROWS[0], image_id=ImageID(Digest(hexdigits("earlier"))), names=())
    assert Rewriter.of([earlier, *ROWS]).rewrite(OLD).text == NEW


def test_a_second_time_changes_nothing() -> None:
    text = f"image: old/app:1.0\nid: {OLD}\npin: old/app@sha256:{PIN}\n"
    once = Rewriter.of(ROWS).rewrite(text)
    assert once.count == 3
    assert Rewriter.of(ROWS).rewrite(once.text).count == 0
