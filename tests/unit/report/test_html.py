"""The HTML report as text; tests/browser looks at it with a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from typing import Any

import pytest
from msgspec.structs import replace

from migrate.errors import UsageError
from migrate.report.document import Report
from migrate.report.html import page_document, render_html

from .conftest import sample_report
from .large import large_report

HOSTILE = "</script><script>alert(1)</script><!-- \u2028 & <b>"


def island(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.S)
    assert found is not None
    document: dict[str, Any] = json.loads(found[1])
    return document


def test_it_needs_nothing_from_elsewhere(report: Report) -> None:
    page = render_html(report)
    without_namespace = page.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in without_namespace
    assert "https://" not in without_namespace
    assert re.findall(r'(?:src|href)="([^"#]*)"', page) == ["data:,"]


def test_its_policy_allows_its_own_script_alone(report: Report) -> None:
    page = render_html(report)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_names_cannot_leave_their_place() -> None:
    page = render_html(sample_report(hostile=HOSTILE))
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "alert(1)</script>" not in page
    document = island(page)
    assert any(image["references"] == [f"acme/web:1{HOSTILE}"] for image in document["images"])
    assert document["failures"][0]["message"].endswith(HOSTILE)


def test_a_source_and_options_are_escaped_in_markup(report: Report) -> None:
    sources = tuple(replace(row, location='"><img src=x>') for row in report.sources)
    page = render_html(replace(report, sources=sources, options={"image": ["<i>"], "all": True}))
    assert "<img" not in page
    assert "&lt;i&gt;" in page


def test_commands_in_the_verdict_are_set_as_code(report: Report) -> None:
    whole = replace(report, failures=(), totals=replace(report.totals, images_failed=0, damaged_layers=0))
    page = render_html(whole)
    assert "until <code>migrate verify</code> of the target finds nothing" in page
    assert "`migrate verify`" not in page


def test_each_layer_stands_once(report: Report) -> None:
    document = page_document(report)
    assert len(document["contents"]) == 5  # base, app, web, the empty tar, a step without a layer
    assert len(document["layers"]) == len({tuple(row) for row in document["layers"]}) == 6
    for image, row in zip(report.images, document["images"], strict=True):
        layers = [document["layers"][index] for index in row["layers"]]
        assert [legacy_id for legacy_id, _ in layers] == [layer.legacy_id for layer in image.layers]
        contents = [document["contents"][content] for _, content in layers]
        assert [content["size"] for content in contents] == [layer.tar_size for layer in image.layers]


def test_the_same_report_gives_the_same_page() -> None:
    assert render_html(large_report(50, 6)) == render_html(large_report(50, 6))


def test_an_empty_report(report: Report) -> None:
    nothing: dict[str, Any] = dict.fromkeys(type(report.totals).__struct_fields__, 0)
    empty = replace(report, images=(), duplicates=(), conflicts=(), failures=(), totals=type(report.totals)(**nothing))
    page = render_html(empty)
    assert island(page)["images"] == []
    assert "0 %" in page


def test_without_the_template_library(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"docker-legacy-migrate\[html\]"):
        render_html(report)
