"""`--progress json`: standard error has JSON lines and nothing else, and they tell every failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from migrate.cli.messages import print_end, wants_events
from tests.archives import V1Archive, layer_tar
from tests.command import Result, migrate


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives: a whole one, another image of the same name, one with a damaged layer, JSON that is none, no archive;
    a layout of the first; a shard of two."""
    directory = tmp_path_factory.mktemp("events")
    for name in ("whole", "other"):
        archive = V1Archive()
        archive.tag("team/web", "1.0", archive.layer(name))
        (directory / f"{name}.tar").write_bytes(archive.build())
    archive = V1Archive()
    archive.tag("team/cut", "1.0", archive.layer("cut", tar=layer_tar("a", "b")[:1100]))
    archive.tag("team/bad", "1.0", archive.layer("bad", raw=b"{"))
    archive.tag("team/good", "1.0", archive.layer("good"))
    (directory / "damaged.tar").write_bytes(archive.build())
    (directory / "text").write_bytes(b"not an archive")
    assert migrate("convert", "-q", "whole.tar", "layout", cwd=directory).code == 0
    assert migrate("batch", "-q", "--shard", "1/2", "whole.tar", "shards", cwd=directory).code == 0
    return directory


def events_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.err.splitlines()]


def run(line: str, workspace: Path) -> Result:
    command, *rest = line.split()
    return migrate(command, "--progress", "json", *rest, cwd=workspace)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("plan --report - whole.tar", 0),
        ("plan --report - whole.tar damaged.tar text none.tar", 3),
        ("plan -vv --report - damaged.tar", 3),
        ("plan --report - text", 4),
        ("convert --dry-run --report - damaged.tar none.tar out", 3),
        ("convert --dry-run --report - --on-conflict fail whole.tar other.tar damaged.tar out", 3),
        ("convert --dry-run --report - --salvage damaged.tar out", 3),
        ("batch --dry-run --report - damaged.tar whole.tar text out", 3),
        ("batch --dry-run --report - --on-conflict fail whole.tar other.tar damaged.tar out", 3),
    ],
)
def test_every_failure_of_the_report_has_one_event(line: str, code: int, workspace: Path) -> None:
    result = run(line, workspace)
    events = events_of(result)
    assert result.code == code
    told = [(event["name"], event["message"]) for event in events if event["event"] == "failure"]
    failures = [
        (", ".join(row["references"]) or row["legacy_id"] or row["source"], row["message"])
        for row in result.json()["failures"]
    ]
    assert sorted(told) == sorted(failures)
    assert not [event for event in events if event["event"] == "error"]


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("plan", 2, "missing argument 'SOURCE...'"),
        ("plan --no-such-option whole.tar", 2, "no such option"),
        ("plan --format zip whole.tar", 2, "'zip' is not one of"),
        ("plan --compression zstd whole.tar", 2, "needs --format oci"),
        ("plan --image none whole.tar", 2, "no image matches"),
        ("plan --html no/such/page.html whole.tar", 2, "there is no directory no/such"),
        ("convert whole.tar whole.tar", 2, "never written to"),
        ("convert whole.tar /dev/null/out", 5, "/dev/null"),
        ("batch --status --merge out", 2, "one at a time"),
        ("batch --merge none", 2, "no journal"),
        ("batch none*.tar out", 2, "nothing matches"),
        ("verify none", 4, "No such file"),
        ("push none docker://", 2, "name a host"),
    ],
)
def test_what_ends_a_run_early_is_the_last_event(line: str, code: int, message: str, workspace: Path) -> None:
    result = run(line, workspace)
    assert result.code == code
    *_, last = events_of(result)
    assert (last["event"], last["exit_code"]) == ("error", code)
    assert message in last["message"]


def test_shards_that_are_missing_are_events(workspace: Path) -> None:
    result = run("batch --merge shards", workspace)
    assert result.code == 3
    assert [event["message"] for event in events_of(result) if event["event"] == "failure"] == [
        "shard 2/2 has never run"
    ]


def test_verify_counts_its_findings_in_text_only(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text("{}")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "odd").write_text("")
    assert run(f"verify {tmp_path}", workspace).code == 3
    events_of(run(f"verify {tmp_path}", workspace))
    assert "mismatches" in migrate("verify", tmp_path).err


@pytest.mark.parametrize("mode", ["plain", "none"])
@pytest.mark.parametrize("command", ["plan", "batch --dry-run"])
def test_people_get_one_line_for_each_failure(command: str, mode: str, workspace: Path, tmp_path: Path) -> None:
    target = [str(tmp_path / "out")] if command.startswith("batch") else []
    result = migrate(*command.split(), "--progress", mode, "damaged.tar", *target, cwd=workspace)
    told = [line.partition("team/")[2][:3] for line in result.err.splitlines() if "team/" in line]
    assert sorted(told) == ["bad", "cut"]
    assert len(result.errors) == 2


def test_what_failed_before_is_told_again(workspace: Path, tmp_path: Path) -> None:
    first, again = (
        migrate("batch", "--progress", "none", "damaged.tar", tmp_path / "out", cwd=workspace) for _ in range(2)
    )
    assert len(first.errors) == 2
    assert sorted(again.errors) == sorted(first.errors)
    assert "1 of them done before" in again.out


def test_a_shard_tells_its_failures(workspace: Path, tmp_path: Path) -> None:
    result = migrate("batch", "-q", "--shard", "1/1", "damaged.tar", tmp_path / "out", cwd=workspace)
    assert (result.code, len(result.errors)) == (3, 2)


@pytest.mark.parametrize(
    "line", ["plan --report - odd.tar", "convert --report - odd.tar {}/out", "batch --report - odd.tar {}/out"]
)
def test_every_warning_of_the_report_is_an_event(line: str, workspace: Path, tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("team/odd", "1.0", archive.layer("odd", tar=layer_tar("a") + b"more"))
    archive.tag("Team/Odd", "1.0", archive.layer("odd"))
    (workspace / "odd.tar").write_bytes(archive.build())
    result = run(line.format(tmp_path), workspace)
    report = result.json()
    warnings = [("", text) for text in report.get("warnings", ())]
    for image in report["images"]:
        warnings += [(image["references"][0], text) for text in image.get("warnings", ())]
    assert warnings
    told = [(event["name"], event["message"]) for event in events_of(result) if event["event"] == "warning"]
    assert sorted(told) == sorted(warnings)


def test_libraries_speak_in_events(workspace: Path) -> None:
    program = """if True:
        import logging
        from migrate.cli.session import set_up_logging
        set_up_logging({"verbose": 0, "progress": "json"})
        logging.getLogger("library").warning("slow %s", "bucket")
        logging.getLogger("library").info("connected")
    """

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stderr) == {"event": "log", "level": "warning", "message": "slow bucket"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("plan --progress json a.tar", True),
        ("plan --progress=json a.tar", True),
        ("plan --progress json --progress none a.tar", False),
        ("plan --progress none --progress=json a.tar", True),
        ("plan --progress", False),
        ("plan json", False),
        ("", False),
    ],
)
def test_the_last_progress_option_counts(
    arguments: str, expected: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wants_events(arguments.split()) == expected
    monkeypatch.setattr(sys, "argv", ["migrate", *arguments.split()])
    print_end("interrupted; run again", 130)
    written = capsys.readouterr().err
    if expected:
        assert json.loads(written) == {"event": "error", "exit_code": 130, "message": "interrupted; run again"}
    else:
        assert written == "migrate: interrupted; run again\n"
