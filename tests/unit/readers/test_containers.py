"""Containers of Docker roots that no engine made: every storage driver, lost parts, and records that lie."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import DocumentError, MigrateError, MissingLayerError, MissingParentError, UnsupportedError
from migrate.model.container import Container
from migrate.model.legacy import LegacyID
from migrate.readers import containers
from migrate.readers.docker_root import DockerRootSource
from tests.roots import RootBuilder, identity, write

WEB = identity("web container")
DRIVERS = ["vfs", "btrfs", "overlay"]


class Root(RootBuilder):
    """A root with one image, `base`, that has a file in etc/."""

    def __init__(self, path: Path, driver: str = "vfs") -> None:
        super().__init__(path, driver)
        tree = self.add("base")
        write(tree / "etc" / "conf", b"one")
        write(tree / "etc" / "old", b"old")
        (tree / "etc").chmod(0o755)

    def record(self, container: LegacyID = WEB, file: str = "config.json", **fields: Any) -> Path:
        document = {
            "ID": container,
            "Image": identity("base"),
            "Name": "/web",
            "Driver": self.driver,
            "Config": {"Cmd": ["run"]},
            "State": {"StartedAt": "2014-05-06T07:08:09Z", "FinishedAt": "2014-05-06T07:08:10Z"},
            **fields,
        }
        return write(self.path / "containers" / container / file, json.dumps(document).encode())

    def container(self, container: LegacyID = WEB, *, init: bool = True, **fields: Any) -> Path:
        """A container without changes; the directory into which its changes are written."""
        self.record(container, **fields)
        if self.driver == "overlay":
            for name in (f"{container}-init", container) if init else (container,):
                place = self.path / "overlay" / name
                (place / "upper").mkdir(parents=True)
                (place / "lower-id").write_text(identity("base"))
            return self.path / "overlay" / container / "upper"
        folder = {"vfs": "vfs/dir", "btrfs": "btrfs/subvolumes", "aufs": "aufs/diff"}[self.driver]
        if self.driver == "aufs":
            (self.path / folder / container).mkdir()
            return self.path / folder / container
        for name in (f"{container}-init", container) if init else (container,):
            shutil.copytree(self.path / folder / identity("base"), self.path / folder / name, symlinks=True)
        return self.path / folder / container

    def names(self, container: LegacyID = WEB) -> list[str]:
        """Of the members of the container's layer."""
        return names_in(self.open(), container)


def names_in(source: DockerRootSource, container: LegacyID = WEB) -> list[str]:
    with source.open_payload(source.read_layer(container)) as payload:
        content = payload.stream.read()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.name for member in archive]


def listed(source: DockerRootSource) -> Container:
    found = [image.container for image in source.listing().containers]
    assert len(found) == 1
    assert found[0] is not None
    return found[0]


@pytest.mark.parametrize("driver", [*DRIVERS, "aufs"])
def test_what_changed_is_the_layer(driver: str, tmp_path: Path) -> None:
    root = Root(tmp_path, driver)
    changes = root.container()
    write(changes / "etc" / "conf", b"two!")
    write(changes / "new", b"new")

    assert [name for name in root.names() if name != "etc"] == ["etc/conf", "new"]
    source = root.open()
    assert source.measure_container(listed(source)).changed_bytes == 7
    assert source.read_layer(WEB).parent == identity("base")


@pytest.mark.parametrize("driver", DRIVERS)
def test_names_that_would_delete_others_are_left_out_and_named(driver: str, tmp_path: Path) -> None:
    root = Root(tmp_path, driver)
    changes = root.container()
    write(changes / "etc" / ".wh.conf", b"no deletion")
    write(changes / ".wh.dir" / "below", b"x")
    write(changes / "kept", b"x")

    source = root.open()
    assert names_in(source) == ["kept"]
    with source.open_payload(source.read_layer(WEB)) as payload:
        payload.stream.read()
        assert not payload.exact
        assert ".wh.dir, .wh.dir/below, etc/.wh.conf" in (payload.note or "")
    _, warnings = source.finish_container(listed(source))
    assert any("etc/.wh.conf" in warning for warning in warnings)


