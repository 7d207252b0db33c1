"""Archives without the layers that other sources of a batch have: one run converts them, as `convert` does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from migrate import api
from migrate.batch.account import AccountRow
from migrate.batch.batch import BatchOutcome, merge_batch, run_batch
from migrate.batch.plan import Shard, SourceOutcome
from migrate.model.options import ConvertOptions, EmptyLayers
from migrate.model.progress import SilentProgress
from migrate.report.document import Report
from tests.archives import V1Archive, layer_json, legacy_id
from tests.cli.test_partial_archives import modern, v1
from tests.shelves import Recorder, files_of, journal_of, request, threads

Build = Callable[..., Path]

NAMES = ("base", "middle", "top")


def run(shelf: Path, target: Path, jobs: int = 2, **changes: object) -> tuple[BatchOutcome, Report]:
    outcome = run_batch(request(shelf, target, jobs, **changes), SilentProgress(), threads)
    report = outcome.read_report()
    outcome.close()
    return outcome, report


def write(shelf: Path, build: Build, order: tuple[int, ...] = (0, 1, 2)) -> Path:
    """Three archives, of which each has one layer of the chain; `order` are their places on the shelf."""
    shelf.mkdir()
    for number, place in enumerate(order):
        build(shelf / f"{place}.tar", *NAMES[: number + 1], without=NAMES[:number])
    return shelf


def images(report: Report) -> list[tuple[object, ...]]:
    return [
        (image.source, image.references, image.image_id, image.exact, image.warnings)
        for image in sorted(report.images, key=lambda image: (image.source, image.references))
    ]


@pytest.mark.parametrize(
    ("build", "order"), [*((v1, order) for order in permutations(range(3))), (modern, (2, 1, 0)), (modern, (1, 0, 2))]
)
def test_one_run_gives_the_bytes_of_convert(build: Build, order: tuple[int, ...], tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", build, order)
    outcome, report = run(shelf, tmp_path / "t", jobs=1 + order[0])
    assert (outcome.exit_code, report.failures) == (0, ())
    converted = api.convert(sorted(shelf.iterdir()), tmp_path / "c", ConvertOptions()).report
    assert images(report) == images(converted)
    assert files_of(tmp_path / "t") == files_of(tmp_path / "c")


def test_processes_give_the_same(tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", v1, (2, 0, 1))
    outcome = run_batch(request(shelf, tmp_path / "p"), SilentProgress())
    outcome.close()
    run(shelf, tmp_path / "t")
    assert outcome.exit_code == 0
    assert files_of(tmp_path / "p") == files_of(tmp_path / "t")


@pytest.mark.parametrize("build", [v1, modern])
def test_a_second_run_reads_nothing(build: Build, tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", build, (2, 1, 0))
    first = run(shelf, tmp_path / "t")[1]
    outcome, second = run(shelf, tmp_path / "t")
    assert outcome.account.already_done == 3
    assert images(first) == images(second)


@pytest.mark.parametrize("lines", range(2, 5))
def test_a_killed_run_is_continued(lines: int, tmp_path: Path) -> None:
    """The journal up to any line of the run, and no index yet."""
    shelf = write(tmp_path / "shelf", v1, (2, 1, 0))
    whole = run(shelf, tmp_path / "t")[1]
    (tmp_path / "t" / "index.json").unlink()
    (tmp_path / "t" / "migration-map.json").unlink()
    journal = tmp_path / "t" / ".migrate" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[: lines + 1]))
    outcome, report = run(shelf, tmp_path / "t")
    assert outcome.exit_code == 0
    assert images(report) == images(whole)


@pytest.mark.parametrize("build", [v1, modern])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_merge_joins_what_shards_have(build: Build, ahead: bool, tmp_path: Path) -> None:
    """Further merges change nothing, also if the clocks of the shards' machines are ahead of the merge's clock."""
    shelf = write(tmp_path / "shelf", build, (2, 1, 0))
    for number in range(1, 4):
        run_batch(request(shelf, tmp_path / "s", shard=Shard(number, 3)), SilentProgress(), threads).close()
    for journal in (tmp_path / "s" / ".migrate").glob("journal-*-of-3.jsonl") if ahead else ():
        content = journal.read_bytes()
        journal.write_bytes(re.sub(rb'"finished":[0-9]{10}', b'"finished":4000000000', content))
    for _ in range(3):
        outcome = merge_batch(str(tmp_path / "s"), SilentProgress())
        assert outcome.exit_code == 0
        report = outcome.read_report()
        outcome.close()
    whole = run(shelf, tmp_path / "t")[1]
    assert images(report) == images(whole)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "t")


@pytest.mark.parametrize("build", [v1, modern])
def test_a_merge_accepts_what_shards_took_from_the_target(build: Build, tmp_path: Path) -> None:
    """Layers that an earlier batch put into the target, and that the new archives lack."""
    shelf = write(tmp_path / "shelf", build, (2, 1, 0))
    (tmp_path / "before").mkdir()
    (shelf / "2.tar").rename(tmp_path / "before" / "2.tar")
    run(tmp_path / "before", tmp_path / "t")
    for number in (1, 2):
        run_batch(request(shelf, tmp_path / "t", shard=Shard(number, 2)), SilentProgress(), threads).close()
    found = []
    for _ in range(2):
        outcome = merge_batch(str(tmp_path / "t"), SilentProgress())
        assert outcome.exit_code == 0
        found.append(images(outcome.read_report()))
        outcome.close()
    assert {row[1] for row in found[0]} == {("app:base",), ("app:middle",), ("app:top",)}
    assert found[0] == found[1]


def test_a_source_that_was_added_later_completes_one_that_failed(tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", v1, (2, 1, 0))
    base = (shelf / "2.tar").read_bytes()
    (shelf / "2.tar").unlink()
    outcome, report = run(shelf, tmp_path / "t")
    assert (outcome.exit_code, len(report.failures), report.images) == (4, 2, ())
    (shelf / "2.tar").write_bytes(base)
    outcome, report = run(shelf, tmp_path / "t")
    assert (outcome.exit_code, len(report.images)) == (0, 3)
    assert all(image.exact for image in report.images)


def test_a_lender_that_has_changed_is_read_with_those_that_it_lent_to(tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", v1, (2, 1, 0))
    run(shelf, tmp_path / "t")
    archive = V1Archive()
    archive.layer("base", raw=layer_json(legacy_id("base"), comment="other"))
    archive.tag("app", "base", legacy_id("base"))
    (shelf / "2.tar").write_bytes(archive.build())
    report = run(shelf, tmp_path / "t")[1]
    converted = api.convert(sorted(shelf.iterdir()), tmp_path / "c", ConvertOptions()).report
    assert [row[1:3] for row in images(report)] == [row[1:3] for row in images(converted)]


@pytest.mark.parametrize("dry_run", [False, True])
def test_two_that_disagree_lend_nothing(dry_run: bool, tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", v1)
    archive = V1Archive()
    archive.layer("base", raw=layer_json(legacy_id("base"), comment="other"))
    (shelf / "3.tar").write_bytes(archive.build())
    outcome, report = run(shelf, tmp_path / "t", options=ConvertOptions(jobs=2, dry_run=dry_run))
    assert outcome.exit_code == 3
    assert [failure.source for failure in report.failures] == [str(shelf / "1.tar"), str(shelf / "2.tar")]


def test_a_source_without_a_chosen_image_lends_its_layers(tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", v1)
    options = ConvertOptions(images=("app:top",))
    report = run(shelf, tmp_path / "t", options=options)[1]
    converted = api.convert(sorted(shelf.iterdir()), tmp_path / "c", options).report
    assert images(report) == images(converted)
    assert [image.references for image in report.images] == [("app:top",)]


@pytest.mark.parametrize("build", [v1, modern])
def test_a_dry_run_gives_the_report_of_the_run(build: Build, tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", build, (2, 1, 0))
    dry = run(shelf, tmp_path / "t", options=ConvertOptions(jobs=2, dry_run=True))[1]
    assert images(dry) == images(run(shelf, tmp_path / "t")[1])


def test_what_a_lender_lacks_is_lacking(tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf", v1)
    (shelf / "0.tar").unlink()
    v1(shelf / "other.tar", "other")
    recorder = Recorder()
    outcome = run_batch(request(shelf, tmp_path / "t"), recorder, threads)
    outcome.close()
    failures = [event for event in recorder.events if event.kind == "failure"]
    assert len(failures) == 2 and all(legacy_id("base") in event.message for event in failures)
    again = run_batch(request(shelf, tmp_path / "t"), recorder, threads)
    again.close()
    assert again.account.already_done == 3  # nothing new could help them


def test_only_the_outcome_is_shown(tmp_path: Path) -> None:
    """Once in events, the lists, the account and the report; the journal has every reading."""
    shelf = write(tmp_path / "shelf", v1)
    recorder = Recorder()
    outcome = run_batch(request(shelf, tmp_path / "t"), recorder, threads)
    outcome.close()
    finished = [(event.name, event.outcome) for event in recorder.events if event.kind == "finished"]
    assert sorted(finished) == [(str(shelf / f"{number}.tar"), "converted") for number in range(3)]
    assert not [event for event in recorder.events if event.kind == "failure"]
    assert [event.stage for event in recorder.events if event.kind == "stage"] == ["batch", "complete", "merge"]
    assert outcome.lists[SourceOutcome.FAILED] == []
    rows: list[AccountRow] = list(outcome.rows)
    assert [(row.source.outcome, row.source.images, row.source.failed) for row in rows] == [("converted", 1, 0)] * 3
    lines = [line for line in journal_of(tmp_path / "t") if "source" in line]
    assert sorted((Path(line["source"]).name, line["outcome"], line.get("again", False)) for line in lines) == [
        ("0.tar", "converted", False),
        ("1.tar", "converted", True),
        ("1.tar", "failed", False),
        ("2.tar", "converted", True),
        ("2.tar", "failed", False),
    ]


def test_a_layer_of_a_lender_that_is_damaged_costs_the_image(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    archive = V1Archive()
    archive.layer("base", tar=b"no tar at all")
    (shelf / "0.tar").write_bytes(archive.build())
    v1(shelf / "1.tar", "base", "top", without=("base",))
    outcome, report = run(shelf, tmp_path / "t")
    converted = api.convert(sorted(shelf.iterdir()), tmp_path / "c", ConvertOptions())
    assert outcome.exit_code == converted.exit_code
    assert [failure.message for failure in report.failures] == [
        failure.message for failure in converted.report.failures
    ]


def test_the_target_lends_what_no_source_has(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    api.convert(v1(tmp_path / "base.tar", "base", "middle"), tmp_path / "t", ConvertOptions())
    v1(shelf / "part.tar", *NAMES, without=("base", "middle"))
    options = ConvertOptions(jobs=1, empty_layers=EmptyLayers.DROP)
    outcome, report = run(shelf, tmp_path / "t", options=options)
    assert (outcome.exit_code, [image.exact for image in report.images]) == (0, [False])
    assert json.loads((tmp_path / "t" / "index.json").read_bytes())["manifests"]
