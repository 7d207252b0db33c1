"""Many small images, and the start of the program.

    python -m benchmarks.small [--counts 1000,10000] [--jobs 2] [--rounds 3] [--directory DIR]

Images of three tiny layers, all in one archive (`migrate convert`) and each in an archive of its own (`migrate batch`),
written to an ext4 made for each run (as root; else to DIR). Prints images a second, and milliseconds per image.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Sample, remove, run

MIGRATE = [sys.executable, "-m", "migrate"]
QUIET = ["-q", "--progress", "none"]


@contextmanager
def fresh_file_system(directory: Path) -> Iterator[Path]:
    """An empty ext4 on a loop device; below `directory` where that cannot be had."""
    image, mounted = directory / "ext4.img", directory / "ext4"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-N", "400000", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], capture_output=True, check=False)
    try:
        yield mounted
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(mounted)], check=True)
        shutil.rmtree(mounted)
        image.unlink()


def measure(form: str, count: int, jobs: int, rounds: int, directory: Path) -> list[Sample]:
    source = directory / f"{form}-{count}"
    subprocess.run([sys.executable, "-m", "benchmarks.tiny", form, str(count), str(source)], check=True)
    command = "convert" if form == "one" else "batch"
    origin = source / "all.tar" if form == "one" else source
    samples = []
    for _ in range(rounds):
        with fresh_file_system(directory) as target:
            samples.append(run([*MIGRATE, command, *QUIET, "--jobs", str(jobs), str(origin), str(target / "out")]))
    remove(source)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small")
    parser.add_argument("--counts", default="1000,10000")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=None)
    given = parser.parse_args()
    help_times = [run([*MIGRATE, "--help"]) for _ in range(7)]
    bare = [run([sys.executable, "-c", "pass"]) for _ in range(7)]
    print(f"migrate --help: {_median(help_times):.0f} ms (python -c pass: {_median(bare):.0f} ms)")
    print("\n| | images | wall s | CPU s | peak MiB | images/s | CPU ms per image |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="migrate-small-", dir=given.directory) as name:
        for form in ("one", "archives"):
            for count in [1, *map(int, given.counts.split(","))]:
                samples = measure(form, count, given.jobs, given.rounds, Path(name))
                wall = statistics.median(sample.wall for sample in samples)
                cpu = statistics.median(sample.cpu for sample in samples)
                peak = max(sample.peak for sample in samples)
                label = "convert, one archive" if form == "one" else "batch, an archive each"
                row = f"| {label} | {count:,} | {wall:.2f} | {cpu:.2f} | {peak:.0f}"
                print(f"{row} | {count / wall:,.0f} | {1000 * cpu / count:.2f} |", flush=True)


def _median(samples: list[Sample]) -> float:
    return statistics.median(sample.wall for sample in samples) * 1000


if __name__ == "__main__":
    main()
