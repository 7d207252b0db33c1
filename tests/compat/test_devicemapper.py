"""devicemapper stores against the stores they were made from: same trees, same layers, same images.

The file systems are written by the kernel's ext4 and XFS, the pool by thin_restore; nothing of migrate takes part.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import Tree
from tests.cases import case
from tests.command import migrate
from tests.compat.thin_store import ThinStore, build_thin_store, layer_tree
from tests.roots import open_docker_root
from tests.stores import read_payload, restore
from tests.unit.readers.devicemapper.pools import run

pytestmark = pytest.mark.peer


@dataclass(frozen=True)
class Pair:
    """A shipped store, and the devicemapper store with the same layers."""

    name: str
    driver: str
    source: Path
    thin: ThinStore

    @property
    def expected(self) -> dict[str, Any]:
        return case(self.name).expected


@pytest.fixture(scope="module", params=["ext4 from overlay", "xfs from vfs"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind, _, driver = request.param.partition(" from ")
    name = f"store-1.9.1-{driver}"
    place = tmp_path_factory.mktemp("thin")
    source = restore(case(name), place / "source")
    return Pair(name, driver, source, build_thin_store(source, driver, place / "thin", kind))


def test_every_image_has_dockers_id_and_config(pair: Pair, tmp_path: Path) -> None:
    done = migrate("convert", pair.thin.root, tmp_path / "layout", "--empty-layers", "keep", "--all")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "layout/migration-report.json").read_bytes())
    got = {image["legacy_id"]: image for image in report["images"]}
    expected = pair.expected["all_images"]
    assert set(got) == set(expected)
    for legacy_id, facts in expected.items():
        assert got[legacy_id]["image_id"] == facts["image_id"]
        assert [layer["diff_id"] for layer in got[legacy_id]["layers"]] == facts["diff_ids"]
    assert migrate("verify", tmp_path / "layout").code == 0


def test_every_image_is_the_file_system_that_stands_in_the_store(pair: Pair) -> None:
    done = migrate("plan", pair.thin.root, "--check-rootfs", "--all")
    assert done.code == 0, done.err
    assert "differ" not in done.out + done.err


def test_layers_without_tar_split_are_those_of_the_other_driver(pair: Pair, tmp_path: Path) -> None:
    """Docker's naive diff sees the same changes, whatever the driver."""
    thin, other = without_tar_split(pair.thin.root, tmp_path / "a"), without_tar_split(pair.source, tmp_path / "b")
    a, b = open_docker_root(thin), open_docker_root(other)
    try:
        assert a.listing().layers == b.listing().layers
        for legacy_id in a.listing().layers:
            assert read_payload(a, a.read_layer(legacy_id)) == read_payload(b, b.read_layer(legacy_id))
    finally:
        a.close()
        b.close()


def without_tar_split(root: Path, target: Path) -> Path:
    """The same root with a graph of its own that holds no tar-data.json.gz."""
    target.mkdir()
    for entry in root.iterdir():
        if entry.name != "graph":
            (target / entry.name).symlink_to(entry)
    shutil.copytree(root / "graph", target / "graph", ignore=shutil.ignore_patterns("tar-data.json.gz"))
    return target


def test_every_tree_is_the_directory_it_was_made_from(pair: Pair) -> None:
    driver = DevicemapperDriver(DirectoryTree(str(pair.thin.root / "devicemapper")))
    try:
        for layer in driver.layer_ids():
            tree = driver.layer_tree(LegacyID(layer))
            directory = os.fsencode(layer_tree(pair.source, pair.driver, layer))
            assert described(tree) == described_directory(directory), layer
            assert not driver.layer_doubts(LegacyID(layer))
    finally:
        driver.close()


def described(tree: Tree) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, tuple[object, ...]] = {}
    waiting = [b""]
    while waiting:
        for entry in tree.entries(waiting.pop()):
            content: bytes | None = None
            if stat.S_ISREG(entry.mode):
                with tree.open(entry.path) as stream:
                    content = stream.read()
            elif stat.S_ISLNK(entry.mode):
                content = tree.read_link(entry.path)
            elif stat.S_ISDIR(entry.mode):
                waiting.append(entry.path)
            size = None if stat.S_ISDIR(entry.mode) else entry.size
            facts = (entry.mode, entry.uid, entry.gid, size, entry.mtime_ns, entry.rdev, entry.nlink)
            assert tree.stat(entry.path) == entry
            found[entry.path] = (*facts, content, dict(tree.xattrs(entry.path)))
    return found


