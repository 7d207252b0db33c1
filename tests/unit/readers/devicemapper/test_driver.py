"""Docker's records of a pool: which device is whose, and which is nobody's."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from migrate.errors import DamagedError, DocumentError, MigrateError, MissingLayerError, SourceError, UnsupportedError
from migrate.model.legacy import LegacyID
from migrate.model.options import ReadOptions
from migrate.readers.graphdrivers.choose import count_layers
from migrate.readers.graphdrivers.devicemapper import open_devicemapper
from migrate.readers.graphdrivers.devicemapper.catalogue import read_catalogue
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.storage.blocks import open_device
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.filesystems import dissection
from migrate.storage.thin.btree import BLOCK_SIZE
from migrate.storage.thin.pool import SUPERBLOCK_CSUM_XOR, ThinPool
from tests.trees import BareTree
from tests.unit.readers.devicemapper.images import make_ext4
from tests.unit.readers.devicemapper.pools import PoolBuilder, run, write_record
from tests.unit.readers.devicemapper.test_pool import patch

pytestmark = pytest.mark.peer

BASE_LAYER, CHILD, OTHER = (LegacyID(digit * 64) for digit in "123")
SIZE = 32 * 1024**2


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base (1), a layer on it (2) and a child (3), which has its parent's `id` file as snapshots have."""
    place = tmp_path_factory.mktemp("template")
    trees = {}
    for name, files in (("empty", {}), ("layer", {"a": b"1"}), ("child", {"a": b"1", "b": b"2"})):
        tree = trees[name] = place / name
        tree.mkdir()
        if name != "empty":
            (tree / "id").write_text(BASE_LAYER)
            (tree / "rootfs").mkdir()
        for path, content in files.items():
            (tree / "rootfs" / path).write_bytes(content)
    directory = place / "root/devicemapper"
    (directory / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(directory / "devicemapper")
    for device, (name, layer) in enumerate((("empty", "base"), ("layer", BASE_LAYER), ("child", CHILD)), start=1):
        pool.add(device, make_ext4(place / f"{name}.img", trees[name], "32M"), device - 1 or None)
        write_record(directory, layer, device, SIZE, pool.transaction)
    pool.write_metadata()
    return directory


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    run("cp", "-a", "--sparse=always", str(template), str(tmp_path / "root"))
    return tmp_path / "root/devicemapper"


def names(driver: DevicemapperDriver, layer: LegacyID) -> list[bytes]:
    return [entry.path for entry in driver.layer_tree(layer).entries(b"")]


def reason(store: Path, layer: LegacyID, kind: type[MigrateError]) -> str:
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    try:
        with pytest.raises(kind) as caught:
            driver.layer_tree(layer)
    finally:
        driver.close()
    assert caught.value.layer == layer
    return str(caught.value)


def test_layers_and_their_trees(store: Path) -> None:
    driver = open_devicemapper(DirectoryTree(str(store.parent)), ReadOptions())
    assert driver.layer_ids() == [BASE_LAYER, CHILD]
    assert driver.has_layer(CHILD) and not driver.has_layer(OTHER) and not driver.has_layer(LegacyID("base"))
    assert (names(driver, BASE_LAYER), names(driver, CHILD)) == ([b"a"], [b"a", b"b"])
    assert driver.layer_tree(CHILD) is driver.layer_tree(CHILD)
    assert not driver.layer_doubts(CHILD) and not driver.layer_damage(CHILD)
    driver.close()
    driver.close()


def test_a_store_in_any_wrapping(store: Path) -> None:
    driver = DevicemapperDriver(BareTree(DirectoryTree(str(store))))
    assert (names(driver, BASE_LAYER), names(driver, CHILD)) == ([b"a"], [b"a", b"b"])
    with driver.layer_tree(CHILD).open(b"b") as stream:
        assert stream.read() == b"2"
    driver.close()


def test_snapshots_share_what_they_have_in_common(store: Path) -> None:
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    parent, child = driver.open_device(BASE_LAYER), driver.open_device(CHILD)
    shared = {parent.pool_position(offset) for offset, _ in parent.mapped_ranges()}
    assert shared & {child.pool_position(offset) for offset, _ in child.mapped_ranges()}
    assert parent.read_at(0, 4096)[1080:1082] == b"\x53\xef"
    driver.close()


def test_layer_without_a_record(store: Path) -> None:
    assert "no device" in reason(store, OTHER, MissingLayerError)


def test_record_of_a_device_that_the_pool_does_not_have(store: Path) -> None:
    write_record(store, OTHER, 77, SIZE)
    assert "no device 77" in reason(store, OTHER, MissingLayerError)


def test_device_that_was_being_deleted(store: Path) -> None:
    write_record(store, CHILD, 3, SIZE, deleted=True)
    assert "being deleted" in reason(store, CHILD, MissingLayerError)


def test_two_records_for_one_device(store: Path) -> None:
    write_record(store, OTHER, 3, SIZE)
    assert "claims thin device 3" in reason(store, CHILD, DamagedError)
    assert "claims thin device 3" in reason(store, OTHER, DamagedError)


def test_device_of_a_transaction_that_the_pool_never_reached(store: Path) -> None:
    """Docker rolls such a device back when it starts."""
    pending = {"open_transaction_id": 4, "device_hash": CHILD, "device_id": 3}
    (store / "metadata/transaction-metadata").write_text(json.dumps(pending))
    assert "transaction 4" in reason(store, CHILD, MissingLayerError)
    pending["open_transaction_id"] = 3
    (store / "metadata/transaction-metadata").write_text(json.dumps(pending))
    assert names(DevicemapperDriver(DirectoryTree(str(store))), CHILD) == [b"a", b"b"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"device_id": "3", "size": 1048576}', '{"device_id": 16777216, "size": 1048576}',
     '{"device_id": 3, "size": 0}', '{"device_id": 3, "size": 1000}', '{"device_id": true, "size": 1048576}',
     '{"device_id": 3, "size": -512}', '{"device_id": 3, "size": 1048576, "deleted": 1}'],
)  # fmt: skip
def test_damaged_record_costs_its_own_layer(store: Path, content: str) -> None:
    (store / "metadata" / CHILD).write_text(content)
    reason(store, CHILD, DocumentError)
    assert names(DevicemapperDriver(DirectoryTree(str(store))), BASE_LAYER) == [b"a"]


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_record_that_is_no_file_costs_its_own_layer(store: Path, kind: str) -> None:
    record = store / "metadata" / CHILD
    record.rename(store / "elsewhere")
    os.symlink(store / "elsewhere", record) if kind == "link" else os.mkfifo(record)
    reason(store, CHILD, DamagedError)
    assert names(DevicemapperDriver(DirectoryTree(str(store))), BASE_LAYER) == [b"a"]


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_records_in_one_file_that_is_none(store: Path, kind: str) -> None:
    place = store / "devicemapper/json"
    (store / "elsewhere").write_text('{"Devices": {}}')
    os.symlink(store / "elsewhere", place) if kind == "link" else os.mkfifo(place)
    with pytest.raises(SourceError):
        read_catalogue(DirectoryTree(str(store)))


