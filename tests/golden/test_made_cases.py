"""Shapes that no engine at hand writes: rebuilt to the byte, and converted to what a real engine made of them."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from migrate.model.options import EmptyLayers
from migrate.model.progress import SilentProgress
from migrate.verify import verify
from tests.cases import FIXTURES, Case, case
from tests.golden.test_save_cases import convert
from tests.peers import DockerEngine

CASES = [Case(path) for path in sorted(FIXTURES.glob("made-*"))]


def test_every_byte_of_the_made_cases_can_be_rebuilt() -> None:
    done = subprocess.run([sys.executable, FIXTURES / "make.py", "--check"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    assert len(CASES) == 11


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_made_cases_become_what_docker_makes_of_them(case: Case, tmp_path: Path) -> None:
    report = convert(case.write_plain(tmp_path), tmp_path / "out", empty_layers=EmptyLayers.KEEP, all_layers=True)
    got = {
        image["image_id"]: {"diff_ids": [layer["diff_id"] for layer in image["layers"]]} for image in report["images"]
    }
    assert got == case.expected["all_images"]
    assert report["failures"] == []
    assert verify(str(tmp_path / "out"), 1, SilentProgress()) == []


@pytest.mark.peer
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_expectation_is_what_the_engine_says_today(case: Case, engine: DockerEngine) -> None:
    engine.remove_all()
    engine.load(lzma.decompress((case.path / "save.tar.xz").read_bytes()), check=False)
    assert set(engine.docker("images", "-aq", "--no-trunc").split()) == set(case.expected["all_images"])


@pytest.mark.parametrize("name", ["made-dual-symlinks", "made-dual-hardlinks", "made-oci-layout"])
def test_an_image_that_has_a_config_keeps_its_id_by_default(name: str, tmp_path: Path) -> None:
    report = convert(case(name).write_plain(tmp_path), tmp_path / "out")
    assert [image["image_id"] for image in report["images"]] == list(case(name).expected["all_images"])


def test_the_manifest_of_an_oci_save_is_taken_over(tmp_path: Path) -> None:
    report = convert(case("made-oci-layout").write_plain(tmp_path), tmp_path / "out")
    (image,) = report["images"]
    assert image["references"] == ["oci:1"]
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert image["manifest_digest"] == index["manifests"][0]["digest"]
    assert all(layer["blob_digest"] == layer["diff_id"] for layer in image["layers"])


def test_a_repeated_layer_stays_at_both_its_places(tmp_path: Path) -> None:
    report = convert(case("made-repeated-layer").write_plain(tmp_path), tmp_path / "out")
    (image,) = report["images"]
    diff_ids = [layer["diff_id"] for layer in image["layers"]]
    assert len(diff_ids) == 4
    assert diff_ids[1] == diff_ids[3]
    totals = report["totals"]
    assert (totals["legacy_layers"], totals["unique_layers"], totals["duplicate_layers"]) == (4, 3, 1)


def test_what_is_odd_is_told(tmp_path: Path) -> None:
    texts = []
    for name in ("made-named-ids", "made-short-ids", "made-duplicates"):
        report = convert(case(name).write_plain(tmp_path), tmp_path / name)
        texts += report["warnings"] + [warning for image in report["images"] for warning in image["warnings"]]
    assert any("states another id, " + "0" * 64 in text for text in texts)
    assert any("its ID is not 64 hex digits" in text for text in texts)
    assert any("its ID has 16 digits" in text for text in texts)
    assert any("occurs more than once; the last one is used" in text for text in texts)
