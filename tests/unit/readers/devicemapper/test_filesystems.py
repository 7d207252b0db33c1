"""ext4 and XFS images of mkfs and debugfs against the directory they were made from; and the same images, damaged."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from migrate.errors import DamagedError, MigrateError, MissingLayerError, TruncatedError, UnsupportedError
from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import Tree
from tests.unit.readers.devicemapper.images import (
    ERA_FEATURES,
    MTIME,
    debugfs,
    make_ext4,
    make_xfs,
    sample_tree,
    xfs_prototype,
)
from tests.unit.readers.devicemapper.pools import BLOCK, PoolBuilder, run, write_record

pytestmark = pytest.mark.peer

LAYER = LegacyID("0" * 64)
V4 = "crc=0,finobt=0,bigtime=0,inobtcount=0,reflink=0,rmapbt=0"
KINDS: dict[str, Callable[[Path, Path], Path]] = {
    "ext4 of the era": lambda image, tree: make_ext4(image, tree),
    "ext4 of today": lambda image, tree: make_ext4(image, tree, "64M", "metadata_csum"),
    "ext4 with inline data": lambda image, tree: make_ext4(
        image, tree, "64M", "inline_data,metadata_csum", "-I", "256"
    ),
    "ext4 with features that few of its files use": lambda image, tree: make_ext4(
        image, tree, "64M", "encrypt,casefold,ea_inode,verity,project,quota"
    ),
    "ext4 with meta_bg": lambda image, tree: make_ext4(
        image, tree, "64M", "meta_bg,^resize_inode,64bit,metadata_csum", "-b", "1024", "-g", "256"
    ),
    "ext4 with meta_bg and two superblocks": lambda image, tree: make_ext4(
        image, tree, "64M", "meta_bg,^resize_inode,^64bit,sparse_super2", "-b", "1024", "-g", "256"
    ),
    "ext3": lambda image, tree: make_ext4(image, tree, "64M", f"^extent,^flex_bg,{ERA_FEATURES}"),
    "ext2, 1k blocks, 128-byte inodes": lambda image, tree: make_ext4(
        image, tree, "64M", f"^extent,^has_journal,{ERA_FEATURES}", "-b", "1024", "-I", "128"
    ),
    "xfs": lambda image, tree: make_xfs(image, xfs_prototype(image.with_suffix(".proto"), tree)),
    "xfs version 4": lambda image, tree: make_xfs(
        image, xfs_prototype(image.with_suffix(".proto"), tree), "320M", "-m", V4, "-i", "size=256"
    ),
    "xfs version 4 without types": lambda image, tree: make_xfs(
        image, xfs_prototype(image.with_suffix(".proto"), tree), "320M", "-m", V4, "-n", "ftype=0"
    ),
}


@dataclass(frozen=True)
class Image:
    kind: str
    path: Path
    tree: Path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_tree(tmp_path_factory.mktemp("tree") / "top", LAYER)


@pytest.fixture(scope="module", params=KINDS)
def image(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    path = tmp_path_factory.mktemp("image") / "image"
    return Image(request.param, KINDS[request.param](path, tree), tree)


def store_of(image: Path, directory: Path, name: str = LAYER, **record: object) -> DevicemapperDriver:
    (directory / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(directory / "devicemapper")
    pool.add(1, image)
    pool.write_metadata()
    write_record(directory, name, 1, image.stat().st_size, **record)  # type: ignore[arg-type]
    return DevicemapperDriver(DirectoryTree(str(directory)))


def walk(tree: Tree) -> Iterator[tuple[bytes, bytes | None]]:
    """Reads everything there is."""
    waiting = [b""]
    while waiting:
        for entry in tree.entries(waiting.pop()):
            content = None
            if stat.S_ISDIR(entry.mode):
                waiting.append(entry.path)
            elif stat.S_ISLNK(entry.mode):
                content = tree.read_link(entry.path)
            elif stat.S_ISREG(entry.mode) and entry.size < 1 << 26:
                with tree.open(entry.path) as stream:
                    content = stream.read()
            tree.xattrs(entry.path)
            yield entry.path, content


def test_reads_what_mkfs_put_there(image: Image, tmp_path: Path) -> None:
    driver = store_of(image.path, tmp_path / "store")
    tree = driver.layer_tree(LAYER)
    top = os.fsencode(image.tree / "rootfs")
    for path, content in walk(tree):
        entry, status = tree.stat(path), os.lstat(os.path.join(top, path))
        assert (entry.mode, entry.uid, entry.gid) == (status.st_mode, status.st_uid, status.st_gid), path
        if not stat.S_ISDIR(entry.mode):
            assert entry.size == status.st_size
        if stat.S_ISREG(entry.mode):
            assert content == Path(os.fsdecode(os.path.join(top, path))).read_bytes(), path
        if stat.S_ISLNK(entry.mode):
            assert content == os.readlink(os.path.join(top, path))
        if image.kind.startswith("ext"):
            assert entry.mtime_ns == MTIME * 10**9
            assert stat.S_ISDIR(entry.mode) or entry.nlink == status.st_nlink
    names = sorted(path for path, _ in walk(tree))
    assert names == sorted(
        os.fsencode(path.relative_to(image.tree / "rootfs")) for path in (image.tree / "rootfs").rglob("*")
    )
    assert not driver.layer_doubts(LAYER)
    driver.close()


@pytest.mark.parametrize("block", [128 * 1024, 192 * 1024, 4 * 1024 * 1024])
def test_other_block_sizes_of_the_pool(tree: Path, tmp_path: Path, block: int) -> None:
    (tmp_path / "store/devicemapper").mkdir(parents=True)
    pool = PoolBuilder(tmp_path / "store/devicemapper", block)
    image = make_ext4(tmp_path / "image", tree)
    pool.add(1, image)
    pool.write_metadata()
    write_record(tmp_path / "store", LAYER, 1, image.stat().st_size)
    driver = DevicemapperDriver(DirectoryTree(str(tmp_path / "store")))
    found = dict(walk(driver.layer_tree(LAYER)))
    assert found[b"etc/big"] == (tree / "rootfs/etc/big").read_bytes()
    assert len(found) == sum(1 for _ in (tree / "rootfs").rglob("*"))
    driver.close()


def test_names_that_are_not_there(image: Image, tmp_path: Path) -> None:
    driver = store_of(image.path, tmp_path / "store")
    tree = driver.layer_tree(LAYER)
    for path in (b"absent", b"etc/absent", b"etc/hostname/below", b"etc/link/below", b"etc/..", b"../id"):
        with pytest.raises(MissingLayerError):
            tree.stat(path)
    for call in (tree.open, tree.read_link, tree.entries):
        with pytest.raises(MigrateError):
            call(b"etc/fifo")
    driver.close()


def test_what_debugfs_can_write(tree: Path, tmp_path: Path) -> None:
    """Devices, capabilities, times before 1970 and after 2038, and large owners, on the era's inodes."""
    image = make_ext4(tmp_path / "image", tree)
    (tmp_path / "cap").write_bytes(bytes.fromhex("0100000200200000000000000000000000000000"))
    debugfs(
        image,
        "cd rootfs/etc",
        "mknod null c 1 3",
        "mknod disk b 259 7000",
        "sif null mode 020666",
        "sif hostname extra_isize 28",  # as kernels before 4.5 made inodes: attributes begin four bytes earlier
        f"ea_set -f {tmp_path / 'cap'} hostname security.capability",
        "sif big mtime @-315619200",
        "sif nothing mtime 21000101000000",
        "sif nothing uid 70000",
        "sif nothing gid 4000000000",
    )
    driver = store_of(image, tmp_path / "store")
    found = driver.layer_tree(LAYER)
    assert (found.stat(b"etc/null").rdev, found.stat(b"etc/disk").rdev) == (os.makedev(1, 3), os.makedev(259, 7000))
    assert found.stat(b"etc/null").mode == 0o020666
    assert found.xattrs(b"etc/hostname") == {b"security.capability": (tmp_path / "cap").read_bytes()}
    assert found.list_capabilities(b"etc") == dict.fromkeys((b"hostname", b"twin"), (tmp_path / "cap").read_bytes())
    assert found.stat(b"etc/big").mtime_ns == -315_619_200 * 10**9
    assert found.stat(b"etc/nothing").mtime_ns == 4_102_444_800 * 10**9
    assert (found.stat(b"etc/nothing").uid, found.stat(b"etc/nothing").gid) == (70_000, 4_000_000_000)
    driver.close()


