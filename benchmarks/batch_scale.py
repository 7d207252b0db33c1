"""How batch grows, and that every way to run it gives the same.

    python -m benchmarks.batch_scale WORKSPACE                          every way, and with a process killed
    python -m benchmarks.batch_scale WORKSPACE --grow 1000 3000 10000   archives a second and memory at these sizes
    python -m benchmarks.batch_scale WORKSPACE --large 24               about 6 GB, with 1 and 2 workers

WORKSPACE keeps the shelves (see shelf.py). The ways are those of batch_ways.py: processes, threads, shards, Dask
clusters, buckets on an S3 server on loopback. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.batch_runs import Batch, memory_cells
from benchmarks.batch_ways import table, try_ways, write_odd_files
from benchmarks.measure import run, size_of, warm
from benchmarks.shelf import write_shelf


def shelf_of(workspace: Path, builds: int, *, large: bool, odd: bool = False) -> Path:
    """The shelf, made if it is not there yet; `odd`: with files of other kinds."""
    shelf = workspace / f"{'odd' if odd else 'large' if large else 'small'}-{builds}"
    if not (complete := shelf.with_suffix(".complete")).exists():
        shutil.rmtree(shelf, ignore_errors=True)
        write_shelf(shelf, builds, large=large)
        if odd:
            write_odd_files(shelf)
        complete.touch()
    return shelf


def measure(shelf: Path, target: Path, jobs: int) -> dict[str, Any]:
    """One run from nothing, whose target stays."""
    shutil.rmtree(target, ignore_errors=True)
    warm(shelf)
    os.sync()
    result = Batch(("--jobs", str(jobs), shelf, target)).end()
    if result["code"]:
        raise RuntimeError(f"exit code {result['code']}")
    return result


def grow(workspace: Path, sizes: list[int], jobs: int) -> Iterator[str]:
    columns = (
        "archives",
        "clock",
        "archives a second",
        "CPU seconds",
        "CPU an archive",
        "coordinator",
        "largest worker",
    )
    yield f"| {' | '.join(columns)} | `find`, clock and CPU |"
    yield "|---|---|---|---|---|---|---|---|"
    for builds in sizes:
        took = measure(shelf_of(workspace, builds, large=False), workspace / "target", jobs)
        cpu = took["cpu_seconds"]
        found = run([sys.executable, "-m", "migrate", "find", str(workspace / "target"), "team-0/*:latest"])
        yield (
            f"| {builds:,} | {took['seconds']:.1f} s (merge {took['merge_seconds']:.1f}) |"
            f" {builds / took['seconds']:.0f} | {cpu:.1f} | {cpu / builds * 1000:.1f} ms |"
            f" {memory_cells(took)} | {found.wall:.2f} s, {found.cpu:.2f} s |"
        )


def throughput(workspace: Path, builds: int) -> Iterator[str]:
    shelf = shelf_of(workspace, builds, large=True)
    size = size_of(shelf)
    yield f"{builds} archives, {size / 1e9:.2f} GB"
    yield "| workers | clock | throughput | CPU seconds | coordinator | largest worker |"
    yield "|---|---|---|---|---|---|"
    for jobs in (1, 2):
        took = measure(shelf, workspace / "target", jobs)
        yield (
            f"| {jobs} | {took['seconds']:.1f} s | {size / took['seconds'] / 1e6:.0f} MB/s |"
            f" {took['cpu_seconds']:.1f} | {memory_cells(took)} |"
        )


def try_all(workspace: Path, builds: int, pattern: str) -> Iterator[str]:
    shelf = shelf_of(workspace, builds, large=False, odd=True)
    warm(shelf)
    return table(try_ways(shelf, workspace, pattern))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--builds", type=int, default=300, help="archives on the shelf that every way is tried on")
    parser.add_argument("--only", default="", metavar="PATTERN", help="a regular expression: which ways to try")
    parser.add_argument("--grow", type=int, nargs="+", metavar="BUILDS", help="one way, on shelves of these sizes")
    parser.add_argument(
        "--large", type=int, metavar="BUILDS", help="so many archives of 50 to 500 MB, with 1 and 2 workers"
    )
    parser.add_argument("--jobs", type=int, default=2, help="for --grow")
    options = parser.parse_args()
    workspace = options.workspace.resolve()
    workspace.mkdir(parents=True, exist_ok=True)
    if options.grow:
        lines = grow(workspace, options.grow, options.jobs)
    elif options.large:
        lines = throughput(workspace, options.large)
    else:
        lines = try_all(workspace, options.builds, options.only)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
