"""Many small images over several processes: the result of one process, whatever happens to the others."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from migrate.blobio.source_files import settled_state
from tests.archives import V1Archive, layer_tar

IMAGES = 620
RUN = """
import os, signal, sys, time
from migrate.convert import shares
from migrate.cli import main
forks = []
os.register_at_fork(after_in_parent=lambda: forks.append(1))
convert, portions = shares._work, []
def work(parts, target, convert, *rest):
    def counted(target, portion):
        portions.append(portion)
        {before}
        return convert(target, portion)
    {outside}
    convert_all(parts, target, counted, *rest)
convert_all = shares._work
shares._work = work
try:
    main()
finally:
    print(len(forks), file=open(os.environ["FORKS"], "w"))
"""


def write_images(path: Path, *, packed: bool = False, damaged: bool = True) -> Path:
    """Images of two layers. Many have the content of others; names, a config and a parent are missing or wrong in
    some."""
    archive = V1Archive()
    archive.layer("common", tar=layer_tar("common"))
    for number in range(IMAGES):
        base, top = f"base-{number}", f"top-{number}"
        archive.layer(base, "common" if number % 50 else None, tar=layer_tar(f"{number % 7}"))
        content = layer_tar(f"{number % 300}")
        archive.layer(top, base, tar=gzip.compress(content, 1, mtime=0) if packed and number == 450 else content)
        archive.tag(f"app-{number}", "1", archive.layer(f"app-{number}", top))
    if damaged:
        broken = archive.layer("broken", "nowhere")
        archive.tag("broken", "1", broken)
        archive.tag("damaged", "1", archive.layer("damaged", "base-3", tar=b"no tar" * 200))
    path.write_bytes(archive.build())
    return path


def start(
    source: Path, target: Path, *options: str, jobs: int = 3, before: str = "pass", outside: str = "pass"
) -> subprocess.Popen[str]:
    script = RUN.format(before=before, outside=outside)
    command = [sys.executable, "-c", script, "convert", "--jobs", str(jobs), *options, str(source), str(target)]
    environment = os.environ | {"FORKS": str(target.parent / f"{target.name}.forks")}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def convert(source: Path, target: Path, *options: str, jobs: int = 3, **hooks: str) -> tuple[int, str, dict[str, Any]]:
    """The number of processes, the messages, and all files of the target that a digest or a reader depends on."""
    running = start(source, target, *options, jobs=jobs, **hooks)
    messages = running.communicate()[1]
    assert running.returncode in (0, 3), messages
    files: dict[str, Any] = {
        str(file.relative_to(target)): file.read_bytes()
        for file in sorted(target.rglob("*"))
        if file.is_file() and ".migrate" not in file.parts
    }
    report = json.loads(files.pop("migration-report.json"))
    files["report"] = {
        key: value for key, value in report.items() if key not in ("started", "finished", "options", "tool")
    }
    files["layers"] = set((target / ".migrate" / "layers").read_bytes().split(b"\n"))
    forks = int((target.parent / f"{target.name}.forks").read_text())
    return forks, messages, files


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("shares") / "images.tar")


@pytest.fixture(scope="module")
def alone(source: Path) -> dict[str, Any]:
    forks, messages, files = convert(source, source.parent / "alone", "--quiet", jobs=1)
    assert forks == 0
    assert "broken" in messages
    return files


def _same(files: dict[str, Any], expected: dict[str, Any]) -> None:
    assert files.keys() == expected.keys()
    for name, content in files.items():
        assert content == expected[name], name


@pytest.mark.parametrize("jobs", [2, 5])
def test_several_processes_give_the_result_of_one(
    source: Path, alone: dict[str, Any], jobs: int, tmp_path: Path
) -> None:
    forks, messages, files = convert(source, tmp_path / "out", "--quiet", jobs=jobs)
    assert forks == jobs
    _same(files, alone)
    assert [line for line in messages.splitlines() if "broken" in line]


def test_all_layers_of_a_run_on_a_target_that_has_some(source: Path, alone: dict[str, Any], tmp_path: Path) -> None:
    some = ["--quiet", "--image", "app-1*"]
    convert(source, tmp_path / "one", *some, jobs=1)
    convert(source, tmp_path / "several", *some)
    forks, _, several = convert(source, tmp_path / "several", "--quiet")
    assert forks == 3
    _same(several, convert(source, tmp_path / "one", "--quiet", jobs=1)[2])
    assert several["index.json"] == alone["index.json"]


def test_the_next_run_has_nothing_to_do(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images.tar", damaged=False)
    while settled_state(source.stat()) is None:  # a run on a file that was changed just now is not remembered
        time.sleep(0.1)
    assert convert(source, tmp_path / "out", "--quiet")[0] == 3
    assert convert(source, tmp_path / "out", "--quiet")[0] == 0


@pytest.mark.parametrize(
    "fault",
    [
        "len(portions) == 2 and os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os._exit(0)",
        "1 / 0",
        "len(portions) == 3 and 1 / 0",
        "(_ for _ in ()).throw(__import__('migrate.errors').errors.TargetError('no room'))",
    ],
)
def test_what_a_process_does_not_finish_is_converted_by_the_main_process(
    fault: str, source: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    forks, messages, files = convert(source, tmp_path / "out", "--quiet", before=fault)
    assert forks == 3
    assert "Traceback" not in messages
    _same(files, alone)


def test_a_process_that_writes_its_blobs_too_late_counts_for_nothing(
    source: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    outside = "type(target).flush = lambda self: os._exit(0)"
    _, _, files = convert(source, tmp_path / "out", "--quiet", outside=outside)
    _same(files, alone)


def test_progress_has_every_layer_once(source: Path, tmp_path: Path) -> None:
    def events(target: Path, jobs: int) -> tuple[list[str], int, int]:
        lines = convert(source, target, "--progress", "json", jobs=jobs)[1].splitlines()
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        layers = sorted(row["name"] for row in rows if row["event"] == "layer")
        failures = [row for row in rows if row["event"] == "failure"]
        return layers, len(failures), len([row for row in rows if row["event"] == "image"])

    several, one = events(tmp_path / "several", 3), events(tmp_path / "one", 1)
    assert set(several[0]) == set(one[0])
    assert len(several[0]) <= len(one[0]) * 1.2
    assert several[1:] == one[1:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_and_the_next_run_completes(
    number: int, source: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    running = start(source, tmp_path / "out", "--quiet", before="time.sleep(0.2)")
    _wait_for_children(running.pid)
    running.send_signal(number)
    messages = running.communicate(timeout=30)[1]
    assert running.returncode == 130
    assert "Traceback" not in messages
    assert not _children(running.pid)
    _same(convert(source, tmp_path / "out", "--quiet")[2], alone)


def test_no_process_outlives_a_main_process_that_was_killed(
    source: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    running = start(source, tmp_path / "out", "--quiet", before="time.sleep(0.1)")
    children = _wait_for_children(running.pid)
    running.kill()
    running.communicate()
    until = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < until, "a process is left"
        time.sleep(0.02)
    _same(convert(source, tmp_path / "out", "--quiet")[2], alone)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _wait_for_children(pid: int) -> list[int]:
    until = time.monotonic() + 60
    while len(children := _children(pid)) < 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    return children


def test_one_layer_in_gzip_keeps_all_images_in_one_process(tmp_path: Path) -> None:
    """Its stored bytes become the blob of every layer with its content, and which layers these are is not known before
    all are read."""
    source = write_images(tmp_path / "images.tar", packed=True)
    forks, _, files = convert(source, tmp_path / "several", "--quiet")
    assert forks == 0
    _same(files, convert(source, tmp_path / "one", "--quiet", jobs=1)[2])


def test_a_path_that_is_not_utf_8(source: Path, alone: dict[str, Any], tmp_path: Path) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.tar"))
    odd.symlink_to(source)
    _, _, files = convert(odd, tmp_path / "out", "--quiet")
    expected = convert(odd, tmp_path / "one", "--quiet", jobs=1)[2]
    _same(files, expected)
    assert files.keys() == alone.keys()
