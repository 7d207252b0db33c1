"""migration-report.json: the names of the contract as literals, and reading back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from migrate.blobio import sorted_runs
from migrate.errors import DocumentError
from migrate.model.legacy import Failure
from migrate.report.document import Report
from migrate.report.json import encode_report, iter_report
from migrate.report.model import SourceInput, build_head
from migrate.report.parse import parse_report
from migrate.report.tally import LayerTally

from .conftest import legacy_id, sample_report


def test_field_names_are_those_of_the_contract(report: Report) -> None:
    document = json.loads(encode_report(report))
    assert document["schema_version"] == 1
    assert document["tool"] == {"name": "migrate", "version": "0.1.0"}
    assert document["options"] == {"format": "docker", "image": ["a*"]}
    assert set(document) >= {"dry_run", "started", "finished", "sources", "totals", "images", "duplicates"}
    assert document["sources"][1] == {
        **{"location": "two.tar", "type": "docker-archive", "images": 1, "failed": 1},
        **{"outcome": "failed", "error": "missing-layer", "reason": "the layer's bytes are not in the source"},
    }
    assert document["totals"] == {
        "images": 3,
        "images_failed": 1,
        "legacy_layers": 6,
        "unique_layers": 3,
        "empty_layers": 1,
        "duplicate_layers": 2,
        "legacy_bytes": 8_321_024,
        "unique_bytes": 4_310_000,
        "saved_bytes": 4_011_024,
        "blob_bytes": 2_155_000,
        "blob_bytes_estimated": False,
    }
    image = document["images"][0]
    assert set(image) >= {"source", "references", "legacy_id", "image_id", "manifest_digest", "platform", "created"}
    assert image["platform"] == {"os": "linux", "architecture": "amd64"}
    assert set(image["layers"][0]) == {
        "legacy_id",
        "diff_id",
        "blob_digest",
        "tar_size",
        "blob_size",
        "empty",
        "origin",
        "damaged",
    }
    assert set(document["duplicates"][0]) == {"diff_id", "tar_size", "copies", "legacy_ids", "saved_bytes"}
    assert set(document["conflicts"][0]) == {"reference", "platform", "kept", "others"}
    assert document["failures"] == [
        {
            "source": "two.tar",
            "references": ["acme/broken:1"],
            "legacy_id": legacy_id("broken"),
            "layer": legacy_id("gone"),
            "error": "missing-layer",
            "message": "the layer's bytes are not in the source",
        }
    ]


def test_reading_back_gives_the_same_report(report: Report) -> None:
    raw = encode_report(report)
    assert encode_report(parse_report(raw)) == raw


def test_a_report_in_pieces_has_the_same_bytes(report: Report) -> None:
    for whole in (report, replace(report, images=()), sample_report(hostile='\udcff\n  "layers": []')):
        assert b"".join(iter_report(replace(whole, images=()), whole.images)) == encode_report(whole)


def test_sources_in_a_file_have_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.tar" for number in (7, 1, 3, 9, 4)] + ["no text \udcff.tar", "2.tar"]
    sources = [SourceInput(location=name, type=None, warnings=(f"{name}: no image",), damaged=1) for name in names]
    few = sample_head(sources)
    monkeypatch.setattr(sorted_runs, "_ROWS_IN_MEMORY", 4)
    monkeypatch.setattr(sorted_runs, "_ROWS_A_RUN", 2)
    many = sample_head(sources)
    assert isinstance(few.sources, tuple) and not isinstance(many.sources, tuple)
    assert [source.location for source in many.sources] == sorted(names)
    assert encode_report(many) == encode_report(few) == b"".join(iter_report(many, ()))


def sample_head(sources: list[SourceInput]) -> Report:
    return build_head(
        tool_version="1",
        dry_run=False,
        started="",
        finished="",
        options={},
        sources=sources,
        images={"3.tar": 1},
        tally=LayerTally(),
        failures=[Failure(source="4.tar", references=(), legacy_id=None, layer=None, error="x", message="y")],
    )


def test_names_that_are_no_text_stay_readable() -> None:
    raw = encode_report(sample_report(hostile="\udcff\ud800 é"))
    assert "acme/web:1\ufffd\ufffd é" in raw.decode()
    assert encode_report(parse_report(raw)) == raw


def test_unknown_fields_are_passed_over(report: Report) -> None:
    document = json.loads(encode_report(report))
    document["later"] = {"x": 1}
    document["images"][0]["later"] = [1]
    assert encode_report(parse_report(json.dumps(document).encode())) == encode_report(report)


def test_every_problem_is_listed_with_its_place(report: Report) -> None:
    document = json.loads(encode_report(report))
    document["dry_run"] = "no"
    document["images"][1]["image_id"] = "sha256:short"
    document["images"][2]["layers"][0]["tar_size"] = -1
    document["duplicates"] = None
    with pytest.raises(DocumentError) as caught:
        parse_report(json.dumps(document).encode())
    assert caught.value.message.split("; ") == [
        "report.dry_run: not true or false",
        "report.images[1].image_id: not a digest sha256:<64 hex digits>",
        "report.images[2].layers[0].tar_size: not a whole number of 0 or more",
        "report.duplicates: not a list",
    ]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"schema_version": 2}'])
def test_what_is_no_report_is_a_document_error(raw: bytes) -> None:
    with pytest.raises(DocumentError):
        parse_report(raw)


def test_many_problems_are_cut_short(report: Report) -> None:
    document: dict[str, Any] = json.loads(encode_report(report))
    document["duplicates"] = [None] * 100
    with pytest.raises(DocumentError, match=r"and 380 more$"):
        parse_report(json.dumps(document).encode())
