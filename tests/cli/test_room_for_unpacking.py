"""A compressed tar or disk image needs room for what is in it, which is not known before: too little is one error."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import migrate
from tests.roots import RootBuilder, write

pytestmark = pytest.mark.peer  # mount
ROOM = 6 * 1024 * 1024


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", place], check=True)
    monkeypatch.setenv("TMPDIR", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def packed_root(folder: Path, content: bytes) -> Path:
    root = RootBuilder(folder / "docker")
    write(root.add("base") / "file", content)
    root.tag({"app": {"1": "base"}})
    subprocess.run(["tar", "-C", folder, "-cf", folder / "root.tar", "docker"], check=True)
    with gzip.open(folder / "root.tar.gz", "wb", 1) as stream:
        stream.write((folder / "root.tar").read_bytes())
    return folder / "root.tar.gz"


@pytest.mark.parametrize(
    ("size", "message"), [(7, "is unpacked into a temporary file: the rest"), (5, "bytes are written, the rest")]
)
def test_too_little_room_is_found_as_early_as_it_shows(tmp_path: Path, small: Path, size: int, message: str) -> None:
    """`size` in MiB, of bytes that compress to half: more than the room before they are unpacked, or not before."""
    content = random.Random(1).randbytes(size * 1024 * 1024).hex().encode()
    source = packed_root(tmp_path, content)
    assert (source.stat().st_size > ROOM) == (size == 7)
    result = migrate("convert", source, tmp_path / "out")
    assert result.code == 5, result.err
    assert message in result.err and "set TMPDIR to a place with more" in result.err
    assert len(result.errors) == 1
    assert os.listdir(small) == []
    assert shutil.disk_usage(small).free == ROOM


def test_zeros_need_no_room(tmp_path: Path, small: Path) -> None:
    del small
    result = migrate("plan", packed_root(tmp_path, bytes(3 * ROOM)))
    assert result.code == 0, result.err
