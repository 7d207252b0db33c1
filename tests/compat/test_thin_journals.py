"""File systems that were in use when the store was copied, as a dying host leaves them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from migrate.errors import DamagedError, UnsupportedError
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


JOURNALS = {
    "checksums of version 3": ("-b", "4096"),
    "no checksums": ("-b", "4096", "-O", "^metadata_csum,^64bit"),
    "1k blocks": ("-b", "1024"),
}
MAGIC = b"\xc0\x3b\x39\x98"
DESCRIPTOR, COMMIT = 1, 2


@pytest.fixture(scope="module", params=JOURNALS)
def copies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    """Copies of an ext4 made while it is mounted: transactions that are not checkpointed, changes not committed."""
    top = tmp_path_factory.mktemp("mounted")
    image = top / "image"
    with image.open("wb") as stream:
        stream.truncate(32 * 1024**2)
    run("mkfs.ext4", "-q", *JOURNALS[request.param], str(image))
    copied = []
    with mounted(image, top / "mnt", "commit=300") as place:
        (place / "rootfs").mkdir()
        for number in range(3):
            change(place, number)
            run("sync", "-f", str(place))
            (place / f"rootfs/later{number}").mkdir()
            (place / f"rootfs/dir{number}/0000{'x' * 100}").rename(place / f"rootfs/later{number}/moved")
            copied.append(top / f"copy{number}")
            run("cp", "--sparse=always", str(image), str(copied[-1]))
    return request.param, copied


def test_a_copy_of_a_mounted_ext4_holds_what_the_kernel_sees(copies: tuple[str, list[Path]], tmp_path: Path) -> None:
    for number, copy in enumerate(copies[1]):
        assert "needs_recovery" in run("dumpe2fs", "-h", str(copy))
        driver = store_of(copy, tmp_path / f"store{number}")
        found = described(driver.layer_tree(LAYER))
        assert "journal was replayed" in driver.layer_doubts(LAYER)[0]
        driver.close()
        run("cp", "--sparse=always", str(copy), str(tmp_path / "kernel"))
        with mounted(tmp_path / "kernel", tmp_path / "mnt") as place:
            assert found == described_directory(os.fsencode(place / "rootfs"))


@pytest.mark.parametrize("damage", ["descriptor", "tags", "block", "commit", "order"])
def test_committed_transactions_are_not_lost_in_silence(
    copies: tuple[str, list[Path]], damage: str, tmp_path: Path
) -> None:
    """Whatever happened to a part of the log, there are transactions behind it that were committed."""
    kind, copied = copies
    if kind == "no checksums" and damage != "descriptor":
        return  # nothing in such a log shows it, to the kernel neither
    content = bytearray(copied[-1].read_bytes())
    unit = 1024 if kind == "1k blocks" else 4096
    log = [at for at in range(0, len(content), unit) if content[at : at + 4] == MAGIC]
    kinds = [int.from_bytes(content[at + 4 : at + 8], "big") for at in log]
    middle = log[kinds.index(DESCRIPTOR, kinds.index(COMMIT))]
    commit = log[kinds.index(COMMIT, kinds.index(COMMIT) + 1)]
    place, size = {
        "descriptor": (middle, unit),
        "tags": (middle + 12, 48),
        "block": (middle + unit + 100, 8),
        "commit": (commit + 16, 4),
        "order": (commit + 8, 4),
    }[damage]
    content[place : place + size] = b"\x5a" * size
    (tmp_path / "damaged").write_bytes(content)
    driver = store_of(tmp_path / "damaged", tmp_path / "store")
    with pytest.raises(DamagedError, match=r"transaction \d+ was committed, and .* may be missing"):
        driver.layer_tree(LAYER)
    driver.close()


def test_an_ext2_that_was_mounted_is_doubted(tmp_path: Path) -> None:
    """It has no journal that could hold what was not written yet."""
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(16 * 1024**2)
    run("mkfs.ext2", "-q", str(image))
    with mounted(image, tmp_path / "mnt") as place:
        (place / "id").write_text(LAYER)
        change(place, 0)
        run("sync", "-f", str(place))
        run("cp", "--sparse=always", str(image), str(tmp_path / "copy"))
    for name, doubted in (("copy", True), ("image", False)):
        driver = store_of(tmp_path / name, tmp_path / f"store-{name}")
        driver.layer_tree(LAYER)
        assert ["has no journal" in doubt for doubt in driver.layer_doubts(LAYER)] == [True] * doubted
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
