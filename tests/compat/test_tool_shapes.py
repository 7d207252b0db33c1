"""Archives in the forms of many tools get the image IDs of a real engine, or no image where it refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate import api
from migrate.model.options import ConvertOptions, EmptyLayers
from tests.peers import DockerEngine
from tests.tool_shapes import SHAPES

pytestmark = pytest.mark.peer

REFUSED = {
    "buildpacks: a blank in place of a layer of the daemon",
    "copyedit: a wrong diffID",
    "docker-py: environment as an object",
    "docker-py: labels with values that are no texts",
    "docker-py: ports as an array",
    "docker-save-last-layer: the parent is left out",
    "imagefactory: a time with a space",
    "jq: config, Healthcheck with an interval as a text",
    "jq: config, Labels as an array",
    "jq: config, User as a number",
    "jq: config, empty_layer as a text",
    "jq: config, history with a time without a zone",
    "jq: config, os.features as a text",
    "jq: config, ports as an array",
    "jq: config, time without a zone",
    "powershell: json with a byte order mark",
    "sed: a comma behind the last member",
    "squash: a size that is no whole number",
    "squash: json missing",
    "squash: layer.tar missing",
    "squash: more steps with a layer than layers",
}
ANOTHER_SYSTEM = "windows: another system"
"""An engine refuses images of a system that it does not run on; they are converted for those that do."""


def test_the_lists_name_shapes() -> None:
    assert len(SHAPES) >= 60
    assert SHAPES.keys() >= REFUSED | {ANOTHER_SYSTEM}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_an_engine_gives_the_same_image_ids(name: str, engine: DockerEngine, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(SHAPES[name]())
    engine.load(archive.read_bytes(), check=False)
    listed = engine.docker("images", "-a", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
    engine.remove_all()
    loaded = dict(line.split() for line in listed if "<none>" not in line)

    report = api.plan(archive, ConvertOptions(empty_layers=EmptyLayers.KEEP)).report
    made = {
        str(reference).removeprefix("docker.io/library/"): str(image.image_id)
        for image in report.images
        for reference in image.references
    }
    if name == ANOTHER_SYSTEM:
        assert not loaded
        assert list(made) == ["tool/app:1.0"]
        return
    assert made == loaded
    assert bool(report.failures) == (name in REFUSED)
    if listed:  # an archive without tags is loaded all the same, and the parts of one that is refused are kept here
        assert {str(image.image_id) for image in report.images} <= {line.split()[1] for line in listed}
    else:
        assert name in REFUSED