def test_a_user_who_sees_no_trusted_attributes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root(tmp_path, "overlay")
    write(root.container() / "new", b"x")
    monkeypatch.setattr(containers, "may_read_trusted", lambda: False)
    source = root.open()
    with source.open_payload(source.read_layer(WEB)) as payload:
        payload.stream.read()
        assert not payload.exact
    assert any("only root sees" in warning for warning in source.finish_container(listed(source))[1])


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_container_with_the_id_of_an_image_is_passed_over(driver: str, tmp_path: Path) -> None:
    root = Root(tmp_path, driver)
    root.record(identity("base"))
    listing = root.open().listing()
    assert not listing.containers
    assert any("an image of the same ID" in warning for warning in listing.warnings)


def test_whiteouts_of_aufs_are_deletions(tmp_path: Path) -> None:
    root = Root(tmp_path, "aufs")
    changes = root.container()
    write(changes / "etc" / ".wh.old")
    write(changes / ".wh..wh.plnk" / "x")
    assert root.names() == ["etc", "etc/.wh.old"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_without_its_init_layer_what_docker_made_is_left_out(driver: str, tmp_path: Path) -> None:
    root = Root(tmp_path, driver)
    changes = root.container(init=False)
    for folder in ("dev", "dev/pts", "dev/shm", "proc", "sys"):
        (changes / folder).mkdir(mode=0o755)
    for name in (".dockerenv", ".dockerinit", "dev/console", "etc/hosts", "etc/hostname"):
        write(changes / name, mode=0o755)
    (changes / "etc" / "mtab").symlink_to("/proc/mounts")
    write(changes / "etc" / "resolv.conf", b"nameserver 10.0.0.1\n", mode=0o755)  # somebody wrote this one

    assert root.names() == ["etc", "etc/resolv.conf"]

    write(changes / "dev" / "mine", b"x")
    assert root.names() == ["dev", "dev/mine", "etc", "etc/resolv.conf"]


@pytest.mark.parametrize("link", [False, True])
def test_docker_0_6_kept_the_layer_beside_the_record(tmp_path: Path, link: bool) -> None:
    root = Root(tmp_path, "aufs")
    root.record(Driver="", Name="")
    write(root.path / "containers" / WEB / "rw" / "etc" / "new", b"x")
    if link:  # Docker 0.7 could not move it
        (root.path / "aufs" / "diff" / WEB).symlink_to(f"/var/lib/docker/containers/{WEB}/rw")

    assert root.names() == ["etc", "etc/new"]
    assert listed(root.open()).name == WEB[:12]


def test_a_link_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    root = Root(tmp_path / "root", "aufs")
    root.record()
    write(tmp_path / "secret" / "file", b"x")
    (root.path / "aufs" / "diff" / WEB).symlink_to(tmp_path / "secret")
    with pytest.raises(MissingLayerError):
        root.names()


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"Image": "f" * 64}, MissingParentError, "f" * 64),
        ({"Image": None}, MissingParentError, "none is recorded"),
        ({"Image": "sha256:" + "f" * 64}, UnsupportedError, "Docker 1.10 or later made it"),
        ({"ID": "f" * 64}, DocumentError, "its record is that of ffff"),
        ({"ID": 7}, DocumentError, "its record is that of no container"),
        ({"Driver": "devicemapper"}, MissingLayerError, "--driver devicemapper"),
        ({"Config": []}, DocumentError, "config"),
        ({"Config": {"Env": 7}}, DocumentError, "Env: not an array of strings"),
    ],
)
def test_what_cannot_be_an_image_says_why(
    tmp_path: Path, fields: dict[str, Any], kind: type[MigrateError], message: str
) -> None:
    root = Root(tmp_path)
    root.container(**fields)
    source = root.open()
    with pytest.raises(kind, match="container web") as caught:
        source.read_layer(WEB)
    assert message in caught.value.message
    assert source.measure_container(listed(source)).changed_bytes is None


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\x00" * 100, b'{"ID":'])
def test_a_lost_record_loses_its_container_alone(tmp_path: Path, content: bytes | None) -> None:
    root = Root(tmp_path)
    root.container()
    record = tmp_path / "containers" / WEB / "config.json"
    record.unlink() if content is None else record.write_bytes(content)
    source = root.open()

    assert (listed(source).state, listed(source).name) == ("unknown", WEB[:12])
    assert [image.head for image in source.listing().images] == [identity("base")]
    with pytest.raises(DocumentError, match=WEB[:12]):
        source.read_layer(WEB)


