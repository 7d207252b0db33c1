from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate.distribution.repositories import iter_repositories
from migrate.errors import DamagedError, LimitError, SourceError, UsageError
from migrate.storage.bucket import BucketTree, open_filesystem
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.named_files import Entry, MissingFileError, NamedFiles
from migrate.storage.store import is_url
from tests.trees import BareTree


def files_of(path: Path) -> NamedFiles:
    return NamedFiles(DirectoryTree(str(path)))


@pytest.fixture(params=["directory", "bare", "bucket"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> NamedFiles:
    """The same files in a directory, in a tree of the least abilities, and in a bucket."""
    contents = {"a/one": b"1", "a/b/two": b"22", "c.x/three": b"3" * 100_000, "top": b""}
    if request.param != "bucket":
        for name, content in contents.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        here = DirectoryTree(str(tmp_path))
        return NamedFiles(BareTree(here) if request.param == "bare" else here)
    filesystem, prefix = open_filesystem(f"memory://{tmp_path.name}")
    filesystem.pipe({f"{prefix}/{name}": content for name, content in contents.items()})
    return NamedFiles(BucketTree(filesystem, prefix, f"memory://{tmp_path.name}"))


def test_folders_and_files_are_listed_sorted(tree: NamedFiles) -> None:
    assert tree.entries("") == [Entry("a", True), Entry("c.x", True), Entry("top", False)]
    assert tree.entries("a") == [Entry("b", True), Entry("one", False)]
    assert tree.entries("nothing") == tree.entries("top") == []


def test_files_are_read_under_a_limit(tree: NamedFiles) -> None:
    assert tree.read("a/b/two", 10) == b"22"
    assert tree.read("c.x/three", 100_000) == b"3" * 100_000
    assert tree.read("absent", 10) is None and tree.read("a", 10) is None
    assert (tree.size("a/one"), tree.size("top"), tree.size("a"), tree.size("absent")) == (1, 0, None, None)
    with pytest.raises(LimitError, match="three"):
        tree.read("c.x/three", 99_999)


def test_many_files_at_once(tree: NamedFiles) -> None:
    found = tree.read_many(["a/one", "absent", "c.x/three"], 10)
    assert found["a/one"] == b"1" and "absent" not in found
    assert isinstance(found["c.x/three"], LimitError)


def test_a_file_as_a_stream(tree: NamedFiles) -> None:
    with tree.open("c.x/three") as opened:
        assert opened.size == 100_000 and opened.stream.read(3) == b"333"
    with pytest.raises(MissingFileError):
        tree.open("absent").__enter__()


def test_links_inside_are_followed_and_links_outside_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real" / "file").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "inside").symlink_to("real")
    (root / "out").symlink_to(tmp_path)
    (root / "real" / "out").symlink_to(tmp_path / "secret")
    tree = files_of(root)
    assert tree.read("inside/file", 10) == b"x"
    for path in ("out/secret", "real/out", "../secret"):
        with pytest.raises(DamagedError, match="out of the tree"):
            tree.read(path, 10)


def test_what_is_no_file_counts_as_absent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    tree = files_of(tmp_path)
    assert tree.size("fifo") is None and tree.read("fifo", 10) is None
    with pytest.raises(SourceError):
        tree.read("loop", 10)
    assert tree.read("nul\0/x", 10) is None


def test_repositories_are_walked_to_any_depth_and_rings_end(tmp_path: Path) -> None:
    for name in ["team/app", "team/deep/er/tool", "alone", "empty"]:
        (tmp_path / "repositories" / name).mkdir(parents=True)
    for name in ["team/app/_manifests", "team/deep/er/tool/_layers", "alone/_manifests", "team/_uploads"]:
        (tmp_path / "repositories" / name).mkdir(parents=True)
    assert list(iter_repositories(files_of(tmp_path), "")) == [
        "alone",
        "team/app",
        "team/deep/er/tool",
    ]
    (tmp_path / "repositories" / "ring").symlink_to(".")
    assert set(iter_repositories(files_of(tmp_path), "")) >= {"alone", "ring/alone"}


@pytest.mark.parametrize(
    ("location", "url"),
    [("s3://bucket/x", True), ("memory://x", True), ("docker://host", False), ("/path", False), ("a:b", False)],
)
def test_urls_are_told_from_paths(location: str, url: bool) -> None:
    assert is_url(location) is url


def test_a_scheme_that_nobody_knows_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nonsense"):
        open_filesystem("nonsense://x/y")


def test_a_file_system_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for other places; but not for a program that has changed endpoint or credentials meanwhile."""
    first, _ = open_filesystem(f"memory://{tmp_path.name}/one")
    assert open_filesystem(f"memory://{tmp_path.name}/two")[0] is first
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    other, _ = open_filesystem(f"memory://{tmp_path.name}/one")
    assert other is not first
    assert open_filesystem(f"memory://{tmp_path.name}/two")[0] is other
