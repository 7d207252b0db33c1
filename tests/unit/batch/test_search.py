from __future__ import annotations

import io
import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from migrate.batch.plan import Candidate, SourceIdentity
from migrate.batch.search import expand, find_candidates, list_line, look_at, read_list
from migrate.errors import UsageError
from tests.archives import V1Archive, build_tar


def search(*locations: str, lists: Sequence[BinaryIO] = ()) -> list[Candidate]:
    return find_candidates(expand(locations, lists))


def identify(path: str) -> SourceIdentity:
    return look_at(path)[0]


def names(found: list[Candidate], root: Path) -> list[str]:
    return [str(Path(candidate.location).relative_to(root)) for candidate in found]


def test_directories_are_searched_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2.tar", "b/1.tar", "a.tar", "c/d/e.txt", ".hidden.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = search(str(tmp_path))
    assert names(found, tmp_path) == [".hidden.tar", "a.tar", "b/1.tar", "b/2.tar", "c/d/e.txt"]
    assert [candidate.order for candidate in found] == [0, 1, 2, 3, 4]


def test_a_tree_may_be_deeper_than_the_stack(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    for level in range(1500):
        os.mkdir(f"{deep}{'/d' * level}")
    Path(f"{deep}{'/d' * 1499}", "a.tar").write_bytes(b"x")
    try:
        (found,) = search(str(deep))
    finally:
        subprocess.run(["rm", "-r", deep], check=True)  # shutil's recursion ends before
    assert found.location.endswith("/d/a.tar")


def test_searching_leaves_access_times_as_they_are(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    unpack(shelf / "unpacked")
    (shelf / "inner").mkdir()
    places = [shelf, *shelf.rglob("*")]
    for place in places:
        os.utime(place, ns=(10**18, place.stat().st_mtime_ns))
    search(str(shelf))
    assert {place.stat().st_atime_ns for place in places} == {10**18}


def unpack(directory: Path, name: str = "base") -> None:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer(name))
    for member, content in archive.members:
        (directory / member).parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        (directory / member).write_bytes(content)


def test_directories_deeper_than_the_stack_are_searched(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(1_200):
        folder /= "d"
        folder.mkdir()
    (folder / "a.tar").write_bytes(b"x")
    (tmp_path / "d" / "b").symlink_to(tmp_path)
    found = search(str(tmp_path))
    (folder / "a.tar").unlink()
    (tmp_path / "d" / "b").unlink()
    while folder != tmp_path:  # pytest's own cleaning recurses
        folder.rmdir()
        folder = folder.parent
    assert [Path(candidate.location).name for candidate in found] == ["b", "a.tar"]


def test_a_directory_that_is_a_source_is_one_source(tmp_path: Path) -> None:
    unpack(tmp_path / "unpacked")
    (tmp_path / "other.tar").write_bytes(build_tar([]))
    assert names(search(str(tmp_path)), tmp_path) == ["other.tar", "unpacked"]


def test_what_lies_beside_the_members_of_an_archive_is_searched(tmp_path: Path) -> None:
    unpack(tmp_path)
    unpack(tmp_path / "more" / "unpacked", "other")
    for name in ("a.tar", "more/b.tar", "readme"):
        (tmp_path / name).write_bytes(b"x")
    assert names(search(str(tmp_path)), tmp_path) == [".", "a.tar", "more/b.tar", "more/unpacked", "readme"]


def test_what_a_manifest_names_belongs_to_its_archive(tmp_path: Path) -> None:
    """Builders give configs and layers any name."""
    entry = {"Config": "conf", "RepoTags": None, "Layers": ["./layer.tar.gz", "deep/er/layer.tar", "../out.tar"]}
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    for name in ("conf", "layer.tar.gz", "deep/er/layer.tar", "a.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(search(str(tmp_path)), tmp_path) == [".", "a.tar"]


LOST = b'[{"Config": "gone.json", "RepoTags": ["app:1"], "Layers": ["gone/layer.tar"]}]'


@pytest.mark.parametrize("content", [b"[]", b"{", b"[1]", b'{"name": "a web page"}', LOST])
def test_a_stray_manifest_makes_no_source_of_its_directory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    (tmp_path / "a.tar").write_bytes(b"x")
    assert names(search(str(tmp_path)), tmp_path) == ["a.tar", "manifest.json"]
    (tmp_path / "repositories").write_bytes(b"{}")  # beside anything else of an archive it is a part of one
    assert names(search(str(tmp_path)), tmp_path) == [".", "a.tar"]


def test_each_source_counts_once_and_where_it_is_named_first(tmp_path: Path) -> None:
    for name in ("1.tar", "2.tar", "3.tar"):
        (tmp_path / name).write_bytes(b"x")
    found = search(str(tmp_path / "3.tar"), str(tmp_path), str(tmp_path / "*.tar"))
    assert names(found, tmp_path) == ["3.tar", "1.tar", "2.tar"]


def test_several_names_of_one_source_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "linked").symlink_to("shelf")
    (tmp_path / "shelf" / "a.tar").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "shelf")
    found = search("a.tar", "./a.tar", f"{tmp_path}/shelf/a.tar", "../linked/a.tar", f"{tmp_path}/linked", ".", "*.tar")
    assert [candidate.location for candidate in found] == ["a.tar"]


def test_standard_input_is_no_source_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lists in ([], [io.BytesIO(b"a.tar\n-\n")]):
        with pytest.raises(UsageError, match="use `migrate convert -`"):
            expand([] if lists else ["-"], lists)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_bytes(b"x")
    assert expand(["*"]) == ["./-"]


@pytest.mark.parametrize("name", ["a.tar", " a b.tar ", "\udcff.tar", "s3://bucket/a.tar"])
def test_a_name_that_a_line_holds_comes_back(name: str) -> None:
    line = list_line(name)
    assert line is not None
    assert list(read_list(io.BytesIO(line))) == [name]


@pytest.mark.parametrize("name", ["a\nb.tar", "a\r", "  ", "x" * 70_000])
def test_a_name_that_no_line_holds_never_comes_back_as_another(name: str) -> None:
    assert list_line(name) is None


def test_blank_lines_of_a_list_are_no_sources() -> None:
    assert expand([], [io.BytesIO(b"\n  \t\na.tar\n \r\n")]) == ["a.tar"]


def test_globs_and_lists(tmp_path: Path) -> None:
    for name in ("1.tar", "2.tar", "[odd].tar", "x.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert names(search(str(tmp_path / "?.tar")), tmp_path) == ["1.tar", "2.tar"]
    assert names(search(str(tmp_path / "[odd].tar")), tmp_path) == ["[odd].tar"]
    listed = io.BytesIO(f"{tmp_path}/x.txt\n\n{tmp_path}/1.tar\r\n{tmp_path}/gone.tar".encode())
    assert names(search(lists=[listed]), tmp_path) == ["x.txt", "1.tar", "gone.tar"]


def test_a_glob_without_a_match_and_a_binary_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing matches"):
        search(str(tmp_path / "*.tar"))
    with pytest.raises(UsageError, match="not a list with one path"):
        expand([], [io.BytesIO(b"\0" * 100)])


def test_nothing_is_left_out_without_a_word(tmp_path: Path) -> None:
    """What no worker shall open says why; what is lost is opened, and fails."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "real.tar").write_bytes(b"x")
    (shelf / "link.tar").symlink_to("real.tar")
    (shelf / "round").symlink_to(".")
    (shelf / "gone.tar").symlink_to("gone")
    (shelf / "gone.txt").symlink_to("gone")
    (shelf / "loop.TGZ").symlink_to("loop.TGZ")
    (shelf / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(shelf / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(shelf / "socket"))
    found = {candidate.location: candidate.unfit for candidate in search(str(shelf))}
    told = {Path(location).name: unfit for location, unfit in found.items()}
    assert told == {
        "gone.tar": None,
        "gone.txt": "a link that leads nowhere (No such file or directory)",
        "link.tar": None,
        "loop.TGZ": None,
        "loop.txt": "a link that leads nowhere (Too many levels of symbolic links)",
        "pipe": "a pipe, which batch does not read",
        "real.tar": None,
        "round": "a link to a directory, which is not followed; name it to have it searched",
        "socket": "a socket, which batch does not read",
    }


def test_what_may_not_be_looked_at_is_left_to_a_worker_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory without `x` can be listed, and nothing in it be looked at."""
    (tmp_path / "readme").write_bytes(b"x")

    there = os.stat(tmp_path)

    def refuse(path: str, **flags: object) -> os.stat_result:
        if os.fspath(path) == str(tmp_path):
            return there
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", refuse)
    (found,) = search(str(tmp_path))
    assert (found.location, found.unfit) == (str(tmp_path / "readme"), None)


def test_what_is_named_is_taken_at_its_word(tmp_path: Path) -> None:
    """But for pipes: a worker would wait for ever."""
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "a.tar").write_bytes(b"x")
    (tmp_path / "link").symlink_to("shelf")
    (tmp_path / "gone.txt").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe.tar")
    found = search(*[f"{tmp_path}/{name}" for name in ("link", "gone.txt", "pipe.*")])
    assert names(found, tmp_path) == ["link/a.tar", "gone.txt", "pipe.tar"]
    assert [candidate.unfit for candidate in found] == [None, None, "a pipe, which batch does not read"]


def test_a_link_that_is_found_and_then_named_is_a_source(tmp_path: Path) -> None:
    unpack(tmp_path / "unpacked")
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "link").symlink_to(tmp_path / "unpacked")
    found = search(str(tmp_path / "shelf"), str(tmp_path / "shelf" / "link"))
    assert [(candidate.location, candidate.unfit) for candidate in found] == [(str(tmp_path / "shelf" / "link"), None)]


