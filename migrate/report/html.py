"""The report as one HTML file that needs nothing else: no network, no other file.

Everything that comes from a source is untrusted text. Jinja escapes it in markup; the tables are filled by a script
from a JSON island in which `<`, `>` and `&` are escaped, and which writes text nodes only. The page's own content
security policy allows that one script, by its hash, and nothing from anywhere else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib import resources
from typing import Any

import orjson

from migrate.errors import UsageError
from migrate.model.digest import Digest
from migrate.report.document import Report, ReportImage, ReportLayer
from migrate.report.json import report_document
from migrate.report.savings import LayerUse, contents, rank_repositories
from migrate.report.units import count, format_seconds, format_share, format_size

_ISLAND_ESCAPES = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026"}
_IMAGES_NAMED_PER_DUPLICATE = 50


def render_html(report: Report) -> str:
    """The page. Raises UsageError if the template library (extra `html`) is not installed."""
    try:
        import jinja2
    except ImportError as exc:
        raise UsageError("HTML reports need jinja2: install docker-legacy-migrate[html]") from exc
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters.update(size=format_size, number=lambda number: f"{number:,}")
    script = _template("report.js")
    return environment.get_template("report.html").render(
        report=report,
        totals=report.totals,
        figures=_figures(report),
        options=[(name, _option(value)) for name, value in sorted(report_document(report)["options"].items())],
        style=_template("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        island=_island(page_document(report)),
        count=count,
    )


def _option(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_option(item) for item in value) or "none"
    return "none" if value is None else str(value)


def _template(name: str) -> str:
    return resources.files("migrate.report").joinpath("templates", name).read_text("utf-8")


def _island(document: dict[str, Any]) -> str:
    raw = orjson.dumps(document)
    for character, escaped in _ISLAND_ESCAPES.items():
        raw = raw.replace(character, escaped)
    return raw.decode("utf-8")


def _figures(report: Report) -> dict[str, Any]:
    totals = report.totals
    whole = totals.legacy_bytes or 1
    merged = sum(row.saved_bytes for row in report.duplicates)
    return {
        "saved_share": format_share(totals.saved_bytes, totals.legacy_bytes),
        "kept_percent": round(100 * totals.unique_bytes / whole, 3),
        "merged_bytes": merged,
        "merged_percent": round(100 * merged / whole, 3),
        "empty_bytes": max(0, totals.saved_bytes - merged),
        "inexact": sum(not image.exact for image in report.images),
        "seconds": format_seconds,
    }


def page_document(report: Report) -> dict[str, Any]:
    """What the page's script shows: as the JSON report, but each layer and text once, and figures worked out."""
    use = LayerUse(report)
    layers: dict[ReportLayer, int] = {}
    images = [_image(image, use, layers) for image in report.images]
    documents = report_document(report)
    return {
        "layers": [_layer(layer) for layer in layers],
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
                "ids": row.legacy_ids,
                "users": use.images.get(row.diff_id, [])[:_IMAGES_NAMED_PER_DUPLICATE],
                "user_count": len(use.images.get(row.diff_id, [])),
            }
            for row in report.duplicates
        ],
        "conflicts": documents["conflicts"],
        "failures": documents["failures"],
        "warnings": list(_warnings(documents)),
        "deep": documents.get("deep"),
    }


def _image(image: ReportImage, use: LayerUse, layers: dict[ReportLayer, int]) -> dict[str, Any]:
    share = use.share(image)
    return {
        "source": image.source,
        "references": image.references,
        "names": [name for name in image.names if name not in image.references],
        "legacy": image.legacy_id,
        "image": _hex(image.image_id),
        "manifest": _hex(image.manifest_digest),
        "platform": str(image.platform),
        "created": image.created,
        "exact": image.exact,
        "layers": [layers.setdefault(layer, len(layers)) for layer in image.layers],
        "containers": image.containers,
        "warnings": image.warnings,
        "count": len(contents(image)),
        "own": share.own,
        "shared": share.shared,
        "merged": share.merged,
    }


def _layer(layer: ReportLayer) -> dict[str, Any]:
    return {
        "legacy": layer.legacy_id,
        "diff": _hex(layer.diff_id),
        "blob": _hex(layer.blob_digest),
        "size": layer.tar_size,
        "stored": layer.blob_size,
        "empty": layer.empty,
        "origin": layer.origin,
        "note": layer.note,
        "flags": layer.flags,
    }


def _hex(digest: Digest | None) -> str | None:
    """Without `sha256:`, which the script puts back: it is a tenth of the file."""
    return None if digest is None else digest.hex


def _warnings(document: dict[str, Any]) -> Iterable[dict[str, str]]:
    for text in document["warnings"]:
        yield {"where": "", "message": text}
    for source in document["sources"]:
        yield from ({"where": source["location"], "message": text} for text in source.get("warnings", ()))
    for image in document["images"]:
        name = image["references"][0] if image["references"] else image["legacy_id"]
        yield from ({"where": name, "message": text} for text in image["warnings"])
