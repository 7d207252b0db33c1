"""Docker roots with devicemapper in tars and on disks: loop files, and a thin pool in an LVM group (direct-lvm)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import disks, wrapped, wrappings
from tests.roots import RootBuilder, identity
from tests.stores import StoreShelf, stores
from tests.unit.readers.devicemapper.images import make_ext4
from tests.unit.readers.devicemapper.pools import PoolBuilder, write_record
from tests.wrapped import Facts, facts, identities

__all__ = ["stores"]

pytestmark = pytest.mark.peer
SIZE = 32 * disks.MIB
PV = "c" * 32
CONTAINERS = "containers-1.9.1-vfs"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers on thin devices of a pool in loop files."""
    place = tmp_path_factory.mktemp("pool")
    root = RootBuilder(place / "docker")
    root.add("base")
    root.add("top", "base")
    (root.path / "vfs").rename(place / "unused")
    root.tag({"app": {"1": "top"}})
    (root.path / "repositories-vfs").rename(root.path / "repositories-devicemapper")
    store = root.path / "devicemapper"
    (store / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(store / "devicemapper")
    content = place / "tree"
    for device, (name, layer) in enumerate((("base", identity("base")), ("top", identity("top"))), start=1):
        (content / "rootfs/etc").mkdir(parents=True, exist_ok=True)
        (content / "rootfs/etc" / name).write_bytes(name.encode() * 5_000)
        (content / "id").write_text(identity("base"))
        pool.add(device, make_ext4(place / f"{name}.img", content, "32M"), device - 1 or None)
        write_record(store, layer, device, SIZE, pool.transaction)
    pool.write_metadata()
    return root.path


@pytest.fixture(scope="module")
def plain(root: Path) -> Facts:
    found = facts(root)
    assert len(found["images"]) == 2 and not found["failures"]
    return found


@pytest.mark.parametrize("writer", ["gnu-pax-sparse", "gnu-pax-sparse-0.0", "gnu-sparse", "gnu-old", "bsdtar-pax"])
def test_loop_files_in_a_sparse_tar(root: Path, plain: Facts, tmp_path: Path, writer: str) -> None:
    wrappings.ALL[writer](root, tmp_path / "backup.tar")
    assert (tmp_path / "backup.tar").stat().st_size < (root / "devicemapper/devicemapper/data").stat().st_size
    assert identities(facts(tmp_path / "backup.tar")) == identities(plain)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_loop_files_on_a_disk(root: Path, plain: Facts, tmp_path: Path, kind: str) -> None:
    disks.FILE_SYSTEMS[kind](root, tmp_path / "disk.img", (320 if kind == "btrfs" else 96) * disks.MIB)
    assert identities(facts(tmp_path / "disk.img")) == identities(plain)


@pytest.fixture
def disk(root: Path, tmp_path: Path) -> Path:
    """direct-lvm: the root without loop files on one volume, the pool's two parts beside it."""
    without = tmp_path / "without"
    disks.run("cp", "-a", root, without)
    pool = without / "devicemapper/devicemapper"
    parts = {"data": pool.rename(tmp_path / "pool") / "data", "metadata": tmp_path / "pool/metadata"}
    disks.FILE_SYSTEMS["ext4"](without, tmp_path / "root.img", 64 * disks.MIB)
    sizes = {name: disks.extents_of(path.stat().st_size) for name, path in parts.items()}
    first = {"root": 0, "metadata": 17, "data": 17 + sizes["metadata"]}
    volume = disks.physical_volume(tmp_path / "pv", PV, first["data"] + sizes["data"] + 1)
    disks.write_extents(volume, first["root"], tmp_path / "root.img")
    for name, path in parts.items():
        disks.write_extents(volume, first[name], path)
    thin = [
        "segment_count = 1",
        "segment1 {",
        "start_extent = 0",
        f"extent_count = {sizes['data']}",
        'type = "thin-pool"',
    ]
    thin += [
        'metadata = "docker-pool_tmeta"',
        'pool = "docker-pool_tdata"',
        "transaction_id = 0",
        "chunk_size = 128",
        "}",
    ]
    text = disks.volume_group(
        "docker",
        {"pv0": PV},
        {
            "root": ('"READ", "WRITE", "VISIBLE"', disks.linear(("pv0", first["root"], 16))),
            "docker-pool": ('"READ", "WRITE", "VISIBLE"', "\n".join(thin)),
            "docker-pool_tmeta": ('"READ", "WRITE"', disks.linear(("pv0", first["metadata"], sizes["metadata"]))),
            "docker-pool_tdata": ('"READ", "WRITE"', disks.linear(("pv0", first["data"], sizes["data"]))),
        },
    )
    disks.write_metadata(volume, text)
    disks.partitioned([volume], tmp_path / "disk.img", "gpt")
    return tmp_path / "disk.img"


@pytest.fixture(scope="module")
def with_containers(stores: StoreShelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of the vfs driver, each tree of which became the file system of a thin device, with all times."""
    place = tmp_path_factory.mktemp("containers")
    root = place / "docker"
    disks.run("cp", "-a", stores.path(CONTAINERS), root)
    trees = sorted((root / "vfs").rename(place / "vfs").joinpath("dir").iterdir())
    (root / "repositories-vfs").rename(root / "repositories-devicemapper")
    for record in root.glob("containers/*/config*.json"):
        record.write_bytes(record.read_bytes().replace(b'"Driver":"vfs"', b'"Driver":"devicemapper"'))
    store = root / "devicemapper"
    (store / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(store / "devicemapper")
    for device, tree in enumerate(trees, start=1):
        image = disks.blank(place / "image", 2 * disks.MIB)
        disks.run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-I", "256", image)
        with disks.mounted(image) as top:
            disks.run("cp", "-a", tree, top / "rootfs")
            (top / "id").write_text(tree.name)
        pool.add(device, image)
        write_record(store, tree.name, device, image.stat().st_size, pool.transaction)
        image.unlink()
    pool.write_metadata()
    return root


def test_containers_on_thin_devices(with_containers: Path, stores: StoreShelf, tmp_path: Path) -> None:
    """The same images, as they are and from a tar."""
    wrappings.ALL["gnu-pax-sparse"](with_containers, tmp_path / "backup.tar")
    expected = facts(stores.path(CONTAINERS))
    assert sum("container/" in str(image[1]) for image in expected["images"]) > 5
    for source in (with_containers, tmp_path / "backup.tar"):
        found = facts(source)
        assert identities(found) == identities(expected)
        assert found["containers"] == expected["containers"]


def test_direct_lvm(disk: Path, plain: Facts, tmp_path: Path) -> None:
    disks.convert(disk, tmp_path / "disk.qcow2", "qcow2")
    found = wrapped.unprivileged([disk, tmp_path / "disk.qcow2"])
    assert [identities(one) for one in found] == [identities(plain)] * 2
