"""Every shape that ext4 and XFS give names, contents and attributes, written by the kernel and read without it."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.storage.directory_tree import DirectoryTree
from tests.compat.test_devicemapper import described, described_directory
from tests.compat.thin_store import mounted
from tests.unit.readers.devicemapper.images import ERA_FEATURES
from tests.unit.readers.devicemapper.pools import PoolBuilder, run, write_record

pytestmark = pytest.mark.peer

LAYER = LegacyID("ab" * 32)
EXT4: dict[str, Sequence[str]] = {
    "era": ("-O", ERA_FEATURES),
    "today": (),
    "1k blocks, 128-byte inodes": ("-O", ERA_FEATURES, "-b", "1024", "-I", "128"),
    "512-byte inodes": ("-I", "512"),
    "ext3": ("-t", "ext3", "-O", "^64bit"),
    "ext2": ("-t", "ext2"),
}
XFS: dict[str, Sequence[str]] = {
    "today": (),
    "1k blocks": ("-b", "size=1024"),
    "large directory blocks": ("-n", "size=16384"),
    "2k inodes": ("-i", "size=2048"),
}  # fmt: skip
CASES = [("ext4", name) for name in EXT4] + [("xfs", name) for name in XFS]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind} {name}" for kind, name in CASES])
def test_all_that_a_file_system_can_hold(kind: str, name: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(320 * 1024**2)
    run(f"mkfs.{kind}", "-q", *(EXT4 if kind == "ext4" else XFS)[name], str(image))
    small = "128-byte" in name
    with mounted(image, tmp_path / "mnt") as place:
        (place / "id").write_text(LAYER)
        (place / "rootfs").mkdir()
        fill(place / "rootfs", large_attributes=not small and "ext" not in kind)
        expected = described_directory(os.fsencode(place / "rootfs"))
    store = tmp_path / "store"
    (store / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(store / "devicemapper")
    pool.add(1, image)
    pool.write_metadata()
    write_record(store, LAYER, 1, image.stat().st_size)
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    found = described(driver.layer_tree(LAYER))
    driver.close()
    assert found.keys() == expected.keys()
    for path, facts in expected.items():
        assert found[path] == facts, path


def fill(top: Path, *, large_attributes: bool) -> None:
    names_and_kinds(top)
    contents(top)
    directories(top)
    attributes(top, large=large_attributes)
    times_and_owners(top)


def names_and_kinds(top: Path) -> None:
    for kind, mode, number in (
        ("null", 0o020666, (1, 3)),
        ("disk", 0o060640, (259, 70_000)),
        ("pipe", 0o010600, (0, 0)),
    ):
        os.mknod(top / kind, mode, os.makedev(*number))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fsencode(top / "sock")) if len(os.fsencode(top / "sock")) < 100 else None
    for length in (1, 40, 59, 60, 61, 155, 156, 336, 400, 1_000):
        (top / f"link{length}").symlink_to("t" * length)
    (top / "odd-\udcff\udcfe").write_bytes(b"x")
    (top / ("n" * 255)).write_bytes(b"y")
    os.link(top / ("n" * 255), top / "second name")
    for name, mode in (("set", 0o6755), ("sticky", 0o1777)):
        (top / name).write_bytes(b"")
        (top / name).chmod(mode)


def contents(top: Path) -> None:
    generator = random.Random(7)
    (top / "one block").write_bytes(generator.randbytes(4_096))
    (top / "large").write_bytes(generator.randbytes(9 * 1024 * 1024 + 17))
    with (top / "sparse").open("wb") as stream:
        for place in (0, 70_000, 5_000_000, 40_000_000):
            stream.seek(place)
            stream.write(b"here")
        stream.truncate(60_000_000)
    with (top / "unwritten").open("wb") as stream:  # holds whatever lay on the disk, and must read as zeros
        subprocess.run(["fallocate", "--length", "300000", str(top / "unwritten")], check=False)
        stream.seek(100_000)
        stream.write(b"middle")
    with (top / "fragmented").open("wb") as first, (top / "other").open("wb") as second:
        for number in range(300):
            for stream in (first, second):
                stream.seek(number * 12_288)
                stream.write(generator.randbytes(4_096))
                stream.flush()
                os.fsync(stream.fileno()) if number % 3 == 0 else None


def directories(top: Path) -> None:
    for count in (3, 12, 90, 1_200):
        directory = top / f"dir{count}"
        directory.mkdir()
        for number in range(count):
            (directory / f"{number:05d}{'z' * (number % 60)}").write_bytes(b"")
        for number in range(0, count, 3):
            (directory / f"{number:05d}{'z' * (number % 60)}").unlink()
    deep = top
    for number in range(40):
        deep = deep / f"level{number}"
        deep.mkdir()


def attributes(top: Path, *, large: bool) -> None:
    (top / "cap").write_bytes(b"")
    os.setxattr(top / "cap", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    (top / "both").write_bytes(b"")
    for name in ("user.one", "trusted.two", "security.three"):
        os.setxattr(top / "both", name, name.encode() * 3)
    (top / "block").write_bytes(b"")
    for number in range(6):
        os.setxattr(top / "block", f"user.{'a' * 20}{number}", b"v" * 100)
    if large:
        for number in range(120):
            os.setxattr(top / "block", f"user.many{number}", b"w" * 500)
        os.setxattr(top / "block", "user.remote", bytes(range(256)) * 200)


def times_and_owners(top: Path) -> None:
    for name, nanoseconds in (("past", -86_400 * 10**9 + 5), ("recent", 1_400_000_000_123_456_789)):
        (top / name).write_bytes(b"")
        os.utime(top / name, ns=(nanoseconds, nanoseconds))
    (top / "owned").write_bytes(b"")
    os.chown(top / "owned", 70_000, 4_000_000_000)
