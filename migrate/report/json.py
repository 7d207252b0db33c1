"""migration-report.json: encodes a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec.structs import replace

from migrate.documents.json_text import encode_json_pretty, encode_report_json, safe_text
from migrate.model.container import Container, Volume
from migrate.model.digest import Digest
from migrate.model.image import Platform
from migrate.model.legacy import Failure
from migrate.report.document import (
    SCHEMA_VERSION,
    Duplicate,
    Report,
    ReportImage,
    ReportLayer,
    SourceRow,
    Totals,
)

_KEPT_ROWS: Final = 4_000
"""Encoded rows of layers that are kept in memory, because images of a large report share them: as many as this, or
twice those of an image with more."""


def encode_report(report: Report) -> bytes:
    """The JSON document, indented by two, with keys in the order of the reference page. Equal reports give equal
    bytes."""
    return encode_json_pretty(report_document(report))


def iter_report(report: Report, images: Iterable[ReportImage]) -> Iterator[bytes]:
    """The bytes of `encode_report` in pieces, for more images than fit into memory.

    `report` has no images; `images` are encoded in their place, in the order given. Its sources may be many, too.
    """
    rows = RowEncoder()
    return frame_rows(report, (rows.encode(image) for image in images))


def frame_rows(report: Report, rows: Iterable[bytes]) -> Iterator[bytes]:
    """As `iter_report`, with rows that a RowEncoder has made, in pieces of any length."""
    frame = encode_report(replace(report, sources=()))
    head, _, rest = frame.partition(b'\n  "sources": []')
    middle, _, tail = rest.partition(b'\n  "images": []')
    yield head
    yield from _list("sources", _source_rows(report.sources))
    yield middle
    yield from _list("images", rows)
    yield tail


def _list(name: str, rows: Iterable[bytes]) -> Iterator[bytes]:
    yield f'\n  "{name}": ['.encode()
    is_empty = True
    for piece in rows:
        is_empty = False
        yield piece
    yield b"]" if is_empty else b"\n  ]"


def _source_rows(sources: Iterable[SourceRow]) -> Iterator[bytes]:
    separator = b"\n    "
    for source in sources:
        yield separator + _indented(_source_document(source), 4)
        separator = b",\n    "


class RowEncoder:
    """Encodes the rows of a report's list of images, one after the other."""

    def __init__(self) -> None:
        # By `id`, which is faster than a hash over all fields. The rows are kept with their bytes, because the `id` of
        # an object that was freed may be used again.
        self._layer_rows: dict[int, tuple[ReportLayer, bytes]] = {}
        self._separator = b"\n    "

    def encode(self, image: ReportImage) -> bytes:
        if len(self._layer_rows) > max(_KEPT_ROWS, 2 * len(image.layers)):
            self._layer_rows.clear()
        text = _indented(_image_document(replace(image, layers=()), {}), 4)
        separator, self._separator = self._separator, b",\n    "
        if not image.layers:
            return separator + text
        head, _, tail = text.partition(b'\n      "layers": []')
        known = self._layer_rows
        for layer in image.layers:
            if id(layer) not in known:
                known[id(layer)] = layer, _indented(_layer_document(layer), 8)
        layers = b",\n        ".join([known[id(layer)][1] for layer in image.layers])
        return b"".join((separator, head, b'\n      "layers": [\n        ', layers, b"\n      ]", tail))

    def forget(self) -> None:
        """Drops the kept layers; to be called when the following rows share no layer with those before."""
        self._layer_rows.clear()


def _indented(document: dict[str, Any], depth: int) -> bytes:
    """The JSON of a part of a report, indented by `depth` spaces."""
    return encode_report_json(document, orjson.OPT_INDENT_2).replace(b"\n", b"\n" + b" " * depth)


