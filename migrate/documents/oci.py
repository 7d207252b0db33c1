"""Reads and writes configs, manifests and indexes of Docker's schema 2 and of OCI.

Formats: Docker "Image Manifest Version 2, Schema 2" and the OCI image specification 1.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

import msgspec

from migrate.blobio.limits import CATALOG_BYTES, JSON_BYTES, STATED_BYTES
from migrate.documents.go_json import RawObject, RawValue, carried_values, read_document
from migrate.documents.go_struct import (
    Field,
    MismatchError,
    Struct,
    decode_int64,
    decode_string,
    decode_string_map,
    decode_strings,
    decode_structs,
)
from migrate.documents.json_text import check_size, encode_json, encode_json_pretty, encode_list, iter_list, shown
from migrate.documents.v1_json import check_config
from migrate.errors import DocumentError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Descriptor, MediaType, Platform
from migrate.model.reference import Reference

REF_NAME: Final = "org.opencontainers.image.ref.name"
IMAGE_NAME: Final = "io.containerd.image.name"
OCI_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'

_LARGE_INDEX: Final = 4 * 1024 * 1024
"""A larger index is parsed in parts."""
_ENTRIES_BYTES: Final = 64 * 1024
_NO_MEMBERS: Final[Mapping[str, Any]] = {}
_DOCKER_TYPES: Final = frozenset({MediaType.DOCKER_MANIFEST, MediaType.DOCKER_LIST})


class ConfigFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed fields of a config. `history_empty`: one flag for each history step; None if the config has no
    history.

    `platform` is None if `os` or `architecture` is missing; `os` and `architecture` are as written.
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
        """The number of history steps with a layer, by the history's own flags."""
        return (self.history_empty or ()).count(False)


class ManifestFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed fields of a manifest. `layers`: base first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an index.

    `other`: members that this program does not read, plain or as RawValue, so that they can be written again. It
    includes a `platform` with more fields than `Platform` has.
    """

    descriptor: Descriptor
    platform: Platform | None = None
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    other: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def name(self) -> str | None:
        """The image's name, None if it has none.

        This program writes the whole name as the reference name. Docker 25 and later and containerd write only the tag
        as the reference name, and the whole name, with its registry, as the image name; it is returned in Docker's
        short form. Source: containerd's and Docker's exporters (moby image/tarexport/save.go since 25).
        """
        name = self.annotations.get(REF_NAME)
        if name and (":" in name or "/" in name):
            return name
        full = self.annotations.get(IMAGE_NAME)
        return str(Reference.parse(full).familiar()) if full else name or None


class IndexFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed fields of an index."""

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
"""The fields of Docker's image.Image that are read."""


def parse_config(raw: bytes) -> ConfigFacts:
    """Parses a config. Raises DocumentError if it is no config of a container image with a `rootfs`."""
    return _config_facts(read_document(raw, "config"))


def parse_ready_config(raw: bytes, *, salvage: bool) -> tuple[ConfigFacts, tuple[str, ...]]:
    """The facts of a config that is carried over, and warnings about it (`check_config`). Raises DocumentError."""
    document = read_document(raw, "config")
    return _config_facts(document), check_config(document, salvage=salvage)


def _config_facts(document: Any) -> ConfigFacts:
    config = _decode_document(_CONFIG, document, "config")
    rootfs = config.get("rootfs")
    if rootfs is None:
        raise DocumentError("config: rootfs: not an object")
    # In Go, an absent member and an empty text are the same value.
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


_STORY: Final = Struct(
    Field(
        "history",
        decode_structs(
            Struct(
                *(Field(name, decode_string, "") for name in ("created", "created_by", "comment", "author")),
                Field("empty_layer", _decode_flag, False),
            )
        ),
        None,
    )
)


def parse_history(raw: bytes) -> Sequence[Mapping[str, Any]]:
    """The steps of a config's history, base first: those of their texts and of `empty_layer` that are set."""
    return _decode(_STORY, raw, "config").get("history") or ()


def _decode(struct: Struct, raw: bytes, what: str, limit: int = JSON_BYTES) -> dict[str, Any]:
    """Decodes a document as Go does: keys match in any case of letters, the last of equal keys counts, and values under
    unknown keys are ignored."""
    return _decode_document(struct, read_document(raw, what, limit), what)


def _decode_document(struct: Struct, document: Any, what: str) -> dict[str, Any]:
    try:
        if document is None:
            raise MismatchError("an object")
        return struct.decode(document)
    except MismatchError as exc:
        raise DocumentError(f"{what}: {exc}" if exc.path else f"{what}: not {exc.wanted}") from exc


