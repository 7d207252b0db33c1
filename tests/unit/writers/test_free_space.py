from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from migrate.errors import TargetError
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import PayloadRef
from migrate.model.options import Compression, ConvertOptions
from migrate.writers.discard import Discard
from migrate.writers.free_space import check_target_room, check_target_room_for_streams, estimate_bytes


@dataclass
class Disk(Discard):
    free: int | None
    held: int = 0

    def free_bytes(self) -> int | None:
        return self.free

    def held_bytes(self) -> int:
        return self.held


LAYERS = [PayloadRef(key="a", size=1_000), PayloadRef(key="b", size=3_000), PayloadRef(key="c")]
PLAIN = ConvertOptions(compression=Compression.NONE)


def test_the_estimate() -> None:
    assert estimate_bytes(LAYERS, PLAIN) == 4_000
    assert estimate_bytes(LAYERS, ConvertOptions()) == 1_400
    assert estimate_bytes([PayloadRef(key="k", size=1_000, keep=True)], ConvertOptions()) == 1_000


def test_claimed_twins_count_once() -> None:
    diff_id = DiffID(Digest("0" * 64))
    twins = [PayloadRef(key=key, size=500, diff_id=diff_id) for key in "ab"]
    assert estimate_bytes(twins, PLAIN) == 500


@pytest.mark.parametrize(
    ("free", "held", "fits"), [(4_000, 0, True), (3_999, 0, False), (3_999, 1, True), (None, 0, True)]
)
def test_room(free: int | None, held: int, fits: bool) -> None:
    if fits:
        check_target_room(LAYERS, Disk(free, held), PLAIN)
    else:
        with pytest.raises(TargetError, match="too little free space in the target"):
            check_target_room(LAYERS, Disk(free, held), PLAIN)


def test_force_and_targets_without_a_disk() -> None:
    check_target_room(LAYERS, Disk(0), ConvertOptions(force=True, compression=Compression.NONE))
    check_target_room(LAYERS, Discard(), PLAIN)
    check_target_room(LAYERS, None, PLAIN)


def test_compressed_archives_need_what_the_largest_of_them_takes(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.gz", "b.gz", "gone", "-")]
    for path, size in zip(paths, (1_000, 3_000), strict=False):
        Path(path).write_bytes(bytes(size))
    check_target_room_for_streams(paths, Disk(3_000), PLAIN)
    check_target_room_for_streams(paths, Disk(0), ConvertOptions(force=True))
    check_target_room_for_streams(paths, None, PLAIN)
    with pytest.raises(TargetError, match="about 3,000 bytes are needed and 2,999 are free"):
        check_target_room_for_streams(paths, Disk(2_999), PLAIN)
