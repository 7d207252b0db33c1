"""`--name-untagged`: names for the images that have none, and never the name of another image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.archives import V1Archive, layer_tar, legacy_id
from tests.command import migrate

TEMPLATE = "untagged/{legacy_id:12}:latest"
PLAIN = legacy_id("plain")
NAME = f"untagged/{PLAIN[:12]}:latest"


def archive(path: Path, *, steal: bool = False, tag_plain: str | None = None, others: int = 0) -> Path:
    """`app:1` and an image without a name, `plain`; with `steal` the tagged one has the name that `plain` would get."""
    made = V1Archive()
    made.tag(NAME.removesuffix(":latest") if steal else "app", "latest", made.layer("named", tar=layer_tar("named")))
    made.layer("plain", tar=layer_tar("plain"))
    if tag_plain:
        made.tag(tag_plain, "1", PLAIN)
    for number in range(others):
        made.layer(f"other{number}", tar=layer_tar(f"other{number}"))
    path.write_bytes(made.build())
    return path


def report(target: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((target / "migration-report.json").read_bytes())
    return document


def names(target: Path) -> dict[str, list[str]]:
    return {row["legacy_id"]: row["names"] for row in report(target)["images"]}


def in_index(target: Path) -> list[str]:
    entries = json.loads((target / "index.json").read_bytes())["manifests"]
    key = "org.opencontainers.image.ref.name"
    return sorted(entry.get("annotations", {}).get(key, "") for entry in entries)


@pytest.mark.parametrize(
    ("command", "form"),
    [("batch", ""), *(("convert", form) for form in ("", "oci-archive:", "docker-archive:", "registry-storage:"))],
)
def test_images_without_a_name_get_one_in_every_target(command: str, form: str, tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "out"
    done = migrate(command, "--name-untagged", TEMPLATE, "--report", tmp_path / "r.json", source, f"{form}{target}")
    assert done.code == 0, done.err
    found = {row["legacy_id"]: row["names"] for row in json.loads((tmp_path / "r.json").read_bytes())["images"]}
    assert found == {legacy_id("named"): ["app:latest"], PLAIN: [NAME]}
    assert "without a name" not in done.out + done.err
    assert migrate("verify", target).code == 0


def test_a_plan_reports_the_same_names(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.tar")
    done = migrate("plan", "--name-untagged", TEMPLATE, "--report", tmp_path / "r.json", source)
    assert done.code == 0
    rows = json.loads((tmp_path / "r.json").read_bytes())["images"]
    assert sorted(name for row in rows for name in row["names"]) == ["app:latest", NAME]


def test_a_tagged_image_keeps_its_name(tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar", steal=True), tmp_path / "out"
    assert migrate("convert", "--name-untagged", TEMPLATE, source, target).code == 0
    assert names(target) == {legacy_id("named"): [NAME], PLAIN: []}
    assert [row["reference"] for row in report(target)["conflicts"]] == [NAME]
    assert migrate("verify", target).code == 0


def test_a_name_of_an_earlier_run_is_kept(tmp_path: Path) -> None:
    """Whether the earlier run gave it to another image or to the same one."""
    target = tmp_path / "out"
    stealing, tagged = archive(tmp_path / "a.tar", steal=True), archive(tmp_path / "b.tar", tag_plain="mine")
    assert migrate("convert", "--image", NAME, stealing, target).code == 0
    plain = archive(tmp_path / "c.tar")
    assert migrate("convert", "--name-untagged", TEMPLATE, plain, target).code == 0
    assert names(target)[PLAIN] == []
    assert in_index(target) == ["", "app:latest", NAME]
    other = tmp_path / "other"
    assert migrate("convert", tagged, other).code == 0
    assert migrate("convert", "--name-untagged", TEMPLATE, plain, other).code == 0
    assert in_index(other) == ["app:latest", "mine:1"]


@pytest.mark.parametrize("command", ["convert", "batch"])
def test_a_second_run_gives_the_same_names(command: str, tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "out"
    for _ in range(2):
        assert migrate(command, "--name-untagged", TEMPLATE, source, target).code == 0
        assert names(target)[PLAIN] == [NAME]
        assert in_index(target) == ["app:latest", NAME]


def test_untagged_images_of_one_name_are_settled_as_tagged_ones_are(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.tar", others=2)
    arguments = ("--name-untagged", "untagged:latest")
    assert migrate("convert", *arguments, source, tmp_path / "one").code == 0
    assert in_index(tmp_path / "one") == ["", "", "app:latest", "untagged:latest"]
    assert migrate("convert", *arguments, "--on-conflict", "keep-all", source, tmp_path / "all").code == 0
    assert "" not in in_index(tmp_path / "all")
    assert all(len(found) == 1 for found in names(tmp_path / "all").values())
    assert migrate("convert", *arguments, "--on-conflict", "fail", source, tmp_path / "fail").code == 3
    assert in_index(tmp_path / "fail") == ["app:latest"]


def test_the_default_gives_no_name(tmp_path: Path) -> None:
    assert migrate("convert", archive(tmp_path / "a.tar"), tmp_path / "out").code == 0
    assert names(tmp_path / "out")[PLAIN] == []
