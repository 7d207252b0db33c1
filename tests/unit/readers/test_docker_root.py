"""What no shipped root has: built by hand, one oddity at a time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from migrate.blobio import limits
from migrate.blobio.stopping import stopped_by
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import (
    AmbiguousSourceError,
    InterruptedRunError,
    MigrateError,
    MissingLayerError,
    PayloadRestartError,
    PermissionSourceError,
    SourceUnreadableError,
    UsageError,
)
from migrate.model.legacy import LegacyID
from migrate.model.options import ConvertOptions, ReadOptions
from migrate.model.reference import Reference
from migrate.readers.detect import open_source
from migrate.readers.docker_root import is_docker_root
from migrate.readers.graphdrivers.union import UnionTree
from migrate.readers.graphdrivers.zfs import ZfsDriver
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import TreeEntry
from tests.archives import build_tar, link
from tests.roots import RootBuilder, identity, write
from tests.stores import read_payload
from tests.trees import BareTree

EMPTY_TAR = bytes(1024)


@pytest.fixture
def root(tmp_path: Path) -> RootBuilder:
    return RootBuilder(tmp_path / "root")


def names(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getnames()


# --- images ------------------------------------------------------------------------------------------------------


def test_tagged_images_untagged_heads_and_those_of_containers_are_listed(root: RootBuilder) -> None:
    for name, parent in (("base", None), ("middle", "base"), ("tagged", "middle"), ("head", "middle")):
        root.add(name, parent)
    root.tag({"app": {"1": "tagged", "2": "tagged"}, "old": {"x": "base"}})
    root.add_container("c" * 64, identity("middle"))
    listing = root.open().listing()
    assert {image.head: (image.references, image.containers) for image in listing.images} == {
        identity("tagged"): ((Reference("app", "1"), Reference("app", "2")), ()),
        identity("base"): ((Reference("old", "x"),), ()),
        identity("head"): ((), ()),
        identity("middle"): ((), ("c" * 64,)),
    }
    assert list(listing.layers) == sorted(identity(name) for name in ("base", "middle", "tagged", "head"))
    assert listing == root.open().listing()


def test_ids_of_sixteen_digits_are_images(root: RootBuilder) -> None:
    place = root.path / "graph" / "27cf784147099545"
    place.mkdir(parents=True)
    (place / "json").write_text('{"id":"27cf784147099545"}')
    (root.path / "vfs/dir/27cf784147099545").mkdir(parents=True)
    assert [image.head for image in root.open().listing().images] == ["27cf784147099545"]


def test_the_bare_repositories_file_is_read_where_there_is_no_other(root: RootBuilder) -> None:
    root.add("base")
    root.tag({"app": {"1": "base"}})
    (root.path / "repositories-vfs").rename(root.path / "repositories")
    assert root.open().listing().images[0].references == (Reference("app", "1"),)
    root.tag({"other": {"2": "base"}})
    assert root.open().listing().images[0].references == (Reference("other", "2"),)


def test_a_missing_tag_store_is_warned_of_with_the_tags_of_others(root: RootBuilder) -> None:
    root.add("base")
    listing = root.open().listing()
    missing = f"{root.path}/repositories-vfs is not there: no image has a tag"
    assert [image.references for image in listing.images] == [()]
    assert listing.warnings == (missing,)
    root.tag({"app": {"1": "base"}})
    (root.path / "repositories-vfs").rename(root.path / "repositories-aufs")
    assert root.open().listing().warnings == (missing, unread(root, "repositories-aufs", "app:1"))


def unread(root: RootBuilder, name: str, tags: str, way: str = "no driver that has layers here reads them") -> str:
    count = tags.count(",") + 1
    return f"{root.path}/{name}: {count} tags are only in it and are not read ({tags}); {way}"


def test_tags_in_the_file_of_another_driver_are_warned_of_if_they_stand_there_alone(root: RootBuilder) -> None:
    two_drivers(root)
    for driver, other in (("overlay", "vfs"), ("vfs", "overlay")):
        expected = unread(root, f"repositories-{other}", f"name:{other}", f"--driver {other} reads them")
        assert expected in root.open(driver).listing().warnings
    ids = {"name": {"vfs": identity("both")}}
    (root.path / "repositories-overlay").write_text(json.dumps({"Repositories": ids}))
    (root.path / "repositories-btrfs").write_text("{}")
    assert root.open("vfs").listing().warnings == ()
    ids["name"] |= {"vfs": identity("vfs only"), f"sha256:{'1' * 64}": identity("both"), "new": identity("both")}
    for name in ("repositories", "repositories-overlay"):
        (root.path / name).write_text(json.dumps({"Repositories": ids}))
    tags = f"name:new, name@sha256:{'1' * 64}, name:vfs"
    assert root.open("vfs").listing().warnings == (
        unread(root, "repositories", tags),
        unread(root, "repositories-overlay", tags, "--driver overlay reads them"),
    )


def test_the_file_of_another_driver_may_be_damaged(root: RootBuilder) -> None:
    root.add("base")
    root.tag({"app": {"1": "base"}})
    (root.path / "repositories-aufs").write_text("{")
    listing = root.open().listing()
    assert (listing.failures, listing.images[0].references) == ([], (Reference("app", "1"),))
    (warning,) = listing.warnings
    assert "repositories-aufs" in warning and "are lost" in warning


def test_the_root_of_user_namespaces_inside_another_is_named(root: RootBuilder) -> None:
    inner = RootBuilder(root.path / "100000.200000", "overlay")
    inner.add("inner")
    (root.path / "1.2").mkdir()
    (root.path / "graph").mkdir(exist_ok=True)
    with pytest.raises(SourceUnreadableError, match=r"100000\.200000 is not read: a root of its own"):
        root.open()
    with pytest.raises(SourceUnreadableError, match=r"holds .*100000\.200000 \(docker-root\)"):
        open_source(str(root.path), ReadOptions())
    root.add("outer")
    told = [warning for warning in root.open().listing().warnings if "is not read" in warning]
    assert [warning.split(" is not read")[0] for warning in told] == [f"{root.path}: 100000.200000"]
    assert open_source(str(root.path), ReadOptions(inside="100000.200000")).listing().layers == [identity("inner")]


def test_the_bare_file_is_read_by_aufs_that_has_no_other(root: RootBuilder) -> None:
    RootBuilder(root.path, "aufs").add("base")
    root.tree("base").mkdir(parents=True)
    root.tag({"app": {"vfs": "base"}})
    (root.path / "repositories-vfs").rename(root.path / "repositories")
    root.tag({"app": {"new": "base"}})
    assert unread(root, "repositories", "app:vfs", "--driver aufs reads them") in root.open("vfs").listing().warnings
    assert root.open("aufs").listing().images[0].references == (Reference("app", "vfs"),)


def test_a_tag_to_an_absent_id_is_a_failure_with_its_name(root: RootBuilder) -> None:
    root.add("base")
    root.tag({"ghost": {"1": "gone"}})
    (failure,) = root.open().listing().failures
    assert failure.references == ("ghost:1",)
    assert failure.legacy_id == identity("gone")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"Repositories":[]}', b"\xff\xfe", b'{"Repositosies":{"a":{"1":"x"}}}']
)
def test_a_damaged_tag_store_loses_the_tags_and_says_so(root: RootBuilder, content: bytes) -> None:
    root.add("base")
    (root.path / "repositories-vfs").write_bytes(content)
    listing = root.open().listing()
    assert [image.references for image in listing.images] == [()]
    assert "repositories-vfs" in listing.failures[0].message


@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros"])
def test_what_can_be_read_of_a_tag_store_is_used(root: RootBuilder, damage: str) -> None:
    for name in ("one", "two", "three"):
        root.add(name)
    root.tag({name: {"1": name} for name in ("one", "two", "three")})
    path = root.path / "repositories-vfs"
    content = path.read_bytes()
    place = content.index(b'"three"') - 4
    path.write_bytes(
        {
            "cut": content[:place],
            "flipped": content[:place] + b"\x1d" + content[place + 1 :],
            "zeros": content[:place].ljust(len(content), b"\0"),
        }[damage]
    )
    listing = root.open().listing()
    assert {reference.name for image in listing.images for reference in image.references} >= {"one"}
    (failure,) = listing.failures
    assert "repositories-vfs" in failure.message and "before that place are read" in failure.message


def test_tags_that_are_no_strings_are_named(root: RootBuilder) -> None:
    root.add("base")
    tags: dict[str, object] = {"a": {"1": 7}, "b": [], "c": None, "d": {"2": identity("base")}}
    (root.path / "repositories-vfs").write_text(json.dumps({"Repositories": tags}))
    listing = root.open().listing()
    assert listing.images[0].references == (Reference("d", "2"),)
    assert len(listing.failures) == 2
    assert all("a:1" in failure.message or "'b'" in failure.message for failure in listing.failures)


def test_a_container_record_that_docker_1_10_rewrote_leads_back_by_its_map(root: RootBuilder) -> None:
    root.add("base")
    image_id = "sha256:" + "1" * 64
    root.add_container("a" * 64, image_id, "config.v2.json")
    root.add_container("b" * 64, image_id, "config.v2.json")
    root.add_container("b" * 64, identity("base"))
    root.add_container("d" * 64, "sha256:" + "2" * 64, "config.v2.json")
    (root.path / ".migration-v1-images.json").write_text(json.dumps({identity("base"): image_id}))
    listing = root.open().listing()
    assert listing.images[0].containers == ("a" * 64, "b" * 64)
    assert any("d" * 64 in warning for warning in listing.warnings)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"parent": "middle"}, "middle"),
        ({}, "base"),
        ({"json": {"parent_id": f"sha256:{identity('middle')}"}}, "middle"),
        ({"json": {"parent_id": f"sha256:{identity('middle')}"}, "parent": "base"}, "base"),
        ({"json": {}}, None),
    ],
)
def test_three_ways_to_record_a_parent(root: RootBuilder, files: dict[str, object], expected: str | None) -> None:
    root.add("base")
    root.add("middle", "base")
    root.add("top", "base")
    place = root.path / "graph" / identity("top")
    if "json" in files:
        (place / "json").write_text(json.dumps(files["json"]))
    if "parent" in files:
        (place / "parent").write_text(identity(str(files["parent"])))
    assert root.layer("top").parent == (None if expected is None else identity(expected))


def test_the_directory_counts_where_the_json_has_another_id(root: RootBuilder) -> None:
    root.add("base", id=identity("other"))
    root.add("good")
    layer = root.layer("base")
    assert layer.legacy_id == identity("base")
    assert [identity("other") in warning for warning in layer.warnings] == [True]
    assert root.layer("good").warnings == ()


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("-1", None), ("", None), ("9" * 6000, None), (str(1 << 62), None), ("²", None), ("1_0", None)],
)
def test_a_layersize_that_is_no_size_is_left_out(root: RootBuilder, text: str, size: int | None) -> None:
    root.add("app")
    (root.path / "graph" / identity("app") / "layersize").write_text(text)
    payload = root.layer("app").payload
    assert payload is not None and payload.estimate == size


def test_json_is_handed_on_verbatim(root: RootBuilder) -> None:
    root.add("base")
    raw = b' {"id" : "x", "unknown":1e400, "a":1, "a":2}\n\n'
    (root.path / "graph" / identity("base") / "json").write_bytes(raw)
    assert root.layer("base").json == raw


@pytest.mark.parametrize("damage", ["gone", "directory", "link", "syntax"])
def test_an_image_without_json_fails_alone(root: RootBuilder, damage: str) -> None:
    root.add("good")
    root.add("bad")
    path = root.path / "graph" / identity("bad") / "json"
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage == "link":
        path.symlink_to(root.path / "graph" / identity("good") / "json")
    elif damage == "syntax":
        path.write_bytes(b'{"id":')
    source = root.open()
    assert {image.head for image in source.listing().images} == {identity("good"), identity("bad")}
    with pytest.raises(MigrateError) as caught:
        source.read_layer(identity("bad"))
    assert caught.value.scope == "image"
    assert source.read_layer(identity("good")).legacy_id == identity("good")


def test_an_id_that_is_not_in_the_graph_is_missing(root: RootBuilder) -> None:
    root.add("base")
    with pytest.raises(MissingLayerError):
        root.layer("other")


def test_leftovers_are_counted_and_named(root: RootBuilder) -> None:
    root.add("base")
    root.tag({})
    for name in ("_tmp", ":tmp:", "_dockerinit-1", "abc", "e" * 63):
        (root.path / "graph" / name).mkdir()
    (root.path / "graph" / ":tmp:" / "half").mkdir()
    (root.path / "vfs/dir" / f"{'1' * 64}-removing").mkdir()
    (root.path / "vfs/dir" / ("c" * 64)).mkdir()
    (root.path / "vfs/dir" / f"{'c' * 64}-init").mkdir()
    root.add_container("c" * 64, identity("base"))
    warnings = root.open().listing().warnings
    assert len(warnings) == 3
    assert ":tmp:" in warnings[0] and "_tmp," not in warnings[0]
    assert "abc" in warnings[1]
    assert "-removing" in warnings[2] and "c" * 64 not in warnings[2]


def test_a_running_daemon_is_warned_of(root: RootBuilder) -> None:
    root.add("base")
    (root.path / "docker.pid").write_text(f"{os.getpid()}\n")
    assert any("running process" in warning for warning in root.open().listing().warnings)


@pytest.mark.parametrize("content", ["no number", "0", "-1", "9" * 30, "9" * 6000, "1 2", " ", "1" * 2_000_000])
def test_a_pid_file_that_names_no_process_is_passed_over(root: RootBuilder, content: str) -> None:
    root.add("base")
    (root.path / "docker.pid").write_text(content)
    assert not any("running process" in warning for warning in root.open().listing().warnings)


def test_a_pid_file_that_is_no_file_is_not_read(root: RootBuilder) -> None:
    root.add("base")
    place = root.path / "docker.pid"
    (root.path / "pid").write_text(f"{os.getpid()}")
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("pid", path), lambda path: os.symlink("/dev/zero", path)):
        make(place)
        assert not any("running process" in warning for warning in root.open().listing().warnings)
        place.rmdir() if place.is_dir() else place.unlink()


# --- drivers -----------------------------------------------------------------------------------------------------


def two_drivers(root: RootBuilder) -> None:
    root.add("both")
    root.add("vfs only")
    overlay = RootBuilder(root.path, "overlay")
    write(overlay.tree("both") / "of-overlay")
    write(root.tree("both") / "of-vfs")
    overlay.tag({"name": {"overlay": "both"}})
    root.tag({"name": {"vfs": "both"}})


def test_two_drivers_with_layers_are_an_error_that_lists_them(root: RootBuilder) -> None:
    two_drivers(root)
    with pytest.raises(AmbiguousSourceError, match=r"overlay \(1 of 2\), vfs \(2 of 2\).*--driver"):
        root.open()


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_the_user_chooses_a_driver(root: RootBuilder, driver: str) -> None:
    two_drivers(root)
    source = root.open(driver)
    image = next(image for image in source.listing().images if image.head == identity("both"))
    assert image.references == (Reference("name", driver),)
    with source.open_payload(source.read_layer(identity("both"))) as payload:
        assert names(payload.stream.read()) == [f"of-{driver}"]


def test_layers_of_another_driver_are_left_out_with_a_word(root: RootBuilder) -> None:
    two_drivers(root)
    listing = root.open("overlay").listing()
    assert list(listing.layers) == [identity("both")]
    assert [image.head for image in listing.images] == [identity("both")]
    assert any("1 layers are not in overlay" in warning and "vfs" in warning for warning in listing.warnings)


def test_a_directory_of_volumes_makes_no_second_driver(root: RootBuilder) -> None:
    """Docker up to 1.6 kept volumes in vfs/dir whatever the driver was."""
    overlay = RootBuilder(root.path, "overlay")
    overlay.add("base")
    (root.path / "vfs/dir" / ("f" * 64)).mkdir(parents=True)
    assert overlay.open().driver.name == "overlay"


@pytest.mark.parametrize(
    ("driver", "error"), [("btrfs", SourceUnreadableError), ("ext4", UsageError), ("zfs", SourceUnreadableError)]
)
def test_a_driver_that_is_not_there_is_refused(root: RootBuilder, driver: str, error: type[MigrateError]) -> None:
    root.add("base")
    with pytest.raises(error, match=driver):
        root.open(driver)


def test_zfs_without_its_datasets_says_what_to_do(root: RootBuilder) -> None:
    """An unmounted dataset leaves an empty directory, which is no empty layer."""
    root.add("base")
    shutil.rmtree(root.path / "vfs")
    (root.path / "zfs/graph").mkdir(parents=True)
    with pytest.raises(SourceUnreadableError, match="mount -t zfs"):
        root.open()
    (root.path / "zfs/graph" / identity("base")).mkdir()
    with pytest.raises(SourceUnreadableError, match="mount -t zfs"):
        root.open()


def test_zfs_with_mounted_datasets_is_read_as_whole_trees(tmp_path: Path) -> None:
    vfs, zfs = RootBuilder(tmp_path / "vfs", "vfs"), RootBuilder(tmp_path / "zfs", "zfs")
    for each in (vfs, zfs):
        write(each.add("base") / "etc/one", b"1")
        top = each.add("top", "base")
        write(top / "etc/one", b"1")
        write(top / "etc/two", b"2")
        each.tag({"app": {"1": "top"}})
    assert zfs.open().driver.name == "zfs"
    assert read_everything(zfs) == read_everything(vfs)
    assert [image.references for image in zfs.open().listing().images] == [(Reference("app", "1"),)]


def test_a_dataset_that_is_not_mounted_fails_alone(tmp_path: Path) -> None:
    root = RootBuilder(tmp_path, "zfs")
    write(root.add("mounted") / "file")
    root.add("unmounted")
    source = root.open()
    assert read_payload(source, source.read_layer(identity("mounted"))).exact
    with pytest.raises(MissingLayerError, match="mount -t zfs"):
        source.open_payload(source.read_layer(identity("unmounted"))).__enter__()


def test_a_mounted_dataset_may_be_empty() -> None:
    """It is on a file system of its own."""

    class Mounted(BareTree):
        def stat(self, path: bytes, /) -> TreeEntry:
            return super().stat(path)._replace(device=7 if path.startswith(b"zfs/graph/") else 1)

    with TemporaryDirectory() as place:
        (Path(place) / "zfs/graph" / identity("empty")).mkdir(parents=True)
        assert ZfsDriver(Mounted(DirectoryTree(place))).has_layer(identity("empty"))
        assert not ZfsDriver(DirectoryTree(place)).has_layer(identity("empty"))


def test_a_graph_without_any_drivers_layers_is_refused(root: RootBuilder) -> None:
    root.add("base")
    shutil.rmtree(root.path / "vfs")
    with pytest.raises(SourceUnreadableError, match="another disk"):
        root.open()


def test_a_digest_that_docker_pulled_by_is_kept(root: RootBuilder) -> None:
    root.add("base")
    digest = "sha256:" + "1" * 64
    root.tag({"app": {"1": "base", digest: "base", "sha256:short": "base"}})
    (image,) = root.open().listing().images
    assert [str(known) for known in image.legacy_digests] == [digest]


# --- roots that newer Docker has used ----------------------------------------------------------------------------


def new_format(path: Path) -> None:
    (path / "image/overlay2/imagedb/content/sha256").mkdir(parents=True)
    (path / "overlay2").mkdir()


def test_a_root_with_the_new_format_only_names_the_way_out(root: RootBuilder) -> None:
    new_format(root.path)
    assert is_docker_root(DirectoryTree(str(root.path)))
    with pytest.raises(SourceUnreadableError, match=r"image/overlay2.*docker save"):
        root.open()


def test_the_old_graph_beside_the_new_format_still_converts(root: RootBuilder) -> None:
    root.add("base")
    new_format(root.path)
    (root.path / "graph" / identity("base") / ".migration-diffid").write_text("sha256:" + "0" * 64)
    listing = root.open().listing()
    assert [image.head for image in listing.images] == [identity("base")]
    assert any("image/overlay2" in warning for warning in listing.warnings)
    assert any(".migration-" in warning for warning in listing.warnings)


@pytest.mark.parametrize("names", [["graph"], ["images", "repositories"], ["docker"], ["graph", "graph/notes"]])
def test_other_directories_are_not_detected(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    assert not is_docker_root(DirectoryTree(str(tmp_path)))


# --- layers ------------------------------------------------------------------------------------------------------


def tar_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def archived(root: RootBuilder, name: str, content: bytes) -> None:
    """Puts what Docker 0.3 to 0.5 pulled in the place of the layer's tree."""
    shutil.rmtree(root.tree(name))
    (root.path / "graph" / identity(name) / "layer.tar.xz").write_bytes(content)


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bytes])
def test_a_layer_without_its_tree_is_read_from_the_archive_that_was_pulled(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    root = RootBuilder(tmp_path / "root", "aufs")
    tar = tar_of(a=b"one")
    root.add("base")
    root.add("top", "base")
    write(root.add("both", "base") / "of-the-tree")
    root.tag({"app": {"top": "top", "both": "both"}})
    for name in ("base", "top"):
        archived(root, name, compress(tar))
    (root.path / "graph" / identity("both") / "layer.tar.xz").write_bytes(compress(tar))
    report = Conversion([OpenedSource(str(root.path), root.open())], ConvertOptions(dry_run=True, jobs=1)).run().report
    assert report.failures == ()
    rows = {layer.legacy_id: layer for image in report.images for layer in image.layers}
    for name in ("base", "top"):
        row = rows[identity(name)]
        assert (str(row.diff_id), row.origin) == (f"sha256:{hashlib.sha256(tar).hexdigest()}", "blob")
        assert row.note is not None and "layer.tar.xz" in row.note
    assert (rows[identity("both")].origin, rows[identity("both")].note) == ("diff", None)
    assert all(image.exact for image in report.images)
    shutil.rmtree(root.path / "aufs")
    assert root.open().driver.name == "aufs"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "0 bytes"),
        (lzma.compress(EMPTY_TAR)[:-4], "ends before"),
        (lzma.compress(EMPTY_TAR)[:30] + b"garbage" * 9, "damaged xz"),
        (lzma.compress(bytes(64 << 20)), "over the limit"),
        (b"no tar" * 400, "checksum"),
    ],
    ids=["empty", "cut", "damaged", "bomb", "no tar"],
)
def test_a_damaged_archive_of_a_layer_fails_its_images_alone(
    tmp_path: Path, content: bytes, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DECOMPRESSION_GRACE", 1 << 20)
    root = RootBuilder(tmp_path / "root", "aufs")
    root.add("bad")
    root.add("good")
    root.tag({"app": {"bad": "bad", "good": "good"}})
    archived(root, "bad", content)
    report = Conversion([OpenedSource(str(root.path), root.open())], ConvertOptions(dry_run=True, jobs=1)).run().report
    assert [image.references for image in report.images] == [("app:good",)]
    (failure,) = report.failures
    assert (failure.references, failure.layer) == (("app:bad",), identity("bad"))
    assert word in failure.message


def test_an_archive_stands_in_for_no_tree_of_another_driver(root: RootBuilder) -> None:
    root.add("base")
    root.add("top", "base")
    archived(root, "base", lzma.compress(EMPTY_TAR))
    source = root.open()
    assert source.driver.name == "vfs"
    with pytest.raises(MissingLayerError), source.open_payload(source.read_layer(identity("base"))):
        pass


def test_tar_split_gives_the_original_tar(root: RootBuilder) -> None:
    tar = tar_of(b=b"two", a=b"one")
    tree = root.add("base")
    write(tree / "a", b"one")
    write(tree / "b", b"two")
    root.add_tar_split("base", tar)
    source = root.open()
    layer = read_payload(source, source.read_layer(identity("base")))
    assert (layer.diff_id, layer.origin, layer.exact) == (
        f"sha256:{hashlib.sha256(tar).hexdigest()}",
        "tar-split",
        True,
    )


def test_tar_split_that_gives_nothing_is_read_until_the_thread_has_to_stop(root: RootBuilder) -> None:
    def stop() -> None:
        raise InterruptedRunError("the run was stopped")

    root.add("base")
    lines = b"".join(b'{"type":1,"name":"%d","payload":null,"position":%d}\n' % (n, n) for n in range(100))
    (root.path / "graph" / identity("base") / "tar-data.json.gz").write_bytes(gzip.compress(lines))
    source = root.open()
    layer = source.read_layer(identity("base"))
    with pytest.raises(InterruptedRunError), stopped_by(stop), source.open_payload(layer):
        pass
    with source.open_payload(layer) as payload, pytest.raises(InterruptedRunError), stopped_by(stop):
        payload.stream.read()


def test_a_changed_file_falls_back_and_the_note_names_it(root: RootBuilder) -> None:
    tree = root.add("base")
    write(tree / "a", b"one")
    write(tree / "b", b"twO")
    root.add_tar_split("base", tar_of(a=b"one", b=b"two"))
    source = root.open()
    layer = source.read_layer(identity("base"))
    with source.open_payload(layer) as payload, pytest.raises(PayloadRestartError, match="b has CRC-64"):
        payload.stream.read()
    read = read_payload(source, layer)
    assert (read.origin, read.exact, read.restarts) == ("diff", False, 0)
    assert read.note is not None and "b has CRC-64" in read.note
    with source.open_payload(layer) as payload:
        assert names(payload.stream.read()) == ["a", "b"]


@pytest.mark.parametrize("damage", ["missing file", "truncated", "empty", "zeros behind", "garbage", "directory"])
def test_each_kind_of_damage_falls_back(root: RootBuilder, damage: str) -> None:
    tree = root.add("base")
    write(tree / "a", b"one")
    root.add_tar_split("base", tar_of(a=b"one"))
    path = root.path / "graph" / identity("base") / "tar-data.json.gz"
    if damage == "missing file":
        (tree / "a").unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-12])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "zeros behind":
        path.write_bytes(path.read_bytes() + bytes(512))
    elif damage == "garbage":
        path.write_bytes(b"\x1f\x8bgarbage")
    else:
        path.unlink()
        path.mkdir()
    source = root.open()
    read = read_payload(source, source.read_layer(identity("base")))
    assert (read.origin, read.exact, read.restarts) == ("diff", False, 1)
    assert read.note is not None and "tar-split" in read.note


