"""Archives and disk images inside a tar, and inside one another: found, named where there are several, and chosen."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import disks
from tests.archives import V1Archive, unpack
from tests.command import migrate

Wrap = Callable[[dict[str, bytes]], bytes]


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def saved(name: str) -> bytes:
    archive = V1Archive()
    archive.tag(name, "1", archive.layer(name))
    return archive.build()


def disk_with(place: Path, name: str, content: bytes, form: str) -> bytes:
    """An ext4 file system with one file, in an image format."""
    (place / "files" / name).parent.mkdir(parents=True, exist_ok=True)
    (place / "files" / name).write_bytes(content)
    raw = disks.blank(place / "raw", 8 * disks.MIB)
    disks.run("mkfs.ext4", "-q", "-F", "-d", place / "files", raw)
    disks.run("qemu-img", "convert", "-O", *form.split(), raw, place / "image")
    return (place / "image").read_bytes()


def store(place: Path) -> bytes:
    """A disk with a registry's storage, whose one image is that of `saved("app")`."""
    layers = place / "unpacked"
    with tarfile.open(fileobj=io.BytesIO(saved("app"))) as archive:
        unpack(archive, layers)
    [tagged] = json.loads((layers / "repositories").read_bytes())["app"].values()
    folder = place / "files" / "srv" / "registry"
    (folder / "repositories" / "library" / "app").mkdir(parents=True)
    (folder / "repositories" / "library" / "app" / "tag_1").write_text(tagged)
    (folder / "images" / tagged).mkdir(parents=True)
    for source, target in (("json", "json"), ("layer.tar", "layer")):
        (layers / tagged / source).rename(folder / "images" / tagged / target)
    (folder / "images" / tagged / "ancestry").write_text(json.dumps([tagged]))
    return disk_with(place, "note", b"", "vmdk -o subformat=streamOptimized")


def ids(target: Path) -> list[str]:
    report = json.loads((target / "migration-report.json").read_bytes())
    return sorted(image["image_id"] for image in report["images"])


