"""migration-map.json: the new image of every legacy image, from all runs that wrote into a target
(docs/reference/map.md).

`{"schema_version": 1, "images": [...]}`, with one row for each pair of legacy ID and new image, sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import reduce
from itertools import groupby
from typing import Any, Final

import orjson
from msgspec import Struct
from msgspec.structs import replace

from migrate.blobio.limits import CATALOG_BYTES
from migrate.documents.json_text import encode_json_pretty, iter_list, shown, text_of_uri
from migrate.errors import DocumentError, LimitError
from migrate.model.digest import Digest, ImageID

SCHEMA_VERSION: Final = 1


class MappedImage(Struct, frozen=True, kw_only=True):
    """One image. `names`: its current references in the target. `references`: all that it ever had in a source.

    `containers`: the old containers that were made from it. `legacy_digests`: the digests of old manifests of the
    image. `manifest_digest` is None in a plan, which compresses nothing. `removed`: `migrate gc` has removed it.
    `sources`: as they were named; a file whose name is no text as a URI.
    """

    legacy_id: str
    image_id: ImageID
    manifest_digest: Digest | None
    references: tuple[str, ...]
    names: tuple[str, ...]
    containers: tuple[str, ...]
    legacy_digests: tuple[Digest, ...]
    platform: str
    sources: tuple[str, ...]
    created: str | None = None
    removed: bool = False

    @property
    def key(self) -> tuple[str, ImageID, Digest | None]:
        return (self.legacy_id, self.image_id, self.manifest_digest)


Rows = tuple[MappedImage, ...]


def row_order(row: MappedImage) -> tuple[str, str, str]:
    """The sort key of the rows of a map. Only rows of the same legacy ID, image ID and manifest have an equal one."""
    return (row.legacy_id, row.image_id.hex, "" if row.manifest_digest is None else row.manifest_digest.hex)


def merge_rows(rows: Iterable[MappedImage]) -> Rows:
    """One row for each legacy ID, image ID and manifest, merged from all of its `rows`; sorted."""
    return tuple(iter_merged(sorted(rows, key=row_order)))


def iter_merged(rows: Iterable[MappedImage]) -> Iterator[MappedImage]:
    """As `merge_rows`, of rows that are sorted by `row_order`."""
    return (reduce(_merged, same) for _, same in groupby(rows, row_order))


def _merged(one: MappedImage, other: MappedImage) -> MappedImage:
    if one == other:
        return one
    return replace(
        one,
        references=tuple(sorted({*one.references, *other.references})),
        names=tuple(sorted({*one.names, *other.names})),
        containers=tuple(sorted({*one.containers, *other.containers})),
        sources=tuple(sorted({*one.sources, *other.sources})),
        legacy_digests=tuple(sorted({*one.legacy_digests, *other.legacy_digests})),
        created=one.created or other.created,
        removed=one.removed and other.removed,
    )


def with_names(row: MappedImage, names: Collection[str]) -> MappedImage:
    """`row` with its current names in the target."""
    return row if set(names) == set(row.names) else replace(row, names=tuple(sorted(names)))


def rename_rows(rows: Iterable[MappedImage], granted: Mapping[str, Collection[Digest]]) -> Iterator[MappedImage]:
    """`rows` with their current names. `granted`: name → all manifests that it leads to. A name that is not in
    `granted` is unchanged."""
    by_digest: dict[Digest | None, set[str]] = {}
    for name, digests in granted.items():
        for digest in digests:
            by_digest.setdefault(digest, set()).add(name)
    for row in rows:
        kept = (name for name in row.names if name not in granted)
        yield with_names(row, {*kept, *by_digest.get(row.manifest_digest, ())})


def without_old_forms(rows: Iterable[MappedImage], newer: Iterable[MappedImage]) -> Iterator[MappedImage]:
    """`rows` without the sources that `newer` rows of the same images give by their URIs. Earlier versions wrote such a
    source with U+FFFD, so that it would be there twice."""
    old_forms: dict[tuple[str, ImageID, Digest | None], set[str | None]] = {}
    for row in newer:
        uris = [source for source in row.sources if "%" in source]
        if uris:
            old_forms.setdefault(row.key, set()).update(map(text_of_uri, uris))
    for row in rows:
        if old_forms and (old := old_forms.get(row.key)) is not None:
            row = replace(row, sources=tuple(source for source in row.sources if source not in old))
        yield row


def encode_map(rows: Iterable[MappedImage]) -> bytes:
    """The document of the map. Equal rows give equal bytes."""
    return b"".join(iter_map(rows))


def iter_map(rows: Iterable[MappedImage]) -> Iterator[bytes]:
    """The bytes of `encode_map` in pieces."""
    return iter_list(_frame(), map(row_document, rows), depth=4)


def _frame() -> bytes:
    return encode_json_pretty({"schema_version": SCHEMA_VERSION, "images": []})


def row_document(row: MappedImage) -> dict[str, Any]:
    document: dict[str, Any] = {
        "legacy_id": row.legacy_id,
        "image_id": str(row.image_id),
        "manifest_digest": None if row.manifest_digest is None else str(row.manifest_digest),
        "references": list(row.references),
        "names": list(row.names),
        "containers": list(row.containers),
        "platform": row.platform,
        "created": row.created,
        "sources": list(row.sources),
        "legacy_digests": [str(digest) for digest in row.legacy_digests],
    }
    return {**document, "removed": True} if row.removed else document


def parse_map(raw: bytes, limit: int = CATALOG_BYTES, wanted: Callable[[str], bool] | None = None) -> Rows:
    """The rows, sorted; with `wanted` only those with a reference or name for which it is true. Raises DocumentError
    and LimitError. Unknown fields are ignored.
    """
    document = _load(raw, "map", limit)
    rows = document.get("images") if isinstance(document, dict) else None
    if not isinstance(rows, list) or document.get("schema_version") != SCHEMA_VERSION:
        raise DocumentError("map: not a map of schema_version 1")
    return merge_rows(
        _parse_row(row, f"map: images[{place}]") for place, row in enumerate(rows) if _has_name(row, wanted)
    )


def iter_own_map(raw: bytes) -> Iterator[MappedImage]:
    """The rows of a map with the bytes of `encode_map`, parsed one by one, since the values of a whole large map
    take much memory. Raises DocumentError for any other document, perhaps after some rows; `parse_map` parses all."""
    head, _, tail = _frame().rpartition(b"]")
    begin, between, end = b"\n    {", b"\n    },\n    {", b"\n    }\n  ]" + tail
    if not (raw.startswith(head + begin) and raw.endswith(end)):
        raise DocumentError("map: of another form")
    start, last, before = len(head) + len(begin) - 1, len(raw) - len(end), ("", "", "")
    # What is valid by itself between two separators is a row: then the whole is a list of them.
    while start < last:
        stop = raw.find(between, start, last)
        stop = last if stop < 0 else stop
        row = _parse_row(_load(raw[start:stop] + b"}", "map", CATALOG_BYTES), "map")
        order = row_order(row)
        if order <= before:
            raise DocumentError("map: not sorted")
        yield row
        before, start = order, stop + len(between) - 1


def _load(raw: bytes, what: str, limit: int) -> Any:
    if len(raw) > limit:
        raise LimitError(f"{what}: larger than the limit of {limit:,} bytes")
    try:
        return orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise DocumentError(f"{what}: not JSON: {error}") from error


def _has_name(row: Any, wanted: Callable[[str], bool] | None) -> bool:
    if wanted is None or not isinstance(row, dict):
        return True
    lists = (row.get("references"), row.get("names"))
    return any(wanted(name) for names in lists if isinstance(names, list) for name in names if isinstance(name, str))


def _parse_row(row: Any, where: str) -> MappedImage:
    if not isinstance(row, dict):
        raise DocumentError(f"{where}: not an object")
    manifest = row.get("manifest_digest")
    return MappedImage(
        legacy_id=_text(row, "legacy_id", where),
        image_id=ImageID(_digest(row.get("image_id"), f"{where}.image_id")),
        manifest_digest=None if manifest is None else _digest(manifest, f"{where}.manifest_digest"),
        references=_texts(row, "references", where),
        names=_texts(row, "names", where),
        containers=_texts(row, "containers", where),
        legacy_digests=tuple(
            sorted(_digest(value, f"{where}.legacy_digests") for value in _texts(row, "legacy_digests", where))
        ),
        platform=_text(row, "platform", where),
        sources=_texts(row, "sources", where),
        created=None if row.get("created") is None else _text(row, "created", where),
        removed=row.get("removed") is True,
    )


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise DocumentError(f"{where}.{name}: not a text: {shown(value)}")
    return value


def _texts(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    values = row.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DocumentError(f"{where}.{name}: not an array of texts")
    return tuple(sorted(set(values)))


def _digest(value: Any, where: str) -> Digest:
    try:
        return Digest.parse(value if isinstance(value, str) else "")
    except ValueError as error:
        raise DocumentError(f"{where}: not a digest sha256:<64 hex digits>: {shown(value)}") from error


def rows_of_report(raw: bytes, limit: int) -> tuple[MappedImage, ...]:
    """The rows of a report, for a target written by a version without maps. Raises DocumentError and LimitError."""
    document = _load(raw, "report", limit)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise DocumentError("report: lists no images")
    if document.get("dry_run") is True:
        return ()
    sources = document.get("sources")
    rows = [source for source in (sources if isinstance(sources, list) else ()) if isinstance(source, dict)]
    uris = uris_by_location((row.get("location"), row.get("uri")) for row in rows)
    return merge_rows(_report_row(image, uris, f"report: images[{place}]") for place, image in enumerate(images))


def uris_by_location(sources: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """From (location, URI or None) of a report's sources. Of two names that differ in bytes that are no text alone, the
    report's images do not show which one is meant: both are left out."""
    found: dict[str, set[str]] = {}
    for location, uri in sources:
        if isinstance(location, str) and isinstance(uri, str):
            found.setdefault(location, set()).add(uri)
    return {location: uris.pop() for location, uris in found.items() if len(uris) == 1}


def _report_row(image: Any, uris: Mapping[str, str], where: str) -> MappedImage:
    if not isinstance(image, dict):
        raise DocumentError(f"{where}: not an object")
    platform = image.get("platform")
    parts = [platform.get(name) for name in ("os", "architecture", "variant")] if isinstance(platform, dict) else []
    text = "/".join(part for part in parts if isinstance(part, str) and part)
    source = image.get("source")
    uri = uris.get(source) if isinstance(source, str) else None
    return _parse_row({**image, "platform": text, "sources": [uri or source]}, where)
