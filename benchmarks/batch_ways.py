"""The same shelf in every way in which `batch` can be run, and each of them again with a process killed in the middle.

Of each way: what it takes, whether the target has the bytes of a run by one process, and whether every source is done,
none of them twice.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.batch_runs import Batch, memory_cells
from migrate.batch.search import find_candidates

SHARDS: Final = 3
DASK_WORKERS: Final = 3
_START_SECONDS: Final = 60
_MAP: Final = "migration-map.json"
_BUCKET: Final = "s3://shelf"
_ADAPTIVE = f"""
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster:
        cluster.adapt(minimum=0, maximum={DASK_WORKERS})
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
_TLS = """
distributed:
  comm:
    require-encryption: true
    tls:
      ca-file: HERE/ca.pem
      scheduler: {cert: HERE/node.pem, key: HERE/node-key.pem}
      worker: {cert: HERE/node.pem, key: HERE/node-key.pem}
      client: {cert: HERE/node.pem, key: HERE/node-key.pem}
"""
_CERTIFICATES = """
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=dask CA" -keyout ca-key.pem -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj "/CN=dask" -keyout node-key.pem -out node.csr
openssl x509 -req -in node.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -out node.pem
"""


@dataclass(frozen=True)
class Cluster:
    address: str
    processes: Sequence[subprocess.Popen[str]]
    environment: Mapping[str, str]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]


@dataclass(frozen=True)
class Way:
    """One way to run a batch. `kills` are the processes of which one is ended in the middle: the command itself, a
    worker, the scheduler, or the command when the merge begins."""

    name: str
    options: Sequence[str] = ("--jobs", "2")
    kills: Sequence[str] = ("command",)
    cluster: Callable[[Path], Any] | None = None
    shards: int = 0
    from_bucket: bool = False
    to_bucket: bool = False


def ways() -> list[Way]:
    local, dask = ("command", "worker", "merge"), ("command", "worker", "scheduler", "merge")
    return [
        Way("1 process", ("--jobs", "1"), local),
        Way("2 processes", kills=local),
        Way("2 threads", ("--jobs", "2", "--executor", "threads"), ("command", "merge")),
        Way(f"{SHARDS} shards", ("--jobs", "1"), ("command", "merge"), shards=SHARDS),
        Way(f"Dask, {DASK_WORKERS} workers", (), dask, plain_cluster),
        Way(f"Dask, {DASK_WORKERS} workers, TLS", (), dask, tls_cluster),
        Way(f"Dask, adaptive, 0 to {DASK_WORKERS}", (), dask, adaptive_cluster),
        Way("from a bucket, 2 processes", kills=local, from_bucket=True),
        Way("to a bucket, 2 processes", kills=local, to_bucket=True),
        Way("from and to a bucket, 2 processes", kills=local, from_bucket=True, to_bucket=True),
        Way(f"{SHARDS} shards, from and to a bucket", ("--jobs", "1"), local, None, SHARDS, True, True),
        Way(f"Dask, {DASK_WORKERS} workers, from and to a bucket", (), dask, plain_cluster, 0, True, True),
    ]


# --- clusters and buckets ----------------------------------------------------------------------------------------


