"""One entry of a registry that cannot be read costs itself, not what stands beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.errors import SourceUnreadableError
from migrate.readers.inventory import Inventory, take_inventory
from migrate.readers.registry_v1 import RegistryV1Source
from migrate.readers.registry_v2 import RegistryV2Source
from migrate.readers.remote_registry import RemoteRegistrySource
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.named_files import NamedFiles
from tests.archives import layer_json, layer_tar, legacy_id
from tests.registry_content import RegistryContent
from tests.scripted import Reply, Request, scripted_server


def content() -> RegistryContent:
    """Three repositories, app, team/tool and zed, each with an image 1.0."""
    found = RegistryContent()
    for repository in ("app", "team/tool", "zed"):
        found.add(repository, "1.0", found.schema1(repository.replace("/", "-")))
    return found


def read(inventory: Inventory) -> tuple[list[str], list[str]]:
    """(the references of the images, those of the failures)"""
    images = [str(reference) for image in inventory.images for reference in image.references]
    return images, [reference for failure in inventory.failures for reference in failure.references]


def loop(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name)


def leave(path: Path) -> None:
    """A link out of the tree."""
    (path.parent).mkdir(parents=True, exist_ok=True)
    path.symlink_to("/")


# --- a v2 tree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [loop, leave])
@pytest.mark.parametrize(
    ("path", "failed"),
    [
        ("bad", "bad"),
        ("team/bad", "team/bad"),
        ("app/_manifests/tags/bad", "app:bad"),
        ("app/_manifests/revisions/sha256/" + "0" * 64, "app@sha256:" + "0" * 64),
        ("bad/_manifests/tags", "bad"),
        ("bad/_manifests/revisions", "bad"),
    ],
)
def test_a_link_that_cannot_be_followed_in_a_v2_tree(
    damage: Callable[[Path], None], path: str, failed: str, tmp_path: Path
) -> None:
    content().write_tree(tmp_path)
    damage(tmp_path / "docker/registry/v2/repositories" / path)
    images, failures = read(take_inventory(RegistryV2Source(str(tmp_path), NamedFiles(DirectoryTree(str(tmp_path))))))
    assert images == ["app:1.0", "team/tool:1.0", "zed:1.0"] and failures == [failed]


def test_uploads_and_signatures_that_cannot_be_read_lose_no_image(tmp_path: Path) -> None:
    found = content()
    repository = found.write_tree(tmp_path) / "docker/registry/v2/repositories/app"
    loop(repository / "_uploads")
    loop(repository / "_manifests/revisions/sha256" / found.tags["app"]["1.0"][7:] / "signatures")
    listing = RegistryV2Source(str(tmp_path), NamedFiles(DirectoryTree(str(tmp_path)))).listing()
    assert [image.references[0].name for image in listing.images] == ["app", "team/tool", "zed"]
    assert not listing.failures
    assert any("unfinished uploads were not counted" in warning for warning in listing.warnings)
    assert any("its signatures cannot be read" in warning for warning in listing.images[0].warnings)


# --- a v1 tree ---------------------------------------------------------------------------------------------------


def v1_tree(root: Path) -> Path:
    """app:1.0 = top on base, team/tool:1.0 = one."""
    for name, parent in (("base", None), ("top", "base"), ("one", None)):
        folder = root / "images" / legacy_id(name)
        folder.mkdir(parents=True)
        (folder / "json").write_bytes(layer_json(legacy_id(name), legacy_id(parent) if parent else None))
        (folder / "layer").write_bytes(layer_tar(name))
        (folder / "ancestry").write_text(json.dumps([legacy_id(name), *([legacy_id(parent)] if parent else [])]))
    for repository, name in (("library/app", "top"), ("team/tool", "one")):
        folder = root / "repositories" / repository
        folder.mkdir(parents=True)
        (folder / "tag_1.0").write_text(legacy_id(name))
    return root


@pytest.mark.parametrize("damage", [loop, leave])
@pytest.mark.parametrize(
    ("path", "failed"),
    [("bad", "bad"), ("team/bad", "team/bad"), ("library/bad", "bad"), ("team/tool/tag_bad", "team/tool:bad")],
)
def test_a_link_that_cannot_be_followed_among_v1_names(
    damage: Callable[[Path], None], path: str, failed: str, tmp_path: Path
) -> None:
    damage(v1_tree(tmp_path) / "repositories" / path)
    images, failures = read(take_inventory(RegistryV1Source(str(tmp_path), NamedFiles(DirectoryTree(str(tmp_path))))))
    assert images == ["app:1.0", "team/tool:1.0"] and failures == [failed]


@pytest.mark.parametrize("damage", [loop, leave])
@pytest.mark.parametrize("file", ["", "_inprogress", "json", "layer"])
def test_a_link_that_cannot_be_followed_among_v1_images(
    damage: Callable[[Path], None], file: str, tmp_path: Path
) -> None:
    path = v1_tree(tmp_path) / "images" / legacy_id("top") / file
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    damage(path)
    inventory = take_inventory(RegistryV1Source(str(tmp_path), NamedFiles(DirectoryTree(str(tmp_path)))))
    images, failures = read(inventory)
    assert images == ["team/tool:1.0"] and failures == ["app:1.0"]


# --- over HTTP ---------------------------------------------------------------------------------------------------


def refusing(repository: str, reply: Reply) -> Callable[[Request], Reply]:
    found = content()
    return lambda request: reply if f"/{repository}/tags/" in request.path else found.answer(request)


REFUSALS = {
    "403": Reply(403, b'{"errors":[{"code":"DENIED"}]}'),
    "401": Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}),
    "500": Reply(500),
    "no JSON": Reply(body=b"<html>"),
}


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS)
def test_a_repository_of_the_catalog_that_does_not_open(
    reply: Reply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with scripted_server(refusing("team/tool", reply)) as (host, _):
        source = RemoteRegistrySource(f"docker://{host}", sleep=lambda _: None)
        assert read(take_inventory(source)) == (["app:1.0", "zed:1.0"], ["team/tool"])
        source.close()


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS)
def test_a_repository_that_was_named_has_to_open(reply: Reply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with scripted_server(refusing("team/tool", reply)) as (host, _):
        source = RemoteRegistrySource(f"docker://{host}/team/tool", sleep=lambda _: None)
        with pytest.raises(SourceUnreadableError):
            source.listing()
        source.close()


ODD = ["../../etc", "a b", "a?b", "a\x01", " ", "\xe9", "", "a/../b", "a//b", ".", "a#b", "%2e%2e"]


def test_names_that_are_none_are_not_asked_for() -> None:
    found = content()
    found.tags |= {name: {"1.0": "x"} for name in ODD}
    found.tags["app"] |= dict.fromkeys(ODD, "x")
    with scripted_server(found.answer) as (host, seen):
        source = RemoteRegistrySource(f"docker://{host}", sleep=lambda _: None)
        images, failures = read(take_inventory(source))
        source.close()
    assert images == ["app:1.0", "team/tool:1.0", "zed:1.0"]
    assert sorted(failures) == sorted([*ODD, *(f"app:{name}" for name in ODD)])
    assert {request.path.partition("?")[0] for request in seen} == {
        "/v2/",
        "/v2/_catalog",
        *(f"/v2/{name}/tags/list" for name in ("app", "team/tool", "zed")),
        *(f"/v2/{name}/manifests/1.0" for name in ("app", "team/tool", "zed")),
    }