def report_document(report: Report, *, images: bool = True) -> dict[str, Any]:
    """The report as plain JSON values; without `images`, its list of images is left empty."""
    layer_rows: dict[ReportLayer, dict[str, Any]] = {}
    totals = _plain_fields(report.totals)
    if not report.totals.damaged_layers:
        del totals["damaged_layers"]
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": report.tool_name, "version": report.tool_version},
        "dry_run": report.dry_run,
        "started": report.started,
        "finished": report.finished,
        "options": plain_value(report.options),
        "sources": [_source_document(source) for source in report.sources],
        "totals": totals,
        "images": [_image_document(image, layer_rows) for image in report.images if images],
        "duplicates": [_plain_fields(duplicate) for duplicate in report.duplicates],
        "conflicts": [
            {
                "reference": safe_text(conflict.reference),
                "platform": _platform_document(conflict.platform),
                "kept": str(conflict.kept),
                "others": [str(digest) for digest in conflict.others],
            }
            for conflict in report.conflicts
        ],
        "failures": [_plain_fields(failure) for failure in report.failures],
        "warnings": list(report.warnings),
        "containers": [
            {
                "source": safe_text(row.source),
                **_container_document(row.container),
                "changed_bytes": row.container.changed_bytes,
                "volumes": [_volume_document(volume) for volume in row.container.volumes],
            }
            for row in report.containers
        ],
        "orphaned_volumes": [
            {"source": safe_text(row.source), "path": safe_text(row.volume.source), "bytes": row.volume.bytes}
            for row in report.orphaned_volumes
        ],
    }
    # last and optional, so that reports of other commands have the same bytes as before this field existed
    if report.deep is not None:
        document["deep"] = plain_value(report.deep)
    return document


def _plain_fields(row: Totals | Duplicate | Failure) -> dict[str, Any]:
    """All fields of a row, in the order of its class."""
    return {name: plain_value(getattr(row, name)) for name in row.__struct_fields__}


def plain_value(value: object) -> Any:
    """`value` as JSON values: tuples and sets as lists, values of other types as their text."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain_value(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain_value(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return safe_text(str(value))


def _texts(values: Iterable[str]) -> list[str]:
    return [safe_text(value) for value in values]


def _source_document(source: SourceRow) -> dict[str, Any]:
    document: dict[str, Any] = {
        "location": safe_text(source.location),
        "type": source.type,
        "images": source.images,
        "failed": source.failed,
    }
    for name in ("outcome", "error", "reason", "uri"):
        value = getattr(source, name)
        if value is not None:
            document[name] = safe_text(value)
    if source.warnings:
        document["warnings"] = _texts(source.warnings)
    return document


def _image_document(image: ReportImage, layer_rows: dict[ReportLayer, dict[str, Any]]) -> dict[str, Any]:
    # Images share layers, and one document for each layer saves much memory when there are thousands of images.
    layers = []
    for layer in image.layers:
        row = layer_rows.get(layer)
        if row is None:
            row = layer_rows[layer] = _layer_document(layer)
        layers.append(row)
    document: dict[str, Any] = {
        "source": safe_text(image.source),
        "references": _texts(image.references),
        "legacy_id": safe_text(image.legacy_id),
        "image_id": str(image.image_id),
        "manifest_digest": _digest_text(image.manifest_digest),
        "platform": _platform_document(image.platform),
        "created": image.created,
        "exact": image.exact,
        "layers": layers,
        "names": _texts(image.names),
        "containers": _texts(image.containers),
        "legacy_digests": [str(digest) for digest in image.legacy_digests],
        "warnings": _texts(image.warnings),
    }
    if image.container is not None:
        document["from_container"] = {
            **_container_document(image.container),
            "created": image.container.created,
            "volumes": [_volume_document(volume) for volume in image.container.volumes],
            "unseen_changes": _texts(image.container.unseen),
        }
    return document


def _container_document(container: Container) -> dict[str, Any]:
    return {
        "id": safe_text(container.id),
        "name": safe_text(container.name),
        "image": safe_text(container.image),
        "state": container.state,
        "half_removed": container.half_removed,
    }


def _volume_document(volume: Volume) -> dict[str, Any]:
    return {
        "path": safe_text(volume.path),
        "source": safe_text(volume.source),
        "bytes": volume.bytes,
        "kind": volume.kind,
    }


def _layer_document(layer: ReportLayer) -> dict[str, Any]:
    document: dict[str, Any] = {
        "legacy_id": safe_text(layer.legacy_id),
        "diff_id": _digest_text(layer.diff_id),
        "blob_digest": _digest_text(layer.blob_digest),
        "tar_size": layer.tar_size,
        "blob_size": layer.blob_size,
        "empty": layer.empty,
        "origin": layer.origin,
        "damaged": layer.damaged,
    }
    if layer.note is not None:
        document["note"] = safe_text(layer.note)
    if layer.flags:
        document["flags"] = _texts(layer.flags)
    if layer.flagged:
        document["flagged"] = {flag: safe_text(entry) for flag, entry in layer.flagged}
    return document


def _digest_text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _platform_document(platform: Platform) -> dict[str, str]:
    document = {"os": platform.os, "architecture": platform.architecture}
    if platform.variant is not None:
        document["variant"] = platform.variant
    return document
