"""File systems that were in use when the store was copied, as a dying host leaves them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from migrate.errors import UnsupportedError
from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.storage.directory_tree import DirectoryTree
from tests.compat.test_devicemapper import described, described_directory
from tests.compat.thin_store import make_base, mounted
from tests.unit.readers.devicemapper.pools import PoolBuilder, run, write_record

pytestmark = pytest.mark.peer

LAYER = LegacyID("cd" * 32)


def store_of(image: Path, directory: Path) -> DevicemapperDriver:
    (directory / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(directory / "devicemapper")
    pool.add(1, image)
    pool.write_metadata()
    write_record(directory, LAYER, 1, image.stat().st_size)
    return DevicemapperDriver(DirectoryTree(str(directory)))


def change(place: Path, number: int) -> None:
    """Enough to fill a descriptor block, and blocks that are freed again, so that they are revoked."""
    directory = place / f"rootfs/dir{number}"
    directory.mkdir(parents=True)
    for name in range(300):
        (directory / f"{name:04d}{'x' * 100}").write_bytes(b"%d" % name)
    if number:
        shutil.rmtree(place / f"rootfs/dir{number - 1}")


@pytest.mark.parametrize(
    "options", [(), ("-O", "^metadata_csum,^64bit"), ("-b", "1024", "-O", "^metadata_csum,^64bit")]
)
def test_ext4_journal_is_replayed_in_memory(options: tuple[str, ...], tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(64 * 1024**2)
    run("mkfs.ext4", "-q", *options, str(image))
    with mounted(image, tmp_path / "mnt") as place:
        (place / "id").write_text(LAYER)
        for number in range(4):
            change(place, number)
            run("sync", "-f", str(place))
        expected = described_directory(os.fsencode(place / "rootfs"))
        run("cp", "--sparse=always", str(image), str(tmp_path / "copy"))
    assert "needs_recovery" in run("dumpe2fs", "-h", str(tmp_path / "copy"))
    driver = store_of(tmp_path / "copy", tmp_path / "store")
    found = described(driver.layer_tree(LAYER))
    assert found == expected
    assert "journal was replayed" in driver.layer_doubts(LAYER)[0]
    driver.close()


def test_a_frozen_file_system_needs_no_replay(tmp_path: Path) -> None:
    """Docker suspends a device before it takes a snapshot of it, which leaves the journal empty."""
    image = make_base(tmp_path / "image", "ext4")
    with mounted(image, tmp_path / "mnt") as place:
        change(place, 0)
        run("fsfreeze", "-f", str(place))
        try:
            expected = described_directory(os.fsencode(place / "rootfs"))
            run("cp", "--sparse=always", str(image), str(tmp_path / "copy"))
        finally:
            run("fsfreeze", "-u", str(place))
    driver = store_of(tmp_path / "copy", tmp_path / "store")
    assert described(driver.layer_tree(LAYER)) == expected
    assert not driver.layer_doubts(LAYER)
    driver.close()


def test_xfs_log_that_was_not_closed_is_refused(tmp_path: Path) -> None:
    image = make_base(tmp_path / "image", "xfs")
    with mounted(image, tmp_path / "mnt") as place:
        change(place, 0)
        run("sync", "-f", str(place))
        run("cp", "--sparse=always", str(image), str(tmp_path / "copy"))
    driver = store_of(tmp_path / "copy", tmp_path / "store")
    with pytest.raises(UnsupportedError, match="log was not replayed"):
        driver.layer_tree(LAYER)
    driver.close()


def test_xfs_log_is_closed_wherever_its_ring_stands(tmp_path: Path) -> None:
    """A small log and many transactions: the head moves on, and in the end a second round has begun."""
    image, place = tmp_path / "image", tmp_path / "mnt"
    with image.open("wb") as stream:
        stream.truncate(320 * 1024**2)
    run("mkfs.xfs", "-q", "-l", "size=8m", "--unsupported", str(image))
    (place / "rootfs").mkdir(parents=True)
    heads = []
    for number in range(10):
        with mounted(image, place):
            for again in range(4):
                change(place, number * 4 + again)
                run("sync", "-f", str(place))
            expected = described_directory(os.fsencode(place / "rootfs"))
        driver = store_of(image, tmp_path / f"store{number}")
        assert described(driver.layer_tree(LAYER)) == expected
        driver.close()
        logged = run("xfs_logprint", "-t", str(image))
        assert "<CLEAN>" in logged
        heads.append(int(logged.split("head: ")[1].split()[0]))
    assert heads != sorted(heads)
