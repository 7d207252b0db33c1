from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate.errors import DamagedError, MissingLayerError, SourceError
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import open_inside
from tests.roots import write


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write(tmp_path / "outside/secret", b"host")
    tree = tmp_path / "tree"
    write(tree / "usr/lib/f", b"inside")
    (tree / "lib").symlink_to("usr/lib")
    (tree / "absolute").symlink_to("/usr/lib")
    (tree / "out").symlink_to("../outside")
    (tree / "host").symlink_to(tmp_path / "outside")
    (tree / "loop").symlink_to("loop")
    (tree / "secret").symlink_to(tmp_path / "outside/secret")
    return tree


@pytest.fixture
def tree(place: Path) -> DirectoryTree:
    return DirectoryTree(str(place))


@pytest.mark.parametrize(
    "path", [b"lib/f", b"absolute/f", b"out/secret", b"secret", b"loop", b"gone", b"usr/lib/f/g", b"usr", b"../outside"]
)
def test_no_symbolic_link_is_followed(tree: DirectoryTree, path: bytes) -> None:
    with pytest.raises((DamagedError, MissingLayerError)):
        tree.open(path)


@pytest.mark.parametrize(
    "name", [b"usr/lib/f", b"/usr/lib/f", b"./usr//lib/f", b"lib/f", b"absolute/f", b"a/../lib/f", b"../lib/f"]
)
def test_names_of_a_tar_lead_where_they_led_when_it_was_unpacked(tree: DirectoryTree, name: bytes) -> None:
    with open_inside(tree, name) as stream:
        assert stream.read() == b"inside"


@pytest.mark.parametrize("name", [b"out/secret", b"host/secret", b"secret", b"loop/f", b"loop", b"gone", b"lib"])
def test_and_never_out_of_the_tree(tree: DirectoryTree, name: bytes) -> None:
    with pytest.raises(SourceError):
        open_inside(tree, name)


def test_a_link_above_the_root_ends_at_the_root(tree: DirectoryTree, place: Path) -> None:
    (place / "up").symlink_to("../../../usr")
    assert tree.resolve(b"up/lib") == b"usr/lib"


def test_entries_tell_what_lstat_tells(tree: DirectoryTree, place: Path) -> None:
    for entry in [tree.stat(b""), *tree.entries(b""), *tree.entries(b"usr/lib")]:
        found = os.lstat(place / os.fsdecode(entry.path))
        assert entry[1:] == (
            found.st_mode,
            found.st_uid,
            found.st_gid,
            found.st_size,
            found.st_mtime_ns,
            found.st_rdev,
            found.st_dev,
            found.st_ino,
            found.st_nlink,
        )


def test_xattrs_are_read_without_following(tree: DirectoryTree, place: Path) -> None:
    os.setxattr(place / "usr/lib/f", "user.a", b"1")
    os.setxattr(place / "usr", "user.b", b"2")
    assert tree.xattrs(b"usr/lib/f") == {b"user.a": b"1"}
    assert tree.xattrs(b"usr") == {b"user.b": b"2"}
    assert tree.xattrs(b"lib") == {}
    assert tree.read_capability(b"usr/lib/f") is None


def test_capabilities_of_a_directory_are_listed_by_name(tree: DirectoryTree, place: Path) -> None:
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(place / "usr/lib/f", "security.capability", value)
    assert tree.list_capabilities(b"usr/lib") == {b"f": value}
    assert tree.list_capabilities(b"usr") == {}
    with pytest.raises(MissingLayerError):  # a symbolic link to a directory
        tree.list_capabilities(b"lib")


def test_descriptors_are_closed(place: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    tree = DirectoryTree(str(place))
    tree.entries(b"usr/lib")
    assert len(os.listdir("/proc/self/fd")) > before
    tree.close()
    tree.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert tree.stat(b"usr").path == b"usr"


def test_a_missing_root_is_a_missing_layer(tmp_path: Path) -> None:
    with pytest.raises(MissingLayerError):
        DirectoryTree(str(tmp_path / "gone")).entries(b"")


def test_access_times_stay(tree: DirectoryTree, place: Path) -> None:
    paths = [place, place / "usr", place / "usr/lib", place / "usr/lib/f"]
    for path in paths:
        os.utime(path, (1_000_000_000, path.stat().st_mtime))
    tree.entries(b"")
    tree.list_names(b"usr")
    tree.entries(b"usr/lib")
    with tree.open(b"usr/lib/f") as stream:
        stream.read()
    assert [path.stat().st_atime for path in paths] == [1_000_000_000] * 4