@pytest.mark.parametrize("driver", ["aufs", "overlay", "vfs"])
@pytest.mark.parametrize("records", [b"", b'{"type":2,"payload":"","position":0}\n'], ids=["no record", "empty record"])
def test_a_tar_of_no_bytes_is_believed_of_a_layer_without_files_only(
    tmp_path: Path, driver: str, records: bytes
) -> None:
    root = RootBuilder(tmp_path / "root", driver)
    root.add("base")
    write(root.add("top", "base") / "precious", b"one")
    for name in ("base", "top"):
        (root.path / "graph" / identity(name) / "tar-data.json.gz").write_bytes(gzip.compress(records))
    source = root.open()
    base, top = (read_payload(source, source.read_layer(identity(name))) for name in ("base", "top"))
    assert (base.diff_id, base.origin, base.exact) == (f"sha256:{hashlib.sha256().hexdigest()}", "tar-split", True)
    assert (top.origin, top.exact) == ("diff", False)
    assert top.note is not None and "a tar of 0 bytes" in top.note
    with source.open_payload(source.read_layer(identity("top"))) as payload:
        assert names(payload.stream.read()) == ["precious"]


def test_tar_split_goes_through_links_inside_the_tree_and_never_out(root: RootBuilder, tmp_path: Path) -> None:
    tree = root.add("base")
    write(tree / "usr/f", b"one")
    (tree / "link").symlink_to("/usr")
    root.add_tar_split("base", tar_of(**{"link/f": b"one"}))
    assert root.read("base") == tar_of(**{"link/f": b"one"})
    write(tmp_path / "host/f", b"one")
    (tree / "link").unlink()
    (tree / "link").symlink_to(tmp_path / "host")
    source = root.open()
    assert read_payload(source, source.read_layer(identity("base"))).origin == "diff"


