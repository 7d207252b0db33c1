"""What is read from a layer's json, by functions of its bytes."""

from __future__ import annotations

from typing import Any

from migrate.documents.v1_json import LayerDocument, LayerIdentity, V1Json


def parse_v1_json(raw: bytes, what: str = "layer json") -> V1Json:
    return LayerDocument(raw).facts(what)


def parse_identity(raw: bytes, what: str = "layer json") -> LayerIdentity:
    return LayerDocument(raw).identity(what)


def carried_members(raw: bytes, what: str = "layer json") -> dict[str, Any]:
    return LayerDocument(raw).carried_members(what)
