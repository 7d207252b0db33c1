"""`migrate report`, `map` and `show`, on what a real archive became."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.archives import V1Archive, layer_json, layer_tar, legacy_id
from tests.cases import case
from tests.command import migrate
from tests.registry_content import RegistryContent

NAME = "team/web:1.0"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout")
    source = case("save-1.9.1-multi").write_plain(directory)
    assert migrate("convert", source, directory / "out", "-q").code == 0
    return directory / "out"


def document(layout: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((layout / "migration-report.json").read_bytes())
    return loaded


def image(layout: Path, name: str = NAME) -> dict[str, Any]:
    return next(row for row in document(layout)["images"] if name in row["references"])


# --- report -----------------------------------------------------------------------------------------------------------


def test_text_is_the_default(layout: Path) -> None:
    result = migrate("report", layout)
    totals = document(layout)["totals"]
    assert result.code == 0
    assert f"{totals['images']} written" in result.out
    assert f"{totals['legacy_layers']} → {totals['unique_layers']} distinct" in result.out
    assert "\x1b" not in result.out
    assert f"{totals['legacy_bytes']:,} B → {totals['unique_bytes']:,} B" in migrate("report", layout, "--bytes").out


def test_json_is_the_report_itself(layout: Path) -> None:
    raw = (layout / "migration-report.json").read_text("utf-8")
    assert migrate("report", layout, "--json").out == raw
    assert migrate("report", f"oci:{layout}", "--json").out == raw
    assert migrate("report", layout / "migration-report.json", "--json").out == raw
    assert migrate("report", "-", "--json", stdin=raw.encode()).out == raw


def test_html_to_a_file_and_to_standard_output(layout: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = migrate("report", layout, "--html", page)
    assert (result.code, result.out) == (0, "")
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert migrate("report", layout, "--html", "-").out == page.read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 4, "has no migration-report.json. Give the target of a finished `migrate convert`"),
        (b"{}", 3, "report.tool.name: not a text"),
        (b"{not json", 3, "not JSON"),
        (b"name.tar\0" * 100, 4, "Archives have no report: convert with --report FILE"),
        (b'{"schema_version": 9}', 3, "schema_version 9; this program reads up to 1"),
    ],
)
def test_what_is_no_report(tmp_path: Path, content: bytes | None, code: int, message: str) -> None:
    if content is not None:
        (tmp_path / "migration-report.json").write_bytes(content)
    result = migrate("report", tmp_path)
    assert result.code == code
    assert message in result.err
    assert len(result.errors) == 1


@pytest.mark.parametrize(
    "options",
    [["--json", "--savings", "3"], ["--html", "page.html", "--savings", "3"], ["--html", "p.html", "--bytes"]],
)
def test_options_of_the_text_alone(options: list[str], layout: Path, tmp_path: Path) -> None:
    result = migrate("report", *options, layout, cwd=tmp_path)
    assert result.code == 2
    assert result.errors == [
        f"migrate: error: {options[-2 if '3' in options else -1]} has no effect with {options[0]}, only on text"
    ]
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written(layout: Path, tmp_path: Path) -> None:
    result = migrate("report", layout, "--html", tmp_path / "no" / "such" / "page.html")
    assert result.code == 2
    assert "there is no directory" in result.err


# --- map --------------------------------------------------------------------------------------------------------------


def test_map_lists_every_image(layout: Path) -> None:
    lines = migrate("map", layout).out.splitlines()
    rows = document(layout)["images"]
    assert lines[0].split() == ["LEGACY", "ID", "IMAGE", "ID", "DIGEST", "REFERENCES", "CONTAINERS"]
    assert len(lines) == len(rows) + 1
    for row in rows:
        (line,) = [line for line in lines if line.startswith(row["legacy_id"][:12])]
        assert row["image_id"][7:19] in line
        assert row["manifest_digest"][7:19] in line


@pytest.mark.parametrize("length", [4, 12, 64])
def test_map_by_prefix(layout: Path, length: int) -> None:
    row = image(layout)
    out = migrate("map", layout, row["legacy_id"][:length]).out
    assert f"image ID   {row['image_id']}" in out
    assert f"digest     {row['manifest_digest']}" in out
    assert all(name in out for name in row["references"])


def test_map_as_json_and_csv(layout: Path) -> None:
    row = image(layout)
    (found,) = migrate("map", layout, row["legacy_id"], "--json").json()["images"]
    assert found["image_id"] == row["image_id"]
    assert found["references"] == row["references"]
    table = list(csv.DictReader(io.StringIO(migrate("map", layout, "--csv").out)))
    (line,) = [line for line in table if line["legacy_id"] == row["legacy_id"]]
    assert line["references"].split() == row["references"]
    assert line["manifest_digest"] == row["manifest_digest"]


def test_map_knows_layers_and_what_failed(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.layer("base")
    archive.tag("good", "1", archive.layer("app", "base"))
    archive.tag("bad", "1", archive.layer("lost", "nowhere"))
    (tmp_path / "a.tar").write_bytes(archive.build())
    assert migrate("convert", tmp_path / "a.tar", tmp_path / "out", "-q").code == 3
    base = image(tmp_path / "out", "good:1")["layers"][0]
    result = migrate("map", tmp_path / "out", base["legacy_id"][:10])
    assert "(a layer, not an image)" in result.out
    assert base["diff_id"] in result.out
    assert "in images  good:1" in result.out
    failed = migrate("map", tmp_path / "out", "bad:1")
    assert failed.code == 2
    assert "no image or layer bad:1. It failed: " in failed.err


def test_map_tells_the_containers_of_a_docker_root(tmp_path: Path) -> None:
    report = {**_empty_report(), "images": [{**_image_row("a" * 64), "containers": ["c0ffee" + "0" * 58]}]}
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert "containers c0ffee" in migrate("map", tmp_path / "r.json", "aaaa").out
    assert f"legacy ID  {'a' * 64}" in migrate("map", tmp_path / "r.json", "c0ffee").out


def test_map_finds_an_image_by_the_digest_of_its_old_manifest(tmp_path: Path) -> None:
    content = RegistryContent()
    old = content.add("app", "1.0", content.schema1("base"))
    assert migrate("convert", "-q", content.write_tree(tmp_path / "registry"), tmp_path / "out").code == 0
    row = image(tmp_path / "out", "app:1.0")
    assert row["legacy_digests"] == [old] and row["manifest_digest"] != old
    for text in (old, old.removeprefix("sha256:")[:12], f"app@{old}"):
        out = migrate("map", tmp_path / "out", text).out
        assert f"digest     {row['manifest_digest']}" in out and f"old digest {old}" in out
    (line,) = csv.DictReader(io.StringIO(migrate("map", tmp_path / "out", "--csv").out))
    assert line["legacy_digests"] == old
    assert migrate("batch", "-q", tmp_path / "registry", tmp_path / "batch").code == 0
    assert image(tmp_path / "batch", "app:1.0")["legacy_digests"] == [old]
    assert f'"digests":["{old}"]' in migrate("report", tmp_path / "out", "--html", "-").out


def test_map_says_what_could_be_meant(layout: Path) -> None:
    result = migrate("map", layout, "team/web:1.1")
    assert result.code == 2
    assert "Did you mean team/web:1.0" in result.err
    assert "Give 4 digits or more" in migrate("map", layout, "ab").err


def test_an_ambiguous_prefix(tmp_path: Path) -> None:
    report = {**_empty_report(), "images": [_image_row("abcd" + "0" * 60), _image_row("abcd" + "1" * 60)]}
    (tmp_path / "r.json").write_text(json.dumps(report))
    result = migrate("map", tmp_path / "r.json", "abcd")
    assert result.code == 2
    assert "matches several IDs: abcd0000" in result.err


def _empty_report() -> dict[str, Any]:
    names = ["images", "images_failed", "legacy_layers", "unique_layers", "empty_layers", "duplicate_layers"]
    sizes = ["legacy_bytes", "unique_bytes", "saved_bytes", "blob_bytes"]
    return {
        "schema_version": 1,
        "tool": {"name": "migrate", "version": "0"},
        "dry_run": False,
        "started": "",
        "finished": "",
        "options": {},
        "sources": [],
        "totals": dict.fromkeys([*names, *sizes], 0),
        "images": [],
        "duplicates": [],
        "conflicts": [],
        "failures": [],
    }


def _image_row(legacy_id: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(legacy_id.encode()).hexdigest()}"
    return {
        "source": "root",
        "references": [],
        "legacy_id": legacy_id,
        "image_id": digest,
        "manifest_digest": digest,
        "platform": {"os": "linux", "architecture": "amd64"},
        "created": None,
        "exact": True,
        "layers": [],
    }


# --- show -------------------------------------------------------------------------------------------------------------


def test_summary(layout: Path) -> None:
    row = image(layout)
    out = migrate("show", layout, NAME).out
    assert f"image ID     {row['image_id']}" in out
    assert f"digest       {row['manifest_digest']}" in out
    assert "platform     linux/amd64" in out
    assert migrate("show", layout, NAME, "--json").json()["image_id"] == row["image_id"]


@pytest.mark.parametrize("key", ["image_id", "manifest_digest", "legacy_id"])
def test_an_image_by_its_ids(layout: Path, key: str) -> None:
    row = image(layout)
    for text in (row[key], row[key].removeprefix("sha256:")[:12]):
        assert row["image_id"] in migrate("show", layout, text).out


def test_the_exact_bytes(layout: Path) -> None:
    row = image(layout)
    raw = migrate("show", layout, NAME, "--config", "--raw").out.encode()
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == row["image_id"]
    assert migrate("show", layout, NAME, "--config").json() == json.loads(raw)
    raw = migrate("show", layout, NAME, "--manifest", "--raw").out.encode()
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == row["manifest_digest"]


def test_history_is_dockers(layout: Path) -> None:
    steps = migrate("show", layout, NAME, "--history", "--json").json()["history"]
    config = json.loads(migrate("show", layout, NAME, "--config", "--raw").out)
    assert [step["created_by"] for step in steps] == [step.get("created_by", "") for step in config["history"]]
    row = image(layout)
    assert [step["diff_id"] for step in steps if step["diff_id"]] == config["rootfs"]["diff_ids"]
    assert [step["tar_size"] for step in steps] == [
        0 if layer["empty"] else layer["tar_size"] for layer in row["layers"]
    ]
    text = migrate("show", layout, NAME, "--history").out.splitlines()
    assert len(text) == len(steps) + 1
    assert text[1].startswith(steps[-1]["created"][:10])


def test_layers_side_by_side(layout: Path) -> None:
    rows = [layer for layer in image(layout)["layers"] if not layer["empty"]]
    out = migrate("show", layout, NAME, "--layers").out
    for row in rows:
        assert row["diff_id"] in out
        assert row["blob_digest"] in out
        assert row["legacy_id"] in out
    assert "they differ: the diffID is the sha256 of the tar, the blob digest that of the gzip file" in out
    shown = migrate("show", layout, NAME, "--layers", "--json").json()["layers"]
    assert [layer["blob_size"] for layer in shown] == [row["blob_size"] for row in rows]


def test_files_are_those_of_the_tars(layout: Path) -> None:
    rows = [layer for layer in image(layout)["layers"] if not layer["empty"]]
    shown = [json.loads(line) for line in migrate("show", layout, NAME, "--files", "--json").out.splitlines()]
    for number, row in enumerate(rows, 1):
        blob = layout / "blobs" / "sha256" / row["blob_digest"][7:]
        with tarfile.open(blob, errors="surrogateescape") as archive:
            expected = [(member.name, member.size, int(member.mtime)) for member in archive]
        found = [entry for entry in shown if entry["layer"] == number]
        assert [(one["name"].rstrip("/"), one["size"], one["mtime"]) for one in found] == expected
    text = migrate("show", layout, NAME, "--files", "--layer", "1", "--bytes").out.splitlines()
    assert len(text) == sum(entry["layer"] == 1 for entry in shown)


def test_files_tell_whiteouts_and_links(tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("etc/.wh.passwd", "var/.wh..wh..opq"):
            archive.addfile(tarfile.TarInfo(name))
        for name, kind in (("bin/sh", tarfile.SYMTYPE), ("bin/ash", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "busy\x1bbox"
            archive.addfile(member)
    source = V1Archive()
    source.tag("x", "1", source.layer("one", tar=tar.getvalue()))
    (tmp_path / "a.tar").write_bytes(source.build())
    assert migrate("convert", tmp_path / "a.tar", tmp_path / "out", "-q").code == 0
    out = migrate("show", tmp_path / "out", "x:1", "--files").out
    assert "etc/.wh.passwd   (hides what lower layers have here)" in out
    assert "var/.wh..wh..opq   (hides the directory's lower content)" in out
    assert "bin/sh -> busy\\x1bbox" in out
    assert "bin/ash link to busy\\x1bbox" in out


def test_show_reads_as_go_reads(tmp_path: Path) -> None:
    source = V1Archive()
    odd = b'"x":1e400,"y":12345678901234567890123,"Config":{"User":"me","z":1e400}'
    raw = layer_json(legacy_id("one"), docker_version="1.9.1").replace(b"{", b"{" + odd + b",", 1)
    source.tag("x", "1", source.layer("one", raw=raw))
    (tmp_path / "a.tar").write_bytes(source.build())
    assert migrate("convert", tmp_path / "a.tar", tmp_path / "out", "-q").code == 0
    assert odd.split(b",")[0] in migrate("show", tmp_path / "out", "x:1", "--config", "--raw").out.encode()
    shown = migrate("show", tmp_path / "out", "x:1", "--config").out
    assert '\n  "x": 1e400,\n  "y": 12345678901234567890123\n' in shown
    assert '\n    "z": 1e400\n' in shown
    assert migrate("show", tmp_path / "out", "x:1", "--json").json()["config"] == {"User": "me"}
    assert len(migrate("show", tmp_path / "out", "x:1", "--history", "--json").json()["history"]) == 1


def test_layouts_in_a_tar_and_docker_archives(layout: Path, tmp_path: Path) -> None:
    source = case("save-1.9.1-multi").write_plain(tmp_path)
    row = image(layout)
    for kind in ("oci-archive", "docker-archive"):
        target = f"{kind}:{tmp_path / kind}.tar"
        assert migrate("convert", source, target, "-q").code == 0
        assert f"image ID     {row['image_id']}" in migrate("show", target, NAME).out
        assert row["layers"][0]["diff_id"] in migrate("show", target, NAME, "--layers").out
    assert (
        "a docker archive has no manifests" in migrate("show", f"{tmp_path}/docker-archive.tar", NAME, "--manifest").err
    )


def test_show_says_what_could_be_meant(layout: Path) -> None:
    result = migrate("show", layout, "team/web")
    assert result.code == 2
    assert "Did you mean team/web:1.0" in result.err
    assert migrate("show", layout, NAME, "--layer", "1").code == 2
    assert migrate("show", layout, NAME, "--files", "--layer", "99").code == 2
    assert migrate("show", layout, NAME, "--raw").code == 2


@pytest.fixture(scope="module")
def platforms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout in which one name stands for two platforms."""
    directory = tmp_path_factory.mktemp("platforms")
    for name, architecture in (("one", "amd64"), ("two", "arm")):
        archive = V1Archive()
        raw = layer_json(legacy_id(name), os="linux", architecture=architecture)
        archive.tag("team/web", "b", archive.layer(name, raw=raw))
        (directory / f"{name}.tar").write_bytes(archive.build())
    assert migrate("convert", "-q", "one.tar", "two.tar", "out", cwd=directory).code == 0
    return directory / "out"


