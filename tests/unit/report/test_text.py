"""The summary on a terminal."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from migrate.cli.session import next_steps
from migrate.report.document import Report, Totals
from migrate.report.tables import display_width
from migrate.report.text import RunFacts, render_text

from .conftest import sample_report
from .large import large_report

SUMMARY = """\
migrate 0.1.0 · 2 sources · 4 s

  sources 1 converted, 1 failed
  images  3 written, 1 failed
          1 not exact, 1 without a name
  layers  6 → 3 distinct (2 duplicates, 1 empty)
  bytes   8.32 MB → 4.31 MB
          4.01 MB (48 %) saved
  blobs   2.15 MB as stored, compressed
"""


def test_the_figures(report: Report) -> None:
    assert render_text(report).startswith(SUMMARY)


def test_bytes_in_full(report: Report) -> None:
    text = render_text(report, exact_bytes=True)
    assert "8,321,024 B → 4,310,000 B" in text
    assert "MB" not in text


def test_savings_failures_conflicts_and_warnings(report: Report) -> None:
    text = render_text(report)
    assert "4.00 MB       2  4.00 MB  cae662172fd4" in text
    assert "Conflicts (1)\n  acme/app:2 (linux/amd64)\n    IMAGE " in text
    assert "has no name now" in text
    assert "Failures (1)\n  acme/broken:1  (two.tar)\n    missing-layer: the layer's bytes are not" in text
    assert "Warnings (3)\n  first\n  second\n  one.tar: acme/app:1: odd tar" in text


def test_the_conflicts_of_a_plan_name_its_sources(report: Report) -> None:
    """Nothing is compressed, so there are no manifests: the claimants of a name are known by their image IDs."""
    images = tuple(replace(image, manifest_digest=None) for image in report.images)
    claimed = replace(report.conflicts[0], kept=images[0].image_id, others=(images[1].image_id,))
    text = render_text(replace(report, dry_run=True, images=images, conflicts=(claimed,)))
    assert "in the target before this run" not in text


def test_what_was_there_already_and_equal_images_are_told_apart(report: Report) -> None:
    first, *rest = report.images
    again = replace(first, source="two.tar")
    twice = replace(report, images=(first, again, *rest), totals=replace(report.totals, images=4))
    assert "  images  3 there already, 1 failed\n" in render_text(report, facts=RunFacts(present=3))
    assert "  images  2 written, 1 there already, 1 failed\n" in render_text(report, facts=RunFacts(present=1))
    assert "  images  4 → 3 distinct: 3 written, 1 failed\n" in render_text(twice)
    assert "; 5 of them" not in render_text(report)
    assert "1 failed, 5 of them done before\n" in render_text(report, facts=RunFacts(done_before=5))


def test_few_of_many_conflicts_are_listed(report: Report) -> None:
    conflict = report.conflicts[0]
    many = tuple(replace(conflict, reference=f"acme/app{number}:1") for number in range(40))
    text = render_text(replace(report, conflicts=many))
    assert text.count("IMAGE ") == 5
    assert "Conflicts (40)\n" in text
    assert "… and 35 more conflicts in the JSON report" in text


def test_a_run_without_a_layer_has_no_figures(report: Report) -> None:
    nothing = replace(
        report,
        images=(),
        duplicates=(),
        conflicts=(),
        totals=Totals(
            images=0,
            images_failed=1,
            legacy_layers=0,
            unique_layers=0,
            empty_layers=0,
            duplicate_layers=0,
            legacy_bytes=0,
            unique_bytes=0,
            saved_bytes=0,
            blob_bytes=0,
        ),
    )
    assert " 0 B" not in render_text(nothing)
    assert "layers" not in render_text(nothing).partition("Failures")[0]


def test_no_path_is_in_a_line_twice(report: Report) -> None:
    failure = replace(report.failures[0], source="a/b.tar", message="a/b.tar: member x: is cut off")
    sources = tuple(replace(row, location="a/b.tar") for row in report.sources)
    warned = replace(report, failures=(failure,), sources=sources, warnings=("a/b.tar: odd",), images=())
    for line in render_text(warned, width=400).splitlines():
        assert line.count("a/b.tar") <= 1, line


def test_warnings_of_one_kind_are_one_line_and_a_count(report: Report) -> None:
    unsigned = [f"repo/{number}:v{number}: no signature is stored for sha256:{number:064x}" for number in range(4_000)]
    short = [f"layer {number:064x} is odd" for number in range(3)]
    text = render_text(replace(report, warnings=(*unsigned, *short)))
    assert "Warnings (4,004)" in text
    assert text.count("no signature is stored") == 1
    assert "… and 3,999 more of this kind" in text
    assert text.count("is odd") == 3


def test_the_next_commands_only_where_something_was_written(report: Report) -> None:
    steps = ["migrate verify 'new layout'"]
    assert render_text(report, next_steps=steps).endswith("\n\nNext\n  migrate verify 'new layout'\n")
    nothing = replace(report, totals=replace(report.totals, images=0))
    assert "Next" not in render_text(nothing, next_steps=steps)


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("new layout/", ["migrate verify 'new layout/'", "tar -C 'new layout/' -c . | docker load"]),
        ("oci:out", ["migrate verify out", "tar -C out -c . | docker load"]),
        ("docker-archive:x.tar", ["migrate verify x.tar", "docker load -i x.tar"]),
        ("docker-archive:-", []),
        ("registry-storage:r", ["migrate verify r"]),
        ("docker://host/x", []),
        ("s3://bucket/x", []),
    ],
)
def test_the_next_commands_fit_the_target(target: str, steps: list[str]) -> None:
    assert next_steps(target)[: len(steps) or None] == steps


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit(width: int) -> None:
    report = large_report(200, 10)
    lines = render_text(report, width=width).splitlines()
    long = [line for line in lines if display_width(line) > width]
    assert all(len(word) > 60 for line in long for word in [max(line.split(), key=len)]), long


def test_a_failure_of_an_image_without_a_name_fits_eighty_columns(report: Report) -> None:
    """Its ID and a layer's member are each nearly a line, and are still whole."""
    image, member = "0d" * 32, f"{'f6' * 32}/layer.tar"
    failure = replace(
        report.failures[0],
        source="shelf/copied-halfway.tar",
        references=(),
        legacy_id=image,
        message=f"shelf/copied-halfway.tar: member {member}: the archive ends after 108,032 of its 300,032 bytes",
    )
    text = render_text(replace(report, failures=(failure,)), width=80)
    assert image in text and member in text
    assert [line for line in text.splitlines() if display_width(line) > 80] == []


