"""Docker roots and real peers: an engine that loads what was converted, and btrfs with its subvolumes."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.changes import Comparison
from migrate.storage.directory_tree import DirectoryTree
from tests.archives import V1Archive, layer_tar
from tests.command import migrate
from tests.peers import DockerEngine, need, run, tree_of
from tests.roots import RootBuilder, identity, open_docker_root, write
from tests.stores import StoreCase, StoreShelf, read_payload, stores

__all__ = ["stores"]

pytestmark = pytest.mark.peer

TREES = {"overlay": "overlay/{}/root", "vfs": "vfs/dir/{}", "btrfs": "btrfs/subvolumes/{}"}


# --- the engine's file system is the store's ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["store-1.0.1-btrfs", "store-1.6.2-overlay", "store-1.9.1-vfs"])
def test_a_loaded_image_has_the_file_system_of_the_stores_top_layer(
    name: str, engine: DockerEngine, stores: StoreShelf, tmp_path: Path
) -> None:
    root = stores.path(name)
    assert migrate("convert", root, tmp_path / "out").code == 0
    report = json.loads((tmp_path / "out/migration-report.json").read_bytes())
    engine.remove_all()
    engine.load(run("tar", "-C", tmp_path / "out", "-c", ".").stdout)
    tops = {image["legacy_id"]: image["references"][0] for image in report["images"] if image["references"]}
    assert tops
    for legacy_id, reference in tops.items():
        place = root / TREES[StoreCase(name).case.expected["driver"]].format(legacy_id)
        assert _without_links(engine.export(reference)) == _without_links(_tree_in(place)), reference


def _tree_in(place: Path) -> dict[str, tuple[object, ...]]:
    names = sorted(path.name for path in place.iterdir())
    return tree_of(run("tar", "-C", place, "--numeric-owner", "--format=posix", "-cf", "-", "--", *names).stdout)


def _without_links(tree: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Permissions without the file type, and each name of a file as the file, in whatever order they came."""
    whole = {name: tree[str(facts[5])] if facts[0] == tarfile.LNKTYPE else facts for name, facts in tree.items()}
    return {name: (facts[0], int(str(facts[1])) & 0o7777, *facts[2:]) for name, facts in whole.items()}


# --- the engine's own comparison of two trees ----------------------------------------------------------------------


def test_a_capability_on_a_file_that_nobody_may_execute_is_a_change(engine: DockerEngine) -> None:
    archive = V1Archive()
    archive.tag("capable", "1", archive.layer("base", tar=layer_tar("plain", "other")))
    engine.load(archive.build())
    container = engine.docker("create", "capable:1", "/nothing").strip()
    data = engine.socket_path.parent / "data"
    mount = (data / f"image/vfs/layerdb/mounts/{container}/mount-id").read_text()
    below = (data / f"image/vfs/layerdb/mounts/{container}/init-id").read_text()
    plain, parent = data / f"vfs/dir/{mount}/plain", data / f"vfs/dir/{below}"
    os.setxattr(plain, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    listed = engine.docker("diff", container)
    ours = Comparison(DirectoryTree(str(plain.parent)), DirectoryTree(str(parent))).changes()
    engine.docker("rm", container)
    engine.remove_all()
    assert listed.split() == ["C", "/plain"]
    assert [change.path for change in ours] == [b"plain"]


# --- btrfs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subvolumes:
    """A place for btrfs subvolumes; `real` is False where this machine mounts no btrfs, then they are directories."""

    place: Path
    real: bool

    def create(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.real:
            run("btrfs", "subvolume", "create", target)
        else:
            target.mkdir()

    def snapshot(self, origin: Path, target: Path) -> None:
        if self.real:
            run("btrfs", "subvolume", "snapshot", origin, target)
        else:
            run("cp", "-a", origin, target)


@pytest.fixture
def subvolumes(tmp_path: Path) -> Iterator[Subvolumes]:
    need("mkfs.btrfs", "btrfs", "mount")
    image, place = tmp_path / "btrfs.img", tmp_path / "mounted"
    place.mkdir()
    with image.open("wb") as stream:
        stream.truncate(256 * 1024 * 1024)
    run("mkfs.btrfs", "--quiet", "--metadata", "single", image)
    mounted = run("mount", "-o", "loop", image, place, check=False).returncode == 0
    try:
        yield Subvolumes(place, mounted)
    finally:
        if mounted:
            run("umount", place)


@pytest.mark.parametrize("name", ["store-1.0.1-btrfs", "store-1.9.1-btrfs"])
def test_subvolumes_give_dockers_diff_ids(name: str, subvolumes: Subvolumes, stores: StoreShelf) -> None:
    """Subvolumes number their inodes from 257 on, each anew: equal numbers mean nothing across them."""
    origin, root = stores.path(name), subvolumes.place / "docker"
    root.mkdir()
    for entry in origin.iterdir():
        if entry.name != "btrfs":
            run("cp", "-a", entry, root)
    for layer in (origin / "btrfs/subvolumes").iterdir():
        subvolumes.create(root / "btrfs/subvolumes" / layer.name)
        run("cp", "-a", "-T", layer, root / "btrfs/subvolumes" / layer.name)
    source = open_docker_root(root)
    for legacy_id, facts in StoreCase(name).layers.items():
        read = read_payload(source, source.read_layer(LegacyID(legacy_id)))
        assert read.exact != bool(facts.get("unstable"))
        if read.exact:
            assert read.diff_id == facts["diff_id"]


def test_a_snapshot_shows_what_was_changed_in_it(subvolumes: Subvolumes) -> None:
    root = RootBuilder(subvolumes.place / "docker", "btrfs")
    root.add("base").rmdir()
    subvolumes.create(root.tree("base"))
    for name in ("keep", "change", "remove", "dir/keep", "dir/change"):
        write(root.tree("base") / name, b"one")
    root.add("top", "base").rmdir()
    subvolumes.snapshot(root.tree("base"), root.tree("top"))
    for name in ("change", "dir/change", "dir/new"):
        write(root.tree("top") / name, b"three")
    (root.tree("top") / "remove").unlink()
    plain = RootBuilder(subvolumes.place / "plain", "vfs")
    for name, parent in (("base", None), ("top", "base")):
        plain.add(name, parent).rmdir()
        shutil.copytree(root.tree(name), plain.tree(name))
    assert root.read("top") == plain.read("top")
    assert root.layer("top").parent == identity("base")
