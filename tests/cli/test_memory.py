"""Memory stays flat whatever a layer's size."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.archives import layer_json, legacy_id

GIB = 1 << 30
SIZE = 4 * GIB


def write_sparse_archive(path: Path) -> None:
    """One layer with one file of 4 GiB, which the file system need not store: zeros, but for a mark in each MiB."""
    identity = legacy_id("big")
    inner = tarfile.TarInfo("zeros")
    inner.size = SIZE
    outer = tarfile.TarInfo(f"{identity}/layer.tar")
    outer.size = 512 + SIZE + 1024
    document = layer_json(identity)
    with path.open("wb") as file:
        json = tarfile.TarInfo(f"{identity}/json")
        json.size = len(document)
        file.write(json.tobuf() + document + bytes(-len(document) % 512))
        file.write(outer.tobuf(tarfile.GNU_FORMAT) + inner.tobuf(tarfile.GNU_FORMAT))
        start = file.tell()
        for mark in range(0, SIZE, 64 << 20):
            file.seek(start + mark)
            file.write(mark.to_bytes(8, "big"))
        file.seek(start + SIZE)
        file.write(bytes(1024 + 1024))


_MEASURE = """
import os, resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "migrate", *sys.argv[1:]]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_kib(*command: str) -> int:
    """The peak of one command, told by a small process in between: Linux counts to a child's peak what its parent had
    when it was started, and the test runner is large."""
    done = subprocess.run([sys.executable, "-c", _MEASURE, *command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout)


@pytest.mark.slow
def test_a_layer_of_4_gib_needs_no_more_than_100_mb(tmp_path: Path) -> None:
    write_sparse_archive(tmp_path / "big.tar")
    assert peak_kib("convert", "-q", "--jobs", "2", str(tmp_path / "big.tar"), str(tmp_path / "out")) < 100_000
    assert peak_kib("verify", "-q", "--jobs", "2", str(tmp_path / "out")) < 100_000
    assert peak_kib("plan", "-q", "--jobs", "1", str(tmp_path / "big.tar")) < 60_000
