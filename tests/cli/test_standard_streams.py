"""Standard streams that are closed, full, or whose reader has gone: one line at most, and the exit code tells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.archives import V1Archive, layer_tar
from tests.command import Result, migrate


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`s.tar`, and `out/` made from it, with more files in a layer than a pipe or a buffer holds the names of."""
    directory = tmp_path_factory.mktemp("streams")
    archive = V1Archive()
    files = layer_tar(*(f"usr/share/doc/file-{number}" for number in range(3_000)))
    archive.tag("team/web", "1.0", archive.layer("one", tar=files))
    (directory / "s.tar").write_bytes(archive.build())
    assert migrate("convert", "s.tar", "out", "-q", cwd=directory).code == 0
    return directory


def redirected(line: str, directory: Path) -> Result:
    """`migrate LINE`, with the redirections that LINE ends with."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m migrate {line}', sys.executable], cwd=directory, capture_output=True, check=False
    )
    result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.err, result.err
    assert "Exception ignored" not in result.err, result.err
    return result


WRITING = [
    "--help",
    "--version",
    "plan --help",
    "plan -q --report - s.tar",
    "plan --html - s.tar",
    "plan s.tar",
    "convert --dry-run s.tar out",
    "inspect s.tar",
    "inspect --tree s.tar",
    "inspect --json s.tar",
    "verify out",
    "verify --json out",
    "show out team/web:1.0",
    "show out team/web:1.0 --config --raw",
    "show out team/web:1.0 --files",
    "show out team/web:1.0 --files --json",
    "map out",
    "map --csv out",
    "map --json out",
    "report out",
    "report --json out",
    "report --html - out",
    "batch --dry-run s.tar other",
    "batch --dry-run --report - s.tar other",
    "convert s.tar docker-archive:-",
]


@pytest.mark.parametrize("line", WRITING)
def test_a_full_disk_on_standard_output_is_exit_5(line: str, workspace: Path) -> None:
    result = redirected(f"{line} > /dev/full", workspace)
    assert result.code == 5
    assert [line for line in result.errors if "standard output" in line and "No space left" in line] == result.errors
    assert len(result.errors) == 1


@pytest.mark.parametrize("line", WRITING)
def test_a_closed_standard_output_is_exit_5(line: str, workspace: Path) -> None:
    result = redirected(f"{line} >&-", workspace)
    assert result.code == 5
    assert [line for line in result.errors if "standard output" in line] == result.errors
    assert len(result.errors) == 1


@pytest.mark.parametrize("line", [line for line in WRITING if not line.endswith("docker-archive:-")])
def test_a_reader_that_has_gone_is_no_error(line: str, workspace: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "migrate", *line.split()],
        cwd=workspace,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141
    assert b"rror" not in done.stderr


def test_a_target_on_standard_output_that_nobody_takes_has_failed(workspace: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "migrate", "convert", "s.tar", "docker-archive:-"]
    done = subprocess.run(command, cwd=workspace, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 5
    assert b"migrate: error: standard output: Broken pipe" in done.stderr


def test_what_needs_no_standard_output_does_without(workspace: Path) -> None:
    assert redirected("convert -q s.tar out >&-", workspace).code == 0
    assert redirected("verify -q out > /dev/full", workspace).code == 0


@pytest.mark.parametrize("line", ["plan -", "inspect -", "report -", "map -", "batch --dry-run --from-file - other"])
def test_a_closed_standard_input_is_exit_4(line: str, workspace: Path) -> None:
    result = redirected(f"{line} <&-", workspace)
    assert result.code == 4
    assert len(result.errors) == 1
    assert "standard input: cannot be read" in result.err


@pytest.mark.parametrize("where", ["2>&-", "2> /dev/full"])
def test_messages_that_nobody_can_read_change_no_exit_code(where: str, workspace: Path) -> None:
    assert redirected(f"plan s.tar {where}", workspace).code == 0
    assert redirected(f"plan no.tar {where}", workspace).code == 4
    assert redirected(f"plan --no-such-option s.tar {where}", workspace).code == 2
    assert redirected(f"show out no-image {where}", workspace).code == 2


def test_no_file_takes_the_place_of_a_closed_stream(workspace: Path) -> None:
    """Else the log of a child process could come to stand in the middle of a blob."""
    assert redirected("convert -q s.tar fresh <&- >&- 2>&-", workspace).code == 0
    assert migrate("verify", workspace / "fresh").code == 0


@pytest.mark.parametrize(("encoding", "arrow"), [("latin-1", "\\u2192"), ("utf-8:strict", "→")])
def test_what_the_encoding_lacks_is_escaped(
    encoding: str, arrow: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = subprocess.run(
        [sys.executable, "-m", "migrate", "report", "out"], cwd=workspace, capture_output=True, check=True
    )
    assert f"1 {arrow} 1 distinct" in done.stdout.decode(encoding.partition(":")[0])
