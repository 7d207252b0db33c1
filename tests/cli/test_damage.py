"""Damaged sources: what needs the lost bytes fails and nothing else, and the report says which, and why."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import SourceUnreadableError
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event, SilentProgress
from migrate.readers.detect import open_source
from migrate.report.json import encode_report
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests import disks
from tests.archives import Members, V1Archive, build_tar, layer_tar, legacy_id
from tests.command import Result, migrate
from tests.peers import need, run

SECTOR = 4096
MARK = b"the layer that an unreadable sector hits "


def shelf() -> V1Archive:
    """good:1 on base; bad:1 = base, middle, lost, top; also:1 = base, middle; alone:1 shares nothing."""
    archive = V1Archive()
    archive.layer("base")
    archive.tag("good", "1", archive.layer("good", "base"))
    archive.tag("alone", "1", archive.layer("alone"))
    archive.layer("middle", "base")
    archive.layer(
        "lost", "middle", tar=layer_tar("lost.bin", content=b"".join(MARK + b"%d" % number for number in range(20_000)))
    )
    archive.tag("bad", "1", archive.layer("top", "lost"))
    return archive


def converted(result: Result, target: Path) -> dict[str, Any]:
    assert result.code == 3, result.err
    assert migrate("verify", "-q", target).code == 0
    document: dict[str, Any] = json.loads((target / "migration-report.json").read_bytes())
    return document


def images(report: dict[str, Any]) -> dict[str, list[str]]:
    """Top layer → names."""
    return {image["legacy_id"]: image["references"] for image in report["images"]}


WHOLE = {legacy_id("good"): ["good:1"], legacy_id("alone"): ["alone:1"]}


def check_lost(report: dict[str, Any], word: str) -> None:
    assert len(report["failures"]) == 1
    failure = report["failures"][0]
    assert failure["references"] == ["bad:1"]
    assert failure["legacy_id"] == legacy_id("top")
    assert failure["layer"] == legacy_id("lost")
    assert word in failure["message"]


# --- an unreadable sector --------------------------------------------------------------------------------------------


@contextmanager
def unreadable_sector(directory: Path, content: bytes, at: int) -> Iterator[Path]:
    """A file with `content` on a real btrfs on which the sector around byte `at` fails its checksum: EIO."""
    need("mkfs.btrfs", "mount", "umount")
    image, mounted = directory / "disk.img", directory / "mounted"
    mounted.mkdir()
    run("truncate", "-s", "120M", image)
    run("mkfs.btrfs", "-q", "-m", "single", "-d", "single", image)
    with disks.mounted(image, "max_inline=0", place=mounted):
        (mounted / "archive.tar").write_bytes(content)
    stored = image.read_bytes()
    place = stored.index(content[at // SECTOR * SECTOR :][:SECTOR])
    with image.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\xff" * 16)
    with disks.mounted(image, "ro", place=mounted):
        with pytest.raises(OSError, match="Input/output error"):
            (mounted / "archive.tar").read_bytes()
        yield mounted / "archive.tar"


@pytest.mark.peer
def test_an_unreadable_sector_in_a_layer(tmp_path: Path) -> None:
    content = shelf().build()
    with unreadable_sector(tmp_path, content, content.rindex(MARK) - 10 * SECTOR) as source:
        report = converted(migrate("convert", source, tmp_path / "out"), tmp_path / "out")
        salvaged = converted(migrate("convert", "--salvage", source, tmp_path / "more"), tmp_path / "more")
    assert images(report) == WHOLE
    check_lost(report, "Input/output error")
    assert images(salvaged) == {**WHOLE, legacy_id("middle"): []}
    check_lost(salvaged, "Input/output error")


@pytest.mark.peer
def test_an_unreadable_sector_in_the_headers_of_an_archive(tmp_path: Path) -> None:
    archive = shelf()
    archive.members = [*archive.members[:9], ("x" * 90, MARK * 5000), *archive.members[9:]]
    content = archive.build()
    with unreadable_sector(tmp_path, content, content.index(b"x" * 90)) as source:
        result = migrate("convert", source, tmp_path / "out")
    assert result.code == 3, result.err
    assert any("Input/output error" in line and "reading continues at byte" in line for line in result.errors)
    assert migrate("verify", "-q", tmp_path / "out").code == 0


HEADERS = [
    f"{legacy_id(name)}/{part}" for name in ("base", "middle", "lost") for part in ("VERSION", "json", "layer.tar")
]


@pytest.mark.parametrize("filling", [b"\xff", b"\0"])
@pytest.mark.parametrize("way", ["file", "pipe"])
@pytest.mark.parametrize("name", [*HEADERS, "repositories"])
def test_a_lost_header_loses_what_needs_its_member(tmp_path: Path, name: str, way: str, filling: bytes) -> None:
    content = bytearray(shelf().build())
    start = content.index(name.encode() + b"\0")
    content[start : start + 512] = filling * 512
    (tmp_path / "source.tar").write_bytes(content)
    source, stdin = (tmp_path / "source.tar", None) if way == "file" else (Path("-"), bytes(content))
    result = migrate("convert", source, tmp_path / "out", stdin=stdin)
    report = json.loads((tmp_path / "out" / "migration-report.json").read_bytes())
    tops = {image["legacy_id"] for image in report["images"]}
    lost = {"base": {"good", "top"}, "middle": {"top"}, "lost": {"top"}}
    owner = next((layer for layer in lost if name.startswith(legacy_id(layer))), None)
    needless = owner is None or name.endswith("VERSION")
    assert {
        legacy_id(top) for top in {"good", "alone", "top"} - (set() if needless or owner is None else lost[owner])
    } <= tops
    assert (result.code, "reading continues" in result.err) == (3, name != "repositories")
    if name != "repositories":
        assert images(report)[legacy_id("alone")] == ["alone:1"], "the names stand behind the damage"


def test_a_lost_first_header(tmp_path: Path) -> None:
    content = bytearray(shelf().build())
    content[:512] = b"\xff" * 512
    (tmp_path / "source.tar").write_bytes(content)
    report = converted(migrate("convert", tmp_path / "source.tar", tmp_path / "out"), tmp_path / "out")
    assert sorted(name for names in images(report).values() for name in names) == ["alone:1", "bad:1", "good:1"]


# --- truncated, and salvaged -----------------------------------------------------------------------------------------


def broken_shelf(broken: bytes) -> bytes:
    archive = shelf()
    archive.members = [
        (name, broken if name == f"{legacy_id('lost')}/layer.tar" else content) for name, content in archive.members
    ]
    return archive.build()


@pytest.mark.parametrize(
    ("broken", "word"),
    [(layer_tar("x", content=MARK * 50)[:1500], "ends inside"), (b"no tar" * 400, "checksum"), (b"\x1f\x8b\x08x", "")],
    ids=["cut", "no tar", "broken gzip"],
)
def test_a_damaged_layer(broken: bytes, word: str, tmp_path: Path) -> None:
    source = tmp_path / "archive.tar"
    source.write_bytes(broken_shelf(broken))
    report = converted(migrate("convert", source, tmp_path / "out"), tmp_path / "out")
    assert images(report) == WHOLE
    check_lost(report, word)


def test_salvage_converts_what_lies_below_the_lost_layer(tmp_path: Path) -> None:
    source = tmp_path / "archive.tar"
    source.write_bytes(broken_shelf(b"no tar" * 400))
    result = migrate("convert", "--salvage", source, tmp_path / "out")
    report = converted(result, tmp_path / "out")
    assert images(report) == {**WHOLE, legacy_id("middle"): []}
    check_lost(report, "checksum")
    (part,) = [image for image in report["images"] if image["legacy_id"] == legacy_id("middle")]
    assert [layer["legacy_id"] for layer in part["layers"]] == [legacy_id("base"), legacy_id("middle")]
    assert any("bad:1" in warning and legacy_id("lost") in warning for warning in part["warnings"])
    assert "salvaged: the intact lower part of bad:1" in result.out
    plan = migrate("plan", "--salvage", "--report", "-", source).json()
    assert images(plan) == images(report)


def test_salvage_of_nothing_and_of_what_is_an_image_anyway(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.layer("base", tar=b"no tar" * 400)
    archive.tag("none", "1", archive.layer("on nothing", "base"))
    archive.tag("some", "1", archive.layer("some"))
    archive.tag("more", "1", archive.layer("broken too", "some", tar=b"no tar" * 400))
    source = tmp_path / "archive.tar"
    source.write_bytes(archive.build())
    report = converted(migrate("convert", "--salvage", source, tmp_path / "out"), tmp_path / "out")
    assert images(report) == {legacy_id("some"): ["some:1"]}
    assert [failure["references"] for failure in report["failures"]] == [["more:1"], ["none:1"]]


@pytest.mark.parametrize("lost", [None, b"no tar" * 400], ids=["missing", "damaged"])
def test_salvage_says_that_it_gives_no_part_of_an_image_with_a_config_of_its_own(
    lost: bytes | None, tmp_path: Path
) -> None:
    layers = {"a": layer_tar("a"), "b": layer_tar("b"), "c": layer_tar("c")}
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in layers.values()]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    entry = {"Config": "x.json", "RepoTags": ["x:1"], "Layers": [f"{name}/layer.tar" for name in layers]}
    stored = {**layers, "b": lost}
    source = tmp_path / "archive.tar"
    source.write_bytes(
        build_tar(
            [
                *((f"{name}/layer.tar", tar) for name, tar in stored.items() if tar is not None),
                ("x.json", config),
                ("manifest.json", json.dumps([entry]).encode()),
            ]
        )
    )
    for options, noted in ((["--salvage"], True), ([], False)):
        (failure,) = migrate("plan", *options, "--report", "-", source).json()["failures"]
        assert (failure["references"], failure["layer"]) == (["x:1"], "b")
        assert failure["message"].endswith("; --salvage cannot convert a part of this image") == noted


def test_a_blob_that_an_index_has_lost_is_named(tmp_path: Path) -> None:
    parts: Members = [("oci-layout", b"{}")]

    def stored(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        parts.append((f"blobs/sha256/{digest}", content))
        return {"mediaType": "", "size": len(content), "digest": f"sha256:{digest}"}

    layer = stored(layer_tar("a"))
    config = stored(json.dumps({"rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}).encode())
    manifest = stored(json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode())
    del parts[1]
    index = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    source = tmp_path / "archive.tar"
    source.write_bytes(build_tar([*parts, ("index.json", index)]))
    (failure,) = migrate("plan", "--salvage", "--report", "-", source).json()["failures"]
    assert f"sha256:{failure['layer']}" == layer["digest"]
    assert failure["message"].endswith("; --salvage cannot convert a part of this image")


def test_a_truncated_archive_keeps_the_images_that_stand_before_the_cut(tmp_path: Path) -> None:
    archive = shelf()
    content = build_tar([("repositories", json.dumps(archive.tags).encode()), *archive.members])
    source = tmp_path / "archive.tar"
    source.write_bytes(content[: content.index(MARK) + 1000])
    report = converted(migrate("convert", source, tmp_path / "out"), tmp_path / "out")
    assert legacy_id("good") in images(report)
    assert legacy_id("alone") in images(report)
    assert legacy_id("top") not in images(report)
    assert any("bad:1" in failure["references"] for failure in report["failures"])


def test_a_config_that_lies_about_a_shared_layer_fails_alone(tmp_path: Path) -> None:
    layer = layer_tar("a", content=bytes(100_000))
    members: Members = [("x/layer.tar", layer)]
    entries = []
    for name, digest in (("lie", "0" * 64), ("truth", hashlib.sha256(layer).hexdigest())):
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
        members.append(
            (f"{name}.json", json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode())
        )
        entries.append({"Config": f"{name}.json", "RepoTags": [f"{name}:1"], "Layers": ["x/layer.tar"]})
    source = tmp_path / "archive.tar"
    source.write_bytes(build_tar([*members, ("manifest.json", json.dumps(entries).encode())]))
    report = converted(migrate("convert", source, tmp_path / "out"), tmp_path / "out")
    assert [image["references"] for image in report["images"]] == [["truth:1"]]
    assert [failure["references"] for failure in report["failures"]] == [["lie:1"]]


@pytest.mark.parametrize("odd", [{"RepoTags": ["odd:1"]}, {"Config": None, "RepoTags": ["odd:1"]}])
def test_an_entry_without_a_config_fails_alone(tmp_path: Path, odd: Any) -> None:
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    entries = [odd, {"Config": "c.json", "RepoTags": ["good:1"], "Layers": []}]
    documents: Members = [("c.json", json.dumps(config).encode()), ("manifest.json", json.dumps(entries).encode())]
    (tmp_path / "archive.tar").write_bytes(build_tar(documents))
    report = converted(migrate("convert", tmp_path / "archive.tar", tmp_path / "out"), tmp_path / "out")
    assert [image["references"] for image in report["images"]] == [["good:1"]]
    assert [(failure["references"], "without a Config" in failure["message"]) for failure in report["failures"]] == [
        (["odd:1"], True)
    ]


# --- changed while it is read ----------------------------------------------------------------------------------------


class Meddler(SilentProgress):
    """Does something to the source when the first layer has been read."""

    def __init__(self, change: Any) -> None:
        self._change = change

    def emit(self, event: Event, /) -> None:
        if event.kind == "layer" and self._change is not None:
            change, self._change = self._change, None
            change()


def convert_meddled(source: Path, target: Path, change: Any) -> dict[str, Any]:
    options = ConvertOptions(jobs=1)
    opened = OpenedSource(str(source), open_source(str(source)))
    layout = OciLayout(target, options)
    try:
        outcome = Conversion([opened], options, layout, Meddler(change)).run()
    finally:
        layout.close()
        opened.close()
    assert outcome.exit_code in (3, 4)
    if outcome.exit_code == 4:
        assert not target.exists()
    else:
        assert verify(str(target), 1, SilentProgress()) == []
    document: dict[str, Any] = json.loads(encode_report(outcome.report))
    return document


def test_an_archive_that_grows_while_it_is_read(tmp_path: Path) -> None:
    source = tmp_path / "archive.tar"
    source.write_bytes(shelf().build())

    def grow() -> None:
        with source.open("ab") as stream:
            stream.write(bytes(512))

    report = convert_meddled(source, tmp_path / "out", grow)
    assert any("was changed while it was read" in failure["message"] for failure in report["failures"])
    assert not any(failure["references"] == [] for failure in report["failures"])


def test_an_archive_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    source = tmp_path / "archive.tar"
    source.write_bytes(shelf().build())
    report = convert_meddled(source, tmp_path / "out", lambda: os.truncate(source, 4096))
    assert report["failures"]


def unpacked(directory: Path) -> Path:
    for name, content in shelf().members:
        assert isinstance(content, bytes)
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    (directory / "repositories").write_text(json.dumps(shelf().tags))
    return directory


@pytest.mark.parametrize("change", ["grow", "cut", "remove", "pipe"])
def test_a_member_of_a_directory_that_changes(change: str, tmp_path: Path) -> None:
    source = unpacked(tmp_path / "source")
    member = source / legacy_id("lost") / "layer.tar"

    def meddle() -> None:
        if change == "grow":
            member.write_bytes(member.read_bytes() + bytes(512))
        elif change == "cut":
            os.truncate(member, 700)
        else:
            member.unlink()
            if change == "pipe":
                os.mkfifo(member)

    opened = open_source(str(source))
    assert opened.listing().images
    opened.close()
    report = convert_meddled(source, tmp_path / "out", meddle)
    assert images(report) == WHOLE
    check_lost(report, "")


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EIO, "Input/output error"), (errno.EACCES, "may not be read by this user")]
)
def test_a_layers_directory_that_cannot_be_listed(
    number: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = unpacked(tmp_path / "source")
    refuse(monkeypatch, source / legacy_id("lost"), number)
    report = convert_meddled(source, tmp_path / "out", None)
    assert images(report) == {**WHOLE, legacy_id("middle"): []}  # nothing says any more that another stands on it
    check_lost(report, f"cannot be listed: {source}/{legacy_id('lost')}: {reason}")


def test_the_directory_of_a_tagged_layer_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = unpacked(tmp_path / "source")
    refuse(monkeypatch, source / legacy_id("alone"), errno.EIO)
    report = convert_meddled(source, tmp_path / "out", None)
    assert sorted(images(report)) == sorted([legacy_id("good"), legacy_id("top")])
    ((failure),) = report["failures"]
    assert (failure["references"], failure["legacy_id"]) == (["alone:1"], legacy_id("alone"))
    assert f"cannot be listed: {source}/{legacy_id('alone')}: Input/output error" in failure["message"]


def test_another_directory_that_cannot_be_listed_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = unpacked(tmp_path / "source")
    (source / "lost+found").mkdir()
    refuse(monkeypatch, source / "lost+found", errno.EACCES)
    report = convert_meddled(source, tmp_path / "out", None)
    assert sorted(images(report)) == sorted([legacy_id("good"), legacy_id("top"), legacy_id("alone")])
    ((failure),) = report["failures"]
    assert failure["references"] == [] and f"cannot be listed: {source}/lost+found" in failure["message"]


def test_an_archives_own_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = unpacked(tmp_path / "source")
    refuse(monkeypatch, source, errno.EIO)
    with pytest.raises(SourceUnreadableError, match="source: Input/output error"):
        open_source(str(source))


def refuse(monkeypatch: pytest.MonkeyPatch, place: Path, number: int) -> None:
    """The system refuses the names in `place`, whichever tree they are read by."""
    real = os.listdir

    def listed(path: int | str) -> list[str]:
        if isinstance(path, int) and os.readlink(f"/proc/self/fd/{path}") == str(place):
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr("migrate.storage.directory_tree.os.listdir", listed)


def test_more_members_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.blobio.limits.ARCHIVE_MEMBERS", 5)
    source = unpacked(tmp_path / "source")
    with pytest.raises(Exception, match="ARCHIVE_MEMBERS") as caught:
        open_source(str(source))
    assert not isinstance(caught.value, SourceUnreadableError)


def test_more_layers_in_a_run_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.blobio.limits.RUN_LAYERS", 5)
    source = tmp_path / "archive.tar"
    source.write_bytes(shelf().build())
    report = convert_meddled(source, tmp_path / "out", None)
    assert sum(len(image["layers"]) for image in report["images"]) <= 5
    assert {failure["error"] for failure in report["failures"]} == {"limit"}
    assert all("RUN_LAYERS" in failure["message"] for failure in report["failures"])


def test_more_bytes_of_documents_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.blobio.limits.DOCUMENTS_BYTES", 300)
    source = tmp_path / "archive.tar"
    source.write_bytes(shelf().build())
    report = convert_meddled(source, tmp_path / "out", None)
    assert report["failures"]
    assert any("DOCUMENTS_BYTES" in failure["message"] for failure in report["failures"])
