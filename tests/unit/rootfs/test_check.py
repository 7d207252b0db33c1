"""A converted image against the tree in the store: every kind of difference is found, and Docker's quirks are none."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.compose.chain import walk_chain
from migrate.errors import MigrateError
from migrate.rehash.ports import LayerJob
from migrate.rootfs.check import RootfsCheck, RunCheck
from tests.cases import store_cases
from tests.roots import RootBuilder, identity, open_docker_root, write
from tests.stores import StoreShelf, stores

__all__ = ["stores"]

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
FIRST, SECOND = "base", "top"


@pytest.fixture(params=["overlay", "vfs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> RootBuilder:
    """Two layers whose tars are what tar-split says, whatever stands in the trees."""
    return RootBuilder(tmp_path / "root", request.param)


def differences(root: RootBuilder, top: str = SECOND) -> list[str]:
    source = root.open()
    return RootfsCheck(source).differences(walk_chain(identity(top), source.read_layer))


def copy_up(root: RootBuilder) -> Path:
    """A second layer that starts as Docker starts it: a copy of the first, by hard links for overlay."""
    target = root.add(SECOND, FIRST)
    target.rmdir()
    links = "-al" if root.driver == "overlay" else "-a"
    subprocess.run(["cp", links, root.tree(FIRST), target], check=True)
    return target


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar_of(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for item in members:
            info, content = item if isinstance(item, tuple) else (item, b"")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.unlink(missing_ok=True)
    write(path, content, mode)


# --- no false differences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [store.name for store in store_cases() if "aufs" not in store.name])
def test_the_roots_of_real_engines_are_what_their_images_unpack_to(stores: StoreShelf, name: str) -> None:

    source = open_docker_root(stores.path(name))
    if not source.holds_rootfs:
        return
    check = RootfsCheck(source)
    found = {}
    for legacy_id in source.listing().layers:
        try:
            chain = walk_chain(legacy_id, source.read_layer)
        except MigrateError:
            continue
        if lines := check.differences(chain):
            found[legacy_id[:12]] = [line for line in lines if "could not be checked" not in line]
    damaged = {
        "36ae8515d28c": [
            "srv/app-o-v191m/d0/file-0-v191m.txt: its content differs",
            "srv/app-o-v191m/d0/hl: its content differs",
        ]
    }
    assert {key: lines for key, lines in found.items() if lines} == (damaged if name == "store-damaged-vfs" else {})


def test_whiteouts_replacements_and_links(root: RootBuilder) -> None:
    base = root.add(FIRST)
    for name in ("keep", "gone", "dir/gone", "tree/a/b", "file-to-dir", "dir-to-file/x"):
        write(base / name, b"one")
    top = copy_up(root)
    for name in ("gone", "dir/gone", "file-to-dir"):
        (top / name).unlink()
    for name in ("tree", "dir-to-file"):
        shutil.rmtree(top / name)
    write(top / "file-to-dir/new", b"two")
    write(top / "dir-to-file", b"two")
    os.link(top / "keep", top / "link")
    (top / "sym").symlink_to("keep")
    assert differences(root) == []


def test_directories_that_the_tar_leaves_out_may_have_any_mode(root: RootBuilder) -> None:
    write(root.add(FIRST) / "a/b/c", b"one").parent.chmod(0o700)
    root.add_tar_split(FIRST, tar_of((member("a/b/c"), b"one")))
    assert differences(root, FIRST) == []


def test_names_that_go_through_links_are_found_where_they_lead(root: RootBuilder) -> None:
    base = root.add(FIRST)
    write(base / "usr/lib/old", b"one")
    (base / "lib").symlink_to("usr/lib")
    write(copy_up(root) / "usr/lib/new", b"two")
    root.add_tar_split(SECOND, tar_of((member("lib/new"), b"two")))
    assert differences(root) == []


def test_a_hard_links_header_sets_the_mode_of_the_file(root: RootBuilder) -> None:
    base = root.add(FIRST)
    write(base / "a", b"one", 0o600)
    os.link(base / "a", base / "b")
    first, second = member("a"), member("b", tarfile.LNKTYPE, linkname="a", mode=0o600)
    root.add_tar_split(FIRST, tar_of((first, b"one"), second))
    assert differences(root, FIRST) == []


def test_a_socket_may_have_become_a_fifo_or_be_lost(root: RootBuilder) -> None:
    base = root.add(FIRST)
    for name in ("fifo", "lost"):
        os.mknod(base / name, stat.S_IFSOCK | 0o755)
    top = root.add(SECOND, FIRST)
    os.mkfifo(top / "fifo")
    root.add_tar_split(SECOND, tar_of())
    assert differences(root) == []


def test_opaque_directories_hide_what_is_below_and_keep_what_the_layer_brings(root: RootBuilder) -> None:
    write(root.add(FIRST) / "d/old", b"one")
    top = copy_up(root)
    (top / "d/old").unlink()
    write(top / "d/new", b"two")
    marker, directory = member("d/.wh..wh..opq"), member("d", tarfile.DIRTYPE)
    for order in ((directory, marker, (member("d/new"), b"two")), (directory, (member("d/new"), b"two"), marker)):
        root.add_tar_split(SECOND, tar_of(*order))
        assert differences(root) == []


# --- true differences --------------------------------------------------------------------------------------------


def test_an_opaque_marker_that_docker_did_not_know(root: RootBuilder) -> None:
    write(root.add(FIRST) / "d/old/file", b"one")
    write(copy_up(root) / "d/new", b"two")
    root.add_tar_split(
        SECOND, tar_of(member("d", tarfile.DIRTYPE), member("d/.wh..wh..opq"), (member("d/new"), b"two"))
    )
    assert differences(root) == ["d/old: in the store only"]


def chmod(tree: Path) -> None:
    replace(tree / "f", b"one", 0o600)


def chown(tree: Path) -> None:
    replace(tree / "f", b"one", 0o755)
    os.chown(tree / "f", 3, 4)


def relink(tree: Path) -> None:
    (tree / "s").unlink()
    (tree / "s").symlink_to("elsewhere")


def retype(tree: Path) -> None:
    (tree / "s").unlink()
    write(tree / "s", b"")


def renumber(tree: Path) -> None:
    (tree / "null").unlink()
    os.mknod(tree / "null", stat.S_IFCHR | 0o644, os.makedev(1, 5))


def capable(tree: Path) -> None:
    replace(tree / "f", b"one", 0o755)
    os.setxattr(tree / "f", "security.capability", CAPABILITY)


DIFFERENCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "mode": (chmod, "f: mode 0600 in the store, 0755 in the image"),
    "owner": (chown, "f: owner 3:4 in the store, 0:0 in the image"),
    "size": (lambda tree: replace(tree / "f", b"longer", 0o755), "f: 6 bytes in the store, 3 in the image"),
    "target": (relink, "s: leads to elsewhere in the store, to f in the image"),
    "type": (retype, "s: a file in the store, a symbolic link in the image"),
    "device": (renumber, "null: device 1:5 in the store, 1:3 in the image"),
    "capability": (capable, "f: its security.capability differs"),
    "missing": (lambda tree: (tree / "f").unlink(), "f: not in the store"),
    "added": (lambda tree: write(tree / "more"), "more: in the store only"),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
@pytest.mark.parametrize("by_tar", [True, False], ids=["named by the tar", "left alone by the tar"])
def test_each_kind_of_difference(root: RootBuilder, kind: str, by_tar: bool) -> None:
    change, line = DIFFERENCES[kind]
    base = root.add(FIRST)
    write(base / "f", b"one", 0o755)
    (base / "s").symlink_to("f")
    os.mknod(base / "null", stat.S_IFCHR | 0o644, os.makedev(1, 3))
    tar = tar_of(
        (member("f", mode=0o755), b"one"),
        member("s", tarfile.SYMTYPE, linkname="f"),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
    )
    root.add_tar_split(FIRST, tar)
    change(copy_up(root))
    root.add_tar_split(SECOND, tar if by_tar and kind not in ("missing", "size") else tar_of())
    assert differences(root, FIRST) == []
    assert differences(root) == [line]


def test_a_copy_that_changed_without_a_trace_is_found_by_its_content(tmp_path: Path) -> None:
    root = RootBuilder(tmp_path, "vfs")
    write(root.add(FIRST) / "f", b"one")
    write(copy_up(root) / "f", b"two")
    assert differences(root, FIRST) == []
    assert differences(root) == ["f: its content differs"]


def test_a_capability_that_nobody_may_use_is_compared_too(root: RootBuilder) -> None:
    write(root.add(FIRST) / "f", b"one", 0o644)
    root.add_tar_split(FIRST, tar_of((member("f"), b"one")))
    tree = copy_up(root)
    replace(tree / "f", b"one", 0o644)
    os.setxattr(tree / "f", "security.capability", CAPABILITY)
    root.add_tar_split(SECOND, tar_of())
    assert differences(root) == ["f: its security.capability differs"]


def test_a_lower_layers_difference_that_an_upper_one_covers_is_none(root: RootBuilder) -> None:
    write(root.add(FIRST) / "f", b"one", 0o600)
    root.add_tar_split(FIRST, tar_of((member("f"), b"one")))
    replace(copy_up(root) / "f", b"two")
    assert differences(root, FIRST) == ["f: mode 0600 in the store, 0644 in the image"]
    assert differences(root) == []


def test_what_cannot_be_checked_is_said(root: RootBuilder) -> None:
    write(root.add(FIRST) / "f", b"one")
    copy_up(root)
    root.add_tar_split(SECOND, tar_of())
    shutil.rmtree(root.tree(FIRST).parent if root.driver == "overlay" else root.tree(FIRST))
    (line,) = differences(root)
    assert line.startswith(f"layer {identity(FIRST)} could not be checked")


# --- owners of user namespaces -----------------------------------------------------------------------------------


def change_owners(root: RootBuilder, owners: Callable[[int, int], tuple[int, int]]) -> None:
    """All of the driver's files, each inode once; `owners` gives new numbers for those of user and group."""
    top = root.path / root.driver
    done: set[int] = set()
    for path in (top, *top.rglob("*")):
        facts = path.lstat()
        if facts.st_ino not in done:
            done.add(facts.st_ino)
            os.lchown(path, *owners(facts.st_uid, facts.st_gid))


