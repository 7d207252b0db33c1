"""Files that options write: never a source, never a stranger's file, and one output for each place."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate import api
from tests.archives import V1Archive, unpack
from tests.command import migrate
from tests.shelves import archive

WRITING = [
    *(("plan", option) for option in ("--report", "--html")),
    *(("convert", option) for option in ("--report", "--html")),
    *(("batch", option) for option in ("--report", "--html", "--failed-list", "--skipped-list", "--converted-list")),
    ("batch", "--account"),
]


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    directory = tmp_path / "shelf"
    directory.mkdir()
    for number in range(3):
        (directory / f"{number}.tar").write_bytes(archive("app", number))
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "option"), WRITING)
@pytest.mark.parametrize("name", ["0.tar", "new"])
def test_an_output_in_a_source_is_refused(command: str, option: str, name: str, shelf: Path, tmp_path: Path) -> None:
    before = contents(shelf)
    unpacked = tmp_path / "unpacked"
    with tarfile.open(shelf / "1.tar") as opened:
        unpack(opened, unpacked)
    (unpacked / "0.tar").write_bytes(b"")  # empty, so that its content alone would not protect it
    target = [] if command == "plan" else [tmp_path / "out"]
    result = migrate(command, option, unpacked / name, shelf / "0.tar", unpacked, *target)
    assert result.code == 2
    assert "a source is never written to" in result.err
    assert not (unpacked / "new").exists()
    assert contents(shelf) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["glob", "list", "directory"])
def test_an_output_in_a_source_that_batch_finds_is_refused(how: str, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{shelf}\n")
    ways = {"glob": [f"{tmp_path}/sh*"], "list": [f"--from-file={tmp_path / 'list'}"], "directory": [str(shelf)]}
    sources = ways[how]
    result = migrate("batch", "--report", shelf / "report.json", *sources, tmp_path / "out")
    assert result.code == 2
    assert not (shelf / "report.json").exists()
    assert migrate("batch", *sources, shelf / "out").code == 2
    assert not (shelf / "out").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "option"), WRITING)
def test_a_slip_in_the_order_of_arguments_costs_no_archive(
    command: str, option: str, shelf: Path, tmp_path: Path
) -> None:
    """`plan --report shelf/*.tar`, where the shell has put the first archive behind the option."""
    before = contents(shelf)
    target = [] if command == "plan" else [tmp_path / "out"]
    result = migrate(command, option, *sorted(shelf.iterdir()), *target)
    assert result.code == 2
    assert f"{option} {shelf}/0.tar: this file exists and was not written by that option" in result.err
    assert contents(shelf) == before
    assert not (tmp_path / "out").exists()


PACKERS: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress]


@pytest.mark.parametrize("pack", PACKERS, ids=lambda pack: pack.__module__)
@pytest.mark.parametrize("option", ["--report", "--html", "--failed-list"])
def test_compressed_archives_are_not_replaced(
    pack: Callable[[bytes], bytes], option: str, shelf: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(pack(archive("app")))
    before = mine.read_bytes()
    assert migrate("batch", option, mine, shelf, tmp_path / "out").code == 2
    assert mine.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "content"),
    [
        ("--report", b'{"name": "my-app", "version": "1.0"}'),
        ("--report", b'[{"schema_version": 1}]'),
        ("--report", b"text\n"),
        ("--html", b"<!DOCTYPE html><title>My page</title>"),
        ("--html", b'{"schema_version": 1}'),
        ("--failed-list", b'{"imageLayoutVersion": "1.0.0"}'),
        ("--failed-list", b'[{"Config": "x"}]'),
        ("--failed-list", b"<!DOCTYPE html>"),
        ("--failed-list", b"a\0b"),
        ("--account", b"name,price\n"),
    ],
)
def test_files_of_others_are_not_replaced(option: str, content: bytes, shelf: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(content)
    assert migrate("batch", option, mine, shelf, tmp_path / "out").code == 2
    assert mine.read_bytes() == content


def test_outputs_replace_what_the_same_option_wrote(shelf: Path, tmp_path: Path) -> None:
    (shelf / "[odd] {name}.tar").write_bytes(archive("odd"))
    (shelf / "empty.tar").write_bytes(b"")
    (shelf / "text").write_bytes(b"x")
    names = ["report", "html", "failed-list", "skipped-list", "converted-list", "account"]
    options = [f"--{name}={tmp_path / name}" for name in names]
    (tmp_path / "report").write_bytes(b"")
    for _ in range(2):
        assert migrate("batch", *options, shelf, tmp_path / "out").code == 3
        assert all((tmp_path / name).stat().st_size for name in names)
    (tmp_path / "report").write_bytes(json.dumps(json.loads((tmp_path / "report").read_bytes())).encode())
    assert migrate("plan", "--report", tmp_path / "report", shelf / "0.tar").code == 0
    assert json.loads((tmp_path / "report").read_bytes())["totals"]["images"] == 1


def test_a_page_replaces_a_page_alone(shelf: Path, tmp_path: Path) -> None:
    assert migrate("plan", "-q", "--report", tmp_path / "r.json", shelf / "0.tar").code == 0
    before = (tmp_path / "r.json").read_bytes()
    assert migrate("report", "--html", tmp_path / "r.json", tmp_path / "r.json").code == 2
    assert (tmp_path / "r.json").read_bytes() == before
    for _ in range(2):
        assert migrate("report", "--html", tmp_path / "page", tmp_path / "r.json").code == 0


def test_a_report_over_the_targets_own_index_is_refused(shelf: Path, tmp_path: Path) -> None:
    result = migrate("convert", "--report", tmp_path / "out" / "index.json", shelf / "0.tar", tmp_path / "out")
    assert result.code == 2
    assert migrate("verify", tmp_path / "out").code == 0


def test_devices_and_pipes_take_everything(shelf: Path, tmp_path: Path) -> None:
    assert migrate("plan", "--report", "/dev/null", "--html", "/dev/null", shelf / "0.tar").code == 0
    result = migrate("plan", "--report", "/dev/stdout", shelf / "0.tar")
    assert result.json()["totals"]["images"] == 1
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "wb"):
        os.set_inheritable(write, True)
        pipe = f"/proc/{os.getpid()}/fd/{write}"
        assert migrate("batch", f"--converted-list={pipe}", shelf, tmp_path / "out").code == 0
        assert reader.read(len(str(shelf))).decode() == str(shelf)


# --- one output for each place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--report", "-", "--html", "-", "SOURCE"],
        ["plan", "--report", "-", "--html", "/dev/stdout", "SOURCE"],
        ["plan", "--report", "same", "--html", "./same", "SOURCE"],
        ["convert", "--report", "-", "SOURCE", "docker-archive:-"],
        ["convert", "--html", "-", "SOURCE", "oci-archive:-"],
        ["convert", "--html", "-", "SOURCE", "oci-archive:/dev/stdout"],
        ["convert", "--report", "x.tar", "SOURCE", "oci-archive:x.tar"],
        ["convert", "--report", "out", "SOURCE", "out"],
        ["batch", "--failed-list", "-", "--report", "-", "SOURCE", "out"],
        ["batch", "--failed-list", "-", "--skipped-list", "-", "SOURCE", "out"],
        ["batch", "--failed-list", "same", "--skipped-list", "same", "SOURCE", "out"],
    ],
)
def test_two_outputs_in_one_place_are_refused(arguments: list[str], shelf: Path, tmp_path: Path) -> None:
    words = [str(shelf / "0.tar") if word == "SOURCE" else word for word in arguments]
    result = migrate(*words, cwd=tmp_path)
    assert result.code == 2
    assert "both write to" in result.err
    assert result.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["shelf"]


def test_a_dry_run_writes_no_archive_beside_its_report(shelf: Path) -> None:
    result = migrate("convert", "--dry-run", "--report", "-", shelf / "0.tar", "docker-archive:-")
    assert result.json()["dry_run"] is True


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_an_archive_on_standard_output_is_nothing_but_that(kind: str, shelf: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "migrate", "convert", str(shelf / "0.tar")]
    piped = subprocess.run([*command, f"{kind}:-"], capture_output=True, check=True).stdout
    subprocess.run([*command, "-q", f"{kind}:{tmp_path}/file.tar"], check=True)
    assert piped == (tmp_path / "file.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(piped)) as opened:
        assert "manifest.json" in opened.getnames()


@pytest.mark.parametrize("option", ["--converted-list", "--report", "--html"])
def test_standard_output_takes_one_thing(option: str, shelf: Path, tmp_path: Path) -> None:
    result = migrate("batch", option, "-", shelf, "out", cwd=tmp_path)
    assert result.code == 0
    assert "\n  sources " not in result.out, "the summary"
    assert not (tmp_path / "-").exists()
    if option == "--converted-list":
        assert result.out == "".join(f"{shelf}/{number}.tar\n" for number in range(3))


def test_a_name_with_a_newline_stands_in_no_list(shelf: Path, tmp_path: Path) -> None:
    (shelf / "0.tar").rename(shelf / "0\n.tar")
    result = migrate("batch", "--converted-list", tmp_path / "list", shelf, tmp_path / "out")
    assert result.code == 0
    assert (tmp_path / "list").read_text() == f"{shelf}/1.tar\n{shelf}/2.tar\n"
    assert "migrate: warning: --converted-list: 1 of 3 sources are not in the list" in result.err
    assert migrate("batch", "--from-file", tmp_path / "list", tmp_path / "again").code == 0


@pytest.mark.parametrize("option", ["--report", "--html"])
def test_a_shard_has_no_report_and_can_be_quiet(option: str, shelf: Path, tmp_path: Path) -> None:
    refused = migrate("batch", "--shard", "1/1", option, "-", shelf, tmp_path / "out")
    assert refused.code == 2
    assert f"--shard with {option}" in refused.err
    assert not (tmp_path / "out").exists()
    assert migrate("batch", "-q", "--shard", "1/1", shelf, tmp_path / "out").out == ""
    listed = migrate("batch", "--converted-list", "-", "--shard", "1/1", shelf, tmp_path / "out")
    assert len(listed.out.splitlines()) == 3
    assert migrate("batch", "--status", option, "-", tmp_path / "out").code == 2


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_an_archive_that_is_replaced_names_the_images_that_are_lost(kind: str, tmp_path: Path) -> None:
    for name, tags in (("a", ["1", "2", "3", "4"]), ("b", ["4", "5"])):
        saved = V1Archive()
        for tag in tags:
            saved.tag("app", tag, saved.layer(f"layer-{tag}"))
        (tmp_path / f"{name}.tar").write_bytes(saved.build())
    a, b, target = tmp_path / "a.tar", tmp_path / "b.tar", f"{kind}:{tmp_path}/all.tar"
    for sources, lost in (
        ([a], None),
        ([a, b], None),
        ([b, a], None),
        ([b], "3 images that this run has not: app:1, app:2, app:3; give"),
        ([a], "1 image that this run has not: app:5; give"),
    ):
        outcome = api.convert(sources, target)
        warnings = [warning for warning in outcome.report.warnings if "replaced" in warning]
        assert (outcome.exit_code, len(warnings)) == (0, lost is not None)
        assert lost is None or lost in warnings[0]
