"""How fast a devicemapper store is read, beside a plain read of the same mapped blocks.

    python -m benchmarks.devicemapper [--megabytes 200] [--files 2000] [--rounds 7]

Builds, in a temporary directory, a pool with two layers: a base of `--files` files, `--megabytes` in all, on an ext4
device of 20 GB, and a snapshot in which one file in a hundred differs. Needs e2fsprogs and thin-provisioning-tools.

Printed are medians of interleaved rounds, everything in the page cache, nothing hashed:
- plain: a `pread` of every mapped run of the base device into one buffer, 1 MiB at a time;
- device: the same runs through the thin device;
- files: every file's content through the tree, as tar-split asks for it;
- layer: the base as Docker's tar;
- diff: the snapshot's tar, by comparing both trees (no contents are read but those of changed files).
"""

from __future__ import annotations

import argparse
import os
import random
import stat
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.readers.graphdrivers.tree_tar import tar_of_changes, tar_of_tree
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.thin.device import ThinDevice
from migrate.storage.tree import Tree
from tests.unit.readers.devicemapper.images import debugfs, make_ext4
from tests.unit.readers.devicemapper.pools import PoolBuilder, write_record

BASE, SNAPSHOT = LegacyID("1" * 64), LegacyID("2" * 64)
CHUNK = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        store = build(Path(place), options.files, options.megabytes * CHUNK // options.files)
        measure(store, options.files, options.rounds)


def build(place: Path, files: int, size: int) -> Path:
    top = place / "top"
    generator = random.Random(1)
    for number in range(files):
        directory = top / f"rootfs/dir{number // 100:04d}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file{number:06d}").write_bytes(generator.randbytes(size))
    image = make_ext4(place / "base.img", top, "20480M")
    store = place / "devicemapper"
    (store / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(store / "devicemapper")
    pool.add(1, image)
    changed = [f"sif rootfs/dir{at // 100:04d}/file{at:06d} mtime @1500000000" for at in range(files // 100)]
    debugfs(image, *changed)
    pool.add(2, image, parent=1)
    pool.write_metadata()
    for name, device in ((BASE, 1), (SNAPSHOT, 2)):
        write_record(store, name, device, image.stat().st_size, device)
    return store


def measure(store: Path, files: int, rounds: int) -> None:
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    device = driver.open_device(BASE)
    runs = [(device.pool_position(offset) or 0, length) for offset, length in device.mapped_ranges()]
    mapped = sum(length for _, length in runs)
    driver.close()
    timings = interleaved(
        rounds,
        {
            "plain": lambda: plain_read(store / "devicemapper/data", runs),
            "device": lambda: with_driver(store, lambda opened: read_device(opened.open_device(BASE))),
            "files": lambda: with_driver(store, lambda opened: read_files(opened.layer_tree(BASE))),
            "layer": lambda: with_driver(store, lambda opened: read_layer(opened, None)),
            "diff": lambda: with_driver(store, lambda opened: read_layer(opened, BASE)),
        },
    )
    print(f"{mapped / 1e6:,.0f} MB mapped of {device.size / 1e9:,.0f} GB, {files:,} files")
    for name, seconds in timings.items():
        rate = f"{files / seconds:10,.0f} files/s" if name == "diff" else f"{mapped / seconds / 1e6:10,.0f} MB/s"
        print(f"{name:8}{seconds:8.3f} s{rate}   {seconds / timings['plain']:.2f} times plain")


def plain_read(data: Path, runs: list[tuple[int, int]]) -> float:
    buffer = memoryview(bytearray(CHUNK))
    with data.open("rb", buffering=0) as stream:
        started = time.perf_counter()
        for offset, length in runs:
            for at in range(0, length, CHUNK):
                os.preadv(stream.fileno(), [buffer[: min(CHUNK, length - at)]], offset + at)
        return time.perf_counter() - started


def read_device(device: ThinDevice) -> None:
    buffer = memoryview(bytearray(CHUNK))
    for offset, length in device.mapped_ranges():
        for at in range(0, length, CHUNK):
            device.read_into(buffer[: min(CHUNK, length - at)], offset + at)


def read_files(tree: Tree) -> None:
    waiting = [b""]
    while waiting:
        for entry in tree.entries(waiting.pop()):
            if stat.S_ISDIR(entry.mode):
                waiting.append(entry.path)
            elif stat.S_ISREG(entry.mode):
                with tree.open(entry.path) as stream:
                    while stream.read(CHUNK):
                        pass


def read_layer(driver: DevicemapperDriver, parent: LegacyID | None) -> None:
    """With a parent, the snapshot against it."""
    if parent:
        tar = tar_of_changes(driver.layer_tree(SNAPSHOT), driver.layer_tree(parent))
    else:
        tar = tar_of_tree(driver.layer_tree(BASE))
    for _ in tar.read():
        pass


def with_driver(store: Path, use: Callable[[DevicemapperDriver], None]) -> float:
    """The time from opening the pool on: nothing is remembered from an earlier round."""
    started = time.perf_counter()
    driver = DevicemapperDriver(DirectoryTree(str(store)))
    try:
        use(driver)
    finally:
        driver.close()
    return time.perf_counter() - started


def interleaved(rounds: int, steps: dict[str, Callable[[], float]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(step())
    return {name: statistics.median(values) for name, values in taken.items()}


if __name__ == "__main__":
    main()
