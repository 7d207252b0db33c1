"""What a conversion costs if it were nothing but its primitives: sha256 of every tar, one compression of every
distinct one, sha256 of what comes out. The bytes are in memory already; no file is read or written.

    python -m benchmarks.limit {hash,gzip,zstd,gunzip} WORKERS REPEATED,TAR,FILES…

prints the wall and CPU seconds of WORKERS processes that share the blocks evenly, as JSON.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import deflate
from isal import isal_zlib

from migrate.blobio.compression import BLOCK_BYTES, zstd_module

Block = memoryview


def _hash(block: Block, first: bool) -> None:
    del first
    hashlib.sha256(block).digest()


def _gzip(block: Block, first: bool) -> None:
    hashlib.sha256(block).digest()
    if first:
        hashlib.sha256(deflate.gzip_compress(block, 2)).digest()


def _zstd(block: Block, first: bool) -> None:
    hashlib.sha256(block).digest()
    if first:
        hashlib.sha256(zstd_module().compress(block, 3)).digest()


def _gunzip(packed: Block, first: bool) -> None:
    del first
    hashlib.sha256(packed).digest()
    hashlib.sha256(isal_zlib.decompress(packed, 31)).digest()


STEPS: dict[str, Callable[[Block, bool], None]] = {"hash": _hash, "gzip": _gzip, "zstd": _zstd, "gunzip": _gunzip}


def _share(step: str, paths: list[str], worker: int, workers: int, go: multiprocessing.synchronize.Barrier) -> None:
    run = STEPS[step]
    blocks: list[tuple[Block, bool]] = []
    seen: set[str] = set()
    for path in paths:
        content = Path(path).open("rb")  # noqa: SIM115 - mapped until the process ends
        mapped = memoryview(mmap.mmap(content.fileno(), 0, prot=mmap.PROT_READ))
        starts = range(BLOCK_BYTES * worker, len(mapped), BLOCK_BYTES * workers)
        blocks += [(mapped[start : start + BLOCK_BYTES], path not in seen) for start in starts]
        seen.add(path)
    if step == "gunzip":
        blocks = [(memoryview(gzip.compress(block, 1)), first) for block, first in blocks]
    for block, _ in blocks:
        block[::4096].tobytes()  # brings the pages in
    go.wait()
    for block, first in blocks:
        run(block, first)
    go.wait()


def measure(step: str, workers: int, paths: list[str]) -> dict[str, float]:
    """Seconds of wall clock and of processors."""
    context = multiprocessing.get_context("fork")
    go = context.Barrier(workers + 1)
    started = [context.Process(target=_share, args=(step, paths, n, workers, go)) for n in range(workers)]
    for process in started:
        process.start()
    go.wait()
    before, cpu = time.perf_counter(), _cpu_of(started)
    go.wait()
    wall, spent = time.perf_counter() - before, _cpu_of(started) - cpu
    for process in started:
        process.join()
    return {"wall": wall, "cpu": spent}


def _cpu_of(processes: Sequence[multiprocessing.process.BaseProcess]) -> float:
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


def main() -> None:
    step, workers, files = sys.argv[1:4]
    print(json.dumps(measure(step, int(workers), files.split(","))))


if __name__ == "__main__":
    main()
