"""Compares migration-report.json with the layout that it is in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from migrate.blobio.limits import REPORT_BYTES
from migrate.documents.json_text import load_json
from migrate.errors import MigrateError
from migrate.layout.names import REPORT_NAME
from migrate.model.digest import Digest
from migrate.verify.hashing import HashedFile
from migrate.verify.walk import Walk


def check_kept_report(
    walk: Walk, content: bytes, hashed: Mapping[str, HashedFile], removed: Collection[Digest] = frozenset()
) -> None:
    """Every image of the report must be in the layout with its config and layers, except for those `removed` since."""
    name = REPORT_NAME
    try:
        document = load_json(content, name, REPORT_BYTES)
    except MigrateError as exc:
        walk.findings.add(name, str(exc))
        return
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        walk.findings.add(name, "lists no images")
        return
    if document.get("dry_run") is True:  # a report that a user has put here: its images were never written
        return
    for position, row in enumerate(images):
        if _digest(row, "manifest_digest") in removed:
            continue
        where = f"{name} images[{position}]"
        for problem in _problems(walk, row, hashed):
            walk.findings.add(where, problem)


def _problems(walk: Walk, row: Any, hashed: Mapping[str, HashedFile]) -> Iterator[str]:
    manifest = _digest(row, "manifest_digest")
    if manifest is None:
        yield "manifest_digest is no digest"
        return
    shape = walk.images.get(manifest)
    if shape is None:
        yield f"the image {manifest} is not in the layout, or not whole"
        return
    if _digest(row, "image_id") != shape.config:
        yield f"image_id should be {shape.config} and is {row.get('image_id')!r}"
    rows = row.get("layers")
    if not isinstance(rows, list):
        yield "layers is no array"
        return
    # Dropped empty layers and history steps without a layer have no blob.
    stored = [one for one in rows if isinstance(one, dict) and one.get("blob_digest") is not None]
    if [_digest(one, "blob_digest") for one in stored] != list(shape.layers):
        yield "the blob digests of the layers are not those of the manifest"
        return
    for place, (layer, digest) in enumerate(zip(stored, shape.layers, strict=True)):
        name = walk.path_of(digest)
        result = hashed.get(name)
        if result is None or result.diff_id is None:
            continue
        if _digest(layer, "diff_id") != result.diff_id:
            yield f"layers[{place}]: diff_id should be {result.diff_id} and is {layer.get('diff_id')!r}"
        if layer.get("blob_size") != walk.files.names()[name]:
            yield f"layers[{place}]: blob_size is {layer.get('blob_size')!r}"


def _digest(row: Any, key: str) -> Digest | None:
    value = row.get(key) if isinstance(row, dict) else None
    try:
        return Digest.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None
