"""The same bytes on every run: whatever the number of jobs, the archive's way in, and what memory held before."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.blobio.compression import zstd_module
from tests.archives import V1Archive, unpack
from tests.unit.rehash.sources import make_tar

GZIP: list[str] = []
ZSTD = ["--format", "oci", "--compression", "zstd"]


@pytest.fixture(scope="module")
def archive() -> bytes:
    """Two images with a large layer of many blocks, twins, and layers that fit into one block."""
    noise = random.Random(5)
    large = make_tar(1, (2_500_000, 3, 1_800_000))
    built = V1Archive()
    base = built.layer("base", tar=large)
    built.layer("middle", "base", tar=make_tar(2, (30_000,)))
    built.tag("app", "1", built.layer("app", "middle", tar=large))
    built.layer("other", tar=make_tar(3, tuple(noise.randrange(400_000) for _ in range(9))))
    built.tag("app", "2", built.layer("app2", "other", tar=make_tar(2, (30_000,))))
    assert base
    return built.build()


def outcome(layout: Path) -> dict[str, bytes]:
    """All files that a layout's digests depend on; the report has times in it."""
    files = [file for file in layout.rglob("*") if file.is_file() and ".migrate" not in file.parts]
    return {
        str(file.relative_to(layout)): file.read_bytes() for file in files if not file.name.startswith("migration-")
    }


def convert(target: Path, source: str | Path, *options: str, stdin: bytes = b"", perturb: int = 0) -> dict[str, bytes]:
    environment = os.environ | ({"MALLOC_PERTURB_": str(perturb)} if perturb else {})
    command = [sys.executable, "-m", "migrate", "convert", "-q", *options, str(source), str(target)]
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return outcome(target)


@pytest.mark.parametrize("options", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_jobs_and_memory_change_nothing(archive: bytes, options: list[str], tmp_path: Path) -> None:
    source = tmp_path / "archive.tar"
    source.write_bytes(archive)
    first = convert(tmp_path / "first", source, *options, "--jobs", "1")
    assert sum(name.startswith("blobs/") for name in first) == 3 + 2 + 2  # layers, configs, manifests
    for number, (jobs, perturb) in enumerate([("2", 0), ("7", 0), ("1", 85), ("2", 170), ("2", 255)]):
        assert convert(tmp_path / str(number), source, *options, "--jobs", jobs, perturb=perturb) == first


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, 1),
    "bz2": bz2.compress,
    "xz": lambda content: lzma.compress(content, preset=0),
    "zst": lambda content: bytes(zstd_module().compress(content)),
}


def test_the_way_in_changes_nothing(archive: bytes, tmp_path: Path) -> None:
    source = tmp_path / "archive.tar"
    source.write_bytes(archive)
    first = convert(tmp_path / "first", source)
    directory = tmp_path / "unpacked"
    with tarfile.open(source) as tar:
        unpack(tar, directory)
    assert convert(tmp_path / "directory", directory) == first
    assert convert(tmp_path / "stdin", "-", stdin=archive) == first
    for suffix, pack in PACKED.items():
        packed = pack(archive)
        (tmp_path / f"archive.{suffix}").write_bytes(packed)
        assert convert(tmp_path / f"from-{suffix}", tmp_path / f"archive.{suffix}") == first
    assert convert(tmp_path / "stdin-gz", "-", stdin=gzip.compress(archive)) == first
