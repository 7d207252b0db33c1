"""The small documents of a docker-registry (v1) storage tree: `_checksum` and `ancestry`.

Source of the formats: docker-registry 0.9.1, `depends/docker-registry-core/docker_registry/core/driver.py` and
`docker_registry/toolkit.py`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from migrate.documents.json_text import load_json, shown
from migrate.errors import DocumentError, MigrateError


def parse_name(text: str) -> str:
    """The name of a namespace or repository from that of its folder, which the search lists, too.

    docker-registry 0.9 quotes names for its storage, and so does docker-registry-core 2 with what it is given. A name
    itself has no `%`.
    """
    return unquote(unquote(text, errors="replace"), errors="replace")


def parse_checksums(raw: bytes) -> tuple[str, ...]:
    """The recorded checksums: a JSON array of strings, one JSON string, or (the oldest servers) one bare string."""
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


def parse_tags(document: Any) -> dict[str, str] | None:
    """Tag → image ID, from a registry's answer: an object, or a list of `{"name", "layer"}` as of Docker Hub's index.
    None if it is neither. A value that is no text is replaced by its text for messages, and is no ID."""
    if isinstance(document, list):
        pairs = [(item.get("name"), item.get("layer", item.get("id"))) for item in document if isinstance(item, dict)]
        if len(pairs) < len(document) or not all(isinstance(name, str) for name, _ in pairs):
            return None
        document = dict(pairs)
    if not isinstance(document, dict):
        return None
    return {tag: value if isinstance(value, str) else shown(value) for tag, value in document.items()}


def parse_ancestry(raw: bytes) -> tuple[str, ...]:
    """The IDs from the image down to its base, as in the file. DocumentError for any other document."""
    value = load_json(raw, "ancestry")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DocumentError("ancestry: not an array of strings")
    return tuple(value)
