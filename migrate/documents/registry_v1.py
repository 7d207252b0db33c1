"""The small documents of a docker-registry (v1) storage tree: `_checksum` and `ancestry`.

Source of the formats: docker-registry 0.9.1, `depends/docker-registry-core/docker_registry/core/driver.py` and
`docker_registry/toolkit.py`.
"""

from __future__ import annotations

from migrate.documents.json_text import load_json
from migrate.errors import DocumentError, MigrateError


def parse_checksums(raw: bytes) -> tuple[str, ...]:
    """The recorded checksums: a JSON array of strings, one JSON string or, from the oldest servers, one bare string."""
    text = raw.decode("utf-8", "replace").strip()
    if not text:
        return ()
    if text[0] not in '["':
        return (text,)
    try:
        value = load_json(raw, "_checksum")
    except MigrateError:
        return (text,)
    found = value if isinstance(value, list) else [value]
    return tuple(item.strip() for item in found if isinstance(item, str))


def parse_ancestry(raw: bytes) -> tuple[str, ...]:
    """IDs from the image itself down to its base, as the file has them. DocumentError if it is anything else."""
    value = load_json(raw, "ancestry")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DocumentError("ancestry: not an array of strings")
    return tuple(value)
