"""Tars and disk images of stores with one byte changed: what is named, and that nothing is wrong in silence."""

from __future__ import annotations

import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from tests import disks
from tests.cases import case
from tests.stores import StoreShelf, stores
from tests.wrapped import Facts, facts

__all__ = ["stores"]

pytestmark = pytest.mark.peer
STORE = "store-1.9.1-pulled-overlay"
"""Docker's tar-split has a checksum of every file, so what a layer is made of shows whether it was hit."""
FLIPS, ON_DISKS = 20, 8
"""In each wrapping."""


def used_places(image: Path, count: int, seed: int) -> list[int]:
    """Bytes of blocks that are not all zeros."""
    content, chosen = image.read_bytes(), random.Random(seed)
    used = [at for at in range(0, len(content), 4096) if any(content[at : at + 4096])]
    return [chosen.choice(used) + chosen.randrange(4096) for _ in range(count)]


def check(found: Facts, sound: Facts) -> None:
    """Every layer of an exact image has its own diffID; what is not there is not there with a reason."""
    diff_ids = {row[0]: row[1] for image in sound["images"] for row in image[4:]}
    images = {image[0] for image in found["images"]}
    for image in found["images"]:
        is_exact, rows = image[3], image[4:]
        assert not is_exact or all(diff_ids.get(row[0]) == row[1] for row in rows), image
    missing = {image[0] for image in sound["images"]} - images
    assert not missing or found["exit_code"] in (3, 4)


def flip(image: Path, places: list[int], sound: Facts) -> None:
    with open(image, "r+b", buffering=0) as file:
        for number, place in enumerate(places):
            file.seek(place)
            before = file.read(1)
            changed = bytes([before[0] ^ 1 << number % 8]) if before else b"\1"
            file.seek(place)
            file.write(changed)
            check(facts(image), sound)
            file.seek(place)
            file.write(before)


@pytest.fixture(scope="module")
def sound(stores: StoreShelf) -> Facts:
    return facts(stores.path(STORE))


def test_flips_in_the_headers_of_a_tar(sound: Facts, tmp_path: Path) -> None:
    """Content apart, each header is hit by the same chance."""
    image = tmp_path / "store.tar"
    image.write_bytes(lzma.decompress((case(STORE).path / "store.tar.xz").read_bytes()))
    content = image.read_bytes()
    headers = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    chosen = random.Random(1)
    flip(image, [chosen.choice(headers) + chosen.randrange(500) for _ in range(FLIPS)], sound)


def test_flips_anywhere_in_a_tar(sound: Facts, tmp_path: Path) -> None:
    image = tmp_path / "store.tar"
    image.write_bytes(lzma.decompress((case(STORE).path / "store.tar.xz").read_bytes()))
    flip(image, used_places(image, FLIPS, 2), sound)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_flips_on_a_disk(sound: Facts, stores: StoreShelf, tmp_path: Path, kind: str) -> None:
    image = tmp_path / "disk.img"
    disks.FILE_SYSTEMS[kind](stores.path(STORE), image, (320 if kind != "ext4" else 24) * disks.MIB)
    flip(image, used_places(image, ON_DISKS, 3), sound)


def test_a_tar_or_image_that_is_cut_off(sound: Facts, stores: StoreShelf, tmp_path: Path) -> None:
    tar = tmp_path / "store.tar"
    tar.write_bytes(lzma.decompress((case(STORE).path / "store.tar.xz").read_bytes()))
    disks.FILE_SYSTEMS["ext4"](stores.path(STORE), image := tmp_path / "disk.img", 24 * disks.MIB)
    for whole in (tar, image):
        content = whole.read_bytes()
        for tenths in (1, 5, 9):
            whole.write_bytes(content[: len(content) * tenths // 10])
            found: dict[str, Any] = facts(whole)
            check(found, sound)
            assert found["exit_code"] in (0, 3, 4)
