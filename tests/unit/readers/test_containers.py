"""Containers of Docker roots that no engine made: every storage driver, lost parts, and records that lie."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
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


@pytest.mark.parametrize("driver", ["vfs", "btrfs"])
def test_most_of_a_file_system_gone_is_said(driver: str, tmp_path: Path) -> None:
    root = Root(tmp_path, driver)
    changes = root.container()
    shutil.rmtree(changes / "etc")
    source = root.open()
    _, warnings = source.finish_container(listed(source))
    assert any("Docker had begun to remove it" in warning for warning in warnings)


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