def test_a_link_that_is_not_followed_stands_for_nothing(tmp_path: Path) -> None:
    unpack(tmp_path / "unpacked")
    (tmp_path / "link").symlink_to("unpacked")
    found = search(str(tmp_path))
    assert [(Path(candidate.location).name, candidate.unfit is None) for candidate in found] == [
        ("link", False),
        ("unpacked", True),
    ]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff.tar"
    with open(raw, "wb") as stream:
        stream.write(b"x")
    (found,) = search(str(tmp_path))
    assert os.fsencode(found.location) == raw


def test_the_identity_of_a_file_is_its_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"x")
    before = identify(str(path))
    assert before.size == 1
    assert identify(str(path)) == before
    os.utime(path, ns=(1, 1))
    assert identify(str(path)) != before
    assert identify(str(tmp_path / "gone")) != before


def grow(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


ID = "a" * 64
NAMES = ("acme/player", "vfs/app", "library/overlay", "blobs/btrfs", "devicemapper/aufs")
STORES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "archive": (
        [f"{ID}/json", f"{ID}/layer.tar"],
        [f"{ID}/VERSION", "manifest.json", "repositories", f"{'b' * 64}/json", "named/json", "blobs/sha256/x"],
        ["a.tar", "readme", "shelf/b.tar"],
    ),
    "root": (
        [f"graph/{ID}/json", "repositories-aufs"],
        [f"graph/{ID}/layersize", "containers/c/config.json", "vfs/dir/new/x", "image/aufs/x", "overlay/new/root/x"],
        [f"graph/{ID}/layer/etc/x", "vfs/dir/old/etc/x", "volumes/v/x", "containers/c/rootfs/etc/x", "old.tar"],
    ),
    "v1": (
        [f"images/{ID}/json", f"images/{ID}/layer", *(f"repositories/{name}/tag_old" for name in NAMES)],
        [f"images/{ID}/ancestry", *(f"repositories/{name}/tag_{tag}" for name in NAMES for tag in ("old", "new"))],
        ["docker-registry.db", "a.tar"],
    ),
    "v2": (
        [
            "docker/registry/v2/repositories/app/_layers/x",
            "docker/registry/v2/blobs/sha256/aa/x/data",
            *(f"docker/registry/v2/repositories/{name}/_manifests/tags/old/current/link" for name in NAMES),
        ],
        [
            "docker/registry/v2/blobs/sha256/ab/y/data",
            *(
                f"docker/registry/v2/repositories/{name}/_manifests/tags/{tag}/current/link"
                for name in (*NAMES, "a/b/c/d/e/f/g/h/i/j")
                for tag in ("new", "old")
            ),
        ],
        ["docker/registry/v2/repositories/app/_uploads/u/data", "a.tar", "docker/registry/v2/blobs/sha256/aa/x/more"],
    ),
}
"""Of each kind of store: what makes it one, what changes it, and what does not."""