def shift_owners(root: RootBuilder, users: int, groups: int) -> None:
    change_owners(root, lambda uid, gid: (uid + users, gid + groups))


def two_layers_with_owners(root: RootBuilder) -> None:
    write(root.add(FIRST) / "bin/one", b"one")
    write(root.tree(FIRST) / "home/user/f", b"two")
    os.chown(root.tree(FIRST) / "home/user/f", 7, 8)
    root.add_tar_split(FIRST, root.read(FIRST))
    write(copy_up(root) / "bin/two", b"three")
    root.add_tar_split(SECOND, root.read(SECOND))


@pytest.mark.parametrize(("users", "groups"), [(100_000, 100_000), (1, 65_536)])
def test_owners_that_are_all_shifted_by_one_amount_are_named_once(root: RootBuilder, users: int, groups: int) -> None:
    two_layers_with_owners(root)
    shift_owners(root, users, groups)
    source = root.open()
    check = RunCheck({0: source}, True)
    chain = walk_chain(identity(SECOND), source.read_layer)
    assert check.differences(0, chain) == []
    (warning,) = check.warnings()
    assert f" {users:,} (users) and {groups:,} (groups) higher" in warning


@pytest.mark.parametrize(
    ("low", "high"),
    [((100_000, 100_000), (300_000, 400_000)), ((165_536, 231_072), (1_000_000, 165_537)), ((0, 0), (70_000, 80_000))],
)
def test_a_second_range_of_subordinate_ids_has_an_amount_of_its_own(
    root: RootBuilder, low: tuple[int, int], high: tuple[int, int]
) -> None:
    """As where a directory service gives users numbers of seven digits."""
    write(root.add(FIRST) / "bin/one", b"one")
    for name in ("a", "b", "c"):
        write(root.tree(FIRST) / "home" / name, name.encode())
        os.chown(root.tree(FIRST) / "home" / name, 70_000, 90_000)
    os.chown(root.tree(FIRST) / "home", 70_000, 0)
    root.add_tar_split(FIRST, root.read(FIRST))
    write(copy_up(root) / "bin/two", b"three")
    root.add_tar_split(SECOND, root.read(SECOND))
    change_owners(
        root,
        lambda uid, gid: (
            uid + (high if uid >= 65_536 else low)[0],
            gid + (high if gid >= 65_536 else low)[1],
        ),
    )
    source = root.open()
    check = RunCheck({0: source}, True)
    assert check.differences(0, walk_chain(identity(SECOND), source.read_layer)) == []
    (warning,) = check.warnings()
    assert f"{low[0]:,} (users) and {low[1]:,} (groups) (those from 65,536 on {high[0]:,} and {high[1]:,})" in warning


