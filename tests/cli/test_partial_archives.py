"""Archives without the layers that their target was known to have: taken from what else the run reads."""

from __future__ import annotations

import json
import shutil
import tarfile
from itertools import permutations
from pathlib import Path

import pytest

from migrate import api
from migrate.model.digest import Digest
from migrate.model.options import ConvertOptions, EmptyLayers
from migrate.report.document import Report
from tests.archives import V1Archive, build_tar, layer_json, layer_tar, legacy_id, link
from tests.command import migrate

NAMES = ("base", "middle", "top")


def v1(path: Path, *names: str, without: tuple[str, ...] = ()) -> Path:
    archive = V1Archive()
    for name, below in zip(names, (None, *names), strict=False):
        if name not in without:
            archive.layer(name, below)
    archive.tag("app", names[-1], legacy_id(names[-1]))
    path.write_bytes(archive.build())
    return path


def modern(path: Path, *names: str, without: tuple[str, ...] = ()) -> Path:
    tars = {name: layer_tar(name) for name in names}
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars.values()]},
    }
    members: list[tuple[str, bytes | tarfile.TarInfo]] = [
        (f"{legacy_id(name)}/layer.tar", tar) for name, tar in tars.items() if name not in without
    ]
    layers = [f"{legacy_id(name)}/layer.tar" for name in names]
    entry = {"Config": "c.json", "RepoTags": [f"app:{names[-1]}"], "Layers": layers}
    members += [("c.json", json.dumps(config).encode()), ("manifest.json", json.dumps([entry]).encode())]
    path.write_bytes(build_tar(members))
    return path


def images(report: Report) -> dict[str, str]:
    return {name: str(image.image_id) for image in report.images for name in image.references}


@pytest.mark.parametrize("build", [v1, modern])
@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_layers_are_taken_from_another_source_of_the_run(build: object, order: tuple[int, ...], tmp_path: Path) -> None:
    assert callable(build)
    whole = api.plan(build(tmp_path / "whole.tar", *NAMES))
    sources = [
        build(tmp_path / "base.tar", "base", "middle"),
        build(tmp_path / "part.tar", *NAMES, without=("base", "middle")),
    ]
    target = tmp_path / "t"
    outcome = api.convert([sources[number] for number in order], target, ConvertOptions())
    assert (outcome.exit_code, outcome.report.failures) == (0, ())
    assert images(outcome.report)["app:top"] == images(whole.report)["app:top"]
    assert api.verify(target) == []
    (image,) = (image for image in outcome.report.images if "app:top" in image.references)
    assert image.exact and sum("base" in text or "diffID" in text for text in image.warnings) == 2


@pytest.mark.parametrize("build", [v1, modern])
def test_alone_it_is_incomplete(build: object, tmp_path: Path) -> None:
    assert callable(build)
    outcome = api.plan(build(tmp_path / "part.tar", *NAMES, without=("base",)))
    assert outcome.exit_code == 4


@pytest.mark.parametrize("build", [v1, modern])
@pytest.mark.parametrize(("command", "forgets"), [("convert", False), ("convert", True), ("batch", False)])
def test_layers_are_taken_from_the_target(build: object, command: str, forgets: bool, tmp_path: Path) -> None:
    assert callable(build)
    whole = images(api.plan(build(tmp_path / "whole.tar", *NAMES)).report)
    base = build(tmp_path / "base.tar", "base", "middle")
    part = build(tmp_path / "part.tar", *NAMES, without=("base", "middle"))
    target = tmp_path / "t"
    assert api.convert(base, target, ConvertOptions()).exit_code == 0
    if forgets:  # loses time, and no image
        shutil.rmtree(target / ".migrate")
    if command == "batch":
        assert migrate(command, part, target, "-j", "1", "--executor", "threads").code == 0
    else:
        assert api.convert(part, target, ConvertOptions()).exit_code == 0
    report = json.loads((target / "migration-report.json").read_bytes())
    (row,) = (row for row in report["images"] if "app:top" in row["references"])
    assert row["image_id"] == whole["app:top"]
    assert row["exact"] == (build is modern)  # of a v1 layer the map has the ID, and not how sure its bytes are
    assert api.verify(target) == []


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_layers_are_taken_from_an_archive_that_is_the_target(kind: str, tmp_path: Path) -> None:
    """By diffID. An archive has no map, so of a v1 parent nothing is found, and the archive stays as it is."""
    target = f"{kind}:{tmp_path / 't.tar'}"
    assert api.convert(modern(tmp_path / "base.tar", "base", "middle"), target, ConvertOptions()).exit_code == 0
    whole = images(api.plan(modern(tmp_path / "whole.tar", *NAMES)).report)
    part = modern(tmp_path / "part.tar", *NAMES, without=("base", "middle"))
    outcome = api.convert(part, target, ConvertOptions())
    assert (outcome.exit_code, images(outcome.report)) == (0, whole)
    assert api.verify(tmp_path / "t.tar") == []
    before = (tmp_path / "t.tar").read_bytes()
    old = v1(tmp_path / "old.tar", *NAMES, without=("base", "middle"))
    assert api.convert(old, target, ConvertOptions()).exit_code == 4
    assert (tmp_path / "t.tar").read_bytes() == before