_PLATFORM: Final = Struct(
    Field("os", decode_string, ""), Field("architecture", decode_string, ""), Field("variant", decode_string, "")
)
_DESCRIPTOR_FIELDS: Final = (
    Field("mediaType", decode_string, ""),
    Field("size", decode_int64, 0),
    Field("digest", decode_string, ""),
)
_DESCRIPTOR: Final = Struct(*_DESCRIPTOR_FIELDS)
_ENTRY: Final = Struct(
    *_DESCRIPTOR_FIELDS,
    Field("annotations", decode_string_map, None),
    Field("platform", _PLATFORM.decode_pointer, None, struct=_PLATFORM),
)


_decode_known = decode_structs(_ENTRY, "an array")


def _decode_entries(value: Any, old: Any) -> Any:
    """Decodes entries, each with its members without a field under `other`."""
    entries = _decode_known(value, old)
    for entry, item in zip(entries or (), value or (), strict=True):
        known, other = _split_members(item, _ENTRY)
        platform = _read_raw(known.get("platform"))
        if isinstance(platform, (dict, RawObject)) and any(_PLATFORM.find(key) is None for key, _ in platform.items()):
            other["platform"] = known["platform"]
        entry["other"] = other
    return entries


_MANIFEST: Final = Struct(
    Field("schemaVersion", decode_int64, 0),
    Field("mediaType", decode_string, ""),
    Field("config", _DESCRIPTOR.decode_pointer, None, struct=_DESCRIPTOR),
    Field("layers", decode_structs(_DESCRIPTOR, "an array"), None),
    Field("manifests", lambda value, _: value, None),
)
_INDEX: Final = Struct(
    Field("schemaVersion", decode_int64, 0),
    Field("mediaType", decode_string, ""),
    Field("manifests", _decode_entries, None),
)


def parse_manifest(raw: bytes) -> ManifestFacts:
    """A schema-2 or OCI image manifest. Raises DocumentError, also for an index and for schema 1."""
    document = _decode(_MANIFEST, raw, "manifest")
    _check_schema_version(document, "manifest")
    if "manifests" in document or "layers" not in document:
        raise DocumentError("manifest: not an image manifest: it has no layers")
    config = _descriptor(document.get("config"), "manifest: config")
    # `mediaType` is optional in OCI's specification.
    is_docker = config.media_type == MediaType.DOCKER_CONFIG
    return ManifestFacts(
        media_type=document.get("mediaType") or (MediaType.DOCKER_MANIFEST if is_docker else MediaType.OCI_MANIFEST),
        config=config,
        layers=tuple(
            _descriptor(layer, f"manifest: layers[{index}]") for index, layer in enumerate(document["layers"] or ())
        ),
    )


def parse_index(raw: bytes, limit: int = JSON_BYTES) -> IndexFacts:
    """A manifest list or OCI index of up to `limit` bytes. Raises DocumentError, also for an image manifest."""
    if len(raw) > _LARGE_INDEX:
        with suppress(DocumentError):
            return IndexFacts(media_type=MediaType.OCI_INDEX, manifests=tuple(_iter_own_index(raw, limit)))
    document = _decode(_INDEX, raw, "index", limit)
    _check_schema_version(document, "index")
    if "manifests" not in document:
        raise DocumentError("index: not an index: it has no manifests")
    # `mediaType` is optional in OCI's specification, and Docker's lists always have it.
    return IndexFacts(
        media_type=document.get("mediaType") or MediaType.OCI_INDEX,
        manifests=tuple(_entries(document["manifests"] or (), {})),
    )


def _iter_own_index(raw: bytes, limit: int) -> Iterator[IndexEntry]:
    """The entries of an index with the bytes of `encode_index`, parsed some at a time, since the values of a whole
    large index take much memory. Raises DocumentError for any other document, perhaps after some entries, and for
    members that this program does not read: how they are written again depends on the whole document."""
    check_size(raw, "index", limit)
    head, _, tail = encode_index(()).rpartition(b"]")
    if not (raw.startswith(head) and raw.endswith(b"]" + tail)):
        raise DocumentError("index: of another form")
    start, last = len(head), len(raw) - len(tail) - 1
    equal: dict[Any, Any] = {}
    # What is a valid list by itself between two commas is a part of the list: then the whole is a list of them.
    while start < last:
        stop = raw.find(b'},{"mediaType":"', start + _ENTRIES_BYTES, last) + 1 or last
        try:
            decoded = _decode_entries(read_document(b"[%b]" % raw[start:stop], "index", limit), None)
        except MismatchError as exc:
            raise DocumentError(f"index: not {exc.wanted}") from exc
        for entry in _entries(decoded or (), equal):
            if entry.other:
                raise DocumentError("index: with other members")
            yield entry
        start = stop + 1


