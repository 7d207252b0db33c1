"""One `migrate batch` command: measured while it runs, and ended in the middle where that is what is tried."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_LOOK_SECONDS = 0.05


class Batch:
    """A command that runs, with the processes of its cluster, if it has one: `cluster` are those that were started, and
    what these start are its workers. `finished` counts the sources that it has finished."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        cluster: Sequence[int] = (),
    ) -> None:
        self._cluster = cluster
        self._used_before = _ticks_below(cluster)
        self._used: dict[int, int] = {}
        self._coordinator = self._worker = 0
        self._began = time.monotonic()
        self._merging: float | None = None
        self.finished = 0
        words = [sys.executable, "-m", "migrate", "batch", "--progress", "json", *map(str, arguments)]
        self._process = subprocess.Popen(
            words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def _look(self) -> None:
        """CPU time and peaks, until the end: what a process of a cluster has used before this run does not count."""
        own = self._process.pid
        while not self._over.wait(_LOOK_SECONDS):
            found = _ticks_below((own, *self._cluster))
            self._used |= found
            self._coordinator = max(self._coordinator, peak_of(own))
            self._worker = max([self._worker, *(peak_of(pid) for pid in found if pid not in (own, *self._cluster))])

    def events(self) -> Iterator[dict[str, Any]]:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if not line.startswith("{"):
                print(line, end="", file=sys.stderr)
                continue
            event = json.loads(line)
            if event["event"] == "stage" and event["stage"] == "merge":
                self._merging = time.monotonic()
            elif event["event"] == "error":
                print(event["message"], file=sys.stderr)
            self.finished += event["event"] == "finished"
            yield event

    def wait_for(self, finished: int) -> None:
        """Until so many sources are done, or the merge begins."""
        for _ in self.events():
            if self.finished == finished or self._merging is not None:
                return

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def kill_a_worker(self) -> None:
        """A process that reads sources: in a cluster, or else one that the server of processes has forked."""
        tops = self._cluster or _children_of(self._process.pid)
        found = [pid for pid in _ticks_below(tops) if pid not in tops]
        os.kill(max(found, key=peak_of), signal.SIGKILL)

    def end(self) -> dict[str, Any]:
        """Waits for it; seconds of the wall clock in all and for the merge, CPU seconds of all processes (which other
        work on the machine changes little), and the peak memory of the coordinator and of the largest worker."""
        for _ in self.events():
            pass
        code = self._process.wait()
        ended = time.monotonic()
        self._over.set()
        self._looking.join()
        ticks = sum(used - self._used_before.get(pid, 0) for pid, used in self._used.items())
        return {
            "code": code,
            "finished": self.finished,
            "seconds": ended - self._began,
            "merge_seconds": ended - (self._merging or ended),
            "cpu_seconds": ticks / os.sysconf("SC_CLK_TCK"),
            "coordinator_bytes": self._coordinator,
            "worker_bytes": self._worker,
        }


def memory_cells(result: Mapping[str, Any]) -> str:
    """Of a table: the coordinator, and the largest worker if there is one."""
    worker = f"{result['worker_bytes'] / 1e6:.1f} MB" if result["worker_bytes"] else ""
    return f"{result['coordinator_bytes'] / 1e6:.1f} MB | {worker}"


def peak_of(pid: int) -> int:
    """VmHWM of a process, in bytes; 0 if it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _processes() -> Iterator[tuple[int, int, int]]:
    """Of every process its ID, its parent's, and its clock ticks of CPU time."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(name), int(fields[1]), int(fields[11]) + int(fields[12])


def _children_of(parent: int) -> list[int]:
    return [pid for pid, above, _ in _processes() if above == parent]


def _ticks_below(tops: Sequence[int]) -> dict[int, int]:
    """Clock ticks of CPU time of the processes `tops` and of all below them."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for pid, parent, ticks in _processes():
        parents[pid], used[pid] = parent, ticks

    def is_below(pid: int | None) -> bool:
        while pid is not None and pid not in tops:
            pid = parents.get(pid)
        return pid is not None

    return {pid: ticks for pid, ticks in used.items() if is_below(pid)}
