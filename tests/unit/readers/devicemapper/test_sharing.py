"""What snapshots share is read once: a child costs what differs from its parent."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.changes import Comparison
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import Tree
from tests.unit.readers.devicemapper.images import debugfs, make_ext4
from tests.unit.readers.devicemapper.pools import PoolBuilder, write_record

pytestmark = pytest.mark.peer

PARENT, CHILD = LegacyID("a" * 64), LegacyID("b" * 64)
FILES = 3_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 directories of 100 files; in the child one file has another time and one is gone."""
    place = tmp_path_factory.mktemp("sharing")
    for number in range(FILES):
        directory = place / f"top/rootfs/dir{number // 100:02d}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file{number:04d}").write_bytes(b"%d" % number * 200)
    image = make_ext4(place / "image", place / "top")
    shutil.rmtree(place / "top")
    directory = place / "devicemapper"
    (directory / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(directory / "devicemapper")
    pool.add(1, image)
    debugfs(image, "cd rootfs/dir07", "sif file0700 mtime @1500000000", "rm file0799")
    pool.add(2, image, parent=1)
    pool.write_metadata()
    for name, device in ((PARENT, 1), (CHILD, 2)):
        write_record(directory, name, device, image.stat().st_size)
    return directory


def names(tree: Tree) -> int:
    count, waiting = 0, [b""]
    while waiting:
        for entry in tree.entries(waiting.pop()):
            count += 1
            if stat.S_ISDIR(entry.mode):
                waiting.append(entry.path)
    return count


def test_child_costs_what_differs(store: Path) -> None:
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    assert names(driver.layer_tree(PARENT)) == FILES + 30
    parent_bytes = driver.bytes_read
    assert names(driver.layer_tree(CHILD)) == FILES + 29
    child_bytes = driver.bytes_read - parent_bytes
    assert parent_bytes > FILES * 256
    assert child_bytes < parent_bytes / 4
    driver.close()


def test_comparison_reads_no_contents(store: Path) -> None:
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    child, parent = driver.layer_tree(CHILD), driver.layer_tree(PARENT)
    changes = Comparison(child, parent).changes()
    metadata = driver.bytes_read
    assert [change.path for change in changes] == [b"dir07", b"dir07/file0700", b"dir07/file0799"]
    assert changes[2].entry is None
    assert metadata < FILES * 4096 / 4  # each file has a block of its own
    driver.close()


def test_the_order_of_layers_does_not_matter(store: Path) -> None:
    first, second = DevicemapperDriver(DirectoryTree(str(store))), DevicemapperDriver(DirectoryTree(str(store)))
    for driver, order in ((first, (PARENT, CHILD)), (second, (CHILD, PARENT))):
        for layer in order:
            names(driver.layer_tree(layer))
    for layer in (PARENT, CHILD):
        assert first.layer_tree(layer).entries(b"dir07") == second.layer_tree(layer).entries(b"dir07")
    first.close()
    second.close()
