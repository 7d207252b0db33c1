"""`plan`, `convert`, `batch` and `inspect` give one answer for every form of archive, packed, unpacked and salvaged."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.model.options import ConvertOptions, ReadOptions
from migrate.readers.detect import open_source
from migrate.readers.inventory import take_inventory
from migrate.report.json import report_document
from tests.archives import unpack
from tests.command import migrate
from tests.roots import RootBuilder
from tests.tool_shapes import SHAPES

KINDS = ("packed", "unpacked")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shelf")
    for number, build in enumerate(SHAPES.values()):
        raw = build()
        (place / f"{number:02}-packed").write_bytes(raw)
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            unpack(archive, place / f"{number:02}-unpacked", without_slash=True)
    return place


Answer = tuple[list[Any], list[Any]]


def answers(document: dict[str, Any]) -> dict[str, Answer]:
    """Images and failures by source, as far as no blob was made."""
    images: dict[str, list[Any]] = defaultdict(list)
    failures: dict[str, list[Any]] = defaultdict(list)
    for row in document["images"]:
        facts = [row[key] for key in ("references", "legacy_id", "image_id", "exact", "created", "warnings")]
        images[row["source"]].append([*facts, [[one["diff_id"], one["origin"], one["empty"]] for one in row["layers"]]])
    for row in document["failures"]:
        failures[row["source"]].append(
            [row["references"], row["legacy_id"], row["layer"], row["error"], row["message"]]
        )
    return {source: (images[source], failures[source]) for source in {*images, *failures}}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "salvage"])
def answered(request: pytest.FixtureRequest, shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a batch, and of a plan and a conversion of each source alone."""
    place = tmp_path_factory.mktemp("targets")
    salvage = ["--salvage"] if request.param else []
    report = place / "report.json"
    words: list[str | Path] = ["-j", "2", "--executor", "threads", "--on-conflict", "keep-all", "--report", report]
    sources = sorted(shelf.iterdir())
    assert migrate("batch", *sources, place / "batch", *words, *salvage).code == 3
    options = ConvertOptions(salvage=request.param)
    planned: dict[str, Answer] = {}
    converted: dict[str, Answer] = {}
    for source in sources:
        planned |= answers(report_document(api.plan(source, options).report))
        converted |= answers(report_document(api.convert(source, place / source.name, options).report))
    return request.param, answers(json.loads(report.read_bytes())), planned, converted


def test_every_form_has_an_answer(answered: Any, shelf: Path) -> None:
    _, batched, planned, converted = answered
    names = {str(source) for source in shelf.iterdir()}
    assert batched.keys() == planned.keys() == converted.keys() == names


def test_batch_plan_and_convert_agree(answered: Any) -> None:
    _, batched, planned, converted = answered
    for source in planned:
        assert planned[source] == converted[source], source
        assert batched[source] == converted[source], source


def test_inspect_lists_the_images_that_the_others_find(answered: Any) -> None:
    salvage, _, planned, _ = answered
    for source, (images, failures) in planned.items():
        opened = open_source(source, ReadOptions(salvage=salvage))
        inventory = take_inventory(opened)
        opened.close()
        listed = {(name, image.legacy_id) for image in inventory.images for name in image.references or ("",)}
        lost = {(name, row.legacy_id) for row in inventory.failures for name in row.references or ("",)}
        made = {(name, legacy_id) for names, legacy_id, *_ in images for name in names or ("",)}
        failed = {(name, legacy_id) for names, legacy_id, *_ in failures for name in names or ("",)}
        parts = {
            ("", legacy_id) for names, legacy_id, *rest in images if any("salvaged: the intact" in w for w in rest[3])
        }
        assert made - parts <= listed, source
        assert listed - made <= failed, source
        assert lost <= failed, source


def test_packed_and_unpacked_are_one_image(answered: Any) -> None:
    _, _, planned, _ = answered
    for number in range(len(SHAPES)):
        ids = [
            sorted((row[0], row[2]) for row in images)
            for source, (images, _) in planned.items()
            if Path(source).name.startswith(f"{number:02}-")
        ]
        assert ids[0] == ids[1], list(SHAPES)[number]


@pytest.mark.parametrize(
    ("driver", "lost"),
    [("aufs", "base"), ("btrfs", "middle"), ("overlay", "top"), ("vfs", "middle"), ("zfs", "base"), ("aufs", "top")],
)
def test_a_root_whose_driver_has_lost_a_layer(driver: str, lost: str, tmp_path: Path) -> None:
    """The folder of the layer is gone; its documents are there."""
    root = RootBuilder(tmp_path / "root", driver)
    for name, below in (("base", None), ("middle", "base"), ("top", "middle"), ("other", None)):
        (root.add(name, below) / name).write_text(name)
    root.tag({"app": {"1": "top"}, "kept": {"1": "other"}})
    place = root.tree(lost)
    shutil.rmtree(place.parent if driver == "overlay" else place)
    opened = open_source(str(root.path))
    inventory = take_inventory(opened)
    opened.close()
    planned = api.plan(root.path)
    listed = [(row.references, row.legacy_id, row.layer, row.error, row.message) for row in inventory.failures]
    assert listed == [
        (row.references, row.legacy_id, row.layer, row.error, row.message) for row in planned.report.failures
    ]
    assert [names for names, *_ in listed] == [("app:1",)]
    assert [row.references for row in inventory.images] == [("kept:1",)] and planned.exit_code == 3
    salvaged = api.plan(root.path, ConvertOptions(salvage=True)).report
    assert len(salvaged.images) == (1 if lost == "base" else 2)
