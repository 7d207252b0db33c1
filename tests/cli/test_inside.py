"""Sources deep inside a directory or a tar: found, named where there are several, and chosen by `--inside`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.cases import case
from tests.command import migrate
from tests.registries import extract_tree

REGISTRIES = ("registry-v1-pushed", "registry-v2-schema1-2.1.1")


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two registries, each two folders deep, and a tar of it."""
    root = tmp_path_factory.mktemp("inside") / "backup"
    for name in REGISTRIES:
        (root / "old host").mkdir(parents=True, exist_ok=True)
        extract_tree(case(name), root / "old host")
    with tarfile.open(root.with_suffix(".tar"), "w") as archive:
        archive.add(root, "backup")
    return root


def image_ids(target: Path) -> list[str]:
    report = json.loads((target / "migration-report.json").read_bytes())
    return sorted(image["image_id"] for image in report["images"])


@pytest.mark.parametrize("name", REGISTRIES)
@pytest.mark.parametrize("form", ["directory", "tar"])
def test_inside_chooses_one_of_several(name: str, form: str, backup: Path, tmp_path: Path) -> None:
    alone = extract_tree(case(name), tmp_path)
    assert migrate("convert", alone, tmp_path / "alone").code in (0, 3)
    source = backup if form == "directory" else backup.with_suffix(".tar")
    inside = f"./old host//{name}/" if form == "directory" else f"backup/old host/{name}"
    result = migrate("convert", "--inside", inside, source, tmp_path / "chosen")
    assert result.code in (0, 3), result.err
    assert image_ids(tmp_path / "chosen") == image_ids(tmp_path / "alone") != []


@pytest.mark.parametrize("form", ["directory", "tar"])
@pytest.mark.parametrize("command", ["convert", "plan", "inspect"])
def test_several_are_an_error_that_lists_them(form: str, command: str, backup: Path, tmp_path: Path) -> None:
    source = backup if form == "directory" else backup.with_suffix(".tar")
    result = migrate(command, source, *([tmp_path / "out"] if command == "convert" else []))
    assert result.code == 4
    assert "--inside PATH" in result.errors[0]
    for name, kind in zip(REGISTRIES, ("registry-v1", "registry-v2"), strict=True):
        assert f"old host/{name} ({kind})" in result.errors[0]
    assert not (tmp_path / "out" / "index.json").exists()


@pytest.mark.parametrize("form", ["directory", "tar"])
def test_a_place_that_holds_nothing_is_named(form: str, backup: Path, tmp_path: Path) -> None:
    source = backup if form == "directory" else backup.with_suffix(".tar")
    result = migrate("convert", "--inside", "nowhere/at all", source, tmp_path / "out")
    assert result.code == 4
    assert "nowhere/at all" in result.errors[0]
