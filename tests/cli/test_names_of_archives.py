"""Names that an archive holds in an unusual place, and the messages for what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.archives import V1Archive, build_tar, layer_json, layer_tar, legacy_id
from tests.command import migrate


def plan(content: bytes, tmp_path: Path) -> tuple[int, dict[str, Any]]:
    (tmp_path / "a.tar").write_bytes(content)
    run = migrate("plan", "--report", "-", tmp_path / "a.tar")
    return run.code, dict(run.json())


@pytest.mark.parametrize("length", [6, 12, 63])
def test_a_short_id_is_looked_up_by_its_prefix(length: int, tmp_path: Path) -> None:
    archive = V1Archive()
    archive.layer("base")
    archive.tag("app", "1", archive.layer("top", "base")[:length])
    code, report = plan(archive.build(), tmp_path)
    assert (code, report["images"][0]["references"]) == (0, ["app:1"])
    assert report["images"][0]["legacy_id"] == legacy_id("top")
    assert any("is short for" in warning for warning in report["warnings"] + report["sources"][0].get("warnings", []))


def test_a_prefix_of_two_ids_names_neither(tmp_path: Path) -> None:
    members: list[tuple[str, bytes]] = []
    for end in "01":
        identity = "a" * 63 + end
        members += [(f"{identity}/json", layer_json(identity)), (f"{identity}/layer.tar", layer_tar(end))]
    members.append(("repositories", b'{"app":{"1":"%b"}}' % (b"a" * 12)))
    code, report = plan(build_tar(members), tmp_path)
    assert (code, len(report["images"]), report["failures"][0]["references"]) == (3, 2, ["app:1"])


@pytest.mark.parametrize("name", ["busybox:latest", "ubuntu:14.04", "team/app:1", "host.example:5000/a/b/app:1_x"])
def test_a_folder_that_has_a_name_for_an_id(name: str, tmp_path: Path) -> None:
    base, top = legacy_id("base"), legacy_id("top")
    members = [
        (f"{base}/json", layer_json(base)),
        (f"{base}/layer.tar", layer_tar("base")),
        (f"{name}/json", layer_json(top, base)),
        (f"{name}/layer.tar", layer_tar("top")),
    ]
    code, report = plan(build_tar(members), tmp_path)
    (image,) = report["images"]
    assert (code, image["references"], len(image["layers"])) == (0, [name], 2)


def test_a_layer_without_content_is_called_so(tmp_path: Path) -> None:
    """Not "the source does not hold it", when the base's json is there."""
    archive = V1Archive()
    archive.layer("base")
    archive.tag("app", "1", archive.layer("top", "base"))
    archive.members = [one for one in archive.members if one[0] != f"{legacy_id('base')}/layer.tar"]
    code, report = plan(archive.build(), tmp_path)
    (failure,) = report["failures"]
    assert (code, failure["layer"], failure["error"]) == (4, legacy_id("base"), "missing-layer")
    assert f"{legacy_id('base')}/layer.tar is missing" in failure["message"]


@pytest.mark.parametrize(("lost", "rest"), [(20, b""), (1, b",}"), (2, b",}}")])
def test_the_names_before_a_cut_are_used(lost: int, rest: bytes, tmp_path: Path) -> None:
    archive = V1Archive()
    for name in ("one", "two"):
        archive.tag(name, "1", archive.layer(name))
    whole = b'{"one":{"1":"%b"},"two":{"1":"%b"}}' % tuple(legacy_id(name).encode() for name in ("one", "two"))
    archive.tags = {}
    code, report = plan(archive.build([("repositories", whole[:-lost] + rest)]), tmp_path)
    assert code == 3
    names = sorted(image["references"] for image in report["images"])
    assert names == ([[], ["one:1"]] if lost == 20 else [["one:1"], ["two:1"]])
    assert "before that place are read" in report["failures"][0]["message"]
