"""Whole batches in this process, with real worker processes and threads."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from migrate.batch import merge
from migrate.batch.batch import BatchOutcome, merge_batch, run_batch, unfinished_shards
from migrate.batch.executors import PoolRequest, ProcessPool, open_pool
from migrate.batch.plan import Shard, SourceOutcome
from migrate.batch.worker_pool import WorkerPool
from migrate.blobio import sorted_runs
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import TargetError, UsageError
from migrate.model.options import Compression, ConvertOptions, Format, OnConflict
from migrate.model.progress import SilentProgress
from migrate.readers.detect import open_source
from migrate.report.text import render_text
from migrate.verify import examine, verify
from migrate.writers.oci_layout import OciLayout
from tests import poison
from tests.archives import V1Archive, layer_json, layer_tar, legacy_id, unpack
from tests.cases import case
from tests.registries import extract_tree
from tests.shelves import Recorder, archive, files_of, journal_of, request, sources_in, threads, write_shelf


def poisoned(asked: PoolRequest) -> WorkerPool:
    return ProcessPool(asked.workers, poison.work)


def run(shelf: Path, target: Path, jobs: int = 2, **changes: object) -> BatchOutcome:
    return keep(run_batch(request(shelf, target, jobs, **changes), SilentProgress(), threads))


_kept: list[BatchOutcome] = []


def keep(outcome: BatchOutcome) -> BatchOutcome:
    """Closed at the end of the test."""
    _kept.append(outcome)
    return outcome


@pytest.fixture(autouse=True)
def _close_outcomes() -> Iterator[None]:
    yield
    while _kept:
        _kept.pop().close()


def convert(shelf: Path, layout: Path, locations: Sequence[str] = (), options: ConvertOptions | None = None) -> None:
    """What `convert` makes of the archives of a shelf, or of `locations`."""
    options = options or ConvertOptions(exact_sizes=True)
    paths = locations or [str(path) for path in sorted(shelf.rglob("*.tar*"), key=str)]
    sources = [OpenedSource(path, open_source(path, options)) for path in paths]
    target = OciLayout(layout, options)
    Conversion(sources, options, target).run()
    target.close()
    for opened in sources:
        opened.close()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shelf(tmp_path_factory.mktemp("batch") / "shelf")


def test_every_file_is_accounted_for(shelf: Path, tmp_path: Path) -> None:
    outcome = run(shelf, tmp_path / "out")
    names = {kind: [Path(path).name for path in paths] for kind, paths in outcome.lists.items()}
    assert names[SourceOutcome.FAILED] == ["cut.tar"]
    assert names[SourceOutcome.SKIPPED] == ["readme.txt"]
    assert len(names[SourceOutcome.CONVERTED]) == 13
    assert outcome.exit_code == 3
    assert outcome.head is not None
    assert {row.location for row in outcome.head.sources} == {path for each in outcome.lists.values() for path in each}
    assert verify(str(tmp_path / "out"), 1, SilentProgress()) == []


@pytest.mark.parametrize("is_reversed", [False, True])
def test_rows_of_many_sources_are_those_of_few(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_reversed: bool
) -> None:
    locations = sorted(map(str, shelf.rglob("*.t*")), reverse=is_reversed)
    few = run(shelf, tmp_path / "few", locations=locations)
    monkeypatch.setattr(sorted_runs, "_ROWS_IN_MEMORY", 4)
    monkeypatch.setattr(sorted_runs, "_ROWS_A_RUN", 2)
    many = run(shelf, tmp_path / "many", locations=locations)
    assert few.head is not None and many.head is not None
    assert isinstance(few.head.sources, tuple) and not isinstance(many.head.sources, tuple)
    assert many.head.sources == few.head.sources
    assert many.lists == few.lists
    assert [row.source for row in many.rows] == [row.source for row in few.rows]
    assert [row.source.location for row in many.rows] == locations


def test_any_number_of_workers_of_any_kind_gives_the_same_bytes(shelf: Path, tmp_path: Path) -> None:
    run(shelf, tmp_path / "1", jobs=1)
    run(shelf, tmp_path / "5", jobs=5)
    keep(run_batch(request(shelf, tmp_path / "p", jobs=3), SilentProgress(), open_pool))
    assert files_of(tmp_path / "1") == files_of(tmp_path / "5") == files_of(tmp_path / "p")


@pytest.mark.parametrize("kept", [1, 7])
def test_images_that_are_made_twice_are_those_that_are_kept(
    kept: int, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shelf, tmp_path / "all")
    monkeypatch.setattr(merge, "_KEPT_IMAGES", kept)
    run(shelf, tmp_path / "some")
    assert files_of(tmp_path / "all") == files_of(tmp_path / "some")


def test_a_batch_makes_what_convert_makes(shelf: Path, tmp_path: Path) -> None:
    run(shelf, tmp_path / "batch")
    convert(shelf, tmp_path / "convert")
    one, other = files_of(tmp_path / "batch"), files_of(tmp_path / "convert")
    del one["migration-report.json"], other["migration-report.json"]  # only batch accounts for other files
    assert one == other


def test_the_report_does_not_depend_on_the_order_of_the_command_line(shelf: Path, tmp_path: Path) -> None:
    """In the report's order it is written while the images are; in any other, the records are read once more."""
    paths = sorted(str(path) for path in shelf.rglob("*.tar*"))
    reports = []
    for name, locations in (("sorted", paths), ("reversed", paths[::-1])):
        outcome = run(shelf, tmp_path / name, locations=locations)
        reports.append((outcome.read_report().images, outcome.read_report().totals))
        assert [image.source for image in reports[-1][0]] == sorted(image.source for image in reports[-1][0])
    assert len(reports[0][0]) == 13
    assert reports[0] == reports[1]