def test_what_is_no_record(store: Path) -> None:
    for name in ("deviceset-metadata", ".tmp123", "json.migrated"):
        (store / "metadata" / name).write_text("{}")
    assert set(read_catalogue(DirectoryTree(str(store))).records) == {"base", BASE_LAYER, CHILD}


@pytest.mark.parametrize("name", ["json", "json.migrated"])
def test_single_file_of_docker_0_7(store: Path, name: str) -> None:
    records = {"": 1, BASE_LAYER: 2, CHILD: 3}
    devices = {
        layer: {"device_id": device, "size": SIZE, "transaction_id": device, "initialized": True}
        for layer, device in records.items()
    }
    for layer in ("base", BASE_LAYER, CHILD):
        (store / "metadata" / layer).unlink()
    (store / "devicemapper" / name).write_text(json.dumps({"Devices": devices}))
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    assert driver.layer_ids() == [BASE_LAYER, CHILD]
    assert names(driver, CHILD) == [b"a", b"b"]
    driver.close()
    assert count_layers(DirectoryTree(str(store.parent)), [BASE_LAYER, CHILD, OTHER]) == {"devicemapper": 2}


def test_a_migrated_single_file_is_older_than_the_records(store: Path) -> None:
    stale = {"Devices": {OTHER: {"device_id": 3, "size": SIZE}}}
    (store / "devicemapper/json.migrated").write_text(json.dumps(stale))
    assert DevicemapperDriver(DirectoryTree(str(store))).layer_ids() == [BASE_LAYER, CHILD]


