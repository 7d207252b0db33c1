"""Images whose JSON names no `os`, as Docker 0.6 wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.archives import V1Archive, layer_json, legacy_id
from tests.command import migrate


@pytest.mark.parametrize("command", ["convert", "batch"])
@pytest.mark.parametrize(
    ("options", "warned"),
    [
        (["--format", "oci"], {"app:1"}),
        (["--format", "oci", "--fill-platform"], set()),
        ([], set()),
    ],
)
def test_a_warning_names_the_option_that_helps(
    command: str, options: list[str], warned: set[str], tmp_path: Path
) -> None:
    made = V1Archive()
    made.tag("app", "1", made.layer("a"))
    made.tag("whole", "1", made.layer("b", raw=layer_json(legacy_id("b"), os="linux", architecture="amd64")))
    (tmp_path / "a.tar").write_bytes(made.build())
    target = tmp_path / "out"
    done = migrate(command, *options, tmp_path / "a.tar", target)
    assert done.code == 0, done.err
    rows = json.loads((target / "migration-report.json").read_bytes())["images"]
    found = {
        row["names"][0]
        for row in rows
        for line in row.get("warnings", ())
        if "names no os" in line and "--fill-platform" in line
    }
    assert found == warned
