"""Configs that Docker refuses, of images that have one: an error, or with `--salvage` a warning, in any wrapping."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import migrate
from tests.tool_shapes import SHAPES

CASES = {
    "jq: config, User as a number": "config: config.User: not a string",
    "jq: config, history with a time without a zone": "config: history[0].created: not a time as in RFC 3339",
    "jq: config, os.features as a text": "config: os.features: not an array of strings",
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wrapping", ["docker-archive", "oci", "registry-storage"])
def test_a_config_that_docker_refuses_is_named(name: str, wrapping: str, tmp_path: Path) -> None:
    source = tmp_path / "archive.tar"
    source.write_bytes(SHAPES[name]())
    if wrapping != "docker-archive":
        copy = tmp_path / "copy"
        assert migrate("convert", "--salvage", source, f"{wrapping}:{copy}").code == 0
        source = copy
    problem = f"{CASES[name]}; Docker refuses such a config"
    for command in ("inspect", "plan"):
        found = migrate(command, source)
        assert found.code == 4
        assert problem in found.err
        assert migrate(command, "--salvage", source).code == 0
    target = tmp_path / "target"
    assert migrate("convert", source, target).code == 4
    done = migrate("convert", "--salvage", source, target)
    assert done.code == 0
    assert f"salvaged: {problem}. It is carried over as it is" in " ".join(done.out.split())
