"""What goes to standard output and error holds no text of a source that a terminal would take for a command."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.archives import V1Archive, layer_json, legacy_id
from tests.command import migrate

ODD = "\x1b[31mred\x07 \u009b2J \u202eback \u2066x"
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def archive(path: Path) -> Path:
    built = V1Archive()
    config = {"Env": [ODD], "Labels": {ODD: ODD}}
    built.layer("a", raw=layer_json(legacy_id("a"), author=ODD, comment=ODD, config=config))
    built.tag("app", "1", legacy_id("a"))
    path.write_bytes(built.build())
    return path


@pytest.mark.parametrize("part", ["--config", "--manifest", "--history", "--layers", "--files", "--json", None])
def test_show(part: str | None, tmp_path: Path) -> None:
    assert migrate("convert", archive(tmp_path / "a.tar"), tmp_path / "out", "-q").code == 0
    done = migrate("show", tmp_path / "out", "app:1", *([part] if part else []))
    assert done.code == 0
    assert not CONTROLS.search(done.out)
    if part == "--config":
        assert json.loads(done.out) == json.loads(migrate("show", tmp_path / "out", "app:1", "--config", "--raw").out)


def test_json_of_inspect_and_of_reports(tmp_path: Path) -> None:
    source, target = archive(tmp_path / f"a{ODD}.tar"), tmp_path / "out"
    assert migrate("convert", source, target, "-q").code == 0
    written = json.loads((target / "migration-report.json").read_bytes())
    assert CONTROLS.search(written["images"][0]["source"])
    commands: list[list[str | Path]] = [
        ["report", "--json", target],
        ["inspect", "--json", source],
        ["plan", "-q", "--report", "-", source],
        ["batch", "-q", "--executor", "threads", "--report", "-", source, tmp_path / "batch"],
    ]
    for command in commands:
        done = migrate(*command)
        assert done.code == 0, done.err
        assert not CONTROLS.search(done.out), command[0]
        assert json.loads(done.out)["images"], command[0]
    assert json.loads(migrate("report", "--json", target).out) == written


@pytest.mark.parametrize("option", ["--failed-list", "--skipped-list", "--converted-list"])
def test_lists_on_standard_output(option: str, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    archive(shelf / f"{ODD}.tar".replace("\x07", ""))
    (shelf / "bad\x1b[2J.tar").write_bytes(b"\0" * 10_240)
    done = migrate("batch", shelf, tmp_path / "out", "-q", option, "-")
    assert done.code == 0
    assert not CONTROLS.search(done.out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "ftp://127.0.0.1:1/x"],
        ["convert", "ftp://127.0.0.1:1/x", "out"],
        ["batch", "ftp://127.0.0.1:1/x", "out"],
        ["convert", "a.tar", "registry-storage:ftp://127.0.0.1:1/x"],
        ["batch", "a.tar", "ftp://127.0.0.1:1/x"],
    ],
)
def test_a_server_that_refuses_is_an_error_of_one_line(arguments: list[str], tmp_path: Path) -> None:
    archive(tmp_path / "a.tar")
    done = migrate(*arguments, cwd=tmp_path)
    assert done.code in (2, 4, 5)
    assert "ftp://127.0.0.1:1" in "".join(done.errors)


def test_ctrl_c_leaves_no_empty_line_among_the_events(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "migrate", "convert", "-", tmp_path / "out", "--progress", "json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(archive(tmp_path / "b.tar").read_bytes()[:600])  # the rest never comes
    process.stdin.flush()
    while int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)), sys.byteorder):  # not read yet
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    lines = errors.decode().splitlines()
    assert lines
    for line in lines:
        json.loads(line)
