"""Schema-1 manifests, signed and unsigned, and the JWS envelope around them.

Sources: Docker "Image Manifest Version 2, Schema 1"; libtrust `jsonsign.go` (the envelope); moby 1.10
`distribution/pull_v2.go:667-712` (what a client checks before it uses one). What is digested and parsed is the
envelope's payload, never the envelope: members outside the payload are an attacker's to add.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from migrate.documents.go_json import fold_key
from migrate.documents.go_struct import Field, Struct, decode_document, decode_int64, decode_string, decode_structs
from migrate.documents.json_text import load_json, load_json_lenient, shown
from migrate.documents.v1_json import LayerDocument
from migrate.errors import ConflictingLayerError, DocumentError, MigrateError, UnsupportedError
from migrate.model.digest import Digest
from migrate.model.legacy import LegacyID

_HEX_64: Final = re.compile(r"[0-9a-f]{64}")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_IGNORED: Final = str.maketrans("", "", " \r\n")

_SIGNATURE: Final = Struct(
    Field("header", lambda value, _: value, None),
    Field("protected", decode_string, ""),
    Field("signature", decode_string, ""),
)
_MANIFEST: Final = Struct(
    Field("schemaVersion", decode_int64, 0),
    Field("mediaType", decode_string, ""),
    Field("name", decode_string, ""),
    Field("tag", decode_string, ""),
    Field("architecture", decode_string, ""),
    Field("fsLayers", decode_structs(Struct(Field("blobSum", decode_string, ""))), None),
    Field("history", decode_structs(Struct(Field("v1Compatibility", decode_string, ""))), None),
)


class Signature(msgspec.Struct, frozen=True):
    """One JWS signature: `header` holds `alg` and `jwk` or `x5c`; `protected` is base64url as it was signed."""

    header: Mapping[str, Any]
    protected: str
    value: bytes


class OpenedManifest(msgspec.Struct, frozen=True):
    """`payload` is what the digest covers, and all that may be read; `signatures` is empty for an unsigned manifest."""

    payload: bytes
    signatures: tuple[Signature, ...]


class Schema1Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One history step: `json` is v1Compatibility, verbatim, `blob_sum` its layer (also where `throwaway`)."""

    legacy_id: LegacyID
    parent: LegacyID | None
    json: LayerDocument
    blob_sum: Digest
    throwaway: bool


class Schema1Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`entries` run base first, unlike the document. `name`, `tag` and `architecture` are informative.

    `wrong_parents` are the layers that name another parent than the entry below them, where such are accepted.
    """

    name: str
    tag: str
    architecture: str
    entries: tuple[Schema1Entry, ...]
    wrong_parents: tuple[str, ...] = ()


# --- the envelope ------------------------------------------------------------------------------------------------


def open_manifest(document: bytes) -> OpenedManifest:
    """Takes the payload out of a JWS; a document without `signatures` is its own payload. Raises DocumentError.

    Nothing but schema 1 was ever signed so: an envelope around another kind is refused.
    """
    value = load_json_lenient(document, "manifest")
    signatures = value.get("signatures") if isinstance(value, dict) else None
    if signatures is None:
        return OpenedManifest(document, ())
    if not isinstance(signatures, list) or not signatures:
        raise DocumentError("manifest: signatures: not a filled array")
    parsed = tuple(_signature(item, f"manifest: signatures[{index}]") for index, item in enumerate(signatures))
    # Each signature states where the payload ends and what follows it; another cut would be another payload.
    cuts = {_cut(signature.protected) for signature in parsed}
    if len(cuts) > 1:
        raise DocumentError("manifest: its signatures do not agree on the payload")
    length, tail = cuts.pop()
    if not 0 <= length <= len(document):
        raise DocumentError(f"manifest: formatLength {length} is outside the document of {len(document)} bytes")
    payload = document[:length] + tail
    if not is_schema1(load_json_lenient(payload, "manifest: payload")):
        raise DocumentError("manifest: signed as schema 1, but what is signed is something else")
    return OpenedManifest(payload, parsed)


def parse_signature(raw: bytes) -> Signature:
    """One signature as registries up to 2.4 store it, in a blob of its own. Raises DocumentError."""
    return _signature(load_json(raw, "signature"), "signature")


def _signature(value: Any, where: str) -> Signature:
    fields = decode_document(_SIGNATURE, value, where)
    header, protected, signature = fields.get("header"), fields.get("protected"), fields.get("signature")
    if not isinstance(header, dict) or protected is None or signature is None:
        raise DocumentError(f"{where}: header, protected or signature is missing")
    return Signature(header, protected, decode_base64url(signature, f"{where}.signature"))


def _cut(protected: str) -> tuple[int, bytes]:
    where = "manifest: protected"
    value = load_json(decode_base64url(protected, where), where)
    length = value.get("formatLength") if isinstance(value, dict) else None
    tail = value.get("formatTail") if isinstance(value, dict) else None
    if type(length) is float and math.isfinite(length):
        length = int(length)  # libtrust reads it as any number, and takes what is left of the point
    if type(length) is not int or not isinstance(tail, str):
        raise DocumentError(f"{where}: formatLength or formatTail is missing")
    return length, decode_base64url(tail, f"{where}.formatTail")


def decode_base64url(text: str, where: str) -> bytes:
    """base64url (RFC 4648), padded or not; libtrust passes over blanks and line ends. DocumentError for all else."""
    bare = text.translate(_IGNORED).rstrip("=")
    if not _BASE64URL.fullmatch(bare):
        raise DocumentError(f"{where}: not base64url")
    try:
        return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except (binascii.Error, ValueError) as exc:
        raise DocumentError(f"{where}: not base64url") from exc


# --- the payload -------------------------------------------------------------------------------------------------


def parse_schema1(
    payload: bytes, *, salvage: bool = False, find_blob: Callable[[str], Digest | None] = lambda _: None
) -> Schema1Manifest:
    """The manifest after the fix-up that every client applies: of neighbours with one ID the base-ward one stays.

    With `salvage`, wrong parents are no problem: the layers and their order are in `fsLayers`, which Docker 1.8.0 to
    1.9.0 wrote rightly beside a parent's ID that was wrong (moby #18047). `find_blob` is called with what names a layer
    by something else than sha256.

    Raises DocumentError that lists every problem, UnsupportedError for layers named by a tarsum that `find_blob` has
    nothing for, ConflictingLayerError for an ID in two places apart.
    """
    value = decode_document(_MANIFEST, load_json_lenient(payload, "manifest"), "manifest")
    layers, history = value.get("fsLayers") or [], value.get("history") or []
    if not layers or "history" not in value:
        raise DocumentError("manifest: no layers")
    if len(layers) != len(history):
        raise DocumentError(f"manifest: {len(layers)} fsLayers but {len(history)} history entries")
    problems: list[str] = []
    entries = [
        entry
        for index in range(len(layers))
        if (entry := _entry(index, layers[index], history[index].get("v1Compatibility"), find_blob, problems))
        is not None
    ]
    _refuse(problems)
    # The document has the top layer first.
    entries.reverse()
    chain, wrong_parents = _checked_chain(entries)
    if not salvage:
        _refuse(wrong_parents)
    return Schema1Manifest(
        name=value.get("name", ""),
        tag=value.get("tag", ""),
        architecture=value.get("architecture", ""),
        entries=tuple(chain),
        wrong_parents=tuple(wrong_parents),
    )


def is_manifest(content: bytes) -> bool:
    """True for a registry's manifest or list, of any schema; False for the array of a `docker save` archive."""
    try:
        document = load_json_lenient(content, "manifest")
    except MigrateError:
        return False
    keys = set(map(fold_key, document)) if isinstance(document, dict) else set()
    return "schemaversion" in keys and not keys.isdisjoint({"fslayers", "layers", "manifests"})