def test_names_from_archives_send_no_escapes() -> None:
    text = render_text(sample_report(hostile="\x1b]0;owned\x07"))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_colour_is_opt_in(report: Report) -> None:
    assert "\x1b[" not in render_text(report)
    assert "\x1b[1m" in render_text(report, colour=True)


def test_long_lists_are_cut_and_counted() -> None:
    report = large_report(3000, 8)
    text = render_text(report)
    assert f"… and {len(report.duplicates) - 10:,} more layers in the JSON report" in text
    assert "Failures (30)\n" in text
    assert "… and 29 more of this kind" in text


def test_a_dry_run_says_so(report: Report) -> None:
    dry = replace(report, dry_run=True, totals=replace(report.totals, blob_bytes=None), started="?")
    text = render_text(dry)
    assert text.startswith("migrate 0.1.0 · dry run, nothing was written · 2 sources\n")
    assert "  sources 1 would be converted, 1 failed\n" in text
    assert "3 would be written" in text
    assert "blobs   not computed" in text


def test_deep_findings(report: Report) -> None:
    deep = {
        "complete": False,
        "equal_layers": [
            {"bytes": 5000, "differ_in": "times", "diff_ids": ["sha256:" + "a" * 64, "sha256:" + "b" * 64]}
        ],
        "equal_layers_bytes": 5000,
        "wasted_files": [{"bytes": 7, "path": "/x\x1b", "layers": 2}],
        "near_layers": "not a list",
    }
    text = render_text(replace(report, deep=deep))
    assert "Layers with equal entries in other bytes: 5.00 kB" in text
    assert "differ in times  aaaaaaaaaaaa bbbbbbbbbbbb" in text
    assert "/x\\x1b" in text
    assert "it covers only the first layers" in text
