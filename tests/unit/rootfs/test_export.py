"""An image as one tar, against a model that applies the layers one after the other."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from migrate.errors import DamagedError, IntegrityError, UnsupportedError, UsageError
from migrate.model.digest import DiffID, Digest
from migrate.rootfs.export import ExportLayer, export_tar

Member = tuple[str, bytes, str | bytes]
"""Name, tar type, and content or link."""
FILE, LINK, SYMLINK, FOLDER = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


def member(name: str, kind: bytes, what: str | bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, 0o755 if kind == FOLDER else 0o644, 1_400_000_000
    if isinstance(what, str):
        info.linkname = what
        return info, b""
    info.size = len(what)
    return info, what


def tar_of(members: Sequence[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for one in members:
            info, content = member(*one)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def layer_of(tar: bytes, diff_id: Digest | None = None) -> ExportLayer:
    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        yield io.BytesIO(tar)

    return ExportLayer(DiffID(diff_id or Digest.of(tar)), opened)


def export(layers: Sequence[Sequence[Member]], *paths: str) -> tarfile.TarFile:
    output = io.BytesIO()
    count = export_tar([layer_of(tar_of(members)) for members in layers], output.write, paths)
    archive = read_tar(output)
    assert len(archive.getmembers()) == count
    return archive


def read_tar(output: io.BytesIO) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=io.BytesIO(output.getvalue()))


def content_of(archive: tarfile.TarFile) -> dict[str, object]:
    """Name → content of files, target of symbolic links, `/` of folders. Hard links give what they lead to."""
    found: dict[str, object] = {}
    for info in archive:
        assert info.name not in found
        if info.isreg() or info.islnk():
            stream = archive.extractfile(info)
            assert stream is not None
            found[info.name] = stream.read()
        else:
            found[info.name] = "/" if info.isdir() else f"-> {info.linkname}"
    return found


def test_whiteouts_of_files_and_folders() -> None:
    base: list[Member] = [("etc", FOLDER, b""), ("etc/a", FILE, b"1"), ("etc/b", FILE, b"2"), ("etc-x", FILE, b"3")]
    assert content_of(export([base, [("etc/.wh.a", FILE, b"")]])) == {"etc": "/", "etc/b": b"2", "etc-x": b"3"}
    assert content_of(export([base, [(".wh.etc", FILE, b"")]])) == {"etc-x": b"3"}
    again: list[Member] = [(".wh.etc", FILE, b""), ("etc", FOLDER, b""), ("etc/c", FILE, b"4")]
    assert content_of(export([base, again])) == {"etc": "/", "etc/c": b"4", "etc-x": b"3"}


def test_an_opaque_folder_hides_what_is_below_it_in_lower_layers_alone() -> None:
    base: list[Member] = [("d", FOLDER, b""), ("d/a", FILE, b"1"), ("d/s", FOLDER, b""), ("d/s/b", FILE, b"2")]
    upper: list[Member] = [("d", FOLDER, b""), ("d/c", FILE, b"3"), ("d/.wh..wh..opq", FILE, b"")]
    assert content_of(export([base, upper])) == {"d": "/", "d/c": b"3"}
    assert content_of(export([base, upper[2:]])) == {"d": "/"}


def test_what_replaces_another_kind() -> None:
    folder: list[Member] = [("x", FOLDER, b""), ("x/a", FILE, b"1")]
    assert content_of(export([folder, [("x", FILE, b"2")]])) == {"x": b"2"}
    assert content_of(export([folder, [("x", SYMLINK, "y")]])) == {"x": "-> y"}
    assert content_of(export([[("x", FILE, b"2")], folder])) == {"x": "/", "x/a": b"1"}


def test_a_hard_link_keeps_the_content_that_its_own_name_has_lost() -> None:
    base: list[Member] = [("a", FILE, b"old"), ("b", LINK, "a"), ("c", LINK, "./b")]
    archive = export([base, [("a", FILE, b"new")]])
    assert content_of(archive) == {"a": b"new", "b": b"old", "c": b"old"}
    assert [(info.name, info.linkname) for info in archive if info.islnk()] == [("c", "b")]
    assert content_of(export([base, [(".wh.a", FILE, b"")]])) == {"b": b"old", "c": b"old"}
    assert content_of(export([base], "c")) == {"c": b"old"}


def test_a_hard_link_into_a_lower_layer() -> None:
    archive = export([[("a", FILE, b"1")], [("b", LINK, "a")]])
    assert content_of(archive) == {"a": b"1", "b": b"1"}
    (link,) = [info for info in archive if info.islnk()]
    assert (link.name, link.linkname) == ("b", "a")
    assert content_of(export([[("a", FILE, b"1")], [("b", LINK, "a")], [(".wh.a", FILE, b"")]])) == {"b": b"1"}


def test_hard_links_of_aufs_lead_to_files_that_are_none() -> None:
    base: list[Member] = [
        (".wh..wh.plnk", FOLDER, b""),
        (".wh..wh.plnk/7.8", FILE, b"1"),
        ("a", LINK, ".wh..wh.plnk/7.8"),
        ("b", LINK, ".wh..wh.plnk/7.8"),
    ]
    archive = export([base])
    assert content_of(archive) == {"a": b"1", "b": b"1"}


def test_parts_of_the_tree() -> None:
    base: list[Member] = [("etc", FOLDER, b""), ("etc/a", FILE, b"1"), ("etc2", FILE, b"2"), ("usr", FOLDER, b"")]
    assert content_of(export([base], "/etc/")) == {"etc": "/", "etc/a": b"1"}
    assert content_of(export([base], "etc/a", "usr")) == {"etc/a": b"1", "usr": "/"}
    with pytest.raises(UsageError, match="no nothing"):
        export([base], "etc", "nothing")


def test_attributes_are_kept() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info, _ = member("dev/sda", tarfile.BLKTYPE)
        info.devmajor, info.devminor, info.uid, info.gid, info.mode = 8, 1, 1000, 6, 0o660
        archive.addfile(info)
        info, content = member("n\u00e4me/" + "x" * 150, FILE, b"1")
        info.mode, info.uid = 0o4755, 3_000_000
        info.pax_headers = {"SCHILY.xattr.user.x": "y", "SCHILY.xattr.security.capability": "\x01\x02"}
        archive.addfile(info, io.BytesIO(content))
    output = io.BytesIO()
    export_tar([layer_of(buffer.getvalue())], output.write)
    device, file = read_tar(output).getmembers()
    assert (device.devmajor, device.devminor, device.uid, device.gid, device.mode) == (8, 1, 1000, 6, 0o660)
    assert (file.name, file.mode, file.uid, file.mtime) == ("n\u00e4me/" + "x" * 150, 0o4755, 3_000_000, 1_400_000_000)
    assert file.pax_headers["SCHILY.xattr.user.x"] == "y"
    assert file.pax_headers["SCHILY.xattr.security.capability"] == "\x01\x02"


@pytest.mark.parametrize("damage", ["flipped", "cut", "link", "sparse"])
def test_nothing_is_written_of_a_damaged_image(damage: str) -> None:
    tar = tar_of([("a", FILE, b"1" * 600)])
    diff_id = Digest.of(tar)
    if damage == "flipped":
        tar = tar[:600] + b"2" + tar[601:]
    elif damage == "cut":
        tar = tar[:700]
        diff_id = Digest.of(tar)
    elif damage == "link":
        tar = tar_of([("b", LINK, "nowhere")])
        diff_id = Digest.of(tar)
    else:
        tar = tar_of([("a", tarfile.GNUTYPE_SPARSE, b"")])
        diff_id = Digest.of(tar)
    output = io.BytesIO()
    with pytest.raises((IntegrityError, DamagedError, UnsupportedError) if damage != "cut" else Exception):
        export_tar([layer_of(tar_of([("base", FILE, b"0")])), layer_of(tar, diff_id)], output.write)
    assert output.getvalue() == b""


def test_names_lead_where_docker_unpacks_them() -> None:
    """By name alone, before any link is looked up; above the image there is nothing."""
    found = export([[("d", FOLDER, b""), ("d/../a", FILE, b"1"), ("/../b", FILE, b"2"), ("//c", LINK, "d/../a")]])
    assert content_of(found) == {"d": "/", "a": b"1", "b": b"2", "c": b"1"}
    for name in ("../a", "d/../../a", ".."):
        with pytest.raises(DamagedError, match="out of the image"):
            export([[(name, FILE, b"1")]])


# --- a model -----------------------------------------------------------------------------------------------------


def random_layers(seed: int) -> tuple[list[list[Member]], dict[str, object]]:
    """Layers as an engine could write them, and what they come to."""
    rng = random.Random(seed)
    names = ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/b", "f", "f/a"]
    tree: dict[str, object] = {}
    layers: list[list[Member]] = []
    for number in range(rng.randint(1, 5)):
        layer: list[Member] = []
        for name in [name for name in sorted(tree) if rng.random() < 0.15]:
            if name in tree and _is_folder(tree, name):
                folder, _, base = name.rpartition("/")
                _remove(tree, name)
                layer.append((f"{folder}/.wh.{base}".lstrip("/"), FILE, b""))
        for name in [name for name in sorted(tree) if tree[name] == "/" and rng.random() < 0.1]:
            for below in [other for other in tree if other.startswith(name + "/")]:
                del tree[below]
            layer.append((f"{name}/.wh..wh..opq", FILE, b""))
        own: list[str] = []
        for name in names:
            if rng.random() < 0.5 or not _is_folder(tree, name):
                continue
            choices = [name for name in own if isinstance(tree.get(name), bytes)]
            kind = rng.choice([FILE, FILE, FOLDER, SYMLINK, LINK if choices else FILE])
            if kind == FOLDER:
                if tree.get(name) != "/":
                    tree[name] = "/"
                layer.append((name, FOLDER, b""))
                continue
            _remove(tree, name)
            if kind == FILE:
                tree[name] = f"{number} {name}".encode()
                layer.append((name, FILE, f"{number} {name}".encode()))
            elif kind == SYMLINK:
                tree[name] = f"-> {number}"
                layer.append((name, SYMLINK, str(number)))
            else:
                target = rng.choice(choices)
                if target not in tree:
                    continue
                tree[name] = tree[target]
                layer.append((name, LINK, target))
            own.append(name)
        layers.append(layer)
    return layers, tree


def _is_folder(tree: dict[str, object], name: str) -> bool:
    """The folders above `name` are there."""
    above = name.rpartition("/")[0]
    return not above or tree.get(above) == "/"


def _remove(tree: dict[str, object], name: str) -> None:
    for other in [other for other in tree if other == name or other.startswith(name + "/")]:
        del tree[other]


@pytest.mark.parametrize("seed", range(300))
def test_as_layers_applied_one_after_the_other(seed: int) -> None:
    layers, tree = random_layers(seed)
    assert content_of(export(layers)) == tree
