"""`migrate batch` as a user runs it, killed and interrupted, too."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.archives import V1Archive
from tests.command import migrate
from tests.shelves import archive, files_of, journal_of, sources_in, write_shelf


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shelf(tmp_path_factory.mktemp("batch") / "shelf")


@pytest.fixture(scope="module")
def long_shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough sources that a run can be stopped in the middle of it."""
    directory = tmp_path_factory.mktemp("batch") / "shelf"
    directory.mkdir()
    for number in range(150):
        (directory / f"{number:03}.tar").write_bytes(archive(f"app{number % 10}", number))
    return directory


@contextmanager
def running(shelf: Path, target: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A batch that has finished a third of the shelf when the block begins, as its events say."""
    command = [sys.executable, "-m", "migrate", "batch", *options, "--progress", "json", str(shelf), str(target)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        finished = 0
        while finished < 50:
            line = process.stderr.readline()
            assert line, "the batch ended too early"
            finished += json.loads(line)["event"] == "finished"
        yield process


def test_a_shelf_is_converted_and_accounted_for(shelf: Path, tmp_path: Path) -> None:
    lists = [f"--{kind}-list={tmp_path / kind}" for kind in ("failed", "skipped", "converted")]
    result = migrate("batch", "--jobs", "2", *lists, shelf, tmp_path / "out")
    assert result.code == 3
    assert "  sources 13 converted, 1 failed, 1 skipped\n" in result.out
    assert "of it across sources" in result.out
    assert f"Skipped (1 source)\n  {shelf}/readme.txt: is neither" in result.out
    assert result.out.endswith(f"  migrate push {tmp_path}/out docker://HOST\n")
    assert all(str(shelf / "cut.tar") in line for line in result.errors), "an error without its archive"
    assert result.errors and all("cut.tar" in line or "layer" in line for line in result.errors)
    assert (tmp_path / "failed").read_text() == f"{shelf}/cut.tar\n"
    assert (tmp_path / "skipped").read_text() == f"{shelf}/readme.txt\n"
    assert len((tmp_path / "converted").read_text().splitlines()) == 13
    assert migrate("verify", tmp_path / "out").code == 0


def test_lists_feed_the_next_run(shelf: Path, tmp_path: Path) -> None:
    first = migrate("batch", f"--converted-list={tmp_path / 'list'}", shelf, tmp_path / "one")
    assert first.code == 3
    second = migrate("batch", "--from-file", "-", tmp_path / "two", stdin=(tmp_path / "list").read_bytes())
    assert second.code == 0
    third = migrate("batch", "--from-file", tmp_path / "list", "--report", "-", tmp_path / "three")
    assert third.json()["totals"]["images"] == 13


def test_events_are_json_lines(shelf: Path, tmp_path: Path) -> None:
    result = migrate("batch", "--progress", "json", shelf, tmp_path / "out")
    lines = [json.loads(line) for line in result.err.splitlines()]
    assert [line["stage"] for line in lines if line["event"] == "stage"] == ["batch", "merge"]
    assert lines[0]["total_items"] == 15
    finished = [line for line in lines if line["event"] == "finished"]
    assert sorted(line["outcome"] for line in finished) == ["converted"] * 13 + ["failed", "skipped"]
    assert all(line["bytes"] >= 0 and line["name"].startswith(str(shelf)) for line in finished)


def test_a_killed_run_continues_and_reads_nothing_twice(long_shelf: Path, tmp_path: Path) -> None:
    with running(long_shelf, tmp_path / "out", "--jobs", "2") as process:
        process.kill()
    before = sources_in(journal_of_torn(tmp_path / "out"))
    assert len(before) >= 50
    result = migrate("batch", "--jobs", "2", long_shelf, tmp_path / "out")
    assert result.code == 0, result.err
    after = sources_in(journal_of_torn(tmp_path / "out"))
    assert after == sorted(set(after))
    assert len(after) == 150
    assert f"{len(before)} of them done before" in result.out
    assert migrate("batch", "--jobs", "1", long_shelf, tmp_path / "fresh").code == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


def journal_of_torn(layout: Path) -> list[dict[str, object]]:
    path = layout / ".migrate" / "journal.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n") + 1])
    return journal_of(layout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("executor", ["processes", "threads"])
def test_an_interrupted_run_says_how_to_continue(
    long_shelf: Path, tmp_path: Path, number: signal.Signals, executor: str
) -> None:
    with running(long_shelf, tmp_path / "out", "--jobs", "2", "--executor", executor) as process:
        process.send_signal(number)
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(10) == 130
    last = json.loads(rest.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("error", 130)
    assert "of 150 sources are done; run the same command again to continue" in rest
    assert migrate("batch", long_shelf, tmp_path / "out").code == 0


def test_workers_end_with_a_coordinator_that_was_killed(long_shelf: Path, tmp_path: Path) -> None:
    with running(long_shelf, tmp_path / "out", "--jobs", "2") as process:
        children = _descendants(process.pid)
        assert children
        process.kill()
    for pid in children:
        _wait_for_end(pid)


def test_semaphores_of_a_run_that_ended_at_once_are_removed_without_a_word(long_shelf: Path, tmp_path: Path) -> None:
    """Two Ctrl-C in quick succession leave them to Python's resource tracker, as a kill always does."""
    with running(long_shelf, tmp_path / "out", "--jobs", "2") as process:
        process.kill()
        assert process.stderr is not None
        rest = process.stderr.read()
    assert [line for line in rest.splitlines() if not line.startswith("{")] == []


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *_descendants(child)]
    return found


