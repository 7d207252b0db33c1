"""Pool metadata written by thin_restore: what we read is what thin_dump reads, and damage is named, never guessed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from fastcrc import crc32
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.errors import DamagedError, MigrateError, MissingLayerError, TruncatedError, UnsupportedError
from migrate.storage.blocks import open_device
from migrate.storage.thin.btree import BLOCK_SIZE, NODE_CSUM_XOR, Loss, read_node, walk_leaves
from migrate.storage.thin.pool import SUPERBLOCK_CSUM_XOR, DeviceMap, ThinPool
from tests.unit.readers.devicemapper.pools import dumped_mappings, pool_xml, restore

pytestmark = pytest.mark.peer

Devices = dict[int, dict[int, int]]


def write_pool(directory: Path, devices: Devices, size: int = 1024 * 1024, *, check: bool = True) -> Path:
    document, metadata = directory / "pool.xml", directory / "metadata"
    total = max((target for mapping in devices.values() for target in mapping.values()), default=0) + 1
    document.write_text(pool_xml(devices, {}, 7, total))
    restore(document, metadata, size, check=check)
    return metadata


def mappings(metadata: Path) -> Devices:
    image = open_device(metadata)
    try:
        pool = ThinPool(image)
        assert pool.problems == ()
        return {device: dict(pool.read_map(device).blocks()) for device in pool.devices}
    finally:
        image.close()


def small_pools() -> st.SearchStrategy[Devices]:
    """A few devices that share blocks, with runs, gaps and single blocks."""
    runs = st.tuples(st.integers(0, 2_000), st.integers(0, 500), st.integers(1, 40))

    def laid(pieces: list[tuple[int, int, int]]) -> dict[int, int]:
        return {start + at: target + at for start, target, length in pieces for at in range(length)}

    mapping = st.lists(runs, max_size=6).map(laid)
    return st.dictionaries(st.integers(0, 0xFFFFFF), mapping, max_size=5)


@given(devices=small_pools())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mappings_equal_thin_dump_for_random_pools(tmp_path: Path, devices: Devices) -> None:
    metadata = write_pool(tmp_path, devices, check=False)  # thin_dump checks it as well
    assert mappings(metadata) == dumped_mappings(metadata) == devices


def test_mappings_equal_thin_dump_for_trees_of_several_levels(tmp_path: Path) -> None:
    """100,000 mappings that no run joins: leaves hold 252 entries, so the tree has three levels."""
    fragmented = {number * 3: (number * 7919) % 100_003 for number in range(100_000)}
    shared = {number: fragmented[number * 3] for number in range(1_000)}
    metadata = write_pool(tmp_path, {5: fragmented, 9: shared, 4_000: {}}, 16 * 1024 * 1024)
    found = mappings(metadata)
    assert found == dumped_mappings(metadata)
    assert found[5] == fragmented


def test_many_devices_make_the_details_tree_deep(tmp_path: Path) -> None:
    devices = {number * 11: {number: number} for number in range(1_500)}
    metadata = write_pool(tmp_path, devices, 16 * 1024 * 1024)
    assert mappings(metadata) == devices


def test_runs_are_joined(tmp_path: Path) -> None:
    metadata = write_pool(tmp_path, {1: {**{at: 100 + at for at in range(50)}, 60: 7}})
    found = ThinPool(open_device(metadata)).read_map(1)
    assert (found.starts, found.targets, found.lengths) == ([0, 60], [100, 7], [50, 1])
    assert found.find(49) == (149, 1)
    assert found.find(50) == (None, 10)
    assert found.find(60) == (7, 1)
    assert found.find(61)[0] is None


# --- damage ------------------------------------------------------------------------------------------------------


def checksummed(block: bytes, xor: int) -> bytes:
    return struct.pack("<I", crc32.iscsi(block[4:]) ^ 0xFFFFFFFF ^ xor) + block[4:]


def patch(metadata: Path, block: int, offset: int, content: bytes, *, xor: int | None = NODE_CSUM_XOR) -> None:
    """Changes bytes of one block; with `xor`, its checksum is made right again."""
    with metadata.open("r+b") as stream:
        stream.seek(block * BLOCK_SIZE)
        raw = bytearray(stream.read(BLOCK_SIZE))
        raw[offset : offset + len(content)] = content
        stream.seek(block * BLOCK_SIZE)
        stream.write(bytes(raw) if xor is None else checksummed(bytes(raw), xor))


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """Device 1 has a tree of two levels, device 2 one leaf."""
    return write_pool(tmp_path, {1: {at * 2: at * 5 for at in range(1_000)}, 2: {0: 3, 9: 4}})


def root_of(metadata: Path, device: int) -> int:
    pool = ThinPool(open_device(metadata))
    (leaf,) = walk_leaves(open_device(metadata), pool.superblock.data_mapping_root, 8)
    assert not isinstance(leaf, Loss)
    return int(leaf.numbers()[leaf.keys.index(device)])


def test_needs_check_is_reported_and_read(metadata: Path) -> None:
    patch(metadata, 0, 4, struct.pack("<I", 1), xor=SUPERBLOCK_CSUM_XOR)
    pool = ThinPool(open_device(metadata))
    assert pool.superblock.needs_check
    assert "thin_check" in pool.problems[0]
    assert pool.read_map(2).mapped_blocks == 2


def test_torn_superblock_with_sound_trees_is_read(metadata: Path) -> None:
    patch(metadata, 0, 600, b"torn", xor=None)
    pool = ThinPool(open_device(metadata))
    assert "checksum" in pool.problems[0]
    assert pool.read_map(1).mapped_blocks == 1_000


def test_torn_superblock_that_leads_nowhere_is_refused(metadata: Path) -> None:
    patch(metadata, 0, 320, struct.pack("<Q", 77), xor=None)
    with pytest.raises(DamagedError, match="torn"):
        ThinPool(open_device(metadata))


def test_torn_superblock_that_leads_to_another_tree_is_refused(metadata: Path) -> None:
    patch(metadata, 0, 320, struct.pack("<Q", root_of(metadata, 2)), xor=None)
    with pytest.raises(DamagedError, match="name other devices"):
        ThinPool(open_device(metadata))


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (32, struct.pack("<Q", 27022011), "magic"),
        (336, struct.pack("<I", 100), "block size"),
        (336, struct.pack("<I", 0), "block size"),
        (360, struct.pack("<I", 4), "incompat"),
        (40, struct.pack("<I", 3), "version 3"),
    ],
)
def test_impossible_superblocks(metadata: Path, offset: int, content: bytes, message: str) -> None:
    patch(metadata, 0, offset, content, xor=SUPERBLOCK_CSUM_XOR)
    with pytest.raises((DamagedError, UnsupportedError), match=message):
        ThinPool(open_device(metadata))


def test_one_bad_leaf_costs_its_range_only(metadata: Path) -> None:
    root = read_node(open_device(metadata), root_of(metadata, 1))
    assert not root.leaf
    lost_first, lost_end = root.keys[1], root.keys[2]
    patch(metadata, root.numbers()[1], 2_000, b"!", xor=None)
    found = ThinPool(open_device(metadata)).read_map(1)
    assert [(loss.first, loss.end) for loss in found.losses] == [(lost_first, lost_end)]
    assert found.find(0) == (0, 1)
    assert found.find(lost_end) == (lost_end // 2 * 5, 1)
    assert found.find(lost_first - 1) == (None, 1)
    with pytest.raises(DamagedError, match="checksum"):
        found.find(lost_first)
    assert ThinPool(open_device(metadata)).read_map(2).losses == []


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (4, struct.pack("<I", 3), "flags"),
        (8, struct.pack("<Q", 9999), "has the block number"),
        (16, struct.pack("<I", 4_000), "do not fit"),
        (20, struct.pack("<I", 600), "do not fit"),
        (32, struct.pack("<QQ", 5, 5), "ascend"),
    ],
)
def test_impossible_nodes(metadata: Path, offset: int, content: bytes, message: str) -> None:
    patch(metadata, root_of(metadata, 1), offset, content)
    found = ThinPool(open_device(metadata)).read_map(1)
    assert found.mapped_blocks == 0
    assert message in str(found.losses[0].error)


def test_cycle_ends(metadata: Path) -> None:
    root = root_of(metadata, 1)
    node = read_node(open_device(metadata), root)
    most = struct.unpack("<I", metadata.read_bytes()[root * BLOCK_SIZE + 20 :][:4])[0]
    patch(metadata, root, 32 + most * 8, struct.pack("<Q", root))
    found = ThinPool(open_device(metadata)).read_map(1)
    assert "two places" in str(found.losses[0].error)
    assert found.find(node.keys[1])[0] is not None


def test_child_outside_of_its_parents_keys(metadata: Path) -> None:
    root = root_of(metadata, 1)
    node = read_node(open_device(metadata), root)
    patch(metadata, root, 32 + 8, struct.pack("<Q", node.keys[1] + 1))
    losses = ThinPool(open_device(metadata)).read_map(1).losses
    assert "outside" in str(losses[0].error)


def test_device_that_is_not_there(metadata: Path) -> None:
    pool = ThinPool(open_device(metadata))
    with pytest.raises(MissingLayerError, match="no device 3"):
        pool.details(3)
    with pytest.raises(MissingLayerError, match="no device 3"):
        pool.read_map(3)


def test_device_that_may_stand_in_a_damaged_part(metadata: Path) -> None:
    pool = ThinPool(open_device(metadata))
    patch(metadata, pool.superblock.device_details_root, 100, b"!", xor=None)
    pool = ThinPool(open_device(metadata))
    with pytest.raises(DamagedError, match="cannot be found"):
        pool.details(1)
    assert pool.problems


def test_truncated_metadata(metadata: Path) -> None:
    with metadata.open("r+b") as stream:
        stream.truncate(2 * BLOCK_SIZE)
    pool = ThinPool(open_device(metadata))
    with pytest.raises(MigrateError):
        pool.read_map(1)
    with metadata.open("r+b") as stream:
        stream.truncate(1_000)
    with pytest.raises(TruncatedError):
        ThinPool(open_device(metadata))


@given(offset=st.integers(0, 20 * BLOCK_SIZE - 1), content=st.binary(min_size=1, max_size=64), resum=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_give_named_errors_or_a_part(metadata: Path, offset: int, content: bytes, resum: bool) -> None:
    """Half of the flips carry a right checksum, so that the checks behind it are met as well."""
    before = metadata.read_bytes()
    block, inside = divmod(offset, BLOCK_SIZE)
    xor = (SUPERBLOCK_CSUM_XOR if block == 0 else NODE_CSUM_XOR) if resum else None
    patch(metadata, block, inside, content[: BLOCK_SIZE - inside], xor=xor)
    image = open_device(metadata)
    try:
        pool = ThinPool(image)
        for device in list(pool.devices)[:50]:
            _look_around(pool.read_map(device))
    except MigrateError:
        pass
    finally:
        image.close()
        metadata.write_bytes(before)


def _look_around(found: DeviceMap) -> None:
    for block in (0, 1, 500, 1 << 40):
        try:
            assert found.find(block)[1] > 0
        except DamagedError:
            assert found.losses