FORMS: dict[str, Wrap] = {
    "an archive in a tar": lambda made: tar_of({"backup/readme": b"hello", "backup/app.tar": made["archive"]}),
    "compressed both": lambda made: tar_of({"app.tar.gz": gzip.compress(made["archive"])}, "w:xz"),
    "a disk of a virtual machine": lambda made: tar_of({"vm.ovf": b"<Envelope/>", "vm-disk1.vmdk": made["disk"]}),
    "a box": lambda made: tar_of({"metadata.json": b"{}", "box.img": made["disk"]}, "w:gz"),
    "a disk in a tar in a tar": lambda made: tar_of({"a/vm.ova": tar_of({"vm.vmdk": made["disk"]})}),
    "beside other tars": lambda made: tar_of({"etc.tar": tar_of({"etc/x": b""}), "app.tar": made["archive"]}),
    "beside a disk without": lambda made: tar_of({"data.img": made["empty disk"], "vm.vmdk": made["disk"]}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("made")
    return {
        "archive": saved("app"),
        "disk": store(place / "disk"),
        "empty disk": disk_with(place / "empty", "x", b"", "qcow2"),
        "other": saved("other"),
        "disk with an archive": disk_with(place / "held", "old/app.tar", saved("app"), "qcow2"),
    }


@pytest.mark.parametrize("way", ["file", "pipe"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_in_it_is_converted(form: str, way: str, made: dict[str, bytes], tmp_path: Path) -> None:
    plain = tmp_path / "plain.tar"
    plain.write_bytes(made["archive"])
    assert migrate("convert", plain, tmp_path / "expected").code == 0
    content = FORMS[form](made)
    if way == "pipe":
        done = migrate("convert", "-", tmp_path / "out", stdin=content)
    else:
        (tmp_path / "given").write_bytes(content)
        done = migrate("convert", tmp_path / "given", tmp_path / "out")
    assert done.code == 0, done.err
    assert ids(tmp_path / "out") == ids(tmp_path / "expected") != []
    assert migrate("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize("form", FORMS)
def test_every_command_agrees(form: str, made: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "given").write_bytes(FORMS[form](made))
    assert migrate("batch", tmp_path / "shelf", tmp_path / "batched").code == 0
    assert migrate("convert", tmp_path / "shelf" / "given", tmp_path / "converted").code == 0
    assert ids(tmp_path / "batched") == ids(tmp_path / "converted") != []
    inspected = json.loads(migrate("inspect", "--json", tmp_path / "shelf" / "given").out)
    assert [image["references"] for image in inspected["images"]] == [["app:1"]]
    assert migrate("plan", tmp_path / "shelf" / "given").code == 0


@pytest.mark.parametrize("outer", ["tar", "directory", "disk"])
def test_a_file_is_chosen_by_inside(outer: str, made: dict[str, bytes], tmp_path: Path) -> None:
    given = tmp_path / "given"
    if outer == "directory":
        (given / "old").mkdir(parents=True)
        (given / "old" / "app.tar").write_bytes(made["archive"])
    else:
        both = {"old/app.tar": made["archive"], "old/other.tar": made["other"]}
        given.write_bytes(tar_of(both) if outer == "tar" else made["disk with an archive"])
    assert migrate("convert", given, tmp_path / "out", "--inside", "old/app.tar").code == 0
    shown = migrate("show", tmp_path / "out", "app:1")
    assert shown.code == 0, shown.err
    assert len(ids(tmp_path / "out")) == 1


def test_several_are_an_error_that_names_them(made: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    given = tmp_path / "shelf" / "given.tar"
    given.write_bytes(tar_of({"a.tar": made["archive"], "b.tar.gz": gzip.compress(made["other"])}))
    done = migrate("convert", given, tmp_path / "out")
    assert done.code == 4
    for part in ("given.tar/a.tar", "given.tar/b.tar.gz", "--inside PATH", "migrate batch"):
        assert part in done.errors[0]
    assert not (tmp_path / "out").exists()
    batch = migrate("batch", tmp_path / "shelf", tmp_path / "batched")
    assert batch.code in (3, 4)
    assert "given.tar/a.tar" in batch.errors[0]


def test_one_that_cannot_be_read_is_not_passed_over(made: dict[str, bytes], tmp_path: Path) -> None:
    """It may be the one that was meant."""
    cut = gzip.compress(made["other"])[:-20]
    (tmp_path / "given").write_bytes(tar_of({"a.tar": made["archive"], "b.tar.gz": cut}))
    done = migrate("convert", tmp_path / "given", tmp_path / "out")
    assert done.code == 4
    assert "given/b.tar.gz" in done.errors[0]


def test_other_tars_in_a_tar_are_no_source(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "project.tar").write_bytes(
        tar_of({"x.tar": tar_of({"x": b"1"}), "y.tar.gz": gzip.compress(tar_of({"y": b"2"})), "z.gz": b"\x1f\x8b\x08"})
    )
    assert migrate("convert", tmp_path / "shelf" / "project.tar", tmp_path / "out").code == 4
    batch = migrate("batch", tmp_path / "shelf", tmp_path / "batched")
    assert "Skipped (1 source)" in batch.out, batch.out
    assert "failed" not in batch.out


def test_the_depth_is_bounded(made: dict[str, bytes], tmp_path: Path) -> None:
    content = made["archive"]
    for number in range(4):
        content = tar_of({f"{number}.tar": content})
    (tmp_path / "given").write_bytes(content)
    done = migrate("convert", tmp_path / "given", tmp_path / "out")
    assert done.code == 4
    assert "WRAPPING_DEPTH" in done.errors[0]


def test_nothing_stays_behind(made: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given").write_bytes(FORMS["a disk in a tar in a tar"](made))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", os.fspath(tmp_path / "tmp"))
    assert migrate("convert", tmp_path / "given", tmp_path / "out").code == 0
    assert os.listdir(tmp_path / "tmp") == []
