"""A target of ours as the source of another one: nothing of it is lost, and nothing comes twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.archives import V1Archive, layer_json, layer_tar, legacy_id
from tests.command import migrate


def images(target: Path) -> list[tuple[str, list[str]]]:
    rows = json.loads((target / "migration-report.json").read_bytes())["images"]
    return sorted((row["image_id"], row["names"]) for row in rows)


def names_by_image(target: Path) -> dict[str, set[str]]:
    """An image that has a name of its own beside that of its list has a row for each."""
    found: dict[str, set[str]] = {}
    for image_id, names in images(target):
        found.setdefault(image_id, set()).update(names)
    return found


def source(path: Path, name: str = "deep", *, layers: int = 126) -> Path:
    """An image of more layers than Docker takes, which manifest.json does not list, and one with a name."""
    made = V1Archive()
    parent = None
    for number in range(layers):
        made.layer(f"{name}{number}", parent, tar=layer_tar(f"{name}{number}"))
        parent = f"{name}{number}"
    assert parent is not None
    made.tag("team/deep", "1", made.layer(f"{name}top", parent, tar=layer_tar("top")))
    made.tag("team/plain", "1", made.layer("plain", tar=layer_tar("plain")))
    made.tag("team/plain", "again", made.layer("plain", tar=layer_tar("plain")))
    made.layer("untagged", tar=layer_tar("untagged"))
    path.write_bytes(made.build())
    return path


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_images_that_only_the_index_has(form: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert migrate("convert", "--format", form, source(tmp_path / "a.tar"), first).code == 0
    assert len(json.loads((first / "manifest.json").read_bytes())) == 2
    done = migrate("convert", first, second)
    assert done.code == 0, done.err
    assert images(second) == images(first)
    assert len(images(second)) == 3
    assert (second / "index.json").read_bytes() == (first / "index.json").read_bytes()
    assert migrate("verify", second).code == 0


@pytest.mark.parametrize("form", ["", "oci-archive:"])
def test_lists_and_their_images(form: str, tmp_path: Path) -> None:
    """Of a name for two platforms, and of one whose images have names of their own too."""
    sources = []
    for architecture in ("amd64", "arm"):
        made = V1Archive()
        identity = legacy_id(architecture)
        made.layer(architecture, raw=layer_json(identity, os="linux", architecture=architecture))
        made.tag("team/many", "1", identity)
        if architecture == "arm":
            made.tag("team/arm", "1", identity)
        (tmp_path / f"{architecture}.tar").write_bytes(made.build())
        sources.append(tmp_path / f"{architecture}.tar")
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    assert migrate("convert", *sources, first).code == 0
    assert migrate("convert", *sources, f"{form}{second}").code == 0
    done = migrate("convert", second, third)
    assert done.code == 0, done.err
    assert (third / "index.json").read_bytes() == (first / "index.json").read_bytes()
    assert names_by_image(third) == names_by_image(first)
    assert migrate("verify", third).code == 0
