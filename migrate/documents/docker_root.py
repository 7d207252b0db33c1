"""The small JSON documents of a Docker root: the tag store, the map of a migration, the checksums of archives.

Tag store: moby 0.6 to 1.9, graph/tags.go, `{"Repositories":{"<name>":{"<tag or digest>":"<id>"}}}`. Map: moby 1.10,
migrate/v1/migratev1.go, `.migration-v1-images.json`. Checksums: moby 0.3, graph.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from migrate.documents.json_text import load_cut_object, load_json_lenient
from migrate.errors import DocumentError


class TagRecord(NamedTuple):
    """One tag as stored. `tag` may be a digest. `legacy_id` may be cut short, or the ID of no layer."""

    name: str
    tag: str
    legacy_id: str


def parse_tag_store(raw: bytes, what: str) -> tuple[tuple[TagRecord, ...], tuple[str, ...]]:
    """(the tags, sorted; the problems of the rest). The tags before a damaged place are read.

    DocumentError if it is no tag store. Docker always wrote the key `Repositories`, also for an empty store.
    """
    problems: list[str] = []
    try:
        document = _object(load_json_lenient(raw, what), what)
    except DocumentError as error:
        document = _object(load_cut_object(raw, what), what)
        problems.append(f"{error.message}; the tags before that place are read, those behind it are lost")
    names = [key for key in document if key.lower() == "repositories"]  # as Go reads it, the last one counts
    if document and not names:
        raise DocumentError(f"{what}: has no member Repositories")
    repositories = document[names[-1]] if names else None
    if repositories is None:
        repositories = {}
    records: list[TagRecord] = []
    for name, tags in _object(repositories, f"{what}: Repositories").items():
        if tags is None:
            continue
        if not isinstance(tags, dict):
            problems.append(f"{what}: the tags of {name!r} are no object")
            continue
        for tag, legacy_id in tags.items():
            if isinstance(legacy_id, str):
                records.append(TagRecord(name, tag, legacy_id))
            else:
                problems.append(f"{what}: the ID of {name}:{tag} is no string")
    return tuple(sorted(records)), tuple(problems)


def parse_migration_map(raw: bytes, what: str) -> Mapping[str, str]:
    """Image ID (`sha256:…`) → legacy ID. Raises DocumentError."""
    document = _object(load_json_lenient(raw, what), what)
    return {image_id: legacy_id for legacy_id, image_id in document.items() if isinstance(image_id, str)}


def parse_checksum_map(raw: bytes, what: str) -> Mapping[str, str]:
    """Legacy ID → checksum, for values that are texts. Raises DocumentError."""
    document = _object(load_json_lenient(raw, what), what)
    return {legacy_id: checksum for legacy_id, checksum in document.items() if isinstance(checksum, str)}


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DocumentError(f"{what}: not a JSON object")
    return value