def test_attributes_of_xfs_version_4(tree: Path, tmp_path: Path) -> None:
    """In the inode, in a leaf, in blocks of their own: written by xfs_db."""
    image = KINDS["xfs version 4"](tmp_path / "image", tree)
    commands = []
    for kind, name, size in (("-s", "capability", 20), ("-u", "leaf", 900), ("-r", "remote", 9_000)):
        commands += ["-c", f"attr_set {kind} -v {size} {name}"]
    run("xfs_db", "-x", "-c", "path /rootfs/etc/hostname", *commands, str(image))
    driver = store_of(image, tmp_path / "store")
    found = driver.layer_tree(LAYER).xattrs(b"etc/hostname")
    assert {name: len(value) for name, value in found.items()} == {
        b"security.capability": 20,
        b"user.leaf": 900,
        b"trusted.remote": 9_000,
    }
    driver.close()


@pytest.mark.parametrize(
    ("features", "message"),
    [("bigalloc", "not read")],
)
def test_features_that_are_not_read_are_refused(tree: Path, tmp_path: Path, features: str, message: str) -> None:
    driver = store_of(make_ext4(tmp_path / "image", None, "64M", features), tmp_path / "store")
    with pytest.raises(MigrateError, match=message):
        driver.layer_tree(LAYER)
    driver.close()