@pytest.mark.parametrize(("users", "groups"), [(100_000, 0), (0, 100_000), (165_536, 1_000_000)])
def test_users_and_groups_are_shifted_by_amounts_of_their_own(root: RootBuilder, users: int, groups: int) -> None:
    two_layers_with_owners(root)
    shift_owners(root, users, groups)
    source = root.open()
    check = RunCheck({0: source}, True)
    assert check.differences(0, walk_chain(identity(SECOND), source.read_layer)) == []
    (warning,) = check.warnings()
    assert f"{users:,} (users) and {groups:,} (groups) higher" in warning


def test_what_else_differs_in_a_shifted_store_is_found(root: RootBuilder) -> None:
    two_layers_with_owners(root)
    shift_owners(root, 100_000, 100_000)
    os.lchown(root.tree(FIRST) / "home/user/f", 100_009, 100_008)
    (root.tree(FIRST) / "bin/one").chmod(0o4755)
    assert differences(root, FIRST) == [
        "bin/one: mode 4755 in the store, 0644 in the image",
        "home/user/f: owner 100009:100008 in the store, 7:8 in the image",
    ]


def test_owners_of_a_store_without_a_shift_are_no_warning(root: RootBuilder) -> None:
    two_layers_with_owners(root)
    source = root.open()
    check = RunCheck({0: source}, True)
    assert check.differences(0, walk_chain(identity(SECOND), source.read_layer)) == []
    assert check.warnings() == []


