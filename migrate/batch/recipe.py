"""The options of a batch as JSON, and a digest of those that change the result of a source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, get_args, get_type_hints

from migrate import __version__
from migrate.errors import UsageError
from migrate.model.image import Platform
from migrate.model.options import CHANGES, Changes, ConvertOptions


def recipe_of(options: ConvertOptions) -> str:
    """16 hex digits, equal for runs with which a source gives the same layers and configs."""
    deciding = {name: _plain(getattr(options, name)) for name in CHANGES if CHANGES[name] is Changes.RESULT}
    text = json.dumps([__version__, deciding], sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def options_document(options: ConvertOptions) -> dict[str, Any]:
    """The options that change the result, as JSON values, by the names of `ConvertOptions`."""
    return {name: _plain(getattr(options, name)) for name in CHANGES if CHANGES[name] is not Changes.NOTHING}


def parse_options(document: Mapping[str, Any]) -> ConvertOptions:
    """The reverse of `options_document`. Raises UsageError for options of another version of this program."""
    types = get_type_hints(ConvertOptions)
    try:
        return ConvertOptions(**{name: _typed(value, types[name]) for name, value in document.items()})
    except (KeyError, TypeError, ValueError) as exc:
        raise UsageError(f"the journal has options that this version of migrate does not have: {exc}") from exc


def _typed(value: Any, annotation: Any) -> Any:
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, StrEnum) and value is not None:
            return kind(value)
        if kind is Platform:
            system, architecture, variant = value
            return Platform(os=system, architecture=architecture, variant=variant)
    if isinstance(value, list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return value


def _plain(value: object) -> Any:
    if isinstance(value, Platform):
        return [value.os, value.architecture, value.variant]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