def _entries(decoded: Iterable[Mapping[str, Any]], equal: dict[Any, Any]) -> Iterator[IndexEntry]:
    """`equal`: texts and platforms that were found before. Of equal ones, one is kept."""
    for index, entry in enumerate(decoded):
        descriptor = _descriptor(entry, f"index: manifests[{index}]")
        kind, platform = descriptor.media_type, _platform(entry.get("platform") or {})
        annotations = entry.get("annotations") or {}
        yield IndexEntry(
            descriptor=msgspec.structs.replace(descriptor, media_type=equal.setdefault(kind, kind)),
            platform=equal.setdefault(platform, platform),
            annotations={equal.setdefault(key, key): text for key, text in annotations.items()},
            other=entry["other"] or _NO_MEMBERS,
        )


def _split_members(value: Any, struct: Struct) -> tuple[dict[str, Any], dict[str, Any]]:
    """(members of an object with a field in `struct`, by the field's name; the other members). Values as of
    `carried_values`."""
    known, other = {}, {}
    for key, member in carried_values(_read_raw(value), "object").items():
        found = struct.find(key)
        if found is None:
            other[key] = member
        else:
            known[found.name] = member
    return known, other


def _read_raw(value: Any) -> Any:
    return read_document(value, "value") if isinstance(value, RawValue) else value


def _platform(platform: Mapping[str, Any]) -> Platform | None:
    os, architecture = platform.get("os"), platform.get("architecture")
    if not (os and architecture):
        return None
    return Platform(os=os, architecture=architecture, variant=platform.get("variant") or None)


def encode_index(entries: Iterable[IndexEntry], media_type: str = MediaType.OCI_INDEX) -> bytes:
    """An index with the entries in the given order and keys in the specification's order. Docker's type has Docker's
    indentation."""
    if media_type in _DOCKER_TYPES:
        return _encode(_index_document(entries, media_type), media_type)
    return encode_list(_encode(_index_document((), media_type), media_type), map(_encode_entry, entries))


def iter_index(entries: Iterable[IndexEntry]) -> Iterator[bytes]:
    """The bytes of `encode_index` for OCI's media type, in pieces."""
    return iter_list(
        _encode(_index_document((), MediaType.OCI_INDEX), MediaType.OCI_INDEX), map(_encode_entry, entries)
    )


def _index_document(entries: Iterable[IndexEntry], media_type: str) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": [_encode_entry(entry) for entry in entries]}


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
    """An image manifest. Docker's type has Docker's order of keys and indentation, so that its bytes are Docker's."""
    head, between, tail = manifest_frame(config, media_type, has_layers=bool(layers))
    return head + between.join(encode_layer(layer, media_type) for layer in layers) + tail


def manifest_frame(config: Descriptor, media_type: str, *, has_layers: bool) -> tuple[bytes, bytes, bytes]:
    """The bytes of a manifest before its layers (`encode_layer`), between two layers, and behind them."""
    head, _, tail = _filled(_manifest_parts(config.media_type, media_type), config).rpartition(b"[]")
    if not has_layers:
        return head + b"[]" + tail, b"", b""
    if media_type in _DOCKER_TYPES:
        return head + b"[\n      ", b",\n      ", b"\n   ]" + tail
    return head + b"[", b",", b"]" + tail


def encode_layer(layer: Descriptor, media_type: str) -> bytes:
    """The bytes of a layer's descriptor in a manifest of this type."""
    return _filled(_layer_parts(layer.media_type, media_type), layer)


# Descriptors of one type differ in size and digest only. To encode and indent each one anew takes a few percent of the
# time of an image with tiny layers.
_NO_DIGEST: Final = Digest("0" * 64)


@lru_cache(64)
def _manifest_parts(config_type: str, media_type: str) -> tuple[bytes, bytes, bytes]:
    config = _encode_descriptor(Descriptor(media_type=config_type, digest=_NO_DIGEST, size=0))
    document = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": []}
    return _around_descriptor(_encode(document, media_type))