def test_a_layer_whose_parents_tree_is_gone_is_saved_by_tar_split(root: RootBuilder) -> None:
    root.add("base")
    write(root.add("top", "base") / "a", b"one")
    shutil.rmtree(root.tree("base"))
    source = root.open()
    with pytest.raises(MissingLayerError), source.open_payload(source.read_layer(identity("top"))):
        pass
    root.add_tar_split("top", tar_of(a=b"one"))
    assert root.read("top") == tar_of(a=b"one")


def deleting_layer(root: RootBuilder) -> bytes:
    """A layer that deletes a file: Docker's tar of it holds the time of the run that made it."""
    write(root.add("base") / "a", b"one")
    write(root.add("top", "base") / "b", b"two")
    return tar_of(**{".wh.a": b"", "b": b"two"})


def test_a_layer_that_docker_has_migrated_gets_the_bytes_that_docker_gave_it(root: RootBuilder) -> None:
    tar = deleting_layer(root)
    root.add_migrated("top", tar)
    source = root.open()
    read = read_payload(source, source.read_layer(identity("top")))
    assert (read.diff_id, read.origin, read.exact, read.note, read.restarts) == (
        f"sha256:{hashlib.sha256(tar).hexdigest()}",
        "tar-split",
        True,
        None,
        0,
    )


