"""Docker's comparison of two trees, rule by rule (moby 1.10, pkg/archive/changes.go)."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from migrate.readers.graphdrivers.changes import Comparison, walk_tree
from migrate.readers.graphdrivers.listings import Listings, RememberedTree
from migrate.readers.graphdrivers.union import UnionTree
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.filesystems.image_tree import EmptyTree
from migrate.storage.tree import Tree
from tests.roots import write

SECOND = 1_400_000_000
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
OTHER_CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture(params=["names", "facts"])
def compare(request: pytest.FixtureRequest, tmp_path: Path) -> Compare:
    return Compare(tmp_path, by_name=request.param == "names")


class Compare:
    """An old and a new tree, compared in either of the two ways."""

    def __init__(self, place: Path, *, by_name: bool) -> None:
        self.old, self.new, self._by_name = place / "old", place / "new", by_name
        self.old.mkdir()
        self.new.mkdir()

    def both(self, path: str, content: bytes = b"x", mode: int = 0o644) -> None:
        for tree in (self.old, self.new):
            write(tree / path, content, mode)

    def changes(self) -> list[tuple[str, str]]:
        new, old = self._tree(self.new), self._tree(self.old)
        return [
            ("delete" if change.entry is None else "keep", change.path.decode())
            for change in Comparison(new, old).changes()
        ]

    def kept(self) -> list[str]:
        assert all(kind == "keep" for kind, _ in self.changes())
        return [path for _, path in self.changes()]

    def _tree(self, place: Path) -> Tree:
        tree = DirectoryTree(str(place))
        return tree if self._by_name else RememberedTree(tree, Listings())


def test_equal_copies_have_no_changes(compare: Compare) -> None:
    compare.both("a/b/c")
    assert compare.changes() == []


def test_additions_list_every_descendant(compare: Compare) -> None:
    write(compare.new / "a/b/c")
    write(compare.new / "a-b")
    assert compare.kept() == ["a", "a-b", "a/b", "a/b/c"]  # by whole path: "-" sorts before "/"


def test_deletions_list_only_the_top(compare: Compare) -> None:
    compare.both("keep")
    write(compare.old / "a/b/c")
    assert compare.changes() == [("delete", "a")]


def test_a_change_brings_its_directories_along_but_not_the_root(compare: Compare) -> None:
    compare.both("a/b/c")
    compare.both("a/d/e")
    write(compare.new / "a/b/c", b"xy")
    assert compare.kept() == ["a", "a/b", "a/b/c"]


def test_a_deletion_brings_its_directories_along(compare: Compare) -> None:
    compare.both("a/b/c")
    (compare.new / "a/b/c").unlink()
    assert compare.changes() == [("keep", "a"), ("keep", "a/b"), ("delete", "a/b/c")]


@pytest.mark.parametrize(("old", "new", "changed"), [(0, 0, False), (5, 0, False), (0, 7, False), (5, 7, True)])
def test_times_are_equal_if_either_lost_its_fraction(compare: Compare, old: int, new: int, changed: bool) -> None:
    compare.both("f")
    for tree, fraction in ((compare.old, old), (compare.new, new)):
        os.utime(tree / "f", ns=(0, SECOND * 10**9 + fraction))
    assert compare.kept() == (["f"] if changed else [])


def test_the_second_counts(compare: Compare) -> None:
    compare.both("f")
    os.utime(compare.new / "f", (0, SECOND + 1))
    assert compare.kept() == ["f"]


def test_content_does_not_count(compare: Compare) -> None:
    compare.both("f", b"one")
    write(compare.new / "f", b"two")
    assert compare.changes() == []


def test_a_directorys_time_does_not_count_but_its_mode_and_owner_do(compare: Compare) -> None:
    for name in ("time", "mode", "owner"):
        (compare.old / name).mkdir()
        (compare.new / name).mkdir()
    os.utime(compare.new / "time", (0, 5))
    (compare.new / "mode").chmod(0o700)
    os.chown(compare.new / "owner", 5, 6)
    assert compare.kept() == ["mode", "owner"]


def test_mode_owner_and_device_count(compare: Compare) -> None:
    compare.both("mode")
    compare.both("owner")
    (compare.new / "mode").chmod(0o4755)
    os.chown(compare.new / "owner", 1, 0)
    os.utime(compare.new / "mode", (SECOND, SECOND))
    for tree, minor in ((compare.old, 3), (compare.new, 5)):
        os.mknod(tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, minor))
        os.utime(tree / "device", (SECOND, SECOND))
    assert compare.kept() == ["device", "mode", "owner"]


@pytest.mark.parametrize("mode", [0o755, 0o644, 0o600])
@pytest.mark.parametrize("values", [(None, CAPABILITY), (CAPABILITY, None), (CAPABILITY, OTHER_CAPABILITY)])
def test_a_capability_counts_whoever_may_execute_the_file(
    compare: Compare, mode: int, values: tuple[bytes | None, bytes | None]
) -> None:
    for name in ("a/f", "a/g", "a/time"):
        compare.both(name, mode=mode)
    (compare.new / "a/link").symlink_to("f")
    os.link(compare.new / "a/link", compare.old / "a/link", follow_symlinks=False)
    os.utime(compare.new / "a/time", ns=(0, SECOND * 10**9 + 5))  # equal, and yet another number
    for tree, value in zip((compare.old, compare.new), values, strict=True):
        os.setxattr(tree / "a/g", "security.capability", CAPABILITY)
        for name in ("a/f", "a/time"):
            if value is not None:
                os.setxattr(tree / name, "security.capability", value)
    assert compare.kept() == ["a", "a/f", "a/time"]


def test_a_capability_of_a_directory_counts(compare: Compare) -> None:
    compare.both("a/b/c")
    os.setxattr(compare.new / "a/b", "security.capability", CAPABILITY)
    os.setxattr(compare.new, "security.capability", CAPABILITY)
    assert compare.kept() == ["a", "a/b"]


def test_a_capability_counts_in_a_tree_that_lists_nothing_at_once(compare: Compare) -> None:
    compare.both("a/f")
    compare.both("a/g")
    os.setxattr(compare.new / "a/f", "security.capability", CAPABILITY)
    new, old = (UnionTree(DirectoryTree(str(place)), EmptyTree(0)) for place in (compare.new, compare.old))
    assert [change.path for change in Comparison(new, old).changes()] == [b"a", b"a/f"]


def test_shared_inodes_are_passed_over(compare: Compare) -> None:
    write(compare.old / "a/f")
    (compare.new / "a").mkdir()
    os.link(compare.old / "a/f", compare.new / "a/f")
    assert compare.changes() == []


def test_a_directory_in_a_files_place_brings_what_is_in_it(compare: Compare) -> None:
    write(compare.old / "a")
    write(compare.new / "a/b")
    assert compare.kept() == ["a", "a/b"]


def test_a_file_in_a_directorys_place_is_one_change(compare: Compare) -> None:
    write(compare.old / "a/b")
    write(compare.new / "a")
    assert compare.kept() == ["a"]


def test_a_socket_in_a_directorys_place_deletes_what_was_in_it(compare: Compare) -> None:
    """Docker's test for a directory is one bit, which sockets and block devices have too."""
    write(compare.old / "a/b")
    os.mknod(compare.new / "a", stat.S_IFSOCK | 0o755)
    assert compare.changes() == [("keep", "a"), ("delete", "a/b")]


