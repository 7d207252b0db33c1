"""The figures of the report, counted by eye."""

from __future__ import annotations

import random

from msgspec.structs import replace

from migrate.errors import MissingLayerError
from migrate.model.digest import Digest
from migrate.model.image import HashedLayer
from migrate.model.legacy import Failure
from migrate.report.document import Report
from migrate.report.model import ImageInput, SourceInput
from migrate.report.tally import LayerTally
from tests.reports import build_report

from .conftest import EMPTY, by_content, digest, hashed, image_input, legacy_id


def test_totals_count_layers_as_the_sources_store_them(report: Report) -> None:
    totals = report.totals
    assert (totals.images, totals.images_failed) == (3, 1)
    assert totals.legacy_layers == 6  # base twice, app twice, web, empty
    assert totals.unique_layers == 3
    assert totals.empty_layers == 1
    assert totals.duplicate_layers == 2
    assert totals.legacy_bytes == 2 * 4_000_000 + 2 * 10_000 + 300_000 + 1024
    assert totals.unique_bytes == 4_000_000 + 10_000 + 300_000
    assert totals.saved_bytes == 4_000_000 + 10_000 + 1024
    assert totals.blob_bytes == 2_000_000 + 5_000 + 150_000


def test_duplicates_are_ranked_by_what_they_save(report: Report) -> None:
    first, second = report.duplicates
    assert (first.diff_id, first.copies, first.saved_bytes) == (digest("base"), 2, 4_000_000)
    assert first.legacy_ids == (legacy_id("base"),)
    assert (second.diff_id, second.copies, second.saved_bytes) == (digest("app"), 2, 10_000)
    assert second.legacy_ids == tuple(sorted([legacy_id("app"), legacy_id("app-again")]))


def test_an_empty_layer_is_never_a_duplicate() -> None:
    source = SourceInput(location="a", type=None, layers=by_content({"one": EMPTY, "two": EMPTY}))
    assert tally_of(source).duplicates() == ()
    totals = tally_of(source).totals(0, 0)
    assert (totals.empty_layers, totals.duplicate_layers, totals.unique_bytes) == (2, 0, 0)
    assert totals.saved_bytes == totals.legacy_bytes == 2048
    assert totals.blob_bytes == 0


def test_rows_of_the_chain(report: Report) -> None:
    web = next(image for image in report.images if image.references == ("acme/web:1",))
    base, layer, empty = web.layers
    assert (base.blob_digest, base.blob_size, base.origin) == (digest("gzip base"), 2_000_000, "archive")
    assert (layer.origin, layer.note) == ("diff", "re-made")
    assert (empty.empty, empty.blob_digest, empty.blob_size, empty.tar_size) == (True, None, 0, 1024)
    assert not web.exact
    untagged = next(image for image in report.images if not image.references)
    assert untagged.exact
    assert untagged.layers[-1].diff_id is None
    assert untagged.title == legacy_id("step")[:12]


def test_an_empty_layer_that_is_kept_has_its_blob() -> None:
    kept = replace(EMPTY, blob=hashed("nothing", 40).blob)
    source = SourceInput(location="a", type="docker-archive", layers=by_content({"one": kept}))
    report = _report([source], [image_input("a", [("one", kept)])])
    assert report.images[0].layers[0].blob_digest == digest("gzip nothing")
    assert report.totals.blob_bytes == 20


def test_blob_bytes_are_unknown_when_nothing_was_compressed() -> None:
    layer = replace(hashed("a", 10), blob=None)
    source = SourceInput(location="a", type="docker-archive", layers=by_content({"one": layer}))
    report = _report([source], [image_input("a", [("one", layer)])])
    assert report.totals.blob_bytes is None
    assert report.images[0].layers[0].blob_size is None


def test_equal_layers_with_two_blobs_count_both() -> None:
    one = hashed("a", 10)
    other = replace(one, blob=hashed("another compressor", 12).blob)
    assert tally_of(_source(one), _source(other)).totals(0, 0).blob_bytes == 5 + 6


def test_source_rows_count_what_names_them(report: Report) -> None:
    assert [(row.location, row.images, row.failed) for row in report.sources] == [("one.tar", 2, 0), ("two.tar", 1, 1)]


def test_order_follows_from_the_content_alone() -> None:
    layers = {name: hashed(name, 1000) for name in "abcdefgh"}
    sources = [
        SourceInput(location=name, type="docker-archive", layers=by_content({name: layer}))
        for name, layer in layers.items()
    ]
    images = [image_input(name, [(name, layer)], [f"{name}:1"]) for name, layer in layers.items()]
    expected = _report(sources, images)
    shuffle = random.Random(4).shuffle
    for _ in range(5):
        shuffle(sources)
        shuffle(images)
        assert _report(sources, images) == expected


def test_lists_are_sorted_and_warnings_said_once(report: Report) -> None:
    assert report.warnings == ("first", "second")
    assert report.conflicts[0].others == tuple(sorted([digest("z"), digest("a")]))
    assert report.images[0].references == ("acme/app:1", "acme/app:2")


def test_a_failure_from_an_error() -> None:
    failure = Failure.of(MissingLayerError("gone", layer="abc"), "a.tar", references=["x:1"], legacy_id="def")
    assert (failure.error, failure.message, failure.layer) == ("missing-layer", "gone", "abc")


def test_an_id_with_two_contents_counts_for_each() -> None:
    contents = {("one", layer.diff_id): layer for layer in (hashed("a", 10), hashed("b", 30))}
    totals = tally_of(SourceInput(location="a", type="registry-v2", layers=contents)).totals(0, 0)
    assert (totals.legacy_layers, totals.unique_layers, totals.duplicate_layers) == (2, 2, 0)
    assert (totals.legacy_bytes, totals.unique_bytes, totals.blob_bytes) == (40, 40, 5 + 15)


def tally_of(*sources: SourceInput) -> LayerTally:
    tally = LayerTally()
    for source in sources:
        tally.add(source.layers)
    return tally


def _source(layer: HashedLayer) -> SourceInput:
    return SourceInput(location="a", type="docker-archive", layers=by_content({"one": layer}))


def _report(sources: list[SourceInput], images: list[ImageInput]) -> Report:
    return build_report(
        tool_version="1",
        dry_run=True,
        started="",
        finished="",
        options={},
        sources=sources,
        images=images,
    )


def test_digests_are_digests(report: Report) -> None:
    assert all(isinstance(image.image_id, Digest) for image in report.images)


def test_a_manifest_that_could_not_be_made_has_no_digest() -> None:
    layer = replace(hashed("a", 10), blob=None)
    source = SourceInput(location="a", type="docker-archive", layers=by_content({"one": layer}))
    made = image_input("a", [("one", layer)])
    without = replace(made, image=replace(made.image, manifest_document=b""))
    assert _report([source], [without]).images[0].manifest_digest is None