@contextmanager
def started(*words: str, environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A server, ended with everything that it started."""
    with open(log, "ab") as messages:
        process = subprocess.Popen(
            [sys.executable, *words],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def wait_until(is_there: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _START_SECONDS
    while not is_there():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} did not start within {_START_SECONDS} s")
        time.sleep(0.1)


def dask_environment(**more: str) -> dict[str, str]:
    settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", "PYTHONPATH": os.getcwd()}
    return {**os.environ, **settings, **more}


@contextmanager
def plain_cluster(directory: Path, protocol: str = "tcp", **settings: str) -> Iterator[Cluster]:
    environment = dask_environment(**settings)
    address = f"{protocol}://127.0.0.1:{free_port()}"
    file = directory / f"scheduler-{address.rpartition(':')[2]}.json"
    log = directory / "dask.log"
    with ExitStack() as stack:
        words = ("-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard", "--no-show")
        scheduler = stack.enter_context(
            started(*words, "--scheduler-file", str(file), environment=environment, log=log)
        )
        wait_until(file.exists, "the scheduler")
        words = ("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard")
        workers = [
            stack.enter_context(started(*words, "--host", "127.0.0.1", environment=environment, log=log))
            for _ in range(DASK_WORKERS)
        ]
        waiting = (
            "import sys; from distributed import Client; c = Client(sys.argv[1], timeout=30);"
            f" c.wait_for_workers({DASK_WORKERS}, {_START_SECONDS})"
        )
        subprocess.run([sys.executable, "-c", waiting, address], env=environment, check=True)
        yield Cluster(address, (scheduler, *workers), environment)


@contextmanager
def tls_cluster(directory: Path) -> Iterator[Cluster]:
    """With an authority and a certificate made for it."""
    place = directory / "tls"
    place.mkdir(exist_ok=True)
    for line in _CERTIFICATES.strip().splitlines():
        subprocess.run(shlex.split(line), cwd=place, check=True, capture_output=True)
    (place / "config").mkdir(exist_ok=True)
    (place / "config" / "tls.yaml").write_text(_TLS.replace("HERE", str(place)))
    with plain_cluster(directory, "tls", DASK_CONFIG=str(place / "config")) as cluster:
        yield cluster


@contextmanager
def adaptive_cluster(directory: Path) -> Iterator[Cluster]:
    """No worker before there is work."""
    script = directory / "adaptive.py"
    script.write_text(_ADAPTIVE)
    environment = dask_environment()
    with started(str(script), environment=environment, log=directory / "dask.log") as process:
        assert process.stdout is not None
        yield Cluster(process.stdout.readline().strip(), (process,), environment)


@contextmanager
def bucket_server(directory: Path, shelf: Path) -> Iterator[Any]:
    """The file system of an S3 server on loopback with the files of `shelf` in a bucket, where their names can be those
    of objects. Sets the variables of the environment that lead to it."""
    port = free_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    words = ("-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    with started(*words, environment=dict(os.environ), log=Path(os.devnull)):
        wait_until(lambda: _answers(port), "the S3 server")
        filesystem: Any = importlib.import_module("fsspec").filesystem("s3")
        filesystem.mkdir(_BUCKET)
        for name in names_of_objects(shelf):
            filesystem.pipe_file(f"{_BUCKET}/in/{name}", (shelf / name).read_bytes())
        yield filesystem


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- the shelf ---------------------------------------------------------------------------------------------------


def write_odd_files(shelf: Path) -> None:
    """What shelves have beside archives: a tree, compressed and broken files, text, odd names. The images of those
    whose name no object can have are in other files as well."""
    whole = sorted(shelf.glob("[0-9]*/*.tar"))
    odd = shelf / "odd"
    odd.mkdir()
    (odd / "readme.txt").write_text("not an archive\n")
    (odd / "empty.tar").touch()
    (odd / "cut.tar").write_bytes(whole[0].read_bytes()[:50_000])
    (odd / "lost.tar").symlink_to("nowhere")
    with tarfile.open(whole[1]) as archive:
        archive.extractall(odd / "tree", filter="data")
    names = (b"two\nlines.tar", b"caf\xe9.tar", b"=1+1.tar", b'a b\'s "c".tar')
    for path, name in zip(whole[2:], names, strict=False):
        with open(os.path.join(os.fsencode(odd), name), "wb") as stream:
            stream.write(path.read_bytes())
    (odd / "packed.tar.gz").write_bytes(gzip.compress(whole[0].read_bytes(), 6, mtime=0))


def names_of_objects(shelf: Path) -> list[str]:
    paths = [path for path in sorted(shelf.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    names = [str(path.relative_to(shelf)) for path in paths]
    return [name for name in names if name.isprintable() and not name.startswith("odd/tree/")]


# --- targets -----------------------------------------------------------------------------------------------------


class Target:
    """A directory, or a prefix in a bucket, and what a run has left in it."""

    def __init__(self, location: str, filesystem: Any = None) -> None:
        self.location = location
        self._bucket = filesystem

    def files(self) -> dict[str, bytes]:
        if self._bucket is not None:
            top = f"{self.location.removeprefix('s3://')}/"
            self._bucket.invalidate_cache()
            return {name.removeprefix(top): self._bucket.cat_file(name) for name in self._bucket.find(top)}
        top = Path(self.location)
        return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}

    def remove(self) -> None:
        if self._bucket is not None:
            self._bucket.invalidate_cache()
            if self._bucket.exists(self.location):
                self._bucket.rm(self.location, recursive=True)
        else:
            shutil.rmtree(self.location, ignore_errors=True)


@dataclass(frozen=True)
class Result:
    """What a target holds: the digests of all files of the layout but the report, and what became of each source by its
    place on the shelf."""

    digests: Mapping[str, str]
    outcomes: Mapping[str, str]

    @classmethod
    def read(cls, target: Target, source: str) -> Result:
        files = target.files()
        if "://" in source:  # the map names sources
            files.pop(_MAP, None)
        report = json.loads(files.pop("migration-report.json", b'{"sources": []}'))
        digests = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in files.items()
            if not name.startswith(".migrate/")
        }
        outcomes = {
            row["location"].removeprefix(source): f"{row['outcome']} {row['images']}" for row in report["sources"]
        }
        return cls(digests, outcomes)

    def faults(self, expected: Result, count: int, finished: int) -> list[str]:
        """What is not as in `expected`, where `count` sources must be there and were finished `finished` times."""
        lost = [name for name, outcome in self.outcomes.items() if expected.outcomes.get(name) != outcome]
        missing = count - len(self.outcomes)
        other = self.digests.items() ^ expected.digests.items()
        if _MAP not in self.digests:
            other = {(name, digest) for name, digest in other if name != _MAP}
        found = {
            f"{len(dict(other))} files with other bytes, {min(dict(other), default='')}": other,
            f"{missing} sources lost": missing,
            f"{len(lost)} with another outcome": lost,
            f"{finished - count} read twice": finished > count,
        }
        return [fault for fault, is_there in found.items() if is_there]


# --- runs --------------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """One way on one shelf, with its cluster if it has one."""

    way: Way
    source: str
    target: Target
    count: int
    cluster: Cluster | None = None

    def start(self, *options: str, merges: bool = False) -> Batch:
        sources = () if merges else (self.source,)
        if self.cluster is None:
            return Batch((*options, *sources, self.target.location), dask_environment())
        words = ("--scheduler", self.cluster.address, *options, *sources, self.target.location)
        return Batch(words, self.cluster.environment, self.cluster.pids)

    def parts(self) -> list[Batch]:
        """All commands that read; shards run at the same time."""
        if not self.way.shards:
            return [self.start(*self.way.options)]
        return [
            self.start(*self.way.options, "--shard", f"{number}/{self.way.shards}")
            for number in range(1, self.way.shards + 1)
        ]

    def whole(self) -> dict[str, Any]:
        """From its start to the index, and what it took."""
        began = time.monotonic()
        results = [part.end() for part in self.parts()]
        if self.way.shards:
            results.append(self.start("--merge", merges=True).end())
        return {
            "code": results[-1]["code"],
            "finished": sum(result["finished"] for result in results),
            "seconds": time.monotonic() - began,
            "cpu_seconds": sum(result["cpu_seconds"] for result in results),
            "coordinator_bytes": max(result["coordinator_bytes"] for result in results),
            "worker_bytes": max(result["worker_bytes"] for result in results),
        }

    def killed(self, victim: str) -> int:
        """A run that loses a process when half of its first part is done, or when the merge begins. Returns the number
        of sources that it has finished."""
        parts = self.parts()
        if victim == "merge" and self.way.shards:
            for part in parts:
                part.end()
            parts = [self.start("--merge", merges=True)]
        first = parts[0]
        first.wait_for(-1 if victim == "merge" else self.count // len(parts) // 2)
        if victim == "worker":
            first.kill_a_worker()
        elif victim == "scheduler":
            assert self.cluster is not None
            self.cluster.processes[0].kill()
        else:
            first.kill()
        for part in parts:
            part.end()
        return sum(part.finished for part in parts)


def try_way(
    way: Way, source: str, count: int, directory: Path, filesystem: Any, expected: Result | None
) -> tuple[dict[str, Any], Result]:
    """Its row of the table, and what its undisturbed run left, which the first way of all is `expected` of others."""
    name = f"out-{'-'.join(way.name.replace(',', '').split())}"
    target = Target(f"{_BUCKET}/{name}", filesystem) if way.to_bucket else Target(str(directory / name))
    with ExitStack() as stack:

        def trial() -> Trial:
            cluster = stack.enter_context(way.cluster(directory)) if way.cluster else None
            return Trial(way, source, target, count, cluster)

        target.remove()
        current = trial()
        row: dict[str, Any] = {"way": way.name, "sources": count, "killed": {}} | current.whole()
        result = Result.read(target, source)
        row["faults"] = result.faults(expected or result, count, row["finished"])
        for victim in way.kills:
            target.remove()
            done = current.killed(victim)
            if victim == "scheduler":
                stack.close()
                current = trial()
            again = current.whole()
            after = Result.read(target, source).faults(expected or result, count, done + again["finished"])
            row["killed"][victim] = {"done": done, "code": again["code"], "faults": after}
        target.remove()
    return row, result


def try_ways(shelf: Path, directory: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """A row for each way whose name `pattern` is found in. The first is always tried, as the others are compared with
    it."""
    first, *others = ways()
    chosen = [first, *(way for way in others if re.search(pattern, way.name))]
    with ExitStack() as stack:
        filesystem = None
        places = {False: (f"{shelf}/", len(find_candidates([str(shelf)])))}
        if any(way.from_bucket or way.to_bucket for way in chosen):
            filesystem = stack.enter_context(bucket_server(directory, shelf))
            places[True] = (f"{_BUCKET}/in/", len(names_of_objects(shelf)))
        expected = None
        for way in chosen:
            row, result = try_way(way, *places[way.from_bucket], directory, filesystem, expected)
            expected = expected or result
            yield row


def table(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    yield "| | clock | archives a second | CPU seconds | coordinator | largest worker | killed and run again |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        killed = "; ".join(
            f"{victim}, {told['done']} done: {', '.join(told['faults']) or 'same'}"
            for victim, told in row["killed"].items()
        )
        faults = f" ({', '.join(row['faults'])})" if row["faults"] else ""
        yield (
            f"| {row['way']}{faults} | {row['seconds']:.1f} s | {row['sources'] / row['seconds']:.0f} |"
            f" {row['cpu_seconds']:.1f} | {memory_cells(row)} | {killed} |"
        )