@pytest.mark.parametrize("damage", ["changed file", "other diffID", "empty"])
def test_what_a_migration_recorded_is_believed_only_with_its_diff_id(root: RootBuilder, damage: str) -> None:
    root.add_migrated("top", deleting_layer(root), "sha256:" + "0" * 64 if damage == "other diffID" else None)
    if damage == "changed file":
        write(root.tree("top") / "b", b"twO")
    elif damage == "empty":
        (root.path / "graph" / identity("top") / ".migration-tardata").write_bytes(b"")
    source = root.open()
    read = read_payload(source, source.read_layer(identity("top")))
    assert (read.origin, read.exact, read.restarts) == ("diff", False, 1)
    assert read.note is not None and "tar-split" in read.note and "when Docker migrated it" in read.note


@pytest.mark.parametrize("lost", [".migration-diffid", ".migration-tardata"])
def test_half_a_record_of_a_migration_is_none(root: RootBuilder, lost: str) -> None:
    root.add_migrated("top", deleting_layer(root))
    (root.path / "graph" / identity("top") / lost).unlink()
    source = root.open()
    read = read_payload(source, source.read_layer(identity("top")))
    assert (read.origin, read.restarts) == ("diff", 0)
    assert read.note is not None and "1 deletion" in read.note and "tar-split" not in read.note


