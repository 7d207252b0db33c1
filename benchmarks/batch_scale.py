"""How batch grows: archives a second and memory of the coordinator at several sizes of a shelf; resume after a kill.

    python benchmarks/batch_scale.py WORKSPACE                       1,000, 3,000 and 10,000 small archives
    python benchmarks/batch_scale.py WORKSPACE --large --builds 24   about 5 GB, with 1 and 2 workers
    python benchmarks/batch_scale.py WORKSPACE --resume --builds 3000

WORKSPACE keeps the shelves (see shelf.py); results go to stdout, one JSON object a line. Seconds are of the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shelf import write_shelf


def shelf_of(workspace: Path, builds: int, *, large: bool) -> Path:
    """The shelf, made if it is not there yet."""
    shelf = workspace / f"{'large' if large else 'small'}-{builds}"
    if not (shelf / ".complete").exists():
        write_shelf(shelf, builds, large=large)
        (shelf / ".complete").touch()
    return shelf


def size_of(shelf: Path) -> int:
    return sum(path.stat().st_size for path in shelf.rglob("*.tar"))


def read_all(shelf: Path) -> None:
    """Brings the shelf into the page cache, so that every run finds the same."""
    for path in shelf.rglob("*.tar"):
        with open(path, "rb") as stream:
            while stream.read(8 * 1024 * 1024):
                pass


def batch(shelf: Path, target: Path, jobs: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "migrate", "batch", "--jobs", str(jobs), "--progress", "json"]
    words = [*command, str(shelf), str(target)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{"):
            yield json.loads(line)


def measure(shelf: Path, target: Path, jobs: int) -> dict[str, Any]:
    """One run from nothing: seconds of the wall clock in all and for the merge, CPU seconds of all its processes (which
    other work on the machine changes little), and the peak memory of the coordinator and of its largest worker."""
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    began = time.monotonic()
    ticks: dict[int, int] = {}
    with batch(shelf, target, jobs) as process:
        peak = worker = 0
        merging = sampled = began
        for event in events(process):
            now = time.monotonic()
            if event["event"] == "stage" and event["stage"] == "merge":
                merging = now
            if now - sampled > 0.25 or event["event"] == "stage":
                sampled = now
                ticks |= (used := ticks_of(process.pid))
                worker = max([worker, *(peak_of(child) for child in used if child != process.pid)])
            peak = max(peak, peak_of(process.pid))
        code = process.wait()
    ended = time.monotonic()
    return {
        "code": code,
        "jobs": jobs,
        "seconds": round(ended - began, 2),
        "merge_seconds": round(ended - merging, 2),
        "cpu_seconds": round(sum(ticks.values()) / os.sysconf("SC_CLK_TCK"), 2),
        "coordinator_bytes": peak,
        "worker_bytes": worker,
    }


def peak_of(pid: int) -> int:
    """VmHWM of a process, in bytes."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def ticks_of(pid: int) -> dict[int, int]:
    """Clock ticks of CPU time of a process and all below it."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        child = int(path.parent.name)
        parents[child], used[child] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_below(child: int) -> bool:
        while child in parents and child != pid:
            child = parents[child]
        return child == pid

    return {child: used[child] for child in used if is_below(child)}


def grow(workspace: Path, sizes: list[int], jobs: int) -> Iterator[dict[str, Any]]:
    for builds in sizes:
        shelf = shelf_of(workspace, builds, large=False)
        read_all(shelf)
        result = measure(shelf, workspace / "target", jobs)
        result |= {"archives": builds, "bytes": size_of(shelf)}
        result["archives_per_second"] = round(builds / result["seconds"], 1)
        yield result


def throughput(workspace: Path, builds: int) -> Iterator[dict[str, Any]]:
    shelf = shelf_of(workspace, builds, large=True)
    size = size_of(shelf)
    for jobs in (1, 2):
        read_all(shelf)
        result = measure(shelf, workspace / "target", jobs) | {"archives": builds, "bytes": size}
        yield result | {"megabytes_per_second": round(size / result["seconds"] / 1e6, 1)}


def resume(workspace: Path, builds: int, jobs: int) -> Iterator[dict[str, Any]]:
    """Kills a run when half of the sources are done, then runs it again."""
    shelf = shelf_of(workspace, builds, large=False)
    target = workspace / "target"
    shutil.rmtree(target, ignore_errors=True)
    with batch(shelf, target, jobs) as process:
        finished = 0
        for event in events(process):
            finished += event["event"] == "finished"
            if finished == builds // 2:
                process.send_signal(signal.SIGKILL)
                break
    before = finished_in(target)
    began = time.monotonic()
    with batch(shelf, target, jobs) as process:
        again = [event["name"] for event in events(process) if event["event"] == "finished"]
    yield {
        "archives": builds,
        "finished_before_the_kill": len(before),
        "read_by_the_second_run": len(again),
        "read_twice": len(before & set(again)),
        "seconds_of_the_second_run": round(time.monotonic() - began, 2),
    }


def finished_in(target: Path) -> set[str]:
    lines = (target / ".migrate" / "journal.jsonl").read_bytes().split(b"\n")[:-1]
    return {fields["source"] for fields in map(json.loads, filter(None, lines)) if "source" in fields}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--builds", type=int, nargs="*", default=None)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    if options.large:
        results = throughput(options.workspace, (options.builds or [24])[0])
    elif options.resume:
        results = resume(options.workspace, (options.builds or [3_000])[0], options.jobs)
    else:
        results = grow(options.workspace, options.builds or [1_000, 3_000, 10_000], options.jobs)
    for result in results:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