def test_what_is_encrypted_is_refused_by_name(tree: Path, tmp_path: Path) -> None:
    """The flag of an inode whose content, names or target the kernel has encrypted."""
    image = make_ext4(tmp_path / "image", tree, "64M", "encrypt")
    debugfs(
        image,
        "cd rootfs/etc",
        "sif hostname flags 0x80800",
        "sif link flags 0x800",
        "cd ..",
        "sif empty flags 0x80800",
    )
    driver = store_of(image, tmp_path / "store")
    found = driver.layer_tree(LAYER)
    for read, path in ((found.open, b"etc/hostname"), (found.read_link, b"etc/link"), (found.entries, b"empty")):
        with pytest.raises(UnsupportedError, match="is encrypted"):
            read(path)
    with found.open(b"etc/big") as stream:
        assert stream.read() == (tree / "rootfs/etc/big").read_bytes()
    driver.close()


# --- damage ------------------------------------------------------------------------------------------------------


def test_flipped_blocks_give_named_errors(image: Image, tmp_path: Path) -> None:
    """Each round damages a dozen places where something is stored and reads all that can be reached."""
    driver = store_of(image.path, tmp_path / "store")
    driver.close()
    data = tmp_path / "store/devicemapper/data"
    sound = data.read_bytes()
    stored = [at for at in range(0, len(sound), 512) if sound[at : at + 512].strip(b"\0")]
    generator = random.Random(image.kind)
    errors = 0
    for _ in range(60):
        damaged = bytearray(sound)
        for at in generator.sample(stored, 12):
            place = at + generator.randrange(500)
            damaged[place : place + 12] = generator.choice(
                [
                    b"\0" * 12,
                    b"\xff" * 12,
                    generator.randbytes(12),
                    generator.randbytes(1) + sound[place + 1 : place + 12],
                ]
            )
        data.write_bytes(damaged)
        errors += reads_with_named_errors(tmp_path / "store")
    assert errors


def reads_with_named_errors(store: Path) -> int:
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    try:
        for count, _ in enumerate(walk(driver.layer_tree(LAYER))):
            assert count < 20_000
    except MigrateError:
        return 1
    finally:
        driver.close()
    return 0


def test_truncated_data(image: Image, tmp_path: Path) -> None:
    store_of(image.path, tmp_path / "store").close()
    data = tmp_path / "store/devicemapper/data"
    for length in (5 * BLOCK + 7, BLOCK + 1_000, 0):
        os.truncate(data, length)
        driver = DevicemapperDriver(DirectoryTree(str(tmp_path / "store")))
        with pytest.raises(TruncatedError, match="ends at byte"):
            list(walk(driver.layer_tree(LAYER)))
        driver.close()


@pytest.mark.parametrize("link", ["link <2> loop", "link /rootfs/etc again"])
def test_directory_below_itself_or_with_two_parents(link: str, tree: Path, tmp_path: Path) -> None:
    """Directories linked twice at every level would be walked 2^n times."""
    image = make_ext4(tmp_path / "image", tree)
    debugfs(image, "cd rootfs/empty", link)
    driver = store_of(image, tmp_path / "store")
    with pytest.raises(DamagedError, match="as its parent"):
        list(walk(driver.layer_tree(LAYER)))
    driver.close()


def test_journal_on_another_device(tree: Path, tmp_path: Path) -> None:
    image = make_ext4(tmp_path / "image", tree, "64M", f"^has_journal,{ERA_FEATURES}")
    debugfs(image, "feature needs_recovery")
    driver = store_of(image, tmp_path / "store")
    with pytest.raises(UnsupportedError, match="another device"):
        driver.layer_tree(LAYER)
    driver.close()


# --- cost --------------------------------------------------------------------------------------------------------


def test_20_gb_with_200_mb_mapped_cost_the_200_mb(tmp_path: Path) -> None:
    """What is read of the data device is what is mapped, whatever the device's size."""
    top = tmp_path / "top"
    (top / "rootfs").mkdir(parents=True)
    pattern = random.Random(1).randbytes(1024 * 1024)
    for number in range(25):
        with (top / f"rootfs/file{number}").open("wb") as stream:
            stream.writelines([pattern] * 8)
    image = make_ext4(tmp_path / "image", top, "20480M")
    shutil.rmtree(top)
    driver = store_of(image, tmp_path / "store")
    image.unlink()
    total = sum(len(content or b"") for _, content in walk(driver.layer_tree(LAYER)))
    device = driver.open_device(LAYER)
    mapped = device.device_map.mapped_blocks * BLOCK
    assert device.size == 20 * 1024**3
    assert total == 200 * 1024**2
    assert total < driver.bytes_read < mapped < total * 1.1
    assert sum(length for _, length in device.mapped_ranges()) == mapped
    driver.close()