def test_a_migration_stands_in_for_dockers_damaged_tar_split_and_the_note_says_so(root: RootBuilder) -> None:
    migrated = deleting_layer(root)
    root.add_tar_split("top", tar_of(b=b"what was pulled"))
    root.add_migrated("top", migrated)
    source = root.open()
    read = read_payload(source, source.read_layer(identity("top")))
    assert (read.diff_id, read.origin, read.exact, read.restarts) == (
        f"sha256:{hashlib.sha256(migrated).hexdigest()}",
        "tar-split",
        False,
        1,
    )
    assert read.note is not None and "pulled or built" in read.note and "an earlier migration" in read.note


def test_dockers_tar_split_goes_before_that_of_a_migration(root: RootBuilder) -> None:
    migrated = deleting_layer(root)
    root.add_tar_split("top", tar_of(b=b"two"))
    root.add_migrated("top", migrated)
    assert root.read("top") == tar_of(b=b"two")


@pytest.mark.parametrize("parent", ["../../../outside", "..", "a/b", "a\0b"])
def test_a_parent_that_is_no_name_leads_nowhere(root: RootBuilder, tmp_path: Path, parent: str) -> None:
    write(tmp_path / "outside/secret", b"host")
    write(root.add("top") / "f", b"one")
    (root.path / "graph" / identity("top") / "parent").write_text(parent)
    source = root.open()
    with pytest.raises(MissingLayerError), source.open_payload(source.read_layer(identity("top"))):
        pass