def is_schema1(value: Any) -> bool:
    """True for a decoded manifest document with schemaVersion 1, in any spelling that Go takes."""
    if not isinstance(value, dict):
        return False
    versions = [version for key, version in value.items() if fold_key(key) == "schemaversion"]
    return bool(versions) and type(versions[-1]) is int and versions[-1] == 1


def is_index(content: bytes) -> bool:
    """True for a manifest list or index. Raises DocumentError for what is no JSON."""
    document = load_json_lenient(content, "manifest")
    return isinstance(document, dict) and "manifests" in map(fold_key, document) and not is_schema1(document)


def _entry(
    index: int,
    layer: Mapping[str, Any],
    text: str | None,
    find_blob: Callable[[str], Digest | None],
    problems: list[str],
) -> Schema1Entry | None:
    if text is None:
        problems.append(f"history[{index}]: v1Compatibility is missing")
        return None
    document = LayerDocument(text.encode("utf-8", "replace"))
    try:
        image = document.facts()
    except MigrateError as exc:
        problems.append(f"history[{index}].v1Compatibility: {exc.message}")
        return None
    digest = _blob_digest(layer.get("blobSum", ""), index, find_blob, problems)
    if image.throwaway is None:
        problems.append(f"history[{index}].v1Compatibility: throwaway is neither true nor false")
    if image.id is None or not _HEX_64.fullmatch(image.id):
        problems.append(f"history[{index}]: id {image.id!r} is not 64 hexadecimal digits")
    elif digest is not None:
        parent = LegacyID(image.parent) if image.parent else None
        return Schema1Entry(
            legacy_id=LegacyID(image.id), parent=parent, json=document, blob_sum=digest, throwaway=bool(image.throwaway)
        )
    return None


def _blob_digest(
    blob_sum: str, index: int, find_blob: Callable[[str], Digest | None], problems: list[str]
) -> Digest | None:
    with suppress(ValueError):
        return Digest.parse(blob_sum)
    found = find_blob(blob_sum)
    if found is not None:
        return found
    if blob_sum.startswith("tarsum"):
        raise UnsupportedError(
            f"manifest: fsLayers[{index}]: blobSum {blob_sum[:120]} is a tarsum, by which no blob can be found"
        )
    problems.append(f"fsLayers[{index}]: blobSum {shown(blob_sum)} is not a sha256 digest")
    return None


def _checked_chain(entries: Sequence[Schema1Entry]) -> tuple[list[Schema1Entry], list[str]]:
    """`entries`, base first, without the repeats of a neighbour's ID; and what is wrong with their parents."""
    chain: list[Schema1Entry] = []
    problems: list[str] = []
    seen: set[LegacyID] = set()
    for entry in entries:
        below = chain[-1] if chain else None
        if below is not None and entry.legacy_id == below.legacy_id:
            continue
        if entry.legacy_id in seen:
            raise ConflictingLayerError(f"manifest: ID {entry.legacy_id} appears twice, not side by side")
        if below is None and entry.parent is not None:
            problems.append(f"the base layer {entry.legacy_id} has a parent, {entry.parent}")
        elif below is not None and entry.parent != below.legacy_id:
            problems.append(f"layer {entry.legacy_id}: parent is {entry.parent}, the next entry is {below.legacy_id}")
        seen.add(entry.legacy_id)
        chain.append(entry)
    return chain, problems


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise DocumentError(f"manifest: {'; '.join(problems)}")
