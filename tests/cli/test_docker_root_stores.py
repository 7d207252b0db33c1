"""Every shipped Docker root through `migrate convert`, against the images that Docker 1.10.3 made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.cases import case, store_cases
from tests.command import migrate
from tests.stores import StoreCase, StoreShelf, stores

__all__ = ["stores"]

STORES = [store.name for store in store_cases()]


def convert(root: Path, target: Path, *options: str) -> dict[str, Any]:
    result = migrate("convert", "--empty-layers", "keep", "--all", "--progress", "none", *options, root, target)
    assert result.code in (0, 3), result.err
    return read_report(target)


@pytest.fixture(scope="module")
def converted(stores: StoreShelf, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each store, converted once."""
    place = tmp_path_factory.mktemp("layouts")

    @cache
    def layout(name: str) -> Path:
        convert(stores.path(name), place / name)
        return place / name

    return layout


def read_report(layout: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((layout / "migration-report.json").read_bytes())
    return report


@pytest.mark.parametrize("name", STORES)
def test_every_stable_image_is_dockers_own(converted: Callable[[str], Path], name: str) -> None:
    store = StoreCase(name)
    target = converted(name)
    report = read_report(target)
    images = {image["legacy_id"]: image for image in report["images"]}
    expected = store.case.expected["all_images"]
    assert set(images) == set(expected)
    for legacy_id, facts in expected.items():
        assert [layer["legacy_id"] for layer in images[legacy_id]["layers"]] == facts["v1_chain"]
        if not facts["stable"]:
            continue
        assert images[legacy_id]["image_id"] == facts["image_id"]
        assert [layer["diff_id"] for layer in images[legacy_id]["layers"]] == facts["diff_ids"]
        config = target / "blobs" / "sha256" / facts["image_id"].removeprefix("sha256:")
        assert config.read_bytes() == store.case.configs[facts["config"]]


@pytest.mark.parametrize("name", STORES)
def test_references_and_failures_are_dockers(converted: Callable[[str], Path], name: str) -> None:
    store = StoreCase(name)
    report = read_report(converted(name))
    done = {reference for image in report["images"] for reference in image["references"]}
    failed = {reference for failure in report["failures"] for reference in failure["references"]}
    expected = store.case.expected["images"]
    assert done == {reference for reference, facts in expected.items() if facts.get("image_id")}
    assert failed == set(expected) - done


@pytest.mark.parametrize("name", ["store-1.6.2-overlay", "store-1.3.3-aufs"])
def test_stores_without_tar_split_come_out_the_same_twice(stores: StoreShelf, tmp_path: Path, name: str) -> None:
    first = convert(stores.path(name), tmp_path / "first", "--jobs", "1")
    second = convert(stores.path(name), tmp_path / "second", "--jobs", "2")
    assert first["images"] == second["images"]
    blobs = [sorted(path.name for path in (tmp_path / run / "blobs/sha256").iterdir()) for run in ("first", "second")]
    assert blobs[0] == blobs[1]


@pytest.mark.parametrize(
    ("save", "store"),
    [
        ("save-1.8.3-multi", "store-1.8.3-overlay"),
        ("save-1.9.1-multi", "store-1.9.1-vfs"),
        ("save-1.9.1-committed", "store-1.9.1-aufs"),
        ("save-1.9.1-pulled", "store-1.9.1-pulled-overlay"),
    ],
)
def test_what_an_engine_saved_has_the_diff_ids_of_its_store(
    converted: Callable[[str], Path], tmp_path: Path, save: str, store: str
) -> None:
    """From Docker 1.8 on, with tar-split, its saves and its migration agree; before that they do not."""
    assert migrate("convert", case(save).write_plain(tmp_path), tmp_path / "out").code == 0
    saved, stored = diff_ids(tmp_path / "out"), diff_ids(converted(store))
    shared = saved.keys() & stored.keys()
    assert len(shared) > 20
    assert {key: saved[key] for key in shared} == {key: stored[key] for key in shared}


def diff_ids(layout: Path) -> dict[str, str]:
    return {
        layer["legacy_id"]: layer["diff_id"] for image in read_report(layout)["images"] for layer in image["layers"]
    }


def test_a_check_that_has_nothing_to_compare_with_says_so(stores: StoreShelf, tmp_path: Path) -> None:
    root = stores.path("store-1.9.1-aufs")
    told = "--check-rootfs has nothing to compare with"
    asked = convert(root, tmp_path / "asked", "--check-rootfs")
    assert [warning for warning in asked["warnings"] if told in warning] == [
        f"{root}: {told}: the store has no whole file system"
    ]
    assert told not in str(convert(root, tmp_path / "unasked"))
    compared = convert(stores.path("store-1.9.1-overlay"), tmp_path / "compared", "--check-rootfs")
    assert told not in str(compared)


def test_an_image_that_strict_refuses_was_read(stores: StoreShelf) -> None:
    strict = ("plan", "--strict", "-q", "--report", "-", stores.path("store-1.3.3-aufs"))
    refused = next(row for row in migrate(*strict).json()["failures"] if row["error"] == "not-exact")
    result = migrate(*strict, "--image", refused["legacy_id"])
    assert (result.code, result.json()["totals"]["images"]) == (3, 0)