def test_a_layer_without_changes_is_the_empty_tar(root: RootBuilder) -> None:
    write(root.add("base") / "a", b"one")
    shutil.rmtree(root.add("top", "base"))
    shutil.copytree(root.tree("base"), root.tree("top"))
    assert root.read("top") == EMPTY_TAR


def test_deletions_are_whiteouts_and_make_the_layer_inexact(root: RootBuilder) -> None:
    write(root.add("base") / "a", b"one")
    root.add("top", "base")
    source = root.open()
    layer = source.read_layer(identity("top"))
    with source.open_payload(layer) as payload:
        assert names(payload.stream.read()) == [".wh.a"]
    assert not payload.exact
    assert payload.note is not None and "1 deletion" in payload.note


def test_hard_links_devices_and_sockets(root: RootBuilder) -> None:
    tree = root.add("base")
    write(tree / "b", b"one")
    os.link(tree / "b", tree / "a")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(tree / "pipe", 0o600)
    (tree / "s").symlink_to("b")
    with tarfile.open(fileobj=io.BytesIO(root.read("base"))) as archive:
        found = {member.name: (member.type, member.linkname, member.size) for member in archive}
        assert archive.getmember("null").devmajor == 1
    assert found == {
        "a": (b"0", "", 3),
        "b": (b"1", "a", 0),
        "null": (b"3", "", 0),
        "pipe": (b"6", "", 0),
        "s": (b"2", "b", 0),
    }


def test_aufs_keeps_whiteouts_and_leaves_out_its_own_files(tmp_path: Path) -> None:
    root = RootBuilder(tmp_path, "aufs")
    tree = root.add("base")
    for name in (".wh.gone", ".wh..wh.aufs", ".wh..wh.plnk/1", ".wh..wh.orph/2", ".wh..wh..opq", "d/.wh..wh..opq"):
        write(tree / name)
    assert names(root.read("base")) == [".wh..wh..opq", ".wh.gone", "d", "d/.wh..wh..opq"]


