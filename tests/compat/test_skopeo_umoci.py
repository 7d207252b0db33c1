"""skopeo copies and umoci unpacks what migrate writes, without complaint."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cases import case
from tests.command import migrate
from tests.peers import need, run, tree_of

pytestmark = pytest.mark.peer

CASES = ["save-0.6.7-repo", "save-1.6.2-multi", "save-1.9.1-multi", "save-1.10.3-hybrid"]


def skopeo_copy(source: str, target: str) -> None:
    need("skopeo")
    done = run("skopeo", "--insecure-policy", "copy", "--quiet", source, target)
    assert done.stderr.decode().strip() == ""


def converted(name: str, target: str, tmp_path: Path, *options: str) -> list[dict[str, object]]:
    source = case(name).write_plain(tmp_path)
    report = tmp_path / "report.json"
    result = migrate("convert", *options, "--report", report, source, target)
    assert result.code == 0, result.err
    images: list[dict[str, object]] = json.loads(report.read_bytes())["images"]
    return images


def references(images: list[dict[str, object]]) -> list[tuple[str, str]]:
    return [(str(name), str(image["image_id"])) for image in images for name in image["references"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [[], ["--compression", "zstd"], ["--compression", "none"]])
@pytest.mark.parametrize("name", CASES)
def test_skopeo_copies_every_image_of_a_layout(name: str, options: list[str], tmp_path: Path) -> None:
    images = converted(name, str(tmp_path / "out"), tmp_path, "--format", "oci", *options)
    for number, (reference, image_id) in enumerate(references(images)):
        skopeo_copy(f"oci:{tmp_path / 'out'}:{reference}", f"dir:{tmp_path / str(number)}")
        manifest = json.loads((tmp_path / str(number) / "manifest.json").read_bytes())
        assert manifest["config"]["digest"] == image_id


@pytest.mark.parametrize("name", CASES)
def test_skopeo_copies_every_image_of_a_docker_archive(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "out.tar"
    images = converted(name, f"docker-archive:{archive}", tmp_path)
    for number, (reference, image_id) in enumerate(references(images)):
        skopeo_copy(f"docker-archive:{archive}:{reference}", f"dir:{tmp_path / str(number)}")
        manifest = json.loads((tmp_path / str(number) / "manifest.json").read_bytes())
        assert manifest["config"]["digest"] == image_id


def test_skopeo_copies_from_an_oci_archive(tmp_path: Path) -> None:
    archive = tmp_path / "out.tar"
    images = converted("save-1.9.1-multi", f"oci-archive:{archive}", tmp_path, "--format", "oci")
    reference, image_id = references(images)[0]
    skopeo_copy(f"oci-archive:{archive}:{reference}", f"dir:{tmp_path / 'copy'}")
    assert json.loads((tmp_path / "copy" / "manifest.json").read_bytes())["config"]["digest"] == image_id


@pytest.mark.parametrize("name", ["save-1.9.1-multi", "save-handmade"])
def test_umoci_unpacks_what_docker_would_see(name: str, tmp_path: Path) -> None:
    need("umoci")
    images = converted(name, str(tmp_path / "out"), tmp_path, "--format", "oci")
    report = json.loads((tmp_path / "out" / "migration-report.json").read_bytes())
    assert report["images"] == images
    for number, (reference, _) in enumerate(references(images)):
        tag = f"t{number}"
        skopeo_copy(f"oci:{tmp_path / 'out'}:{reference}", f"oci:{tmp_path / 'flat'}:{tag}")
        run("umoci", "unpack", "--image", f"{tmp_path / 'flat'}:{tag}", tmp_path / f"bundle{number}")
        tree = tree_of(run("tar", "-C", tmp_path / f"bundle{number}" / "rootfs", "-c", ".").stdout)
        assert any(name.startswith("./") for name in tree)
        assert not [name for name in tree if os.path.basename(name).startswith(".wh.")]
