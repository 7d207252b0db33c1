"""Random pairs of trees: the comparison against a plain reading of Docker's, and the tar against what it unpacks to."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.compose.chain import walk_chain
from migrate.readers.graphdrivers.changes import Comparison
from migrate.readers.graphdrivers.listings import Listings, RememberedTree
from migrate.rootfs.check import RootfsCheck
from migrate.storage.directory_tree import DirectoryTree
from tests.roots import RootBuilder, identity

Spec = dict[str, object]
"""Name → (kind, mode, owner, time, content) or the Spec of a directory with its mode under the name ""."""

NAMES = st.sampled_from(["a", "a-b", "b", "c", "lib", "é", "zz" * 60])
LEAVES = st.tuples(
    st.sampled_from(["file", "file", "link", "fifo", "device", "socket"]),
    st.sampled_from([0o644, 0o600, 0o4755]),
    st.sampled_from([0, 5]),
    st.sampled_from([10**18, 10**18 + 5, 10**18 + 10**9]),
    st.sampled_from([b"", b"x", b"yy"]),
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(LEAVES, inner), max_size=4),
    max_leaves=12,
)


def build(place: Path, spec: Spec) -> None:
    place.mkdir(parents=True)
    for name, item in spec.items():
        path = place / name
        if isinstance(item, dict):
            build(path, item)
        else:
            _make(path, item)  # type: ignore[arg-type]


def _make(path: Path, leaf: tuple[str, int, int, int, bytes]) -> None:
    kind, mode, owner, time, content = leaf
    if kind == "file":
        path.write_bytes(content)
    elif kind == "link":
        path.symlink_to(f"../{content.decode()}a")
    else:
        kinds = {"fifo": stat.S_IFIFO, "device": stat.S_IFBLK, "socket": stat.S_IFSOCK}
        os.mknod(path, kinds[kind] | 0o600, os.makedev(7, len(content)) if kind == "device" else 0)
    os.chown(path, owner, 0, follow_symlinks=False)
    if kind != "link":
        path.chmod(mode)
    os.utime(path, ns=(time, time), follow_symlinks=False)


def dockers_changes(new: Path, old: Path) -> dict[bytes, bool]:
    """Path → True if it is gone, by recursion over both trees as moby's FileInfo.addChanges does it."""
    found: dict[bytes, bool] = {}

    def facts(path: Path) -> os.stat_result | None:
        return path.lstat() if os.path.lexists(path) else None

    def children(path: Path) -> set[str]:
        return set(os.listdir(path)) if path.is_dir() and not path.is_symlink() else set()

    def add_changes(name: str) -> bool:
        """Adds what changed below `name`; True if anything did."""
        changed = False
        is_directory = not name or bool(os.lstat(new / name).st_mode & 0x4000)
        olds = children(old / name) if is_directory else set()
        for child in sorted(children(new / name)):
            path = f"{name}/{child}" if name else child
            before = facts(old / path) if child in olds else None
            after = os.lstat(new / path)
            own = before is None or _differ(before, after)
            below = add_changes(path)
            if own or below:
                found[os.fsencode(path)] = False
                changed = True
        for child in olds - children(new / name):
            found[os.fsencode(f"{name}/{child}" if name else child)] = True
            changed = True
        return changed

    add_changes("")
    return found


def _differ(before: os.stat_result, after: os.stat_result) -> bool:
    if (before.st_mode, before.st_uid, before.st_gid, before.st_rdev) != (
        after.st_mode,
        after.st_uid,
        after.st_gid,
        after.st_rdev,
    ):
        return True
    if before.st_mode & 0x4000:
        return False
    (old_second, old_rest), (new_second, new_rest) = (divmod(f.st_mtime_ns, 10**9) for f in (before, after))
    same_time = old_second == new_second and (old_rest == new_rest or not old_rest or not new_rest)
    return not same_time or before.st_size != after.st_size


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, TREES)
def test_both_ways_of_comparing_are_dockers(old: Spec, new: Spec) -> None:
    with tempfile.TemporaryDirectory() as place:
        build(Path(place) / "old", old)
        build(Path(place) / "new", new)
        expected = dockers_changes(Path(place) / "new", Path(place) / "old")
        by_name = [DirectoryTree(f"{place}/{name}") for name in ("new", "old")]
        by_facts = [RememberedTree(DirectoryTree(f"{place}/{name}"), Listings()) for name in ("new", "old")]
        for trees in (by_name, by_facts):
            changes = Comparison(*trees).changes()
            assert [change.path for change in changes] == sorted(expected)
            assert {change.path: change.entry is None for change in changes} == expected


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, TREES)
def test_what_is_made_anew_unpacks_to_the_tree(old: Spec, new: Spec) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = RootBuilder(Path(place))
        for name, parent, spec in (("base", None, old), ("top", "base", new)):
            root.add(name, parent).rmdir()
            build(root.tree(name), spec)
        source = root.open()
        found = RootfsCheck(source).differences(walk_chain(identity("top"), source.read_layer))
        unseen = [line for line in found if not line.endswith("its content differs")]
        assert unseen == []
