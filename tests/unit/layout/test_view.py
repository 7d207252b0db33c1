"""Looking into layouts: what is found by which words, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.errors import DocumentError, MigrateError, MissingLayerError
from migrate.layout.view import LayoutView, find_image
from migrate.model.digest import Digest
from tests.cases import tar_of
from tests.layouts import OCI, Layout, named


def test_one_image_with_two_names(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    entry = layout.image(b"layer")
    view = layout.write_index(named(entry, "a:1"), named(entry, "b:1"), layout.image(b"other"))
    first, second = view.images()
    assert first.references == ("a:1", "b:1")
    assert second.references == ()
    (layer,) = view.layers(first)
    assert (layer.diff_id, layer.blob, layer.compression) == (Digest.of(b"layer"), Digest.of(b"layer"), "none")
    with view.open_tar(layer) as tar:
        assert tar.read() == b"layer"


def test_an_index_below_the_index_gives_its_name_to_every_platform(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    inner = layout.index(layout.image(b"1"), layout.image(b"2", "arm64"))
    view = layout.write_index(named(inner, "a:1"))
    assert sorted(str(image.platform) for image in find_image(view.images(), "a:1")) == ["linux/amd64", "linux/arm64"]


@pytest.mark.parametrize("text", ["a", "a:latest", "docker.io/library/a", "index.docker.io/library/a:latest"])
def test_names_in_every_form(tmp_path: Path, text: str) -> None:
    layout = Layout(tmp_path)
    view = layout.write_index(named(layout.image(b"1"), "a:latest"), named(layout.image(b"2"), "ab:latest"))
    (found,) = find_image(view.images(), text)
    assert found.references == ("a:latest",)


def test_prefixes_of_both_digests(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    (image,) = layout.write_index(layout.image(b"1")).images()
    assert image.manifest is not None
    for digits in (image.manifest.hex, image.config.rpartition("/")[2]):
        assert find_image([image], digits[:4]) == [image]
        assert find_image([image], f"sha256:{digits}") == [image]
        assert find_image([image], digits[:3]) == ()


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    entry = layout.image(b"1")
    view = layout.write_index(entry)
    (image,) = view.images()
    (tmp_path / image.layers[0]).unlink()
    with pytest.raises(MissingLayerError, match=image.layers[0]):
        view.layers(image)
    (tmp_path / "blobs" / "sha256" / entry["digest"][7:]).unlink()
    with pytest.raises(MissingLayerError, match=entry["digest"][7:]):
        layout.write_index(entry).images()  # a view keeps the images that it has read


def test_a_link_in_a_layout_is_not_followed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    view = layout.write_index(layout.image(b"1"))
    (image,) = view.images()
    config = tmp_path / image.config
    config.rename(tmp_path / "elsewhere")
    config.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MigrateError):
        view.config(image)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_names_of_a_docker_archive_stay_inside(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("{}")
    inside = tmp_path / "archive"
    inside.mkdir()
    (inside / "manifest.json").write_text(json.dumps([{"Config": name, "RepoTags": ["a:1"], "Layers": []}]))
    with pytest.raises(MigrateError):
        LayoutView(str(inside)).images()
    (tmp_path / "archive.tar").write_bytes(tar_of({"manifest.json": (inside / "manifest.json").read_bytes()}))
    with pytest.raises(MigrateError):
        LayoutView(str(tmp_path / "archive.tar")).images()


def test_layers_that_the_config_does_not_know(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    config = layout.blob({"rootfs": {"type": "layers", "diff_ids": []}})
    layer = layout.blob(b"1")
    manifest = layout.blob(
        {
            "schemaVersion": 2,
            "config": {"mediaType": f"{OCI}.config.v1+json", **config},
            "layers": [{"mediaType": f"{OCI}.layer.v1.tar", **layer}],
        }
    )
    view = layout.write_index({"mediaType": f"{OCI}.manifest.v1+json", **manifest})
    with pytest.raises(DocumentError, match="the config names 0 layers, the manifest 1"):
        view.layers(view.images()[0])
