"""Schema-1 manifests, signed and unsigned, and the JWS envelope around them.

Sources: Docker "Image Manifest Version 2, Schema 1"; libtrust `jsonsign.go` (the envelope); moby 1.10
`distribution/pull_v2.go:667-712` (the checks of a client). Only the envelope's payload is digested and parsed: an
attacker could add members outside the payload.
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
    """One JWS signature. `header` has `alg`, and `jwk` or `x5c`; `protected` is base64url, as signed."""

    header: Mapping[str, Any]
    protected: str
    value: bytes


class OpenedManifest(msgspec.Struct, frozen=True):
    """A manifest without its envelope. `payload`: the bytes that the digest covers. `signatures`: empty if unsigned."""

    payload: bytes
    signatures: tuple[Signature, ...]


class Schema1Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One history step. `json`: v1Compatibility, verbatim. `blob_sum`: its layer, also for a `throwaway` step."""

    legacy_id: LegacyID
    parent: LegacyID | None
    json: LayerDocument
    blob_sum: Digest
    throwaway: bool


class Schema1Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest. `entries`: base first, unlike the document. `name`, `tag` and `architecture` are only informative.

    `wrong_parents`: a message for each layer with another parent than the entry below it, if they are accepted.
    """

    name: str
    tag: str
    architecture: str
    entries: tuple[Schema1Entry, ...]
    wrong_parents: tuple[str, ...] = ()


# --- the envelope ------------------------------------------------------------------------------------------------


def open_manifest(document: bytes) -> OpenedManifest:
    """The payload and signatures of a JWS. A document without `signatures` is its own payload. Raises DocumentError.

    Only schema 1 was ever signed in this way, so an envelope around any other content is refused.
    """
    value = load_json_lenient(document, "manifest")
    signatures = value.get("signatures") if isinstance(value, dict) else None
    if signatures is None:
        return OpenedManifest(document, ())
    if not isinstance(signatures, list) or not signatures:
        raise DocumentError("manifest: signatures: not a filled array")
    parsed = tuple(_signature(item, f"manifest: signatures[{index}]") for index, item in enumerate(signatures))
    # Each signature has the length of the document's part that belongs to the payload, and the text behind that part. A
    # different one would give a different payload.
    cuts = {_cut(signature.protected) for signature in parsed}
    if len(cuts) > 1:
        raise DocumentError("manifest: its signatures do not agree on the payload")
    length, tail = cuts.pop()
    if not 0 <= length <= len(document):
        raise DocumentError(f"manifest: formatLength {length} is outside the document of {len(document)} bytes")
    payload = document[:length] + tail
    if not is_schema1(load_json_lenient(payload, "manifest: payload")):
        raise DocumentError("manifest: signed as schema 1, but the signed content is not of schema 1")
    return OpenedManifest(payload, parsed)


def parse_signature(raw: bytes) -> Signature:
    """One signature as registries up to 2.4 store it, in a separate blob. Raises DocumentError."""
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
        length = int(length)  # libtrust accepts any number, and ignores the digits behind the point
    if type(length) is not int or not isinstance(tail, str):
        raise DocumentError(f"{where}: formatLength or formatTail is missing")
    return length, decode_base64url(tail, f"{where}.formatTail")


def decode_base64url(text: str, where: str) -> bytes:
    """Decodes base64url (RFC 4648), with or without padding. As in libtrust, blanks and line ends are ignored.
    DocumentError for any other character."""
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
    """Parses a manifest, with the fix-up of all clients: of neighbours with the same ID, the one nearer to the base
    counts.

    With `salvage`, wrong parents are accepted: the layers and their order are in `fsLayers`, which Docker 1.8.0 to
    1.9.0 wrote correctly, with wrong parent IDs (moby #18047). `find_blob` is called with a layer's name that is no
    sha256.

    Raises DocumentError with all problems, UnsupportedError for a layer named by a tarsum for which `find_blob` has no
    blob, ConflictingLayerError for an ID that occurs twice and not as neighbours.
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
    """True for a decoded manifest document with schemaVersion 1, in any spelling of the key that Go accepts."""
    if not isinstance(value, dict):
        return False
    versions = [version for key, version in value.items() if fold_key(key) == "schemaversion"]
    return bool(versions) and type(versions[-1]) is int and versions[-1] == 1


def is_index(content: bytes) -> bool:
    """True for a manifest list or index. Raises DocumentError if it is no JSON."""
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
    """(`entries`, base first, without repeated IDs of neighbours; the problems of their parents)."""
    chain: list[Schema1Entry] = []
    problems: list[str] = []
    # As in Docker's fixManifestLayers (moby distribution/pull_v2.go): the same ID twice in a row is one layer, and an
    # ID that comes again later is an error.
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
