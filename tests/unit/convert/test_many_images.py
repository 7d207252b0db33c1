"""What many images take of memory, and that nothing depends on where they wait."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from pathlib import Path

import pytest
from msgspec.structs import replace

from migrate import api
from migrate.blobio import sorted_runs
from migrate.convert import publish
from migrate.convert.run import Conversion
from migrate.errors import TargetError
from migrate.model.options import ConvertOptions, OnConflict
from migrate.readers.detect import open_source
from migrate.report.text import render_text
from tests.archives import V1Archive
from tests.shelves import files_of

MOST = 9_000
"""Bytes for each image of three layers, at the peak of a conversion."""


def write_images(path: Path, count: int) -> Path:
    """Images of three layers, the lowest of which have one content."""
    archive = V1Archive()
    for number in range(count):
        names = [f"{part}-{number}" for part in ("base", "middle", "top")]
        archive.layer(names[0], tar=b"\0" * 1536)
        archive.layer(names[1], names[0])
        archive.tag(f"team/app-{number}", "1.0", archive.layer(names[2], names[1]))
    path.write_bytes(archive.build())
    return path


def peak_of(source: Path, target: Path) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        outcome = api.convert(source, target)
        assert outcome.exit_code == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images are in memory, and the others in files."""
    monkeypatch.setattr(sorted_runs, "_ROWS_IN_MEMORY", 5)
    monkeypatch.setattr(sorted_runs, "_ROWS_A_RUN", 4)
    monkeypatch.setattr(sorted_runs, "_ROWS_A_BLOCK", 3)


@pytest.mark.usefixtures("small_runs")
def test_an_image_more_takes_some_kilobytes(tmp_path: Path) -> None:
    few, many = (write_images(tmp_path / f"{count}.tar", count) for count in (20, 120))
    api.convert(few, tmp_path / "first")  # what is loaded once is not counted
    grown = peak_of(many, tmp_path / "many") - peak_of(few, tmp_path / "few")
    assert grown / 100 < MOST


@pytest.mark.parametrize("prefix", ["oci", "oci-archive", "docker-archive"])
def test_images_in_a_file_are_those_in_memory(prefix: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = write_images(tmp_path / "images.tar", 20)
    times = {"started": "2026-01-02T03:04:05Z", "finished": "2026-01-02T03:04:05Z"}
    one = replace(api.convert(source, f"{prefix}:{tmp_path / 'memory'}").report, **times)
    request.getfixturevalue("small_runs")
    other = replace(api.convert(source, f"{prefix}:{tmp_path / 'file'}").report, **times)
    assert isinstance(one.images, tuple) and not isinstance(other.images, tuple)
    assert one == other
    assert render_text(one) == render_text(other)
    if prefix == "oci":
        assert files_of(tmp_path / "memory") == files_of(tmp_path / "file")
    else:
        assert (tmp_path / "memory").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_file_for_images_that_is_lost_ends_the_run(tmp_path: Path, small_runs: None) -> None:
    options = ConvertOptions(temporary_directory=str(tmp_path / "nowhere"))
    with pytest.raises(TargetError, match="images: cannot be kept in a temporary file"):
        api.convert(write_images(tmp_path / "images.tar", 6), tmp_path / "out", options)


def test_a_source_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    """Without a search for garbage, which comes late where many objects live."""
    gc.disable()
    try:
        source = open_source(str(write_images(tmp_path / "images.tar", 3)))
        with Conversion.opened([str(tmp_path / "images.tar")], ConvertOptions(dry_run=True)) as conversion:
            assert conversion.run().report.totals.images == 3
        source.listing()
        source.close()
        gone = weakref.ref(source)
        del source
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("policy", list(OnConflict))
def test_names_do_not_depend_on_the_number_of_claims(
    policy: OnConflict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [write_images(tmp_path / "images.tar", 3)]
    for number in range(2):  # both have an image of the first archive, and other images with its names
        archive = V1Archive()
        archive.tag("team/app-0", "1.0", archive.layer(f"other-{number}"))
        archive.tag("team/own", f"{number}", archive.layer("top-1", archive.layer("middle-1", archive.layer("base-1"))))
        sources.append(tmp_path / f"{number}.tar")
        sources[-1].write_bytes(archive.build())
    options = ConvertOptions(on_conflict=policy)
    few = api.convert(sources, tmp_path / "few", options)
    monkeypatch.setattr(publish, "_KEPT_CLAIMS", 0)
    many = api.convert(sources, tmp_path / "many", options)
    assert few.report.images and (few.report.conflicts or few.report.failures)
    times = {"started": "", "finished": ""}
    assert replace(few.report, **times) == replace(many.report, **times)
    assert files_of(tmp_path / "few") == files_of(tmp_path / "many")