def test_show_chooses_by_platform(platforms: Path) -> None:
    assert "choose one by --platform linux/amd64|linux/arm" in migrate("show", platforms, "team/web:b").err
    assert "platform     linux/arm\n" in migrate("show", platforms, "team/web:b", "--platform", "linux/arm").out
    result = migrate("show", platforms, "team/web:b", "--platform", "linux/ppc64")
    assert result.code == 2
    assert result.errors == [
        f"migrate: error: {platforms}: team/web:b has no image for linux/ppc64; it has: linux/amd64, linux/arm"
    ]
    result = migrate("show", platforms, "team/web:b", "--platform", "xx")
    assert result.code == 2
    assert "'xx' is not OS/ARCH or OS/ARCH/VARIANT" in result.err


def test_show_shows_one_part(layout: Path) -> None:
    result = migrate("show", layout, NAME, "--config", "--manifest")
    assert (result.code, result.out) == (2, "")
    assert result.errors == ["migrate: error: --config and --manifest exclude each other"]
    assert migrate("show", layout, NAME, "--files", "--layers", "--history").code == 2


def test_a_damaged_layer_is_one_line(layout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(layout, copy)
    blob = copy / "blobs" / "sha256" / image(layout)["layers"][0]["blob_digest"][7:]
    blob.write_bytes(blob.read_bytes()[:-20])
    result = migrate("show", copy, NAME, "--files")
    assert result.code == 3
    assert len(result.errors) == 1
    blob.unlink()
    assert migrate("show", copy, NAME, "--layers").code == 3


def test_what_is_no_layout(tmp_path: Path) -> None:
    assert migrate("show", tmp_path, NAME).code == 4
    (tmp_path / "a.tar").write_bytes(layer_tar("a"))
    assert migrate("show", tmp_path / "a.tar", NAME).code == 4
    assert migrate("show", tmp_path / "nothing", NAME).code == 4


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_tells_what_is_odd_on_standard_error(layout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(layout, copy)
    (copy / "notes.txt").write_text("mine")
    (copy / "blobs" / "sha256" / hashlib.sha256(b"x").hexdigest()).write_bytes(b"x")
    result = migrate("verify", copy)
    assert (result.code, result.out) == (0, f"{copy}: clean\n")
    warnings = [line for line in result.err.splitlines() if line.startswith("migrate: warning: ")]
    assert warnings == [
        "migrate: warning: notes.txt: does not belong to the layout",
        "migrate: warning: blobs: no image names 1 of the blobs",
    ]
    assert migrate("verify", "-q", copy).err == ""
    assert "migrate:" not in migrate("verify", "--progress", "json", copy).err
    assert migrate("verify", "--json", copy).json() == {
        "location": str(copy),
        "findings": [],
        "warnings": [
            {"where": "notes.txt", "message": "does not belong to the layout"},
            {"where": "blobs", "message": "no image names 1 of the blobs"},
        ],
        "images": len(document(layout)["images"]),
    }


def test_verify_says_where_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = migrate("verify", tmp_path / "empty")
    assert (result.code, result.out) == (4, "")
    assert result.errors == [f"migrate: error: {tmp_path}/empty: nothing to verify: it is empty"]
    (tmp_path / "out" / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "out" / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "out" / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    result = migrate("verify", tmp_path / "out")
    assert (result.code, result.out) == (0, f"{tmp_path}/out: clean, no images\n")
