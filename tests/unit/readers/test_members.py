"""Links between the members of an archive, followed as Docker follows them in the unpacked one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from migrate.errors import DamagedError, MissingLayerError
from migrate.readers.members import Members, TreeMembers
from migrate.storage.directory_tree import DirectoryTree
from migrate.tar.members import Member, MemberKind


def file(name: str) -> Member:
    return Member(name, MemberKind.FILE, 0, 1, "")


def symlink(name: str, target: str) -> Member:
    return Member(name, MemberKind.SYMLINK, 0, 0, target)


def hard_link(name: str, target: str) -> Member:
    return Member(name, MemberKind.HARDLINK, 0, 0, target)


def members(*found: Member) -> Members:
    return Members("archive", found)


@pytest.mark.parametrize(
    "target",
    [
        "../a/layer.tar",
        "/a/layer.tar",
        "//a/./layer.tar",
        "../../../a/layer.tar",
        "/../a/layer.tar",
        "../gone/../a/layer.tar",
    ],
)
def test_a_symbolic_link_is_followed_inside_the_archive(target: str) -> None:
    assert members(file("a/layer.tar"), symlink("b/layer.tar", target)).resolve("b/layer.tar").name == "a/layer.tar"


@pytest.mark.parametrize("target", ["a/layer.tar", "/a/layer.tar", "../a/layer.tar"])
def test_a_hard_link_begins_at_the_root(target: str) -> None:
    assert members(file("a/layer.tar"), hard_link("b/layer.tar", target)).resolve("b/layer.tar").name == "a/layer.tar"


@pytest.mark.parametrize("found", [symlink("b", "a"), symlink("b", "/a/"), symlink("b", "c/../a")])
def test_a_directory_may_be_a_link(found: Member) -> None:
    assert members(file("a/layer.tar"), found).resolve("b/layer.tar").name == "a/layer.tar"


def test_links_lead_to_links() -> None:
    chain = [
        symlink("c", "/b"),
        symlink("b/layer.tar", "next"),
        hard_link("b/next", "x"),
        symlink("x", "./a/layer.tar"),
    ]
    assert members(file("a/layer.tar"), *chain).resolve("c/layer.tar").name == "a/layer.tar"


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        ([symlink("b", "/etc/passwd")], MissingLayerError, r"there is no member etc/passwd \(named by b\)"),
        ([symlink("b", "a\nb\udcff")], MissingLayerError, r"there is no member 'a\\nb\\udcff' \(named by b\)"),
        ([symlink("b", "/")], MissingLayerError, "named by b"),
        ([symlink("b", "b")], DamagedError, "more than 40 links"),
        ([symlink("b", "c"), symlink("c", "/b")], DamagedError, "more than 40 links"),
        ([symlink("b", "b/b")], DamagedError, "more than 40 links"),
        ([symlink("b", "a/" * 500_000)], DamagedError, "over 4,096 letters"),
        ([symlink("b", "d"), Member("d", MemberKind.DIRECTORY, 0, 0, "")], DamagedError, "member d is a directory"),
    ],
)
def test_a_link_to_nothing(found: Iterable[Member], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        members(*found).resolve("b")


def test_an_unpacked_archives_links_never_reach_the_host(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"host")
    root = tmp_path / "root"
    for name, target in (("b", "../../secret"), ("c", str(tmp_path / "secret"))):
        (root / name).mkdir(parents=True)
        (root / name / "layer.tar").symlink_to(target)
    for name in ("b", "c"):
        with pytest.raises(MissingLayerError):
            TreeMembers(str(root), DirectoryTree(str(root))).resolve(f"{name}/layer.tar")
