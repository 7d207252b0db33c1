"""Manifest lists of a source: whole, or split where they have lost an image or where others claim their name."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.readers.detect import open_source
from migrate.report.json import encode_report
from migrate.verify import verify
from migrate.writers.open_target import open_target
from tests.archives import V1Archive
from tests.cases import case
from tests.registries import extract_tree

MIXED = case("registry-v2-mixed-2.8")
LIST = "team/deep/er/twins:list"
AMD64 = MIXED.expected["images"][LIST]["manifests"][0]["digest"]
ARM = MIXED.expected["images"][LIST]["manifests"][1]["digest"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The mixed registry with nothing but the list and its two images left."""
    root = extract_tree(MIXED, tmp_path)
    repositories = root / "docker/registry/v2/repositories"
    for name in ("alpine-like-hand", "team/app", "team/metaonly"):
        shutil.rmtree(repositories / name)
    manifests = repositories / "team/deep/er/twins/_manifests"
    for tag in (manifests / "tags").iterdir():
        if tag.name != "list":
            shutil.rmtree(tag)
    kept = {AMD64, ARM, MIXED.expected["images"][LIST]["manifest_digest"]}
    for revision in (manifests / "revisions/sha256").iterdir():
        if f"sha256:{revision.name}" not in kept:
            shutil.rmtree(revision)
    return root


def blob(root: Path, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


def layers(root: Path, manifest: str) -> list[str]:
    return [layer["digest"] for layer in json.loads(blob(root, manifest).read_bytes())["layers"]]


def add_list(root: Path, repository: str, tag: str, children: dict[str, str]) -> None:
    """A manifest list of (digest → architecture), under a tag."""
    entries = [
        {
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "size": blob(root, digest).stat().st_size,
            "digest": digest,
            "platform": {"os": "linux", "architecture": architecture},
        }
        for digest, architecture in children.items()
    ]
    media_type = "application/vnd.docker.distribution.manifest.list.v2+json"
    content = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    manifests = root / "docker/registry/v2/repositories" / repository / "_manifests"
    files = {blob(root, digest): content, manifests / "tags" / tag / "current/link": digest.encode()}
    for linked in (digest, *children):
        files[manifests / "revisions/sha256" / linked.removeprefix("sha256:") / "link"] = linked.encode()
    for path, written in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written)


def convert(sources: list[Path], target: Path, **options: Any) -> dict[str, Any]:
    chosen = ConvertOptions(**options)
    opened = open_target(str(target), chosen)
    outcome = Conversion([OpenedSource(str(path), open_source(str(path))) for path in sources], chosen, opened).run()
    opened.close()
    report: dict[str, Any] = json.loads(encode_report(outcome.report))  # a run that read nothing leaves no target
    report["exit_code"] = outcome.exit_code
    return report


def names(target: Path) -> dict[str, str]:
    """reference → manifest digest, as index.json has them."""
    entries = json.loads((target / "index.json").read_bytes())["manifests"]
    return {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"]
        for entry in entries
        if "annotations" in entry
    }


def test_a_whole_list_is_carried_over(tree: Path, tmp_path: Path) -> None:
    report = convert([tree], tmp_path / "out")
    assert names(tmp_path / "out") == {LIST: MIXED.expected["images"][LIST]["manifest_digest"]}
    assert {image["manifest_digest"]: image["references"] for image in report["images"]} == {
        AMD64: [LIST],
        ARM: [LIST],
    }
    assert report["exit_code"] == 0 and not report["conflicts"]
    again = convert([tree], tmp_path / "out")
    assert not again["conflicts"] and names(tmp_path / "out") == {
        LIST: MIXED.expected["images"][LIST]["manifest_digest"]
    }


def test_its_name_is_mapped_like_any_other(tree: Path, tmp_path: Path) -> None:
    report = convert([tree], tmp_path / "out", renames=(("^team/deep/", "moved/"),))
    assert list(names(tmp_path / "out")) == ["moved/er/twins:list"]
    assert {name for image in report["images"] for name in image["names"]} == {"moved/er/twins:list"}


def test_a_list_that_loses_an_image_leaves_its_name_to_the_others(tree: Path, tmp_path: Path) -> None:
    other = MIXED.expected["images"]["team/app:s2-1.10.3"]["manifest_digest"]
    add_list(tree, "team/deep/er/twins", "own", {AMD64: "amd64", other: "arm"})
    lost = blob(tree, sorted(set(layers(tree, other)) - set(layers(tree, AMD64)))[0])
    lost.write_bytes(bytes(lost.stat().st_size))  # found only when it is read
    report = convert([tree], tmp_path / "out")
    assert report["exit_code"] == 3 and len(report["failures"]) == 1
    assert names(tmp_path / "out")["team/deep/er/twins:own"] == AMD64
    (image,) = [image for image in report["images"] if "team/deep/er/twins:own" in image["references"]]
    assert other in " ".join(image["warnings"])


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_lost_list_says_of_a_platform_is_no_mistake_of_the_target(
    tree: Path, tmp_path: Path, whole: bool
) -> None:
    """A list may name a platform that the config of its image does not: the one that is left keeps it, unless another
    list that is whole has the image, too."""
    other = MIXED.expected["images"]["team/app:s2-1.10.3"]["manifest_digest"]
    add_list(tree, "team/deep/er/twins", "own", {AMD64: "s390x", other: "arm"})
    lost = blob(tree, sorted(set(layers(tree, other)) - set(layers(tree, AMD64)))[0])
    lost.write_bytes(b"")
    if not whole:
        manifests = tree / "docker/registry/v2/repositories/team/deep/er/twins/_manifests"
        shutil.rmtree(manifests / "tags/list")
        shutil.rmtree(manifests / "revisions/sha256" / MIXED.expected["images"][LIST]["manifest_digest"][7:])
    target = tmp_path / "out"
    convert([tree], target)
    index = json.loads((target / "index.json").read_bytes())
    mine = [entry for entry in index["manifests"] if entry["digest"] == AMD64]
    assert {entry["platform"]["architecture"] for entry in mine} == {"amd64" if whole else "s390x"}
    assert verify(str(target), 1, SilentProgress()) == []
    mine[0]["platform"]["architecture"] = "riscv64"
    (target / "index.json").write_text(json.dumps(index))
    assert any("riscv64" in finding.message for finding in verify(str(target), 1, SilentProgress()))


def test_a_list_that_loses_all_is_a_failure_by_its_name(tree: Path, tmp_path: Path) -> None:
    path = blob(tree, layers(tree, AMD64)[0])
    path.write_bytes(bytes(path.stat().st_size))
    report = convert([tree], tmp_path / "out")
    assert report["exit_code"] == 4
    assert [LIST] in [failure["references"] for failure in report["failures"]]


def test_a_name_that_others_claim_goes_by_platform(tree: Path, tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("team/deep/er/twins", "list", archive.layer("old"))
    (tmp_path / "old.tar").write_bytes(archive.build())
    report = convert([tree, tmp_path / "old.tar"], tmp_path / "out")
    (conflict,) = report["conflicts"]
    assert conflict["reference"] == LIST and conflict["kept"] == AMD64  # the newer of the two for linux/amd64
    index = json.loads(
        (tmp_path / "out/blobs/sha256" / names(tmp_path / "out")[LIST].removeprefix("sha256:")).read_bytes()
    )
    assert {entry["digest"] for entry in index["manifests"]} == {AMD64, ARM}
