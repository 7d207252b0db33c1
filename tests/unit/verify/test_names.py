"""verify: what tells one kind of target from another, and which names may stand where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.errors import UnrecognisedSourceError
from migrate.model.options import ConvertOptions, OnConflict
from migrate.verify import verify
from migrate.writers.docker_archive import DockerArchive
from migrate.writers.oci_layout import OciLayout
from tests.archives import build_tar, layer_tar
from tests.images import image, layer, put_image
from tests.unit.verify.test_verify import Heard, check, text_of

OPTIONS = ConvertOptions()
REFUSED = ["UPPER/app:1", "app", f"app@sha256:{'a' * 64}"]
"""Not the name of a repository, without its tag, a digest in the place of a tag."""


def layout_of(path: Path, *names: str, options: ConvertOptions = OPTIONS) -> Path:
    """One image for each name."""
    target = OciLayout(path, options)
    for number, name in enumerate(names):
        put_image(target, [layer(f"layer {number}")], name)
    target.finish(b'{"images": []}')
    target.close()
    return path


def with_tags(path: Path, tags: list[str]) -> Path:
    """The layout's first row in manifest.json with other tags."""
    rows = json.loads((path / "manifest.json").read_bytes())
    rows[0]["RepoTags"] = tags
    (path / "manifest.json").write_text(json.dumps(rows))
    return path


def test_two_images_of_one_name_are_told_and_are_no_mismatch(tmp_path: Path) -> None:
    heard = Heard()
    keep_all = ConvertOptions(on_conflict=OnConflict.KEEP_ALL)
    assert verify(str(layout_of(tmp_path / "two", "app:1", "app:1", options=keep_all)), 1, heard) == []
    assert heard.warnings == ["index.json: 2 images have the name app:1"]
    heard = Heard()
    assert verify(str(layout_of(tmp_path / "one", "app:1", "app:2")), 1, heard) == []
    assert heard.warnings == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_tag_that_docker_refuses_is_found(name: str, tmp_path: Path) -> None:
    assert "not a name that Docker accepts" in text_of(check(with_tags(layout_of(tmp_path / "out", "app:1"), [name])))
    config = image([layer("a")]).config
    row = {"Config": "c.json", "RepoTags": [name], "Layers": []}
    archive = tmp_path / "archive.tar"
    archive.write_bytes(build_tar([("c.json", config), ("manifest.json", json.dumps([row]).encode())]))
    assert "not a name that Docker accepts" in text_of(check(archive))


@pytest.mark.parametrize("name", ["UPPER/app:1", f"app@sha256:{'a' * 64}"])
def test_a_name_that_docker_refuses_may_stand_in_the_index_alone(name: str, tmp_path: Path) -> None:
    assert check(layout_of(tmp_path / "out", name)) == []


def test_a_tag_that_manifest_json_lacks_is_found(tmp_path: Path) -> None:
    target = OciLayout(tmp_path / "out", OPTIONS)
    put_image(target, [layer("a")], "app:1", "app:2")
    target.finish(b'{"images": []}')
    target.close()
    assert check(tmp_path / "out") == []
    for tags in (["app:1"], []):
        assert "has the tags" in text_of(check(with_tags(tmp_path / "out", tags)))


@pytest.mark.parametrize(("layers", "wanted"), [(125, True), (126, False)])
def test_an_image_that_docker_can_load_must_stand_in_manifest_json(layers: int, wanted: bool, tmp_path: Path) -> None:
    target = OciLayout(tmp_path / "out", OPTIONS)
    put_image(target, [layer("a")] * layers, "deep:1")
    put_image(target, [layer("a")], "app:1")
    target.finish(b'{"images": []}')
    target.close()
    assert check(tmp_path / "out") == []
    rows = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert (["deep:1"] in [row["RepoTags"] for row in rows]) is wanted
    (tmp_path / "out/manifest.json").write_text(json.dumps([row for row in rows if row["RepoTags"] != ["deep:1"]]))
    assert ("lacks an image of index.json" in text_of(check(tmp_path / "out"))) is wanted


def test_layers_of_an_archive_are_held_against_the_config_whatever_they_are_called(tmp_path: Path) -> None:
    good, other = layer("a", compress=False), layer_tar("b")
    row = {"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["x/layer.tar"]}
    for content, clean in ((good.blob, True), (other, False)):
        archive = tmp_path / "archive.tar"
        members = [("x/layer.tar", content), ("c.json", image([good]).config)]
        archive.write_bytes(build_tar([*members, ("manifest.json", json.dumps([row]).encode())]))
        assert (check(archive) == []) is clean
    row["Layers"] = ["x/layer.tar", "x/layer.tar"]
    archive.write_bytes(build_tar([*members, ("manifest.json", json.dumps([row]).encode())]))
    assert check(archive)


def test_what_a_run_leaves_that_was_ended_at_once_is_a_layout(tmp_path: Path) -> None:
    for name in ("blobs", ".migrate", "lost+found"):
        (tmp_path / name).mkdir()
    assert check(tmp_path) == check(tmp_path, 1)


def test_a_directory_of_empty_directories_is_no_layout(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with pytest.raises(UnrecognisedSourceError):
        check(tmp_path)


@pytest.mark.parametrize("name", ["repositories", "images"])
def test_a_part_of_a_registry_is_no_registry(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "app").mkdir(parents=True)
    with pytest.raises(UnrecognisedSourceError):
        check(tmp_path)


def test_a_config_that_is_not_what_its_name_says_is_found(tmp_path: Path) -> None:
    target = DockerArchive(str(tmp_path / "out.tar"), OPTIONS)
    made = put_image(target, [layer("a")], "app:1")
    target.finish(b'{"images": []}')
    target.close()
    assert check(tmp_path / "out.tar") == []
    content = (tmp_path / "out.tar").read_bytes()
    assert content.count(b"/bin/sh") == 1
    (tmp_path / "out.tar").write_bytes(content.replace(b"/bin/sh", b"/bin/sH"))
    assert [finding.where for finding in check(tmp_path / "out.tar")] == [f"{made.image_id.hex}.json"]