@lru_cache(64)
def _layer_parts(layer_type: str, media_type: str) -> tuple[bytes, bytes, bytes]:
    layer = Descriptor(media_type=layer_type, digest=_NO_DIGEST, size=0)
    encoded = _encode(_encode_descriptor(layer), media_type)
    return _around_descriptor(encoded.replace(b"\n", b"\n      ") if media_type in _DOCKER_TYPES else encoded)


def _around_descriptor(encoded: bytes) -> tuple[bytes, bytes, bytes]:
    """The bytes before the size, between the size and the hex digits, and behind these, of the only descriptor."""
    head, _, rest = encoded.rpartition(b"0,")
    between, _, tail = rest.partition(_NO_DIGEST.hex.encode("ascii"))
    return head, b"," + between, tail


def _filled(parts: tuple[bytes, bytes, bytes], descriptor: Descriptor) -> bytes:
    head, between, tail = parts
    return b"%b%d%b%b%b" % (head, descriptor.size, between, descriptor.digest.hex.encode("ascii"), tail)


def rewrite_manifest(raw: bytes, config: Descriptor, layers: Sequence[Descriptor], media_type: str) -> bytes:
    """`raw`, an image manifest, with another type and other descriptors, of the same number. All other members are
    kept, also those of the descriptors."""
    # Members such as annotations are kept, of the manifest and of each descriptor, which is identified by its position.
    known, other = _split_members(read_document(raw, "manifest"), _MANIFEST)
    old_layers = list(_read_raw(known.get("layers")) or ())
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _encode_descriptor(config) | _split_members(known.get("config"), _DESCRIPTOR)[1],
        "layers": [
            _encode_descriptor(layer) | _split_members(old, _DESCRIPTOR)[1]
            for layer, old in zip(layers, old_layers, strict=True)
        ],
    }
    return _encode(document | other, media_type)


def rewrite_index(raw: bytes, entries: Iterable[IndexEntry], media_type: str) -> bytes:
    """`raw`, an index, with another type and other entries. All other members are kept."""
    document = _index_document(entries, media_type)
    return _encode(document | _split_members(read_document(raw, "index", CATALOG_BYTES), _INDEX)[1], media_type)


_SUBJECT: Final = Struct(Field("subject", _DESCRIPTOR.decode_pointer, None, struct=_DESCRIPTOR))


def parse_subject(raw: bytes) -> Digest | None:
    """The digest of a manifest's subject, such as the manifest that a signature signs (OCI image specification 1.1)."""
    subject = _decode(_SUBJECT, raw, "manifest").get("subject")
    return None if subject is None else _descriptor(subject, "manifest: subject").digest


def _encode_descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "size": descriptor.size, "digest": str(descriptor.digest)}


def _encode(document: dict[str, Any], media_type: str) -> bytes:
    return _encode_indented(document) if media_type in _DOCKER_TYPES else encode_json(document)


def _encode_indented(document: dict[str, Any]) -> bytes:
    """The document as Go's json.MarshalIndent with three spaces writes it, which is Docker's form of manifests. orjson
    indents by two; the indentation can be replaced in the text, since no JSON string has a line break."""
    text = encode_json_pretty(document).removesuffix(b"\n")
    depth = 0
    while b"\n" + b"  " * (depth + 1) in text:
        depth += 1
    for level in range(depth, 0, -1):  # the deepest first; a NUL, which JSON never has, marks lines that are done
        text = text.replace(b"\n" + b"  " * level, b"\0" + b"   " * level)
    return text.replace(b"\0", b"\n")


# --- checks ------------------------------------------------------------------------------------------------------


def _check_schema_version(document: Mapping[str, Any], what: str) -> None:
    version = document.get("schemaVersion")
    if version != 2:
        raise DocumentError(f"{what}: schemaVersion is {shown(version)}, not 2")


def _digest(text: str, where: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError as exc:
        raise DocumentError(f"{where}: not a sha256 digest: {shown(text)}") from exc


def _descriptor(descriptor: Mapping[str, Any] | None, where: str) -> Descriptor:
    if descriptor is None:
        raise DocumentError(f"{where}: not an object")
    size = descriptor.get("size")
    if size is None or not 0 <= size <= STATED_BYTES:
        raise DocumentError(f"{where}: size is {shown(size)}, not a number of bytes")
    return Descriptor(
        media_type=descriptor.get("mediaType", ""),
        digest=_digest(descriptor.get("digest", ""), f"{where}.digest"),
        size=size,
    )
