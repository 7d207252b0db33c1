"""The real Docker engine loads what migrate writes, and sees the images that its own legacy load gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cases import case
from tests.command import migrate
from tests.peers import DockerEngine, run

pytestmark = pytest.mark.peer

CASES = [
    "save-0.6.7-repo",
    "save-0.11.1-repo",
    "save-1.3.3-multi",
    "save-1.9.1-multi",
    "save-handmade",
    "save-1.10.3-hybrid",
]


def layout_tar(layout: Path) -> bytes:
    return run("tar", "-C", layout, "-c", ".").stdout


@pytest.fixture(autouse=True)
def clean(engine: DockerEngine) -> None:
    engine.remove_all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("empty_layers", ["drop", "keep"])
def test_docker_loads_the_layout(name: str, empty_layers: str, engine: DockerEngine, tmp_path: Path) -> None:
    source = case(name).write_plain(tmp_path)
    assert migrate("convert", "--empty-layers", empty_layers, source, tmp_path / "out").code == 0
    engine.load(layout_tar(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "migration-report.json").read_bytes())
    for image in report["images"]:
        for reference in image["references"]:
            assert engine.inspect(reference)["Id"] == image["image_id"]
            assert len(engine.history(reference)) == len(image["layers"])


@pytest.mark.parametrize("name", CASES)
def test_the_file_system_is_that_of_dockers_own_load(name: str, engine: DockerEngine, tmp_path: Path) -> None:
    source = case(name).write_plain(tmp_path)
    migrate("convert", source, tmp_path / "out")
    references = sorted(case(name).expected["refs_after"])
    engine.load(source.read_bytes())
    own = {reference: (engine.export(reference), engine.history(reference)) for reference in references}
    engine.remove_all()
    engine.load(layout_tar(tmp_path / "out"))
    for reference in references:
        assert (engine.export(reference), engine.history(reference)) == own[reference]


def test_docker_loads_the_docker_archive(engine: DockerEngine, tmp_path: Path) -> None:
    source = case("save-1.9.1-multi").write_plain(tmp_path)
    result = migrate("convert", "--report", tmp_path / "report.json", source, f"docker-archive:{tmp_path / 'out.tar'}")
    assert result.code == 0, result.err
    engine.load((tmp_path / "out.tar").read_bytes())
    for image in json.loads((tmp_path / "report.json").read_bytes())["images"]:
        for reference in image["references"]:
            assert engine.inspect(reference)["Id"] == image["image_id"]
