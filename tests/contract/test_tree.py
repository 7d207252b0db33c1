"""Every Tree has the same answers for the same files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from migrate.errors import DamagedError, LimitError, MissingLayerError, SourceError
from migrate.readers.graphdrivers.listings import Listings, RememberedTree
from migrate.readers.graphdrivers.union import UnionTree
from migrate.storage import bucket
from migrate.storage.blocks import open_device
from migrate.storage.bucket import BucketTree, open_filesystem
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.disk.disk_tree import DiskTree
from migrate.storage.disk.volumes import read_contents
from migrate.storage.tar_tree import TarTree
from migrate.storage.tree import Tree
from tests import disks
from tests.peers import need
from tests.trees import BareTree
from tests.unit.readers.devicemapper.images import xfs_prototype

KINDS: Final = (
    "directory",
    "below",
    "bare",
    "bare below",
    "remembered",
    "union",
    "bucket",
    "tar",
    "ext4",
    "xfs",
    "btrfs",
)
LINKS: Final = {"link": "folder/one", "way": "/folder", "out": "../../etc/passwd", "ring": "ring"}
FILES: Final = {
    b"a": b"1",
    b"folder/one": b"one",
    b"folder/inner/two": b"22",
    b"large": b"".join(b"%08d" % at for at in range(40_000)),
    b"empty": b"",
}
ABSENT: Final = (b"gone", b"folder/gone", b"gone/gone", b"a/b", b"folder/../a", b"nul\0")


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The files, the links and the FIFO in a tar or on a disk, by tools that need no mount; each made once."""
    top = tmp_path_factory.mktemp("wrapped")
    folder = top / "folder"
    fill(folder)
    link(folder)

    @cache
    def make(kind: str) -> Path:
        image = top / kind
        if kind == "tar":
            disks.run("tar", "-C", folder, "-cf", image, ".")
            return image
        need(f"mkfs.{kind}")
        disks.blank(image, (320 if kind == "xfs" else 128) * disks.MIB)
        if kind == "ext4":
            disks.run("mkfs.ext4", "-q", "-F", "-d", folder, image)
        elif kind == "xfs":
            disks.run("mkfs.xfs", "-q", "-f", "-p", xfs_prototype(top / "prototype", folder), image)
        else:
            disks.run("mkfs.btrfs", "-q", "-f", "--rootdir", folder, image)
        return image

    return make


def fill(top: Path) -> None:
    for name, content in FILES.items():
        path = top / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def link(top: Path) -> None:
    for name, target in LINKS.items():
        (top / name).symlink_to(target)
    os.mkfifo(top / "fifo")


def disk_tree(image: Path) -> DiskTree:
    contents = read_contents(open_device(image))
    return DiskTree(contents, contents.file_systems[0], str(image))


@pytest.fixture(params=KINDS)
def tree(request: pytest.FixtureRequest, wrapped: Callable[[str], Path], tmp_path: Path) -> Iterator[Tree]:
    kind: str = request.param
    with ExitStack() as stack:
        if kind == "tar":
            yield stack.enter_context(TarTree(os.open(wrapped(kind), os.O_RDONLY), kind))
            return
        if kind in ("ext4", "xfs", "btrfs"):
            yield stack.enter_context(disk_tree(wrapped(kind)))
            return
        if kind == "bucket":
            filesystem, prefix = open_filesystem(f"memory://{tmp_path.name}")
            filesystem.pipe({f"{prefix}/{os.fsdecode(name)}": content for name, content in FILES.items()})
            yield stack.enter_context(BucketTree(filesystem, prefix, f"memory://{tmp_path.name}"))
            return
        top = tmp_path / "above" if kind.endswith("below") else tmp_path
        fill(top)
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
    if not isinstance(tree, BucketTree | TarTree | DiskTree):
        link(tmp_path / "above" if (tmp_path / "above").is_dir() else tmp_path)
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
        assert tree.list_kinds(folder) == {entry.name: stat.S_IFMT(entry.mode) for entry in entries}
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
    for ask in (
        tree.stat,
        tree.open,
        tree.read_link,
        tree.xattrs,
        tree.entries,
        tree.list_facts,
        tree.list_names,
        tree.list_kinds,
    ):
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
    assert {name: stat.S_IFMT(linked.stat(name).mode) for name in (b"link", b"fifo")} == {
        name: kind for name, kind in linked.list_kinds(b"").items() if name in (b"link", b"fifo")
    }
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


def test_a_folder_listed_by_several_threads_at_once(tree: Tree) -> None:
    """Each through a tree of its own. None misses a name that another has read."""

    def listed(_: int) -> set[frozenset[bytes]]:
        below = tree.subtree(b"folder")
        try:
            names = {frozenset(below.list_names(b"")) for _ in range(20)}
            return names | {frozenset(entry.path for entry in below.entries(b"")) for _ in range(20)}
        finally:
            below.close()

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(listed, range(24))) == {frozenset((b"inner", b"one"))}


def test_two_streams_of_one_file_have_positions_of_their_own(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "RANGE_BYTES", 1_000)  # a larger object is read in pieces
    with tree.open(b"large") as one, tree.open(b"large") as two:
        pieces = [(one.read(5_000), two.read(5_000)) for _ in range(65)]
    assert [first == second for first, second in pieces] == [True] * 65
    assert hashlib.sha256(b"".join(piece for piece, _ in pieces)).digest() == hashlib.sha256(FILES[b"large"]).digest()


def test_capabilities_and_attributes(tree: Tree) -> None:
    assert tree.xattrs(b"a") == {} and tree.read_capability(b"a") is None and tree.list_capabilities(b"folder") == {}


def test_closing_twice_is_well(tree: Tree) -> None:
    tree.close()
    tree.close()
