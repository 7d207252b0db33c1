"""What a conversion costs if it were nothing but its primitives: sha256 of every tar, one compression of every
distinct one, sha256 of what comes out; and reading the tars, a mebibyte at a time. Nothing is written.

    python -m benchmarks.limit {hash,gzip,zstd,gunzip} WORKERS REPEATED,TAR,FILES…

prints the wall and CPU seconds of WORKERS processes that share the blocks evenly, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
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
    buffer = memoryview(bytearray(BLOCK_BYTES))
    packed = [_packed(path, worker, workers) for path in paths] if step == "gunzip" else []
    files = [os.open(path, os.O_RDONLY) for path in paths]
    go.wait()
    for blocks in packed:
        for block in blocks:
            run(block, True)
    seen: set[str] = set()
    for path, file in zip(paths, files, strict=True):
        for start in range(BLOCK_BYTES * worker, 0 if packed else os.fstat(file).st_size, BLOCK_BYTES * workers):
            run(buffer[: os.preadv(file, [buffer], start)], path not in seen)
        seen.add(path)
    go.wait()


def _packed(path: str, worker: int, workers: int) -> list[Block]:
    content = Path(path).read_bytes()
    starts = range(BLOCK_BYTES * worker, len(content), BLOCK_BYTES * workers)
    return [memoryview(deflate.gzip_compress(content[start : start + BLOCK_BYTES], 2)) for start in starts]


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
