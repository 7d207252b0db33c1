"""Containers of real engines as images: what `docker commit` of Docker 1.10.3 made of the same roots, or of 1.9.1."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.model.options import ConvertOptions, EmptyLayers, ReadOptions
from migrate.readers.docker_root import DockerRootSource
from migrate.storage.directory_tree import DirectoryTree
from tests.cases import case, container_cases, is_half_removed
from tests.stores import StoreShelf, stores
from tests.trees import BareTree

__all__ = ["stores"]

EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
CASES = [one.name for one in container_cases()]
COMMITTED = [
    pytest.param(one.name, container, id=f"{one.name}-{facts['name']}")
    for one in container_cases()
    for container, facts in sorted(one.expected["containers"].items())
    if ("commit" in facts or "config" in facts.get("commit_by_1_10_3", {})) and not is_half_removed(facts)
]
"""Docker could commit them, and had not begun to remove them."""
_TYPES = {
    "dir": tarfile.DIRTYPE,
    "file": tarfile.REGTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


@dataclass(frozen=True)
class Converted:
    target: Path

    @property
    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.target / "migration-report.json").read_bytes())
        return document

    def row(self, container: str) -> dict[str, Any]:
        rows = [row for row in self.report["images"] if row.get("from_container", {}).get("id") == container]
        assert len(rows) == 1
        return rows[0]  # type: ignore[no-any-return]

    def blob(self, digest: str) -> bytes:
        return (self.target / "blobs" / digest.replace(":", "/")).read_bytes()

    def config(self, container: str) -> bytes:
        return self.blob(self.row(container)["image_id"])

    def members(self, container: str) -> list[dict[str, Any]]:
        layer = self.row(container)["layers"][-1]
        if layer["blob_digest"] is None:
            return []
        return members_of(gzip.decompress(self.blob(layer["blob_digest"])))


def members_of(tar: bytes) -> list[dict[str, Any]]:
    """A tar's members as `expected.json` describes them; whiteouts without their time."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            found.append(
                {
                    "name": member.name + "/" * member.isdir(),
                    "type": tarfile.REGTYPE if member.isreg() else member.type,
                    "owner": (member.mode & 0o7777, member.uid, member.gid),
                    "mtime": None if is_whiteout(member.name) else int(member.mtime),
                    "link": member.linkname,
                    "dev": [member.devmajor, member.devminor] if member.isdev() and not member.isfifo() else None,
                    "content": None if stream is None else stream.read(),
                    "capability": "SCHILY.xattr.security.capability" in member.pax_headers,
                }
            )
    return found


def is_whiteout(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".wh.")


def without_contents(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**member, "content": None if member["content"] is None else hashlib.sha256(member["content"]).hexdigest()}
        for member in members
    ]


def expected_members(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": row["name"],
            "type": _TYPES[row["type"]],
            "owner": (int(row["mode"], 8), row["uid"], row["gid"]),
            "mtime": None if is_whiteout(row["name"]) else row["mtime"],
            "link": row.get("linkname", ""),
            "dev": row.get("dev"),
            "content": row.get("sha256") if row["type"] == "file" else None,
            "capability": "security.capability" in row.get("xattrs", {}),
        }
        for row in rows
    ]


