"""Every Tree has the same answers for the same files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from migrate.errors import DamagedError, LimitError, MissingLayerError, SourceError
from migrate.readers.graphdrivers.listings import Listings, RememberedTree
from migrate.readers.graphdrivers.union import UnionTree
from migrate.storage.bucket import BucketTree, open_filesystem
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import Tree
from tests.trees import BareTree

KINDS: Final = ("directory", "below", "bare", "bare below", "remembered", "union", "bucket")
FILES: Final = {b"a": b"1", b"folder/one": b"one", b"folder/inner/two": b"22", b"large": bytes(300_000), b"empty": b""}
ABSENT: Final = (b"gone", b"folder/gone", b"gone/gone", b"a/b", b"folder/../a", b"nul\0")


@pytest.fixture(params=KINDS)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    kind: str = request.param
    with ExitStack() as stack:
        if kind == "bucket":
            filesystem, prefix = open_filesystem(f"memory://{tmp_path.name}")
            filesystem.pipe({f"{prefix}/{os.fsdecode(name)}": content for name, content in FILES.items()})
            yield stack.enter_context(BucketTree(filesystem, prefix, f"memory://{tmp_path.name}"))
            return
        top = tmp_path / "above" if kind.endswith("below") else tmp_path
        for name, content in FILES.items():
            path = top / os.fsdecode(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        here = stack.enter_context(DirectoryTree(str(tmp_path)))
        (tmp_path / "nothing").mkdir()
        nothing = stack.enter_context(DirectoryTree(str(tmp_path / "nothing")))
        match kind:
            case "directory":
                yield here
            case "below":
                yield stack.enter_context(here.subtree(b"above"))
            case "bare":
                yield BareTree(here)
            case "bare below":
                yield BareTree(here).subtree(b"above")
            case "remembered":
                yield RememberedTree(here, Listings())
            case _:
                yield UnionTree(nothing, here)


@pytest.fixture
def linked(tree: Tree, tmp_path: Path) -> Tree:
    """Links and a FIFO beside the files, where the tree can have them."""
    if isinstance(tree, BucketTree):
        return tree
    top = tmp_path / "above" if (tmp_path / "above").is_dir() else tmp_path
    (top / "link").symlink_to("folder/one")
    (top / "way").symlink_to("/folder")
    (top / "out").symlink_to("../../etc/passwd")
    (top / "ring").symlink_to("ring")
    os.mkfifo(top / "fifo")
    return tree


def test_entries_are_sorted_and_say_what_stat_says(tree: Tree) -> None:
    for folder in (b"", b"folder", b"folder/inner"):
        entries = tree.entries(folder)
        assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
        for entry in entries:
            assert entry == tree.stat(entry.path)
            assert entry.path == (folder + b"/" + entry.name if folder else entry.name)
        assert tree.list_facts(folder) == {entry.name: tuple(entry)[1:] for entry in entries}
        assert tree.list_names(folder) == {entry.name: entry.inode for entry in entries}
    assert {b"a", b"folder", b"large", b"empty"} <= {entry.name for entry in tree.entries(b"")}


def test_kinds_and_sizes(tree: Tree) -> None:
    assert stat.S_ISDIR(tree.stat(b"").mode) and tree.stat(b"").path == b""
    assert tree.is_folder(b"folder") and tree.is_folder(b"") and not tree.is_folder(b"a") and not tree.is_folder(b"x")
    for name, content in FILES.items():
        entry = tree.stat(name)
        assert entry.is_file and entry.size == len(content)
    assert len({(entry.device, entry.inode) for entry in map(tree.stat, FILES)}) == len(FILES)


def test_content(tree: Tree) -> None:
    for name, content in FILES.items():
        with tree.open(name) as stream:
            pieces = []
            while piece := stream.read(100_000):
                pieces.append(piece)
            assert b"".join(pieces) == content
        assert tree.read(name, len(content)) == content
        with tree.opened(name) as opened:
            assert opened.size == len(content)
            if opened.extent is not None:
                assert os.pread(opened.extent.fd, opened.extent.size, opened.extent.offset) == content
            if opened.path is not None:
                assert Path(opened.path).read_bytes() == content
    with pytest.raises(LimitError, match="large"):
        tree.read(b"large", 299_999)


def test_many_at_once(tree: Tree) -> None:
    found = dict(tree.read_many([*FILES, b"gone", b"gone/gone"], 10))
    assert isinstance(found.pop(b"large"), LimitError)
    assert found == {name: content for name, content in FILES.items() if name != b"large"}


def test_by_position(tree: Tree) -> None:
    blocks = tree.open_blocks(b"folder/one")
    assert (blocks.size, blocks.read_at(1, 2), blocks.read_at(0, 1)) == (3, b"ne", b"o")
    view = bytearray(2)
    blocks.read_into(memoryview(view), 0)
    assert bytes(view) == b"on"
    with pytest.raises(SourceError):
        blocks.read_at(2, 2)
    blocks.close()


@pytest.mark.parametrize("path", ABSENT)
def test_what_is_absent_is_missing(tree: Tree, path: bytes) -> None:
    assert tree.find(path) is None
    for ask in (tree.stat, tree.open, tree.read_link, tree.xattrs, tree.entries, tree.list_facts, tree.list_names):
        with pytest.raises(MissingLayerError):
            ask(path)
    with pytest.raises(MissingLayerError):
        tree.follow(path)


def test_what_is_something_else_is_refused(linked: Tree) -> None:
    with pytest.raises(DamagedError):
        linked.open(b"folder")
    with pytest.raises(DamagedError):
        linked.read_link(b"a")
    for ask in (linked.entries, linked.list_facts, linked.list_names):
        with pytest.raises((DamagedError, MissingLayerError)):
            ask(b"a")
    for name in (b"link", b"out", b"ring", b"fifo"):
        if linked.find(name) is not None:
            with pytest.raises(DamagedError):
                linked.open(name)


def test_no_link_is_followed_but_by_resolve(linked: Tree) -> None:
    if linked.find(b"link") is None:
        return
    assert linked.stat(b"link").is_link and linked.read_link(b"link") == b"folder/one"
    assert not linked.is_folder(b"way")
    with pytest.raises(SourceError):
        linked.stat(b"way/one")
    for path in (b"link", b"way/one", b"./way/../way//one", b"/link"):
        assert linked.resolve(path) == b"folder/one"
    with pytest.raises(MissingLayerError):
        linked.resolve(b"out")
    with pytest.raises(LimitError):
        linked.resolve(b"ring")


def test_a_tree_below_is_a_tree(tree: Tree) -> None:
    below = tree.subtree(b"folder")
    assert [entry.path for entry in below.entries(b"")] == [b"inner", b"one"]
    assert below.read(b"inner/two", 10) == b"22"
    assert below.shown(b"one") == tree.shown(b"folder/one")
    below.close()
    assert tree.read(b"a", 1) == b"1"


def test_capabilities_and_attributes(tree: Tree) -> None:
    assert tree.xattrs(b"a") == {} and tree.read_capability(b"a") is None and tree.list_capabilities(b"folder") == {}


def test_closing_twice_is_well(tree: Tree) -> None:
    tree.close()
    tree.close()