def test_a_target_with_two_images_of_one_id_proves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "t"
    for comment in ("one", "another"):
        archive = V1Archive()
        archive.layer("base", raw=layer_json(legacy_id("base"), comment=comment))
        (tmp_path / f"{comment}.tar").write_bytes(archive.build())
        api.convert(tmp_path / f"{comment}.tar", target, ConvertOptions())
    done = api.convert(v1(tmp_path / "part.tar", "base", "top", without=("base",)), target, ConvertOptions())
    assert [failure.error for failure in done.report.failures] == ["missing-parent"]


def test_what_the_target_dropped_of_empty_layers_is_not_made_up(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.layer("base", tar=layer_tar())
    (tmp_path / "base.tar").write_bytes(archive.build())
    api.convert(tmp_path / "base.tar", tmp_path / "t", ConvertOptions())
    part = v1(tmp_path / "part.tar", "base", "top", without=("base",))
    kept = ConvertOptions(empty_layers=EmptyLayers.KEEP)
    assert api.convert(part, tmp_path / "t", kept).exit_code == 4
    assert api.convert(part, tmp_path / "t", ConvertOptions()).exit_code == 0


def test_what_is_beside_a_manifest_json_goes_behind_v1_sources(tmp_path: Path) -> None:
    sources = [v1(tmp_path / "base.tar", "base", "middle"), tmp_path / "hybrid.tar"]
    hybrid = modern(tmp_path / "made.tar", "base", "middle")
    with tarfile.open(hybrid) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    other = (f"{legacy_id('middle')}/json", layer_json(legacy_id("middle"), legacy_id("base"), comment="made up"))
    sources[1].write_bytes(build_tar([*members, other]))
    part = v1(tmp_path / "part.tar", *NAMES, without=("base", "middle"))
    whole = images(api.plan(v1(tmp_path / "whole.tar", *NAMES)).report)
    assert images(api.plan([*sources, part]).report)["app:top"] == whole["app:top"]


@pytest.mark.parametrize("command", ["batch", "plan"])
def test_every_command_takes_a_layer_from_elsewhere_in_its_archive(command: str, tmp_path: Path) -> None:
    tar = layer_tar("same")
    config = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))] * 2}}
    entry = {"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}
    members = [("one/layer.tar", tar), ("c.json", json.dumps(config).encode())]
    (tmp_path / "a.tar").write_bytes(build_tar([*members, ("manifest.json", json.dumps([entry]).encode())]))
    target: list[str | Path] = [] if command == "plan" else [tmp_path / "t", "-j", "1", "--executor", "threads"]
    assert migrate(command, tmp_path / "a.tar", *target, "--report", tmp_path / "r.json").code == 0
    rows = json.loads((tmp_path / "r.json").read_bytes())["images"]
    assert [len(row["layers"]) for row in rows] == [2]


def test_two_sources_that_disagree_of_one_id_are_not_believed(tmp_path: Path) -> None:
    part = v1(tmp_path / "part.tar", "base", "top", without=("base",))
    others = []
    for comment in ("one", "another"):
        archive = V1Archive()
        archive.layer("base", raw=layer_json(legacy_id("base"), comment=comment))
        others.append(tmp_path / f"{comment}.tar")
        others[-1].write_bytes(archive.build())
    assert "app:top" in images(api.plan([part, others[0]]).report)
    outcome = api.plan([part, *others])
    assert (outcome.exit_code, "app:top" in images(outcome.report)) == (3, False)


def test_an_id_that_is_no_random_number_proves_nothing(tmp_path: Path) -> None:
    parts = []
    for number, named in enumerate(("base", "top")):
        identity, below = named, "base" if named == "top" else None
        members = [(f"{identity}/json", layer_json(identity, below)), (f"{identity}/layer.tar", layer_tar(named))]
        parts.append(tmp_path / f"{number}.tar")
        parts[-1].write_bytes(build_tar([*members, ("repositories", json.dumps({named: {"1": identity}}).encode())]))
    assert list(images(api.plan(parts).report)) == ["base:1"]


@pytest.mark.parametrize("target", ["../gone/layer.tar", "/gone", "../../../etc/passwd", "layer.tar", "../two"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_dangling_link_whose_content_is_elsewhere_in_the_archive(kind: bytes, target: str, tmp_path: Path) -> None:
    tar = layer_tar("same")
    config = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))] * 2}}
    entry = {"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}
    members: list[tuple[str, bytes | tarfile.TarInfo]] = [
        ("one/layer.tar", tar),
        link("two/layer.tar", target, kind),
        ("c.json", json.dumps(config).encode()),
        ("manifest.json", json.dumps([entry]).encode()),
    ]
    (tmp_path / "a.tar").write_bytes(build_tar(members))
    outcome = api.plan(tmp_path / "a.tar")
    assert (outcome.exit_code, len(outcome.report.images[0].layers)) == (0, 2)