def described_directory(top: bytes) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, tuple[object, ...]] = {}
    links: dict[int, list[bytes]] = {}
    for directory, _, _ in os.walk(top):
        for entry in os.scandir(directory):
            status = entry.stat(follow_symlinks=False)
            kind, path = stat.S_IFMT(status.st_mode), os.path.relpath(entry.path, top)
            content: bytes | None = None
            if kind == stat.S_IFREG:
                content = Path(os.fsdecode(entry.path)).read_bytes()
            elif kind == stat.S_IFLNK:
                content = os.readlink(entry.path)
            names = os.listxattr(entry.path, follow_symlinks=False)
            xattrs = {os.fsencode(name): os.getxattr(entry.path, name, follow_symlinks=False) for name in names}
            links.setdefault(status.st_ino, []).append(path)
            size = None if kind == stat.S_IFDIR else status.st_size
            facts = (status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, status.st_rdev)
            found[path] = (*facts, status.st_nlink, content, xattrs)
    for paths in links.values():  # a link into another layer's tree (overlay) is none of this one's
        for path in paths:
            if not stat.S_ISDIR(int(str(found[path][0]))):
                found[path] = (*found[path][:6], len(paths), *found[path][7:])
    return found


def test_the_source_is_not_written_to(pair: Pair, tmp_path: Path) -> None:
    before = snapshot(pair.thin.root)
    assert migrate("plan", pair.thin.root).code == 0
    assert migrate("inspect", pair.thin.root).code == 0
    assert snapshot(pair.thin.root) == before


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(root.rglob("*"))}


@pytest.mark.parametrize("as_devices", [False, True], ids=["images", "block devices"])
def test_pool_on_devices_of_its_own(pair: Pair, tmp_path: Path, as_devices: bool) -> None:
    """direct-lvm: the root has no loop files; data and metadata are named on the command line."""
    root = tmp_path / "root"
    pool = pair.thin.root / "devicemapper/devicemapper"
    shutil.copytree(pair.thin.root, root, ignore=shutil.ignore_patterns("data", "metadata.img", "devicemapper"))
    shutil.copytree(pair.thin.root / "devicemapper/metadata", root / "devicemapper/metadata")
    missing = migrate("plan", root)
    assert missing.code == 4
    assert "--dm-data" in missing.err
    with named(pool / "data", as_devices) as data, named(pool / "metadata", as_devices) as metadata:
        done = migrate("plan", root, "--dm-data", data, "--dm-metadata", metadata)
    assert done.code == 0, done.err


@contextmanager
def named(image: Path, as_device: bool) -> Iterator[Path]:
    if not as_device:
        yield image
        return
    device = run("losetup", "--find", "--show", "--read-only", str(image)).strip()
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(pair: Pair, tmp_path: Path) -> Path:
    run("cp", "-a", "--sparse=always", str(pair.thin.root), str(tmp_path / "root"))
    return tmp_path / "root"


def test_damaged_layer_costs_the_images_that_hold_it(pair: Pair, copied: Path, tmp_path: Path) -> None:
    """Blocks that one layer's device shares with no other are overwritten."""
    uses = Counter(target for mapping in pair.thin.pool.devices.values() for target in mapping.values())
    own = {
        layer: [target for target in pair.thin.pool.devices[device].values() if uses[target] == 1]
        for layer, device in pair.thin.devices.items()
    }
    chains = {legacy_id: facts["v1_chain"] for legacy_id, facts in pair.expected["all_images"].items()}
    lost = next(layer for layer in sorted(chains) if chains[layer][-1] == layer and len(own[layer]) > 2)
    with (copied / "devicemapper/devicemapper/data").open("r+b") as stream:
        for block in own[lost]:
            stream.seek(block * pair.thin.pool.block)
            stream.write(b"\xff" * pair.thin.pool.block)
    done = migrate("convert", copied, tmp_path / "layout", "--empty-layers", "keep", "--all")
    assert done.code == 3
    report = json.loads((tmp_path / "layout/migration-report.json").read_bytes())
    converted = {image["legacy_id"]: image["image_id"] for image in report["images"]}
    holding = {legacy_id for legacy_id, chain in chains.items() if lost in chain}
    failed = {failure["legacy_id"] for failure in report["failures"]}
    assert failed >= holding
    assert converted == {key: pair.expected["all_images"][key]["image_id"] for key in chains.keys() - failed}
    assert {failure["layer"] for failure in report["failures"] if failure["legacy_id"] in holding} == {lost}
    assert migrate("verify", tmp_path / "layout").code == 0


@pytest.mark.parametrize("part", ["data", "metadata"])
@pytest.mark.parametrize("length", [0, 4096, 70_000])
def test_truncated_pool(copied: Path, part: str, length: int) -> None:
    """What the rest still leads to is read."""
    os.truncate(copied / "devicemapper/devicemapper" / part, length)
    done = migrate("plan", copied)
    assert done.code == (3 if (part, length) == ("metadata", 70_000) else 4)
    assert "devicemapper" in done.err + done.out
    assert migrate("inspect", copied).code == 0