def test_a_directory_that_is_no_container_is_passed_over(tmp_path: Path) -> None:
    root = Root(tmp_path)
    (tmp_path / "containers" / WEB / "shm").mkdir(parents=True)
    assert not root.open().listing().containers


def test_docker_1_10_rewrote_the_record(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.container(Name="/older")
    root.record(file="config.v2.json", Image="sha256:" + "f" * 64, Name="/newer")
    source = root.open()
    assert listed(source).name == "newer"
    assert source.read_layer(WEB).parent == identity("base")

    (tmp_path / "containers" / WEB / "config.v2.json").write_bytes(b"{")
    assert listed(root.open()).name == "older"


def test_an_image_that_lost_a_layer_is_lost(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.add("top", parent="gone")
    root.container(Image=identity("top"))
    with pytest.raises(MissingParentError, match=f"layer {identity('gone')} of its image"):
        root.open().read_layer(WEB)


def removed(root: Root) -> list[str]:
    """What is said of the one container where it counts as half removed."""
    (image,) = root.open().listing().containers
    assert image.container is not None
    assert image.container.half_removed == any("begun to remove" in warning for warning in image.warnings)
    return list(image.warnings)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("lost", [".dockerinit", "dev", "etc", "etc/hosts", "proc", "more than half"])
def test_up_to_docker_1_5_what_is_left_shows_a_removal(driver: str, lost: str, tmp_path: Path) -> None:
    root = Root(tmp_path, driver)
    tree = root.tree("base")
    for name in (".dockerinit", "etc/hosts", "dev/console", "proc/x", "a", "b", "c", "d", "e", "f", "g", "h"):
        write(tree / name)
    changes = root.container()

    def remove(name: str) -> None:
        place = changes / name
        if driver == "overlay":
            place.parent.mkdir(exist_ok=True)
            os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))
        elif place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()

    for name in "abc":  # a container can remove these itself
        remove(name)
    assert not removed(root)
    for name in "defgh" if lost == "more than half" else (lost,):
        remove(name)
    assert removed(root)
    # later versions write it down before they remove anything
    root.record(State={"Dead": False, "StartedAt": "2014-05-06T07:08:09Z"})
    assert not removed(root)
    root.record(State={"Dead": True})
    assert removed(root)


