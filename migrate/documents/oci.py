"""Configs, manifests and indexes of Docker's schema 2 and of OCI, read and written.

Formats: Docker "Image Manifest Version 2, Schema 2" and the OCI image specification 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from migrate.blobio.limits import JSON_BYTES, STATED_BYTES
from migrate.documents.go_json import read_document
from migrate.documents.go_struct import Field, MismatchError, Struct, decode_string, decode_strings, decode_structs
from migrate.documents.json_text import encode_json, encode_json_pretty, load_json, shown
from migrate.errors import DocumentError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Descriptor, MediaType, Platform

OCI_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'

_ENTRY_MEMBERS: Final = frozenset({"mediaType", "size", "digest", "annotations", "platform"})
_PLATFORM_MEMBERS: Final = frozenset({"os", "architecture", "variant"})
_INDENT: Final = re.compile(rb"\n( +)")
_DOCKER_TYPES: Final = frozenset({MediaType.DOCKER_MANIFEST, MediaType.DOCKER_LIST})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFacts:
    """What a config says. `history_empty` holds one flag per history step; None where the config has no history.

    `platform` is None where `os` or `architecture` is missing; `os` and `architecture` stand here as written.
    """

    diff_ids: tuple[DiffID, ...]
    history_empty: tuple[bool, ...] | None
    platform: Platform | None
    created: str | None
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None

    @property
    def steps_with_layer(self) -> int:
        """How many steps of the history have a layer, by what the history says of itself."""
        return (self.history_empty or ()).count(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFacts:
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One manifest of an index, with what the index says about it.

    `other` are members that this program does not read, kept for when the entry is written again; a `platform` among
    them is one that says more than `Platform` can hold.
    """

    descriptor: Descriptor
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    media_type: str
    manifests: tuple[IndexEntry, ...]


def _decode_flag(value: Any, old: Any) -> Any:
    return old if value is None else value is True


_STEP: Final = Struct(Field("empty_layer", _decode_flag, False))
_ROOTFS: Final = Struct(Field("diff_ids", decode_strings, None))
_CONFIG: Final = Struct(
    Field("created", decode_string, ""),
    Field("architecture", decode_string, ""),
    Field("variant", decode_string, ""),
    Field("os", decode_string, ""),
    Field("rootfs", _ROOTFS.decode_pointer, None, struct=_ROOTFS),
    Field("history", decode_structs(_STEP, "an array"), None),
)
"""The part of Docker's image.Image that is read here."""


def parse_config(raw: bytes) -> ConfigFacts:
    """Read as Go reads it: keys in any case of letters, whatever number or string stands under other keys.

    Raises DocumentError for what is no config of a container image with a `rootfs`.
    """
    config = _decode_config(raw)
    rootfs = config.get("rootfs")
    if rootfs is None:
        raise DocumentError("config: rootfs: not an object")
    os, architecture, variant = (config.get(key) or None for key in ("os", "architecture", "variant"))
    history = config.get("history")
    return ConfigFacts(
        diff_ids=tuple(
            DiffID(_digest(value, f"config: rootfs.diff_ids[{index}]"))
            for index, value in enumerate(rootfs.get("diff_ids") or ())
        ),
        history_empty=None if history is None else tuple(step.get("empty_layer") is True for step in history),
        platform=Platform(os=os, architecture=architecture, variant=variant) if os and architecture else None,
        created=config.get("created") or None,
        os=os,
        architecture=architecture,
        variant=variant,
    )


def _decode_config(raw: bytes) -> dict[str, Any]:
    try:
        document = load_json(raw, "config")
    except DocumentError:  # Go reads more: numbers of any size, bytes that are not UTF-8, lone surrogates
        document = read_document(raw, "config")
    try:
        if document is None:
            raise MismatchError("an object")
        return _CONFIG.decode(document)
    except MismatchError as exc:
        raise DocumentError(f"config: {exc}" if exc.path else f"config: not {exc.wanted}") from exc


def parse_manifest(raw: bytes) -> ManifestFacts:
    """A schema-2 or OCI image manifest. Raises DocumentError, also for an index and for schema 1."""
    document = _object(load_json(raw, "manifest"), "manifest")
    _check_schema_version(document, "manifest")
    if "manifests" in document or "layers" not in document:
        raise DocumentError("manifest: not an image manifest: it has no layers")
    config = _descriptor(document.get("config"), "manifest: config")
    layers = _array(document["layers"], "manifest: layers")
    return ManifestFacts(
        media_type=_text(document, "mediaType", "manifest") or _guess_manifest_type(config),
        config=config,
        layers=tuple(_descriptor(layer, f"manifest: layers[{index}]") for index, layer in enumerate(layers)),
    )


def _guess_manifest_type(config: Descriptor) -> str:
    """OCI lets a manifest go without `mediaType`."""
    return MediaType.DOCKER_MANIFEST if config.media_type == MediaType.DOCKER_CONFIG else MediaType.OCI_MANIFEST


