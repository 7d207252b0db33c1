"""The report as one self-contained HTML file, which needs no network and no other file.

All text from a source is untrusted. Jinja escapes it in markup. A script fills the tables from embedded JSON, in which
`<`, `>` and `&` are escaped, and writes text nodes only. The content security policy of the page allows only this
script, by its hash, and no other resource.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from migrate.documents.json_text import encode_report_json, safe_text
from migrate.errors import UsageError
from migrate.model.digest import Digest
from migrate.report.document import Report, ReportImage, ReportLayer
from migrate.report.json import plain_value, report_document
from migrate.report.savings import LayerUsers, rank_repositories
from migrate.report.units import count, format_share, format_size
from migrate.report.waste_text import TITLES, describe, list_of

_ISLAND_ESCAPES = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026"}
_IMAGES_NAMED_PER_DUPLICATE = 50


def require_template_library() -> None:
    """Raises UsageError if jinja2 (extra `html`) is not installed."""
    if importlib.util.find_spec("jinja2") is None:
        raise UsageError("HTML reports need jinja2: pip install 'docker-legacy-migrate[html]'")


class Verified(Struct, frozen=True):
    """The result of `migrate verify`: `findings` have `where` and `message`, `images` is the number that was
    checked."""

    images: int
    findings: Sequence[Mapping[str, str]]


def render_html(report: Report, verification: Verified | None = None) -> str:
    """The page. Raises UsageError if the template library is not installed."""
    require_template_library()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters.update(size=format_size, number=lambda number: f"{number:,}")
    script = _template("report.js")
    # The JSON is inside a script element, so that no name in it may contain `</script>`.
    raw = encode_report_json(page_document(report))
    for character, escaped in _ISLAND_ESCAPES.items():
        raw = raw.replace(character, escaped)
    totals = report.totals
    whole = totals.legacy_bytes or 1
    merged = sum(row.saved_bytes for row in report.duplicates)
    page = environment.get_template("report.html").render(
        report=report,
        totals=report.totals,
        figures={
            "saved_share": format_share(totals.saved_bytes, totals.legacy_bytes),
            "kept_percent": round(100 * totals.unique_bytes / whole, 3),
            "merged_bytes": merged,
            "merged_percent": round(100 * merged / whole, 3),
            "empty_bytes": max(0, totals.saved_bytes - merged),
            "inexact": sum(not image.exact for image in report.images),
            "distinct": len({image.manifest_digest or image.image_id for image in report.images}),
        },
        verdict=_verdict(report, verification),
        verification=verification,
        options=[(name, _option(value)) for name, value in sorted(plain_value(report.options).items())],
        style=_template("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        island=raw.decode("utf-8"),
        count=count,
    )
    return safe_text(page)


def _option(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_option(item) for item in value) or "none"
    return "none" if value is None else str(value)


def _template(name: str) -> str:
    return resources.files("migrate.report").joinpath("templates", name).read_text("utf-8")


def _verdict(report: Report, verification: Verified | None) -> str:
    """The result in one sentence, and whether the old store may be removed."""
    totals = report.totals
    inexact = sum(not image.exact for image in report.images)
    done = "would be converted" if report.dry_run else "converted"
    if not totals.images:
        return f"No image {'would be' if report.dry_run else 'was'} converted: the reasons are below."
    failed = totals.images_failed or len(report.failures)
    images = count(totals.images, "image")
    parts = [f"{images} {done}" if failed else f"All {images} {done}"]
    parts += [f"{inexact:,} not exact"] if inexact else []
    parts += [f"{count(totals.damaged_layers, 'layer')} damaged"] if totals.damaged_layers else []
    parts += [f"{failed:,} failed"] if failed else []
    # Failures come first: `verify` cannot tell anything about images that are not in the target.
    advice = ""
    if failed or totals.damaged_layers:
        advice = " Keep the old store: what failed exists only there."
    elif verification is not None:
        until = ": the target is damaged." if verification.findings else " until the images have run."
        advice = f" Keep the old store{until}"
    elif not report.dry_run:
        advice = " Keep the old store until `migrate verify` of the target finds nothing and the images have run."
    return ", ".join(parts) + "." + advice


def page_document(report: Report) -> dict[str, Any]:
    """The data for the script of the page: the JSON report with each layer and text once, and with computed figures."""
    use = LayerUsers(report)
    rows = _LayerRows()
    # before `rows` is used below: this numbers the layers
    images = [_image(image, use, rows) for image in report.images]
    documents = report_document(report, images=False)
    return {
        "contents": [_content(layer) for layer in rows.contents],
        "layers": list(rows.layers),
        "images": images,
        "repositories": [
            {
                "name": row.name,
                "images": row.images,
                "before": row.before_bytes,
                "after": row.after_bytes,
                "elsewhere": row.elsewhere_bytes,
                "saved": row.saved_bytes,
            }
            for row in rank_repositories(report)
        ],
        "duplicates": [
            {
                "diff": _hex(row.diff_id),
                "size": row.tar_size,
                "copies": row.copies,
                "saved": row.saved_bytes,
                "ids": [safe_text(text) for text in row.legacy_ids],
                "users": use.images.get(row.diff_id, [])[:_IMAGES_NAMED_PER_DUPLICATE],
                "user_count": len(use.images.get(row.diff_id, [])),
            }
            for row in report.duplicates
        ],
        "conflicts": documents["conflicts"],
        "failures": documents["failures"],
        "warnings": [{"where": safe_text(where), "message": safe_text(text)} for where, text in report.all_warnings()],
        "containers": documents["containers"],
        "volumes": documents["orphaned_volumes"],
        "deep": None if report.deep is None else _deep(report.deep),
    }


class _LayerRows:
    """Numbers each content once, and each legacy layer once, as [legacy ID, number of its content]. Images share most
    of their layers, so that this makes the page much smaller."""

    def __init__(self) -> None:
        self.contents: dict[ReportLayer, int] = {}
        self.layers: dict[tuple[str, int], int] = {}

    def number(self, layer: ReportLayer) -> int:
        content = self.contents.setdefault(replace(layer, legacy_id=""), len(self.contents))
        return self.layers.setdefault((layer.legacy_id, content), len(self.layers))


def _image(image: ReportImage, use: LayerUsers, rows: _LayerRows) -> dict[str, Any]:
    share = use.share(image)
    return {
        "source": safe_text(image.source),
        "references": [safe_text(text) for text in image.references],
        "names": [safe_text(name) for name in image.names if name not in image.references],
        "legacy": safe_text(image.legacy_id),
        "image": _hex(image.image_id),
        "manifest": _hex(image.manifest_digest),
        "platform": str(image.platform),
        "created": image.created,
        "exact": image.exact,
        "layers": [rows.number(layer) for layer in image.layers],
        "containers": image.containers,
        "container": None if image.container is None else safe_text(image.container.title),
        "digests": [str(digest) for digest in image.legacy_digests],
        "warnings": [safe_text(text) for text in image.warnings],
        "own": share.own,
        "shared": share.shared,
        "merged": share.merged,
    }


def _content(layer: ReportLayer) -> dict[str, Any]:
    """A row without empty fields (null, false, no flags), to make the page smaller."""
    fields = {
        "diff": _hex(layer.diff_id),
        "blob": _hex(layer.blob_digest),
        "size": layer.tar_size,
        "stored": layer.blob_size,
        "empty": layer.empty or None,
        "origin": layer.origin,
        "note": None if layer.note is None else safe_text(layer.note),
        "flags": layer.flags or None,
        "damaged": layer.damaged or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _deep(deep: Mapping[str, object]) -> list[dict[str, Any]]:
    lists = []
    for name, title in TITLES.items():
        rows = []
        for row in list_of(deep, name):
            what, where = describe(name, row)
            rows.append({"bytes": row.get("bytes", 0), "what": safe_text(what), "where": safe_text(where)})
        lists.append({"title": title, "total": deep.get(f"{name}_bytes"), "rows": rows})
    return lists


def _hex(digest: Digest | None) -> str | None:
    """The digits of a digest. The script adds `sha256:`, which would be a tenth of the file."""
    return None if digest is None else digest.hex