# --- a run -------------------------------------------------------------------------------------------------------


def test_a_run_checks_the_sources_that_make_it_cheap_or_those_that_can(tmp_path: Path) -> None:
    sources = {}
    for index, driver in enumerate(("overlay", "aufs")):
        root = RootBuilder(tmp_path / driver, driver)
        root.add(FIRST)
        sources[index] = root.open()
    layers = {index: source.read_layer(identity(FIRST)) for index, source in sources.items()}
    jobs = [LayerJob(index, sources[index], layers[index]) for index in sources]
    for wanted, expected in ((None, [True, False]), (True, [True, False]), (False, [False, False])):
        check = RunCheck(dict(sources), wanted)
        assert [check.observer(job) is not None for job in jobs] == expected
        assert check.differences(1, (layers[1],)) == []


def test_what_the_observer_saw_is_not_read_again(root: RootBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root.add(FIRST) / "f", b"one" * 1000)
    source = root.open()
    layer = source.read_layer(identity(FIRST))
    check = RootfsCheck(source)
    observer = check.observer_for(layer)
    with source.open_payload(layer) as payload:
        while block := payload.stream.read(700):
            observer.feed(memoryview(block))
    observer.finish()
    monkeypatch.setattr(source, "open_payload", None)
    assert check.differences([layer]) == []