def test_aufs_follows_the_link_that_docker_left_to_where_the_root_now_is(tmp_path: Path) -> None:
    root = RootBuilder(tmp_path / "moved", "aufs")
    tree = root.add("base")
    write(tree / "f")
    old = root.path / "graph" / identity("base") / "layer"
    tree.rename(old)
    tree.symlink_to(f"/var/lib/docker/graph/{identity('base')}/layer")
    assert names(root.read("base")) == ["f"]
    tree.unlink()
    tree.symlink_to(write(tmp_path / "host/secret").parent)
    source = root.open()
    with pytest.raises(MissingLayerError), source.open_payload(source.read_layer(identity("base"))):
        pass


def test_what_a_migration_read_of_an_aufs_layer_behind_a_link_is_the_link_alone(tmp_path: Path) -> None:
    """Docker 1.10.3 made a tar of the link itself, and recorded the diffID of that."""
    root = RootBuilder(tmp_path / "moved", "aufs")
    tree = root.add("base")
    write(tree / "f", b"content")
    tree.rename(root.path / "graph" / identity("base") / "layer")
    tree.symlink_to(f"/var/lib/docker/graph/{identity('base')}/layer")
    root.add_migrated("base", build_tar([link(identity("base"), os.readlink(tree))]))
    assert names(root.read("base")) == ["f"]


def test_layers_inside_the_graph_are_aufs_of_before_0_7(tmp_path: Path) -> None:
    root = RootBuilder(tmp_path, "aufs")
    tree = root.add("base")
    write(tree / "f")
    tree.rename(root.path / "graph" / identity("base") / "layer")
    shutil.rmtree(root.path / "aufs")
    assert is_docker_root(DirectoryTree(str(root.path)))
    assert root.open().driver.name == "aufs"
    assert names(root.read("base")) == ["f"]


def test_an_overlay_layer_without_a_root_is_its_upper_over_the_lower(tmp_path: Path) -> None:
    root = RootBuilder(tmp_path, "overlay")
    base = root.add("base")
    for name in ("keep", "gone", "dir/old", "opaque/old", "replaced/old"):
        write(base / name, b"one")
    root.add("top", "base").rmdir()
    place = root.tree("top").parent
    (place / "lower-id").write_text(identity("base"))
    upper = place / "upper"
    write(upper / "dir/new", b"two")
    write(upper / "replaced", b"two")
    write(upper / "opaque/new", b"two")
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    assert names(root.read("top")) == [
        "dir",
        "dir/new",
        ".wh.gone",
        "opaque",
        "opaque/new",
        "opaque/.wh.old",
        "replaced",
    ]
    source = root.open()
    opened = source.open_rootfs(identity("top"))
    assert opened is not None
    with opened as tree:
        assert [entry.path for entry in tree.entries(b"dir")] == [b"dir/new", b"dir/old"]
        with tree.open(b"dir/old") as stream:
            assert stream.read() == b"one"


def test_an_overlay_path_deeper_than_pythons_stack(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for top in (upper, lower):
        top.mkdir()
    path = b"/".join([b"d"] * 1_500)
    descriptor = os.open(lower, os.O_RDONLY)
    for part in path.split(b"/"):
        os.mkdir(part, dir_fd=descriptor)
        below = os.open(part, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    tree = UnionTree(DirectoryTree(str(upper)), DirectoryTree(str(lower)))
    assert stat.S_ISDIR(tree.stat(path).mode)
    tree.close()
    subprocess.run(["rm", "-rf", lower], check=True)  # Python's own rmtree gives up on it


@pytest.mark.parametrize("lower", ["../../etc", "", "0" * 64])
def test_a_lower_id_that_names_no_layer_fails_the_layer(tmp_path: Path, lower: str) -> None:
    root = RootBuilder(tmp_path, "overlay")
    root.add("base").rmdir()
    (root.tree("base").parent / "upper").mkdir()
    (root.tree("base").parent / "lower-id").write_text(lower)
    source = root.open()
    with pytest.raises(MigrateError), source.open_payload(source.read_layer(identity("base"))):
        pass


# --- the source stays as it is -----------------------------------------------------------------------------------


def snapshot(paths: list[Path]) -> dict[str, tuple[object, ...]]:
    """Without listing a directory, which would mark it as read."""
    found: dict[str, tuple[object, ...]] = {}
    for path in paths:
        facts = path.lstat()
        access = facts.st_atime_ns if not path.is_symlink() else 0  # reading a link cannot be asked not to mark it
        found[str(path)] = (facts.st_mode, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, access)
    return found


def read_everything(root: RootBuilder) -> list[str]:
    source = root.open()
    listing = source.listing()
    found = [read_payload(source, source.read_layer(LegacyID(layer))).diff_id for layer in listing.layers]
    source.close()
    return found


def sample(root: RootBuilder) -> RootBuilder:
    base = root.add("base")
    write(base / "usr/bin/tool", b"one", 0o755)
    (base / "link").symlink_to("usr")
    top = root.add("top", "base")
    write(top / "usr/bin/tool", b"two", 0o755)
    root.add_tar_split("top", tar_of(**{"usr/bin/tool": b"two"}))
    root.tag({"app": {"1": "top"}})
    root.add_container("c" * 64, identity("top"))
    return root


@pytest.mark.parametrize("part", ["graph", "vfs", "vfs/dir", "containers"])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_part_that_was_moved_and_linked_to_is_read_where_it_is(
    root: RootBuilder, tmp_path: Path, part: str, absolute: bool
) -> None:
    """`mv /var/lib/docker/aufs /mnt; ln -s /mnt/aufs /var/lib/docker`: the daemon went on working."""
    before = read_everything(sample(root))
    moved = tmp_path / "another-disk" / part
    moved.parent.mkdir(parents=True)
    (root.path / part).rename(moved)
    place = root.path / part
    place.symlink_to(moved if absolute else os.path.relpath(moved, place.parent))
    assert is_docker_root(DirectoryTree(str(root.path)))
    assert read_everything(root) == before
    assert [image.containers for image in root.open().listing().images] == [("c" * 64,)]


def test_a_root_is_read_from_several_threads(root: RootBuilder) -> None:
    chain = [f"layer {number}" for number in range(24)]
    for number, name in enumerate(chain):
        write(root.add(name, chain[number - 1] if number else None) / f"{number}/file", b"%d" % number)
    source = root.open()
    layers = [*source.listing().layers] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda layer: read_payload(source, source.read_layer(layer)).diff_id, layers))
    assert found == read_everything(root) * 4