def parse_index(raw: bytes, limit: int = JSON_BYTES) -> IndexFacts:
    """A manifest list or OCI index of up to `limit` bytes. Raises DocumentError, also for an image manifest."""
    document = _object(load_json(raw, "index", limit), "index")
    _check_schema_version(document, "index")
    if "manifests" not in document:
        raise DocumentError("index: not an index: it has no manifests")
    entries = _array(document["manifests"], "index: manifests")
    return IndexFacts(
        media_type=_text(document, "mediaType", "index") or MediaType.OCI_INDEX,
        manifests=tuple(_index_entry(entry, f"index: manifests[{position}]") for position, entry in enumerate(entries)),
    )


def _index_entry(value: Any, where: str) -> IndexEntry:
    entry = _object(value, where)
    return IndexEntry(
        descriptor=_descriptor(entry, where),
        platform=_platform(entry.get("platform"), f"{where}.platform"),
        annotations=_annotations(entry.get("annotations"), f"{where}.annotations"),
        other=_other_members(entry, where),
    )


def _other_members(entry: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    other = {key: value for key, value in entry.items() if _is_other(key, value)}
    if other:
        try:
            encode_json([[other]])  # as deep as it will stand in an index
        except DocumentError as exc:
            raise DocumentError(f"{where}: {exc.message}") from exc
    return other


def _is_other(key: str, value: Any) -> bool:
    if key == "platform":
        return isinstance(value, dict) and not value.keys() <= _PLATFORM_MEMBERS
    return key not in _ENTRY_MEMBERS


def _platform(value: Any, where: str) -> Platform | None:
    if value is None:
        return None
    platform = _object(value, where)
    os, architecture = _text(platform, "os", where), _text(platform, "architecture", where)
    if not (os and architecture):
        return None
    return Platform(os=os, architecture=architecture, variant=_text(platform, "variant", where))


def _annotations(value: Any, where: str) -> Mapping[str, str]:
    annotations = {} if value is None else _object(value, where)
    for key, text in annotations.items():
        if not isinstance(text, str):
            raise DocumentError(f"{where}: {shown(key)} is not a string")
    return annotations


def encode_index(entries: Iterable[IndexEntry], media_type: str = MediaType.OCI_INDEX) -> bytes:
    """An index in the order given; keys in the specification's order. Docker's type gets Docker's indentation."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [_encode_entry(entry) for entry in entries],
    }
    return _encode(document, media_type)


def _encode_entry(entry: IndexEntry) -> dict[str, Any]:
    encoded = _encode_descriptor(entry.descriptor)
    if entry.annotations:
        encoded["annotations"] = dict(sorted(entry.annotations.items()))
    if entry.platform is not None:
        encoded["platform"] = {"architecture": entry.platform.architecture, "os": entry.platform.os}
        if entry.platform.variant:
            encoded["platform"]["variant"] = entry.platform.variant
    return encoded | dict(entry.other)


def encode_manifest(config: Descriptor, layers: Sequence[Descriptor], media_type: str) -> bytes:
    """An image manifest. Docker's type gets Docker's key order and indentation, so that its bytes are Docker's."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _encode_descriptor(config),
        "layers": [_encode_descriptor(layer) for layer in layers],
    }
    return _encode(document, media_type)


def _encode_descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "size": descriptor.size, "digest": str(descriptor.digest)}


def _encode(document: dict[str, Any], media_type: str) -> bytes:
    return _encode_indented(document) if media_type in _DOCKER_TYPES else encode_json(document)


def _encode_indented(document: dict[str, Any]) -> bytes:
    """Go's json.MarshalIndent with three spaces, as Docker writes manifests: a line break is never part of a string."""
    by_two = encode_json_pretty(document).removesuffix(b"\n")
    return _INDENT.sub(lambda match: match[0] + b" " * (len(match[1]) // 2), by_two)


# --- checks ------------------------------------------------------------------------------------------------------


def _check_schema_version(document: Mapping[str, Any], what: str) -> None:
    version = document.get("schemaVersion")
    if type(version) is not int or version != 2:
        raise DocumentError(f"{what}: schemaVersion is {shown(version)}, not 2")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DocumentError(f"{where}: not an object")
    return value


def _array(value: Any, where: str) -> list[Any]:
    if value is None:  # what Go writes for an empty list
        return []
    if not isinstance(value, list):
        raise DocumentError(f"{where}: not an array")
    return value


def _text(document: Mapping[str, Any], key: str, where: str) -> str | None:
    value = document.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise DocumentError(f"{where}: {key} is not a string")
    return value


def _digest(value: Any, where: str) -> Digest:
    try:
        return Digest.parse(value if isinstance(value, str) else "")
    except ValueError as exc:
        raise DocumentError(f"{where}: not a sha256 digest: {shown(value)}") from exc


def _descriptor(value: Any, where: str) -> Descriptor:
    descriptor = _object(value, where)
    size = descriptor.get("size")
    if type(size) is not int or not 0 <= size <= STATED_BYTES:
        raise DocumentError(f"{where}: size is {shown(size)}, not a number of bytes")
    return Descriptor(
        media_type=_text(descriptor, "mediaType", where) or "",
        digest=_digest(descriptor.get("digest"), f"{where}.digest"),
        size=size,
    )