def test_device_without_rootfs_is_an_empty_layer(store: Path) -> None:
    write_record(store, OTHER, 1, SIZE, initialized=True)
    (store / "metadata/base").unlink()
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    assert names(driver, OTHER) == []
    assert driver.layer_tree(OTHER).stat(b"").mode == 0o040755
    driver.close()


def test_device_that_was_never_filled(store: Path) -> None:
    write_record(store, OTHER, 1, SIZE, initialized=False)
    (store / "metadata/base").unlink()
    assert "never filled" in reason(store, OTHER, MissingLayerError)


def test_id_file_of_another_store_is_reported(store: Path, tmp_path: Path) -> None:
    for old, new in ((BASE_LAYER, OTHER), (CHILD, LegacyID("4" * 64))):
        (store / "metadata" / old).rename(store / "metadata" / new)
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    assert names(driver, OTHER) == [b"a"]
    assert BASE_LAYER in driver.layer_doubts(OTHER)[0]
    driver.close()


def test_device_smaller_than_its_file_system(store: Path) -> None:
    write_record(store, CHILD, 3, SIZE // 2)
    assert "blocks" in reason(store, CHILD, DamagedError)


def test_no_pool(store: Path) -> None:
    (store / "devicemapper/metadata").unlink()
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    assert driver.has_layer(CHILD)
    assert "--dm-metadata" in driver.find_problems()[0]
    assert "--dm-metadata" in reason(store, CHILD, MissingLayerError)


@pytest.mark.parametrize("part", ["data", "metadata"])
def test_loop_file_that_is_none(store: Path, part: str) -> None:
    """A link out of the store could put this host's files into an image; a fifo would never answer."""
    path = store / "devicemapper" / part
    path.rename(store / "elsewhere")
    path.symlink_to(store / "elsewhere")
    assert "symbolic link" in reason(store, CHILD, SourceError)
    named = {part: store / "elsewhere"}
    driver = DevicemapperDriver(DirectoryTree(str(store)), **named)
    assert names(driver, CHILD) == [b"a", b"b"]
    driver.close()
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in reason(store, CHILD, SourceError)
    path.unlink()
    path.mkdir()
    reason(store, CHILD, SourceError)


def test_pool_that_needs_a_check_is_read_and_reported(store: Path) -> None:
    patch(store / "devicemapper/metadata", 0, 4, b"\1", xor=SUPERBLOCK_CSUM_XOR)
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    assert "thin_check" in driver.find_problems()[0]
    assert names(driver, CHILD) == [b"a", b"b"]
    driver.close()


def test_damaged_details_leave_the_mappings(store: Path) -> None:
    metadata = store / "devicemapper/metadata"
    image = open_device(metadata)
    root = ThinPool(image).superblock.device_details_root
    image.close()
    patch(metadata, root, 100, b"!", xor=None)
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    assert "checksum" in driver.find_problems()[0]
    assert names(driver, CHILD) == [b"a", b"b"]
    assert "details are lost" in driver.layer_damage(CHILD)[0]
    driver.close()


def test_other_count_of_blocks_is_reported(store: Path) -> None:
    metadata = store / "devicemapper/metadata"
    image = open_device(metadata)
    root = ThinPool(image).superblock.device_details_root
    (most,) = struct.unpack("<I", image.read_at(root * BLOCK_SIZE + 20, 4))
    image.close()
    patch(metadata, root, 32 + most * 8 + 2 * 24, struct.pack("<Q", 4))
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    assert names(driver, CHILD) == [b"a", b"b"]
    assert "counted 4" in driver.layer_damage(CHILD)[0]
    driver.close()


def test_other_file_systems(store: Path) -> None:
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    position = driver.open_device(CHILD).pool_position(0x10040)
    assert position is not None
    driver.close()
    with (store / "devicemapper/data").open("r+b") as stream:
        stream.seek(position)
        stream.write(b"_BHRfS_M")
    assert "btrfs" in reason(store, CHILD, UnsupportedError)


def test_missing_package_names_the_extra(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(dissection, "import_module", absent)
    message = reason(store, CHILD, UnsupportedError)
    assert "docker-legacy-migrate[devicemapper]" in message and "dissect.extfs" in message