def test_a_sockets_time_does_not_count(compare: Compare) -> None:
    for tree, time in ((compare.old, 1), (compare.new, 2)):
        os.mknod(tree / "s", stat.S_IFSOCK | 0o755)
        os.utime(tree / "s", (time, time))
    assert compare.changes() == []


def test_names_are_bytes(compare: Compare) -> None:
    write(Path(os.fsdecode(os.fsencode(compare.new) + b"/\xff")))
    write(compare.new / "é")
    tree = DirectoryTree(str(compare.new))
    assert [change.path for change in Comparison(tree, DirectoryTree(str(compare.old))).changes()] == [
        "é".encode(),
        b"\xff",
    ]


def test_deep_trees_need_no_deep_stack(compare: Compare) -> None:
    path = compare.new
    directory = os.open(path, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=directory)
        inner = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(directory)
    try:
        assert len(compare.changes()) == 1_500
        assert len(list(walk_tree(DirectoryTree(str(compare.new))))) == 1_500
    finally:  # pytest's own clearing of old folders recurses, and would fail on it three runs later
        subprocess.run(["rm", "-rf", str(compare.new / "d")], check=True)


def test_a_walk_is_depth_first_with_names_in_bytewise_order(tmp_path: Path) -> None:
    for name in ("a-b", "a/c", "a/b/d", "B"):
        write(tmp_path / name)
    paths = [entry.path.decode() for entry in walk_tree(DirectoryTree(str(tmp_path)))]
    assert paths == ["B", "a", "a/b", "a/b/d", "a/c", "a-b"]


def test_a_walk_leaves_out_what_is_skipped_with_all_below(tmp_path: Path) -> None:
    for name in ("a/b", "c/d"):
        write(tmp_path / name)
    tree = DirectoryTree(str(tmp_path))
    assert [entry.path for entry in walk_tree(tree, lambda path: path == b"a")] == [b"c", b"c/d"]