def test_a_second_run_reads_nothing_and_changes_nothing(shelf: Path, tmp_path: Path) -> None:
    run(shelf, tmp_path / "out")
    before, journal = files_of(tmp_path / "out"), sources_in(journal_of(tmp_path / "out"))
    outcome = run(shelf, tmp_path / "out")
    assert outcome.account.already_done == 15
    assert files_of(tmp_path / "out") == before
    assert sources_in(journal_of(tmp_path / "out")) == journal


def test_only_failed_and_changed_sources_are_read_again(shelf: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(shelf, tmp_path / "shelf")
    run(mine, tmp_path / "out")
    (mine / "cut.tar").write_bytes(archive("cut"))
    (mine / "app0" / "9.tar").write_bytes(archive("app0", 9))
    shutil.copy2(mine / "app1" / "0.tar", mine / "app1" / "1.tar")
    run(mine, tmp_path / "out", retry_failed=True)
    again = sources_in(journal_of(tmp_path / "out"))
    assert again.count("cut.tar") == 2
    fresh = run(mine, tmp_path / "fresh")
    assert fresh.exit_code == 0
    one, other = files_of(tmp_path / "out"), files_of(tmp_path / "fresh")
    assert one["index.json"] != other["index.json"]  # images of the replaced file stay
    assert set(other) <= set(one)


def test_other_options_read_everything_again(shelf: Path, tmp_path: Path) -> None:
    run(shelf, tmp_path / "out")
    options = ConvertOptions(jobs=2, exact_sizes=True, format=Format.OCI, compression=Compression.ZSTD)
    outcome = run(shelf, tmp_path / "out", options=options)
    assert outcome.account.already_done == 0
    assert verify(str(tmp_path / "out"), 1, SilentProgress()) == []


def test_naming_is_decided_at_the_end_only(shelf: Path, tmp_path: Path) -> None:
    """`app:latest` from many years: another rule for names needs no source again."""
    outcome = run(shelf, tmp_path / "out")
    assert outcome.head is not None
    assert len(outcome.head.conflicts) == 3
    options = ConvertOptions(jobs=2, exact_sizes=True, tag_template="{repo}:{tag}-{created:%Y%m%d}")
    named = run(shelf, tmp_path / "out", options=options)
    assert named.account.already_done == 15
    report = named.read_report()
    assert not report.conflicts
    assert "team/app0:latest-20130102" in {name for image in report.images for name in image.names}


def test_a_dry_run_writes_nothing_and_reports_the_same(shelf: Path, tmp_path: Path) -> None:
    real = run(shelf, tmp_path / "out").read_report()
    options = ConvertOptions(jobs=2, exact_sizes=True, dry_run=True)
    dry = run(shelf, tmp_path / "none", options=options).read_report()
    assert not (tmp_path / "none").exists()
    assert replace(dry, dry_run=False, started="", finished="") == replace(real, started="", finished="")


def test_a_merge_counts_a_source_once_whatever_its_shards_called_it(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(shelf)
    for spelling in (shelf, shelf / ".." / shelf.name, tmp_path / "linked"):
        run(spelling / "app0", tmp_path / "parts", shard=Shard(1, 1))
    merged = keep(merge_batch(str(tmp_path / "parts"), SilentProgress()))
    whole = run(shelf / "app0", tmp_path / "whole")
    assert merged.head is not None and whole.head is not None
    assert merged.head.totals == whole.head.totals
    assert merged.account.outcomes == whole.account.outcomes


def test_what_was_read_last_counts_whatever_its_name_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shelf").mkdir()
    for seconds, name, content in ((1, "shelf", archive("app")[:5_000]), (2, "shelf/../shelf", archive("app"))):
        (tmp_path / "shelf" / "a.tar").write_bytes(content)
        monkeypatch.setattr("migrate.batch.journal.time.time", lambda now=seconds: now)
        run(tmp_path / name / "a.tar", tmp_path / "parts", shard=Shard(1, 1))
    merged = keep(merge_batch(str(tmp_path / "parts"), SilentProgress()))
    assert merged.exit_code == 0
    assert +merged.account.outcomes == {SourceOutcome.CONVERTED: 1}


def test_shards_and_merge_make_the_same_as_one_run(shelf: Path, tmp_path: Path) -> None:
    run(shelf, tmp_path / "whole")
    for number in (3, 1):
        outcome = run(shelf, tmp_path / "parts", shard=Shard(number, 3))
        assert outcome.head is None
    assert unfinished_shards(str(tmp_path / "parts")) == ["shard 2/3 has never run"]
    run(shelf, tmp_path / "parts", shard=Shard(2, 3))
    assert unfinished_shards(str(tmp_path / "parts")) == []
    keep(merge_batch(str(tmp_path / "parts"), SilentProgress()))
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_shards_with_different_options_are_refused(shelf: Path, tmp_path: Path) -> None:
    run(shelf, tmp_path / "parts", shard=Shard(1, 2))
    options = ConvertOptions(exact_sizes=True, on_conflict=OnConflict.FIRST)
    run(shelf, tmp_path / "parts", shard=Shard(2, 2), options=options)
    with pytest.raises(UsageError, match="different options"):
        merge_batch(str(tmp_path / "parts"), SilentProgress())
    with pytest.raises(UsageError, match="no journal"):
        merge_batch(str(tmp_path / "nowhere"), SilentProgress())


def test_a_worker_that_dies_costs_only_its_source(shelf: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(shelf, tmp_path / "shelf")
    (mine / "app1" / "poison.tar").write_bytes(archive("poison"))
    (mine / "app2" / "once.tar").write_bytes(archive("once"))
    progress = Recorder()
    outcome = keep(run_batch(request(mine, tmp_path / "out", jobs=2), progress, poisoned))
    assert [Path(path).name for path in outcome.lists[SourceOutcome.FAILED]] == ["poison.tar", "cut.tar"]
    assert len(outcome.lists[SourceOutcome.CONVERTED]) == 14
    assert outcome.head is not None
    assert "worker-died" in {failure.error for failure in outcome.head.failures}
    assert (mine / "app1" / ".poison.tar.met").read_bytes() in (b"xx", b"xxx")  # one death may have been the other's
    finished = [event.name for event in progress.events if event.kind == "finished"]
    assert len(finished) == len(set(finished)) == 17
    (mine / "app1" / "poison.tar").unlink()
    for mark in mine.rglob(".*.met"):
        mark.unlink()
    run(mine, tmp_path / "fresh")
    one, other = files_of(tmp_path / "out"), files_of(tmp_path / "fresh")
    del one["migration-report.json"], other["migration-report.json"]
    assert one == other


def test_a_target_that_fails_ends_the_run(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "somebody's").write_bytes(b"x")
    with pytest.raises(TargetError, match="somebody's"):
        run(shelf, tmp_path / "out")


@pytest.mark.parametrize("target", ["docker-archive:x.tar", "docker://host/x", "registry-storage:x", "oci:", "-"])
def test_targets_that_workers_cannot_share_are_refused(shelf: Path, target: str) -> None:
    with pytest.raises(UsageError):
        run_batch(replace(request(shelf, Path()), target=target), SilentProgress(), threads)


def carrying_archive(name: str, level: int) -> bytes:
    """An archive whose base layer stands there compressed, as registries and some tools store it."""
    made = V1Archive()
    made.layer("base", tar=gzip.compress(layer_tar("base.txt", content=b"base " * 4_000), level, mtime=0))
    made.tag(f"team/{name}", "latest", made.layer(name, "base"))
    return made.build()


@pytest.mark.parametrize("names", [("0", "5", "9"), ("9", "5", "0"), ("5", "0", "9")])
def test_who_stores_a_layer_first_does_not_decide_which_blob_stays(names: tuple[str, ...], tmp_path: Path) -> None:
    """One source compresses the base, two others bring it compressed; workers meet them in any order."""
    contents = [archive("plain"), carrying_archive("big", 1), carrying_archive("small", 9)]
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name, content in zip(names, contents, strict=True):
        (shelf / f"{name}.tar").write_bytes(content)
    run(shelf, tmp_path / "one", jobs=1)
    blob = hashlib.sha256(gzip.compress(layer_tar("base.txt", content=b"base " * 4_000), 9, mtime=0)).hexdigest()
    assert (tmp_path / "one" / "blobs" / "sha256" / blob).exists()
    assert verify(str(tmp_path / "one"), 1, SilentProgress()) == []
    convert(shelf, tmp_path / "convert")
    one, other = files_of(tmp_path / "one"), files_of(tmp_path / "convert")
    assert set(one) == set(other)
    del one["migration-report.json"], other["migration-report.json"]
    assert one == other


def test_what_an_index_names_stays_when_a_better_blob_comes(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "1.tar").write_bytes(archive("plain"))
    run(shelf, tmp_path / "out")
    before = files_of(tmp_path / "out")
    (shelf / "2.tar").write_bytes(carrying_archive("small", 9))
    outcome = run(shelf, tmp_path / "out")
    assert outcome.head is not None
    assert not outcome.head.conflicts
    after = files_of(tmp_path / "out")
    assert {name for name in before if name.startswith("blobs/")} <= set(after)
    assert verify(str(tmp_path / "out"), 1, SilentProgress()) == []


def test_every_kind_of_source_as_convert_takes_them(tmp_path: Path) -> None:
    """Registries and Docker roots beside archives, with layers that some compress and others hold compressed."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("registry-v1-pushed", "registry-v2-mixed-2.8.2", "registry-v2-schema1-2.1.1"):
        extract_tree(case(name), shelf)
    with tarfile.open(case("store-1.9.1-vfs").path / "store.tar.xz") as store:
        unpack(store, shelf / "root")
    for name in ("save-1.9.1-repo", "save-1.6.2-repo"):
        case(name).write_plain(shelf)
    outcome = run(shelf, tmp_path / "batch", jobs=3)
    locations = [row.location for row in outcome.read_report().sources]
    assert len(locations) == 6
    convert(shelf, tmp_path / "convert", locations)
    one, other = files_of(tmp_path / "batch"), files_of(tmp_path / "convert")
    assert one == other


@pytest.mark.parametrize("name", ["registry-v2-schema1-2.1.1", "registry-v2-schema1-2.1.1-damaged"])
def test_salvage_leaves_the_blobs_that_convert_leaves(name: str, tmp_path: Path) -> None:
    """Steps without a layer of schema 1 name a blob of an empty tar, which no image of the target has."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    extract_tree(case(name), shelf)
    options = ConvertOptions(jobs=2, exact_sizes=True, salvage=True)
    outcome = run(shelf, tmp_path / "batch", options=options)
    convert(shelf, tmp_path / "convert", [row.location for row in outcome.read_report().sources], options)
    assert files_of(tmp_path / "batch") == files_of(tmp_path / "convert")
    if not outcome.lists[SourceOutcome.FAILED]:
        checked = examine(str(tmp_path / "batch"), 1, SilentProgress())
        assert not checked.findings and not checked.warnings


@pytest.mark.parametrize("beside", ["made-duplicates", "made-dual-hardlinks", "save-1.10.3-hybrid"])
def test_a_layout_of_plain_tars_shares_them_as_convert_does(beside: str, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("made-oci-layout", beside):
        case(name).write_plain(shelf)
    outcome = run(shelf, tmp_path / "batch")
    convert(shelf, tmp_path / "convert", [row.location for row in outcome.read_report().sources])
    assert files_of(tmp_path / "batch") == files_of(tmp_path / "convert")


def test_every_entry_of_a_directory_is_accounted_for(tmp_path: Path) -> None:
    """An unpacked archive with everything else that a shelf may hold beside its members."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive("unpacked"))) as unpacked:
        unpack(unpacked, shelf)
    (shelf / "beside.tar").write_bytes(archive("beside"))
    (shelf / "absent.tar").symlink_to(".git/annex/absent")
    (shelf / "absent.txt").symlink_to(".git/annex/absent")
    (shelf / "round").symlink_to(".")
    (tmp_path / "out").mkdir()
    (shelf / "target").symlink_to(tmp_path / "out")
    os.mkfifo(shelf / "pipe.tar")
    outcome = run(shelf, tmp_path / "out")
    names = {kind: [Path(path).name for path in paths] for kind, paths in outcome.lists.items()}
    assert names == {
        SourceOutcome.CONVERTED: ["shelf", "beside.tar"],
        SourceOutcome.FAILED: ["absent.tar"],
        SourceOutcome.SKIPPED: ["absent.txt", "pipe.tar", "round", "target"],
    }
    assert outcome.head is not None
    (failure,) = outcome.head.failures
    assert failure.message == f"{shelf}/absent.tar: is a link to .git/annex/absent, which is not there"
    notes = {Path(row.location).name: row.warnings for row in outcome.head.sources}
    assert notes["pipe.tar"] == (f"{shelf}/pipe.tar: a pipe, which batch does not read",)
    (shelf / "absent.tar").unlink()
    (shelf / "absent.tar").write_bytes(archive("absent"))
    again = run(shelf, tmp_path / "out")
    assert [Path(path).name for path in again.lists[SourceOutcome.FAILED]] == []
    assert again.account.already_done == 6


def test_a_tag_that_moves_in_a_registry_is_noticed(tmp_path: Path) -> None:
    registry = tmp_path / "shelf" / "registry"
    base = legacy_id("base")
    folder = registry / "images" / base
    folder.mkdir(parents=True)
    (folder / "json").write_bytes(layer_json(base))
    (folder / "ancestry").write_text(json.dumps([base]))
    (folder / "layer").write_bytes(gzip.compress(layer_tar("base.txt"), mtime=0))
    tags = registry / "repositories" / "acme" / "player"
    tags.mkdir(parents=True)
    for text in (base, f"{base}\n"):
        (tags / "tag_1").write_text(text)
        outcome = run(tmp_path / "shelf", tmp_path / "out")
        assert outcome.account.already_done == 0
        assert outcome.read_report().images[0].references == ("acme/player:1",)


def test_where_nothing_is_converted_the_summary_tells_why(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "manifest.json").write_bytes(b"[]")
    (shelf / "repositories").write_bytes(b"{}")
    outcome = run(shelf, tmp_path / "out")
    assert outcome.exit_code == 4
    assert f"Skipped (1 source)\n  {shelf}: holds no image\n" in summary(outcome)
    for number in range(12):
        (shelf / f"{number}.txt").write_bytes(b"x")
    assert f"  {shelf}/0.txt and 11 more: is neither a tar archive" in summary(run(shelf, tmp_path / "out"))


def summary(outcome: BatchOutcome) -> str:
    assert outcome.head is not None
    return render_text(outcome.head, width=1_000)