@pytest.mark.parametrize("kind", STORES)
def test_the_identity_of_a_store_follows_its_documents(tmp_path: Path, kind: str) -> None:
    standing, changing, _ = STORES[kind]
    for name in standing:
        grow(tmp_path / name)
    assert next(iter(search(str(tmp_path)))).location == str(tmp_path)
    before = identify(str(tmp_path))
    assert before.size is None
    for name in (*changing, standing[0]):
        grow(tmp_path / name, b"other")
        after = identify(str(tmp_path))
        assert after != before, name
        assert identify(str(tmp_path)) == after
        before = after


@pytest.mark.parametrize("kind", STORES)
def test_nothing_else_changes_the_identity_of_a_store(tmp_path: Path, kind: str) -> None:
    standing, _, others = STORES[kind]
    for name in (*standing, *others):
        grow(tmp_path / name)
    before = identify(str(tmp_path))
    for name in others:
        grow(tmp_path / name, b"other")
    assert identify(str(tmp_path)) == before


def test_a_graph_that_somebody_moved_is_followed(tmp_path: Path) -> None:
    grow(tmp_path / "disk" / ID / "json")
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "graph").symlink_to(tmp_path / "disk")
    before = identify(str(tmp_path / "docker"))
    grow(tmp_path / "disk" / ("b" * 64) / "json")
    assert identify(str(tmp_path / "docker")) != before


def test_the_source_type_that_is_named_tells_what_belongs_to_the_store(tmp_path: Path) -> None:
    """A root and a registry in one directory: it is none of them by itself."""
    for name in (f"graph/{ID}/json", f"images/{ID}/json"):
        grow(tmp_path / name)

    def mark(source_type: str | None) -> str:
        (candidate,) = find_candidates([str(tmp_path)], source_type=source_type)
        return candidate.identity.mark

    marks = [mark(kind) for kind in (None, "docker-root", "registry-v1")]
    grow(tmp_path / "repositories" / "a" / "b" / "tag_c")
    after = [mark(kind) for kind in (None, "docker-root", "registry-v1")]
    assert [one == other for one, other in zip(marks, after, strict=True)] == [False, True, False]


def test_objects_that_are_no_files_are_told(tmp_path: Path) -> None:
    grow(tmp_path / "a.tar")
    os.mkfifo(tmp_path / "pipe")
    found = search(f"file://{tmp_path}")
    assert {Path(candidate.location).name: candidate.unfit for candidate in found} == {
        "a.tar": None,
        "pipe": "a pipe, which batch does not read",
    }
