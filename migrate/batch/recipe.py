"""The options of a batch as JSON, and the part of them that decides what a source gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any, Final

from migrate import __version__
from migrate.errors import UsageError
from migrate.model.image import Platform
from migrate.model.options import Compression, ConvertOptions, EmptyLayers, Format, OnConflict

_DECIDED_BY_MERGE: Final = frozenset({"on_conflict", "renames", "tag_template", "format"})
_NO_CHANGE: Final = frozenset({"jobs", "dry_run", "force", "link", "exact_sizes"})
_ENUMS: Final[Mapping[str, type[StrEnum]]] = {
    "format": Format,
    "compression": Compression,
    "empty_layers": EmptyLayers,
    "on_conflict": OnConflict,
}


def recipe_of(options: ConvertOptions, source_type: str | None) -> str:
    """16 hex digits: equal for runs in which a source gives the same layers and configs."""
    document = options_document(options)
    deciding = {name: document[name] for name in sorted(document.keys() - _DECIDED_BY_MERGE - _NO_CHANGE)}
    text = json.dumps([__version__, source_type, deciding], sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def options_document(options: ConvertOptions) -> dict[str, Any]:
    """Plain JSON values by the names of `ConvertOptions`."""
    return {field.name: _plain(getattr(options, field.name)) for field in fields(options)}


def parse_options(document: Mapping[str, Any]) -> ConvertOptions:
    """The reverse of `options_document`. UsageError for what another version of the tool wrote."""
    values: dict[str, Any] = {}
    try:
        for name, value in document.items():
            if name in _ENUMS:
                values[name] = _ENUMS[name](value)
            elif name == "platform":
                values[name] = Platform(os=value[0], architecture=value[1], variant=value[2])
            elif isinstance(value, list):
                values[name] = tuple(tuple(item) if isinstance(item, list) else item for item in value)
            else:
                values[name] = value
        return ConvertOptions(**values)
    except (TypeError, ValueError, IndexError) as exc:
        raise UsageError(f"the journal names options that this version of migrate does not know: {exc}") from exc


def _plain(value: object) -> Any:
    if isinstance(value, Platform):
        return [value.os, value.architecture, value.variant]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