@pytest.fixture(scope="session")
def convert(stores: StoreShelf, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("containers")

    @cache
    def converted(name: str, empty_layers: EmptyLayers = EmptyLayers.KEEP) -> Converted:
        target = place / f"{name}-{empty_layers}"
        options = ConvertOptions(containers=True, empty_layers=empty_layers)
        api.convert([str(stores.path(name))], str(target), options)
        return Converted(target)

    return converted


def facts_of(name: str, container: str) -> dict[str, Any]:
    found: dict[str, Any] = case(name).expected["containers"][container]
    return found


def last_layer(facts: dict[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """The diffID of a container's own layer where the engine gives it on every run, and its members."""
    newest, commit = facts.get("commit_by_1_10_3", {}), facts.get("commit", {})
    if newest.get("empty_layer_dropped"):
        return EMPTY, []
    members = newest.get("members", "same as commit.members")
    rows = commit["members"] if isinstance(members, str) else members
    best = newest if "diff_ids" in newest else {"stable": commit["stable"], "diff_ids": [commit["diff_id"]]}
    return (best["diff_ids"][-1] if best["stable"] else None), rows


@pytest.mark.parametrize(("name", "container"), COMMITTED)
def test_a_container_is_what_docker_commits(name: str, container: str, convert: Any) -> None:
    facts = facts_of(name, container)
    made = convert(name)
    diff_id, members = last_layer(facts)

    row = made.row(container)
    assert row["names"] == [f"container/{facts['name']}:latest"]
    assert row["from_container"]["state"] in ("created", "exited", "running")
    assert json.loads(made.config(container))["rootfs"]["diff_ids"][-1] == row["layers"][-1]["diff_id"]
    if diff_id is not None:
        assert row["layers"][-1]["diff_id"] == diff_id
        assert row["layers"][-1].get("note") is None
    assert without_contents(made.members(container)) == expected_members(members)


@pytest.mark.parametrize(("name", "container"), COMMITTED)
def test_the_config_is_that_of_1_10_3_but_for_its_time(name: str, container: str, convert: Any) -> None:
    facts = facts_of(name, container)
    raw = convert(name).config(container)
    config = json.loads(raw)
    newest = facts.get("commit_by_1_10_3", {})
    if "config" not in newest:  # 1.10.3 was not run on btrfs
        commit = json.loads(facts["commit"]["json"])
        for key in ("config", "container", "container_config", "architecture", "os"):
            assert json.dumps(config[key]) == json.dumps(commit[key]), key
        return
    expected = json.loads(newest["config"])
    created = facts["state_on_disk"]["FinishedAt"]
    if created == "0001-01-01T00:00:00Z":
        created = facts["inspect"]["Created"]
    expected["created"] = expected["history"][-1]["created"] = created
    expected["history"][-1].pop("empty_layer", None)  # kept here, as a migrated commit by Docker 1.9 has it
    for document in (config, expected):  # digests of layers that the engine makes anew on each run
        document["rootfs"] = len(document["rootfs"]["diff_ids"])
    expected["rootfs"] += newest["empty_layer_dropped"]
    assert list(config) == list(expected)
    assert json.dumps(config) == json.dumps(expected)


def test_where_nothing_changed_there_is_no_layer(convert: Any) -> None:
    name = "containers-1.9.1-overlay"
    made = convert(name, EmptyLayers.DROP)
    for container, facts in case(name).expected["containers"].items():
        if facts.get("commit_by_1_10_3", {}).get("empty_layer_dropped"):
            history = json.loads(made.config(container))["history"]
            assert history[-1]["empty_layer"] is True
            assert history[-1]["created_by"] == " ".join(facts["config"]["Cmd"])


@pytest.mark.parametrize("name", CASES)
def test_what_docker_cannot_commit_fails_with_a_name(name: str, convert: Any) -> None:
    containers = case(name).expected["containers"]
    report = convert(name).report
    failed = {failure["legacy_id"]: failure for failure in report["failures"]}
    dead = {one for one, facts in containers.items() if is_half_removed(facts)}
    lost = {one for one, facts in containers.items() if not facts["image_in_graph"]} - dead

    assert set(failed) == lost
    for container in lost:
        failure = failed[container]
        assert failure["error"] == "missing-parent"
        assert failure["references"] == [f"container/{containers[container]['name']}:latest"]
        assert containers[container]["image"] in failure["message"]
        driver = case(name).expected["driver"]
        assert ("--salvage" if driver in ("vfs", "btrfs") else f"{container}/upper") in failure["message"]
    assert {row["id"] for row in report["containers"]} == lost | dead
    assert {row["id"] for row in report["containers"] if row["half_removed"]} == dead
    for container in dead:
        assert any(f"({container[:12]}) is left out" in warning for warning in report["warnings"])


@pytest.mark.parametrize("name", CASES)
def test_a_half_removed_container_is_converted_if_it_is_named(name: str, stores: StoreShelf, tmp_path: Path) -> None:
    containers = case(name).expected["containers"]
    for container in [one for one, facts in containers.items() if is_half_removed(facts)]:
        target = tmp_path / container[:12]
        done = api.convert([str(stores.path(name))], str(target), ConvertOptions(container=(container[:12],)))
        made = Converted(target)
        if "commit_error" in containers[container] or "commit" not in containers[container]:
            assert done.exit_code == 4
            assert [failure.error for failure in done.report.failures] == ["missing-layer"]
            message = done.report.failures[0].message
            assert "container wreck" in message
            assert f"the files that it changed are in {stores.path(name)}/overlay/{container}/upper" in message
            continue
        assert [row["legacy_id"] for row in made.report["images"]] == [container]
        assert any("begun to remove" in warning for warning in made.row(container)["warnings"])
        assert without_contents(made.members(container)) == expected_members(last_layer(containers[container])[1])


@pytest.mark.parametrize("name", [one for one in CASES if "vfs" in one or "btrfs" in one])
def test_salvage_takes_the_whole_tree_where_the_image_is_gone(name: str, stores: StoreShelf, tmp_path: Path) -> None:
    for container, facts in case(name).expected["containers"].items():
        if facts["image_in_graph"]:
            continue
        options = ConvertOptions(container=(facts["name"],), salvage=True)
        assert api.convert([str(stores.path(name))], str(tmp_path / "out"), options).exit_code == 0
        made = Converted(tmp_path / "out")
        found = {member["name"]: member for member in without_contents(made.members(container))}
        wanted = {
            member["name"]: member for member in expected_members(facts["export_members"]) if member["name"] != "./"
        }
        assert found == wanted


@pytest.mark.parametrize("name", [one for one in CASES if "overlay" in one])
def test_changes_that_docker_does_not_see_are_counted(name: str, convert: Any) -> None:
    found = {row["from_container"]["name"]: row for row in convert(name).report["images"] if "from_container" in row}
    assert {
        one: row["from_container"]["unseen_changes"]
        for one, row in found.items()
        if row["from_container"]["unseen_changes"]
    } == {"scribe": ["etc/sly.conf"]}
    assert any("etc/sly.conf" in warning for warning in found["scribe"]["warnings"])


@pytest.mark.parametrize("name", CASES)
def test_volumes_are_listed_with_what_to_copy(name: str, convert: Any, stores: StoreShelf) -> None:
    rows = {
        row["from_container"]["name"]: row["from_container"]
        for row in convert(name).report["images"]
        if "from_container" in row
    }
    volumes = {volume["path"]: volume for volume in rows["porter"]["volumes"]}
    assert set(volumes) == {"/data", "/host", "/vol"}
    assert volumes["/host"] == {"path": "/host", "source": "/srv/made-up/share", "bytes": None, "kind": "bind"}
    for path in ("/data", "/vol"):
        source = Path(volumes[path]["source"])
        assert source.is_dir() and not source.is_symlink() and source.is_relative_to(stores.path(name))
        assert volumes[path]["bytes"] == sum(file.stat().st_size for file in source.rglob("*") if file.is_file())


def test_what_is_left_behind_is_said(stores: StoreShelf, tmp_path: Path) -> None:
    name = "containers-1.9.1-vfs"
    root = stores.path(name)
    done = api.convert([str(root)], str(tmp_path / "out"), ConvertOptions())
    report = Converted(tmp_path / "out").report
    containers = case(name).expected["containers"]

    assert done.exit_code == 0
    assert {row["id"] for row in report["containers"]} == set(containers)
    assert not any("from_container" in row for row in report["images"])
    said = [warning for warning in report["warnings"] if "--containers" in warning]
    assert len(said) == 1
    assert f"{len(containers)} containers" in said[0]
    assert f"`migrate convert --containers {root} TARGET`" in said[0]
    for row in report["containers"]:
        counted = containers[row["id"]].get("commit", {}).get("layersize_file")
        assert row["changed_bytes"] == (None if counted is None else int(counted)), row["name"]


@pytest.mark.parametrize("name", ["containers-1.9.1-aufs", "containers-1.9.1-overlay", "containers-1.3.3-vfs"])
def test_no_wrapping_makes_a_difference(name: str, stores: StoreShelf) -> None:
    place = stores.path(name)
    wrapped = DockerRootSource("backup.tar", BareTree(DirectoryTree(str(place)), "backup.tar/docker"), ReadOptions())
    for image in wrapped.listing().containers:
        facts = facts_of(name, image.head)
        if "commit" not in facts or not facts["image_in_graph"]:
            continue
        diff_id, _ = last_layer(facts)
        with wrapped.open_payload(wrapped.read_layer(image.head)) as payload:
            content = payload.stream.read()
        if diff_id is not None:
            assert f"sha256:{hashlib.sha256(content).hexdigest()}" == diff_id
        assert image.container is not None
        for volume in wrapped.measure_container(image.container).volumes:
            if volume.kind == "volume":
                assert volume.bytes is not None
                assert volume.source.startswith("backup.tar/docker/v")


@pytest.mark.parametrize("name", ["containers-1.9.1-aufs", "containers-1.9.1-overlay", "containers-1.3.3-vfs"])
def test_a_backup_in_a_tar_gives_the_same_images(name: str, convert: Any, tmp_path: Path) -> None:
    options = ConvertOptions(containers=True, empty_layers=EmptyLayers.KEEP)
    api.convert([str(case(name).path / "store.tar.xz")], str(tmp_path / "out"), options)
    rows, expected = Converted(tmp_path / "out").report["images"], convert(name).report["images"]
    assert sorted(row["image_id"] for row in rows) == sorted(row["image_id"] for row in expected)
    volumes = [volume for row in rows for volume in row.get("from_container", {}).get("volumes", ())]
    assert any(f"{name}/store.tar.xz/v" in volume["source"] for volume in volumes)