def test_nothing_in_the_source_changes_not_even_access_times(root: RootBuilder) -> None:
    sample(root)
    paths = [root.path, *root.path.rglob("*")]
    for path in paths:
        os.utime(path, ns=(10**18, path.lstat().st_mtime_ns), follow_symlinks=False)
    before = snapshot(paths)
    assert is_docker_root(DirectoryTree(str(root.path)))
    read_everything(root)
    assert snapshot(paths) == before
    assert sorted(paths) == sorted([root.path, *root.path.rglob("*")])


@pytest.fixture
def read_only_mount(root: RootBuilder) -> Callable[[], None]:
    """Binds the root over itself, read-only, in a mount namespace of the test's own process tree."""

    def run() -> None:
        code = (
            "from tests.roots import RootBuilder; from tests.unit.readers.test_docker_root import read_everything;"
            f"from pathlib import Path; p = Path({str(root.path)!r});\n"
            "try:\n    (p / 'probe').write_text('')\nexcept OSError as error:\n    assert error.errno == 30, error\n"
            "else:\n    raise SystemExit('the mount can be written to')\n"
            "print(*read_everything(RootBuilder(p)))"
        )
        mount = f"mount --bind {root.path} {root.path} && mount -o remount,ro,bind {root.path}"
        script = f'{mount} && exec {sys.executable} -c "$0"'
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, code],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).resolve().parents[3],
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == read_everything(root)

    return run


def test_a_read_only_mount_is_enough(root: RootBuilder, read_only_mount: Callable[[], None]) -> None:
    sample(root)
    read_only_mount()


# --- permissions -------------------------------------------------------------------------------------------------


def without_capabilities(root: RootBuilder, statement: str) -> subprocess.CompletedProcess[str]:
    """Runs `statement` as a user to whom permissions apply: files of user 1 are somebody else's."""
    for path in [root.path, *root.path.rglob("*")]:
        os.chown(path, 1, 1, follow_symlinks=False)
    code = (
        "from migrate.errors import PermissionSourceError; from pathlib import Path\n"
        "from tests.unit.readers.test_docker_root import RootBuilder, read_everything\n"
        f"source = RootBuilder(Path({str(root.path)!r})).open()\n{statement}"
    )
    return subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[3],
    )


def test_unreadable_files_are_counted_before_anything_is_read(root: RootBuilder) -> None:
    tree = root.add("base")
    for name in ("etc/shadow", "etc/gshadow"):
        write(tree / name, b"secret", 0o600)
    write(tree / "root/.ssh/key", b"secret", 0o600)
    (tree / "root").chmod(0o700)
    done = without_capabilities(
        root, "try:\n    source.check_access()\nexcept PermissionSourceError as error:\n    print(error.message)"
    )
    assert re.search(r"^3 files .* first \S*etc/gshadow: run as root", done.stdout), done.stderr
    refused = without_capabilities(
        root,
        "layer = source.read_layer(source.listing().layers[0])\n"
        "for _ in range(2):\n"
        "    try:\n        source.open_payload(layer).__enter__()\n"
        "    except PermissionSourceError as error:\n        print(error.message)",
    )
    assert len(re.findall(r"3 files .* first \S*etc/gshadow: run as root", refused.stdout)) == 2, refused.stderr


def test_a_user_who_may_read_all_needs_no_privilege(root: RootBuilder) -> None:
    sample(root)
    done = without_capabilities(root, f"print(*read_everything(RootBuilder(Path({str(root.path)!r}))))")
    assert done.stdout.split() == read_everything(root), done.stderr


def test_permission_is_an_error_of_the_source() -> None:
    assert PermissionSourceError.scope == "source"


@pytest.mark.parametrize(
    ("driver", "users", "groups"),
    [
        ("vfs", 231_072, 165_536),
        ("overlay", 231_072, 165_536),
        ("aufs", 100_000, 0),
        ("btrfs", 0, 100_000),
        ("vfs", 1_000_000, 1_000_000),
    ],
)
def test_shifted_owners_of_layers_made_anew_are_named_once(
    driver: str, users: int, groups: int, tmp_path: Path
) -> None:
    root = RootBuilder(tmp_path, driver)
    for name, parent in (("base", None), ("middle", "base"), ("top", "middle")):
        tree = root.add(name, parent)
        write(tree / "etc" / name, b"x")
        for path in (tree, *tree.rglob("*")):
            os.chown(path, users, groups)
    found = [warning for warning in root.open().listing().warnings if "user namespaces" in warning]
    assert len(found) == 1
    assert "3 layers" in found[0] and f"{users:,} (users) and {groups:,} (groups)" in found[0]


def test_owners_that_are_not_shifted_are_not_named(tmp_path: Path) -> None:
    root = RootBuilder(tmp_path)
    for number, owner in enumerate((0, 0, 1000)):
        os.chown(root.add(f"layer {number}"), owner, owner)
    assert not [warning for warning in root.open().listing().warnings if "user namespaces" in warning]
