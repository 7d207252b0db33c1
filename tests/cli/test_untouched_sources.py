"""Nothing in a source changes by being read, not even an access time; only symbolic links cannot be asked for that."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archives import unpack
from tests.cases import case
from tests.command import migrate
from tests.roots import RootBuilder, identity, write
from tests.unit.readers.devicemapper.images import make_ext4
from tests.unit.readers.devicemapper.pools import PoolBuilder, write_record

OLD = 10**18


def archive(directory: Path) -> Path:
    return case("save-1.6.2-multi").write_plain(directory)


def compressed_archive(directory: Path) -> Path:
    plain = archive(directory)
    packed = directory / "packed"
    packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    plain.unlink()
    return packed


def unpacked_archive(directory: Path) -> Path:
    target = directory / "unpacked"
    with tarfile.open(archive(directory)) as opened:
        unpack(opened, target)
    return target


def docker_root(directory: Path) -> Path:
    root = RootBuilder(directory / "root", "overlay")
    write(root.add("base") / "usr/bin/tool", b"one", 0o755)
    write(root.add("top", "base") / "usr/bin/tool", b"two", 0o755)
    root.tag({"app": {"1": "top"}})
    root.add_container("c" * 64, identity("top"))
    write(root.path / "docker.pid", b"999999999")
    return root.path


def devicemapper_root(directory: Path) -> Path:
    root = RootBuilder(directory / "root", "devicemapper")
    tree = directory / "tree"
    write(tree / "rootfs/f", b"one")
    store = root.path / "devicemapper"
    (store / "devicemapper").mkdir(parents=True)
    (root.path / "graph" / identity("base")).mkdir(parents=True)
    (root.path / "graph" / identity("base") / "json").write_text(f'{{"id":"{identity("base")}"}}')
    (root.path / "repositories-devicemapper").write_text(f'{{"Repositories":{{"app":{{"1":"{identity("base")}"}}}}}}')
    pool = PoolBuilder(store / "devicemapper")
    pool.add(1, make_ext4(directory / "image", tree, "32M"), None)
    write_record(store, identity("base"), 1, 32 * 1024**2, pool.transaction)
    pool.write_metadata()
    return root.path


def registry(name: str) -> Callable[[Path], Path]:
    def build(directory: Path) -> Path:
        target = directory / name
        target.mkdir()
        subprocess.run(["tar", "-xJf", case(name).path / "registry.tar.xz"], cwd=target, check=True)
        return target

    return build


SOURCES = {
    "archive": archive,
    "compressed archive": compressed_archive,
    "unpacked archive": unpacked_archive,
    "docker root": docker_root,
    "devicemapper": devicemapper_root,
    "v1 registry": registry("registry-v1-tree-aufs"),
    "v2 registry": registry("registry-v2-mixed-2.8"),
}


def facts_of(paths: list[Path]) -> dict[str, tuple[object, ...]]:
    """Without listing a directory, which would mark it as read."""
    found: dict[str, tuple[object, ...]] = {}
    for path in paths:
        facts = path.lstat()
        access = 0 if path.is_symlink() else facts.st_atime_ns
        found[str(path)] = (facts.st_mode, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_nlink, access)
    return found


def make_old(paths: list[Path]) -> None:
    """So old that even a file system mounted with `relatime` marks the next access."""
    for path in paths:
        os.utime(path, ns=(OLD, path.lstat().st_mtime_ns), follow_symlinks=False)


def test_a_plain_read_marks_a_file_and_a_directory_here(tmp_path: Path) -> None:
    """Else the others would show nothing."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place/file").write_bytes(b"x")
    paths = [tmp_path / "place", tmp_path / "place/file"]
    make_old(paths)
    os.listdir(paths[0])
    paths[1].read_bytes()
    assert all(path.lstat().st_atime_ns != OLD for path in paths)


@pytest.mark.parametrize("kind", SOURCES)
def test_reading_leaves_no_trace(kind: str, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    source = SOURCES[kind](tmp_path / "made")
    paths = [source, *source.rglob("*")]
    make_old(paths)
    before = facts_of(paths)
    for command, target in (("inspect", []), ("plan", []), ("convert", [tmp_path / "out"])):
        assert migrate(command, source, *target).code == 0
        assert facts_of(paths) == before
    assert sorted(paths) == sorted([source, *source.rglob("*")])