def _wait_for_end(pid: int) -> None:
    """Returns when the process has gone; it is no child of ours, so a pidfd tells."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    try:
        assert select.select([fd], [], [], 20)[0], f"worker {pid} is still there"
    finally:
        os.close(fd)


def test_status_while_it_runs_and_after(long_shelf: Path, tmp_path: Path) -> None:
    with running(long_shelf, tmp_path / "out", "--jobs", "1") as process:
        process.send_signal(signal.SIGSTOP)  # so that it cannot end before it was asked about
        (status,) = migrate("batch", "--status", "--json", tmp_path / "out").json()
        text = migrate("batch", "--status", tmp_path / "out").out
        process.kill()
    assert status["running"] is True
    assert status["sources"] == 150
    assert 50 <= status["done"] <= 150
    assert "running, started" in text
    assert "of 150 sources" in text
    migrate("batch", long_shelf, tmp_path / "out")
    (status,) = migrate("batch", "--status", "--json", tmp_path / "out").json()
    assert (status["running"], status["converted"], status["failed"]) == (False, 150, 0)


def test_status_after_a_run_that_had_nothing_to_do_and_after_a_merge(shelf: Path, tmp_path: Path) -> None:
    for _ in range(2):
        migrate("batch", shelf, tmp_path / "out")
    (status,) = migrate("batch", "--status", "--json", tmp_path / "out").json()
    assert (status["sources"], status["done"], status["done_before"]) == (15, 15, 15)
    first, *rest = migrate("batch", "--status", tmp_path / "out").out.splitlines()
    assert first.startswith("journal.jsonl: merged, started 20")
    assert rest[:2] == [
        "  15 of 15 sources (100 %), 15 of them done before",
        "  13 converted, 1 failed, 1 skipped",
    ]
    migrate("batch", "--shard", "1/1", shelf, tmp_path / "parts")
    migrate("batch", "--merge", tmp_path / "parts")
    lines = migrate("batch", "--status", tmp_path / "parts").out.splitlines()
    assert lines[1] == "  15 of 15 sources (100 %)"
    assert re.fullmatch(r"journal\.jsonl: merged 20\d\d-\S+", lines[-1])


@pytest.mark.parametrize("parts", [1, 2])
def test_what_the_merge_finds_counts_in_the_status(parts: int, shelf: Path, tmp_path: Path) -> None:
    """The four archives of each app claim one tag, which no worker sees."""
    options: list[str | Path] = ["batch", "--on-conflict", "fail", "--failed-list", tmp_path / "failed"]
    if parts == 1:
        assert migrate(*options, shelf, tmp_path / "out").code == 3
    for number in range(1, parts + 1) if parts > 1 else ():
        migrate("batch", "--on-conflict", "fail", "--shard", f"{number}/{parts}", shelf, tmp_path / "out")
    if parts > 1:
        assert migrate("batch", "--merge", "--failed-list", tmp_path / "failed", tmp_path / "out").code == 3
    failed = (tmp_path / "failed").read_text().splitlines()
    assert len(failed) == 13
    statuses = migrate("batch", "--status", "--json", tmp_path / "out").json()
    assert [sum(one[name] for one in statuses) for name in ("converted", "failed", "skipped")] == [1, 13, 1]
    if parts == 1:  # a later merge without the conflict has the last word
        assert migrate("batch", shelf, tmp_path / "out").code == 3
        (status,) = migrate("batch", "--status", "--json", tmp_path / "out").json()
        assert [status[name] for name in ("converted", "failed", "skipped")] == [13, 1, 1]


def test_the_status_of_a_journal_of_several_shelves_says_so(shelf: Path, tmp_path: Path) -> None:
    assert migrate("batch", shelf, tmp_path / "out").code == 3
    assert migrate("batch", shelf / "app0", tmp_path / "out").code == 0
    lines = migrate("batch", "--status", tmp_path / "out").out.splitlines()
    assert lines[1:3] == [
        "  4 of 4 sources (100 %), 4 of them done before",
        "  of all runs: 13 converted, 1 failed, 1 skipped",
    ]


def test_shards_and_merge(shelf: Path, tmp_path: Path) -> None:
    migrate("batch", shelf, tmp_path / "whole")
    first = migrate("batch", "--shard", "1/2", shelf, tmp_path / "parts")
    assert "migrate batch --merge" in first.out
    early = migrate("batch", "--merge", tmp_path / "parts")
    assert early.code == 3
    assert f"migrate: error: {tmp_path}/parts: shard 2/2 has never run" in early.errors
    migrate("batch", "--shard", "2/2", shelf, tmp_path / "parts")
    assert migrate("batch", "--merge", tmp_path / "parts").code == 3  # cut.tar
    whole, parts = files_of(tmp_path / "whole"), files_of(tmp_path / "parts")
    assert whole == parts


def test_shards_and_their_merge_may_stand_in_other_directories(shelf: Path, tmp_path: Path) -> None:
    migrate("batch", shelf, tmp_path / "whole")
    for number, place, name in ((1, shelf.parent, shelf.name), (2, shelf, "."), (2, shelf, f"../{shelf.name}")):
        migrate("batch", "--shard", f"{number}/2", name, tmp_path / "parts", cwd=place)
    assert migrate("batch", "--merge", tmp_path / "parts", cwd=Path("/")).code == 3  # cut.tar
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "parts")


def test_a_target_behind_a_link_and_up_is_one_place(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("elsewhere/deep")
    assert migrate("batch", shelf, f"{tmp_path}/link/../out").code == 3  # cut.tar
    assert migrate("verify", tmp_path / "elsewhere/out").code == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["out"],
        ["--shard", "0/2", "shelf", "out"],
        ["--merge", "a", "out"],
        ["--status", "--merge", "out"],
        ["--status", "out"],
        ["--json", "SHELF", "out"],
        ["--merge", "--dry-run", "out"],
        ["--merge", "--format", "oci", "out"],
        ["--status", "--jobs", "2", "out"],
        ["--scheduler", "tcp://none:1", "--jobs", "2", "SHELF", "out"],
        ["--scheduler", "tcp://none:1", "--executor", "threads", "SHELF", "out"],
        ["--from-file", "/nonexistent", "out"],
        ["*.nothing", "out"],
        ["shelf", "docker-archive:x.tar"],
        ["--tag-template", "{colour}", "SHELF", "out"],
        ["--rename", "(=x", "SHELF", "out"],
    ],
)
def test_usage_errors(arguments: list[str], shelf: Path, tmp_path: Path) -> None:
    words = [str(shelf) if word == "SHELF" else word for word in arguments]
    result = migrate("batch", *words, cwd=tmp_path)
    assert result.code == 2, result.err
    assert "error" in result.err.lower()
    assert "no journal" not in result.err or arguments == ["--status", "out"]


def test_the_target_may_not_lie_in_a_source(shelf: Path, tmp_path: Path) -> None:
    assert migrate("batch", shelf, shelf / "out").code == 2


def test_nothing_but_other_files(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "a.txt").write_bytes(b"x")
    assert migrate("batch", tmp_path / "shelf", tmp_path / "out").code == 4
    (tmp_path / "shelf" / "lost.tar").write_bytes(b"")
    result = migrate("batch", tmp_path / "shelf", tmp_path / "out")
    assert result.code == 4
    assert "lost.tar: is empty" in result.err


@pytest.mark.parametrize("how", ["glob", "list", "directory"])
def test_a_target_in_a_source_by_whatever_way_that_comes(how: str, shelf: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(shelf, tmp_path / "shelf")
    (tmp_path / "list").write_text(f"{mine}\n")
    ways = {"glob": f"{tmp_path}/sh*", "list": f"--from-file={tmp_path / 'list'}", "directory": str(mine)}
    result = migrate("batch", ways[how], mine / "out")
    assert result.code == 2
    assert "a source is never written to" in result.err
    assert not (mine / "out").exists()


def test_a_registry_below_the_target_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive("app"))
    assert migrate("convert", tmp_path / "a.tar", f"registry-storage:{tmp_path}/new").code == 0
    source = tmp_path / "new" / "docker" / "registry" / "v2"
    assert migrate("convert", source, f"registry-storage:{tmp_path}/new").code == 2


def test_standard_input_is_no_source_of_a_batch(shelf: Path, tmp_path: Path) -> None:
    content = archive("app")
    for arguments in (["-", f"{shelf}/cut.tar"], ["--executor", "threads", "-"], ["--scheduler", "tcp://none:1", "-"]):
        result = migrate("batch", *arguments, tmp_path / "out", stdin=content)
        assert result.code == 2
        assert "use `migrate convert -`" in result.err
    assert not (tmp_path / "out").exists()


def test_a_glob_that_matches_the_target_of_its_first_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = V1Archive()
        made.tag(name, "1", made.layer(name))
        (tmp_path / f"{name}.tar").write_bytes(made.build())
    arguments = (str(tmp_path / "*"), tmp_path / "out")
    assert migrate("batch", *arguments).code == 0
    again = migrate("batch", *arguments)
    assert (again.code, "2 of them done before" in again.out) == (0, True)
    assert migrate("batch", tmp_path / "out", tmp_path / "out").code == 2