def link_graph(path: Path, names: dict[str, str]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE entity (id text NOT NULL PRIMARY KEY)")
        database.execute("CREATE TABLE edge (entity_id text NOT NULL, parent_id text NULL, name text NOT NULL)")
        rows = [("0", None, "/"), ("other", WEB, "alias"), *((one, "0", name) for one, name in names.items())]
        database.executemany("INSERT INTO edge VALUES (?, ?, ?)", rows)
        database.commit()


@pytest.mark.parametrize(
    ("names", "is_removed"),
    [
        ({WEB: "web"}, False),
        ({"other": "other"}, True),  # purged before anything is removed
        ({WEB: "mad_ptolemy"}, True),  # and made up anew at every start of the daemon
        ({}, False),  # says nothing of any container
    ],
)
def test_up_to_docker_1_5_a_lost_name_shows_a_removal(names: dict[str, str], is_removed: bool, tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.container()
    link_graph(tmp_path / "linkgraph.db", names)
    assert bool(removed(root)) == is_removed
    (tmp_path / "linkgraph.db").write_bytes(b"\x00" * 4096)
    assert not removed(root)


def test_volumes_that_no_container_names_are_found(tmp_path: Path) -> None:
    root = Root(tmp_path / "root", "aufs")
    place = root.path
    for name in ("vfs/dir/aa/f", "vfs/dir/bb/f", "volumes/cc/layer/f", "volumes/new/_data/f", "volumes/used/_data/f"):
        write(place / name, b"12345")
    write(place / "vfs/dir/dd/f", b"1")
    for name in ("dd", "ee"):
        (place / "volumes" / name).mkdir()
        (place / "volumes" / name / "_data").symlink_to(f"/data/docker/vfs/dir/{name}")
    write(place / "volumes" / "bind" / "config.json", b'{"ID":"bind","Path":"/srv","IsBindMount":true}')
    points = {"/n": {"Name": "used", "Driver": "local"}, "/d": {"Source": "/data/docker/volumes/dd/_data"}}
    root.container(Volumes={"/a": "/data/docker/vfs/dir/aa"}, MountPoints=points)
    found = {volume.source: volume.bytes for volume in root.open().orphaned_volumes()}
    assert found == {
        f"{place}/vfs/dir/bb": 5,
        f"{place}/volumes/cc/layer": 5,
        f"{place}/volumes/new/_data": 5,
    }


def test_trees_of_vfs_are_no_volumes_but_by_their_record(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.container()
    write(tmp_path / "vfs/dir" / identity("volume") / "f", b"12")
    assert root.open().orphaned_volumes() == ()
    write(tmp_path / "volumes" / identity("volume") / "json", b"{}")
    assert [volume.bytes for volume in root.open().orphaned_volumes()] == [2]


def test_sizes_of_what_nobody_asked_for_are_bounded(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root.container() / "new", b"x")
    source = root.open()
    assert source.measure_container(listed(source), 1000).changed_bytes == 1
    assert root.open().measure_container(listed(source), 3).changed_bytes is None
    assert source.measure_container(listed(source)).changed_bytes == 1
    write(tmp_path / "volumes/v/_data/f", b"12")
    source = root.open()
    assert [volume.bytes for volume in source.orphaned_volumes(0)] == [None]


def test_a_user_who_may_not_read_containers_is_told_before_the_work(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    tree = root.container()
    for place in (tree, root.path / "containers" / WEB):
        (place / "kept").mkdir(mode=0o700)
        refused = as_another_user(root.path, containers=True)
        assert str(place / "kept") in refused and "run as root" in refused
        assert as_another_user(root.path, containers=False) == ""
        (place / "kept").rmdir()
    assert as_another_user(root.path, containers=True) == ""


def test_a_user_who_may_not_list_containers_is_warned(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    root.container()
    (root.path / "containers").chmod(0o700)
    assert "the containers cannot be listed" in as_another_user(root.path, containers=False)


def as_another_user(root: Path, *, containers: bool) -> str:
    """What `check_access` and the listing have to say to a user to whom permissions apply."""
    for path in [root, *root.rglob("*")]:
        os.chown(path, 1, 1, follow_symlinks=False)
    program = (
        "import sys; from pathlib import Path; from tests.roots import open_docker_root\n"
        "from migrate.errors import PermissionSourceError\n"
        "source = open_docker_root(Path(sys.argv[1]))\n"
        "try:\n    source.check_access(containers=bool(sys.argv[2]))\n"
        "except PermissionSourceError as error:\n    print(error.message)\n"
        "print(*(text for text in source.listing().warnings if 'containers cannot be listed' in text), end='')"
    )
    words = [sys.executable, "-c", program, str(root), "yes" if containers else ""]
    limited = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *words]
    place = Path(__file__).resolve().parents[3]
    return subprocess.run(limited, capture_output=True, text=True, check=True, cwd=place).stdout


def test_changes_that_docker_does_not_see_are_found_in_overlay(tmp_path: Path) -> None:
    root = Root(tmp_path, "overlay")
    changes = root.container()
    write(changes / "etc" / "conf", b"two")  # as long as before, and of the same time
    write(changes / "etc" / "old", b"old")  # copied up, and not changed
    source = root.open()

    assert names_in(source) == []
    found, warnings = source.finish_container(listed(source))
    assert found.unseen == ("etc/conf",)
    assert any("etc/conf" in warning for warning in warnings)


def volumes_of(root: Root, **fields: Any) -> dict[str, tuple[str, int | None, str]]:
    root.container(**fields)
    source = root.open()
    found = source.measure_container(listed(source)).volumes
    return {volume.path: (volume.source, volume.bytes, volume.kind) for volume in found}


def test_volumes_of_every_time_are_found(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    place = root.path
    for name in ("vfs/dir/aa/f", "volumes/bb/layer/f", "volumes/named/_data/f", "volumes/cc/_data/f"):
        write(place / name, b"12345")
    os.link(place / "vfs/dir/aa/f", place / "vfs/dir/aa/g")
    write(place / "vfs/dir/dd/f", b"1")
    (place / "volumes" / "dd").mkdir()
    (place / "volumes" / "dd" / "_data").symlink_to("/data/docker/vfs/dir/dd")
    volumes = {
        "/a": "/data/docker/vfs/dir/aa",
        "/b": "/data/docker/volumes/bb/layer",
        "/host": "/srv/x",
        "/gone": "/data/docker/vfs/dir/zz",
    }
    points = {
        "/n": {"Name": "named", "Destination": "/n", "Driver": "local", "RW": True, "Source": ""},
        "/c": {"Name": "cc", "Destination": "/c", "Driver": "local", "Source": "/data/docker/volumes/cc/_data"},
        "/d": {"Name": "dd", "Destination": "/d", "Driver": "local", "Source": ""},
        "/other": {"Name": "far", "Destination": "/other", "Driver": "nfs", "Source": ""},
    }
    hosts = f"/data/docker/containers/{WEB}/hosts"
    assert volumes_of(root, Volumes=volumes, MountPoints=points, HostsPath=hosts) == {
        "/a": (f"{place}/vfs/dir/aa", 5, "volume"),
        "/b": (f"{place}/volumes/bb/layer", 5, "volume"),
        "/c": (f"{place}/volumes/cc/_data", 5, "volume"),
        "/d": (f"{place}/vfs/dir/dd", 1, "volume"),
        "/gone": (f"{place}/vfs/dir/zz", None, "volume"),
        "/host": ("/srv/x", None, "bind"),
        "/n": (f"{place}/volumes/named/_data", 5, "volume"),
        "/other": ("far", None, "volume"),
    }
    # without a hint to the old root's path, by the ends of theirs
    assert volumes_of(Root(tmp_path / "other"), Volumes=volumes)["/host"] == ("/srv/x", None, "bind")


@pytest.mark.parametrize(
    "source",
    [
        "/data/docker/../../etc",
        "/data/docker/vfs/dir/..",
        "/data/docker/link",
        "/elsewhere/vfs/dir/..",
        "/data/docker//etc",
    ],
)
def test_no_volume_leads_out_of_the_root(tmp_path: Path, source: str) -> None:
    root = Root(tmp_path / "root")
    write(tmp_path / "outside" / "f", b"12345")
    (root.path / "link").symlink_to(tmp_path / "outside")
    found = volumes_of(root, Volumes={"/v": source}, HostsPath=f"/data/docker/containers/{WEB}/hosts")
    assert found["/v"][1] is None


def test_a_volume_that_is_a_link_elsewhere_is_not_read(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    write(tmp_path / "outside" / "f", b"12345")
    (root.path / "volumes" / "v").mkdir(parents=True)
    (root.path / "volumes" / "v" / "_data").symlink_to(tmp_path / "outside")
    assert volumes_of(root, MountPoints={"/v": {"Name": "v", "Driver": "local"}})["/v"][1] is None


def test_volumes_are_no_loose_layers(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(tmp_path / "vfs/dir" / identity("volume") / "f", b"x")
    write(tmp_path / "volumes" / identity("volume") / "config.json", b"{}")
    assert not [warning for warning in root.open().listing().warnings if "belong to no image" in warning]


def test_a_device_is_in_the_layer(tmp_path: Path) -> None:
    root = Root(tmp_path)
    changes = root.container()
    os.mknod(changes / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert root.names() == ["null"]
