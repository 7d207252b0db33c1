"""Every save of a real engine becomes, to the byte, what a real engine made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.model.digest import DiffID, Digest, chain_ids
from migrate.model.options import ConvertOptions, EmptyLayers
from migrate.model.progress import SilentProgress
from migrate.readers.detect import open_source
from migrate.verify import verify
from migrate.writers.open_target import open_target
from tests.cases import Case, case, save_cases

CASES = save_cases()


def convert(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    chosen = ConvertOptions(**options)
    conversion = Conversion(
        sources=[OpenedSource(str(source), open_source(str(source)))],
        options=chosen,
        target=open_target(str(target), chosen),
    )
    conversion.run()
    assert conversion.target is not None
    conversion.target.close()
    report: dict[str, Any] = orjson.loads((target / "migration-report.json").read_bytes())
    return report


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kept_layers_give_docker_s_own_images(case: Case, tmp_path: Path) -> None:
    report = convert(case.write_plain(tmp_path), tmp_path / "layout", empty_layers=EmptyLayers.KEEP, all_layers=True)
    expected = case.expected["all_images"]
    got = {image["image_id"]: image for image in report["images"]}
    assert set(got) == set(expected)
    for image_id, image in got.items():
        diff_ids = [layer["diff_id"] for layer in image["layers"]]
        assert diff_ids == expected[image_id]["diff_ids"] == expected[image_id]["inspect_rootfs"]["Layers"]
        chain = chain_ids(DiffID(Digest.parse(diff_id)) for diff_id in diff_ids)
        assert [str(one) for one in chain] == expected[image_id]["chain_ids"]
        config = (tmp_path / "layout" / "blobs" / "sha256" / image_id.removeprefix("sha256:")).read_bytes()
        assert config == case.configs[expected[image_id]["config"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_references_lead_where_docker_s_lead(case: Case, tmp_path: Path) -> None:
    report = convert(case.write_plain(tmp_path), tmp_path / "layout", empty_layers=EmptyLayers.KEEP)
    got = {reference: image["image_id"] for image in report["images"] for reference in image["references"]}
    folders = {member[0] for member in case.expected["tar_members"]}  # whose names Docker does not look at
    assert {name: image_id for name, image_id in got.items() if name not in folders} == case.expected["refs_after"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layers_are_those_that_stand_in_the_archive(case: Case, tmp_path: Path) -> None:
    report = convert(case.write_plain(tmp_path), tmp_path / "layout", all_layers=True)
    stored = case.expected["layers"]
    for image in report["images"]:
        for layer in image["layers"]:
            assert layer["diff_id"] == stored[layer["legacy_id"]]["layer_tar_sha256"]


@pytest.mark.parametrize("empty_layers", list(EmptyLayers))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_result_verifies(case: Case, empty_layers: EmptyLayers, tmp_path: Path) -> None:
    convert(case.write_plain(tmp_path), tmp_path / "layout", empty_layers=empty_layers)
    assert verify(str(tmp_path / "layout"), 1, SilentProgress()) == []


def test_both_ways_of_empty_layers_have_the_same_full_layers(tmp_path: Path) -> None:
    source = case("save-1.9.1-multi").write_plain(tmp_path)
    kept = convert(source, tmp_path / "kept", empty_layers=EmptyLayers.KEEP)
    dropped = convert(source, tmp_path / "dropped")
    for one, other in zip(kept["images"], dropped["images"], strict=True):
        full = [layer["diff_id"] for layer in one["layers"] if not layer["empty"]]
        assert full == [layer["diff_id"] for layer in other["layers"] if layer["blob_digest"] is not None]
