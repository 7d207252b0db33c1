"""The `json` of one legacy layer: the fields that Docker reads, and the members that it carries over into a config.

Sources: the structs of moby (image/image.go, container.Config) in Docker 1.10 to 24; see docs/formats/v1-image-json.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import compress
from typing import Any, Final, NamedTuple

import msgspec

from migrate.documents.go_json import RawObject, carried_values, fold_key, read_document
from migrate.documents.go_struct import (
    Field,
    Struct,
    decode_bool,
    decode_command,
    decode_document,
    decode_int64,
    decode_int64_pointer,
    decode_name_set,
    decode_string,
    decode_string_map,
    decode_strings,
    decode_structs,
    decode_time,
)
from migrate.documents.go_time import ZERO_TIME
from migrate.documents.json_text import load_json
from migrate.errors import DocumentError

_HEALTH: Final = Struct(
    Field("Test", decode_strings, None, omit_empty=True),
    Field("Interval", decode_int64, 0, omit_empty=True),
    Field("Timeout", decode_int64, 0, omit_empty=True),
    Field("StartPeriod", decode_int64, 0, omit_empty=True),
    Field("Retries", decode_int64, 0, omit_empty=True),
)

# The union of Docker 1.10 (PublishService) and 1.12 to 24 (Healthcheck, StopTimeout, Shell).
_CONFIG: Final = Struct(
    Field("Hostname", decode_string, ""),
    Field("Domainname", decode_string, ""),
    Field("User", decode_string, ""),
    Field("AttachStdin", decode_bool, False),
    Field("AttachStdout", decode_bool, False),
    Field("AttachStderr", decode_bool, False),
    Field("ExposedPorts", decode_name_set, None, omit_empty=True),
    Field("PublishService", decode_string, "", omit_empty=True),
    Field("Tty", decode_bool, False),
    Field("OpenStdin", decode_bool, False),
    Field("StdinOnce", decode_bool, False),
    Field("Env", decode_strings, None),
    Field("Cmd", decode_command, None),
    Field("Healthcheck", _HEALTH.decode_pointer, None, omit_nil=True, struct=_HEALTH),
    Field("ArgsEscaped", decode_bool, False, omit_empty=True),
    Field("Image", decode_string, ""),
    Field("Volumes", decode_name_set, None),
    Field("WorkingDir", decode_string, ""),
    Field("Entrypoint", decode_command, None),
    Field("NetworkDisabled", decode_bool, False, omit_empty=True),
    Field("MacAddress", decode_string, "", omit_empty=True),
    Field("OnBuild", decode_strings, None),
    Field("Labels", decode_string_map, None),
    Field("StopSignal", decode_string, "", omit_empty=True),
    Field("StopTimeout", decode_int64_pointer, None, omit_nil=True),
    Field("Shell", decode_command, None, omit_empty=True),
)

_IMAGE_FIELDS: Final = (
    Field("id", decode_string, "", omit_empty=True),
    Field("parent", decode_string, "", omit_empty=True),
    Field("comment", decode_string, "", omit_empty=True),
    Field("created", decode_time, ZERO_TIME),
    Field("container", decode_string, "", omit_empty=True),
    Field("container_config", _CONFIG.decode, {}, struct=_CONFIG),
    Field("docker_version", decode_string, "", omit_empty=True),
    Field("author", decode_string, "", omit_empty=True),
    Field("config", _CONFIG.decode_pointer, None, omit_nil=True, struct=_CONFIG),
    Field("architecture", decode_string, "", omit_empty=True),
    Field("variant", decode_string, "", omit_empty=True),
    Field("os", decode_string, "", omit_empty=True),
    Field("Size", decode_int64, 0, omit_empty=True),
)
_IMAGE: Final = Struct(*_IMAGE_FIELDS)
# What Docker 1.10 and later read of a config beside the fields of a layer's JSON (moby image/image.go, Image).
_READY_CONFIG: Final = Struct(
    *_IMAGE_FIELDS,
    Field(
        "history",
        decode_structs(
            Struct(
                Field("created", decode_time, ZERO_TIME),
                *(Field(name, decode_string, "") for name in ("author", "created_by", "comment")),
                Field("empty_layer", decode_bool, False),
            )
        ),
        None,
    ),
    Field("os.version", decode_string, ""),
    Field("os.features", decode_strings, None),
)

_SETTINGS: Final = Struct(Field("config", _CONFIG.decode_pointer, None, struct=_CONFIG))

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Limit of the documents that a source keeps in memory between its listing and the reading of layers."""
_WHAT: Final = "layer json"
_IDENTITY_KEYS: Final = (b'"id"', b'"parent"', b'"parent_id"')
_HTML_ESCAPES: Final = (b"\\u003c", b"\\u003e", b"\\u0026")
_DROPPED_KEYS: Final = frozenset({"id", "parent", "Size", "parent_id", "layer_id", "throwaway"})
_FIRST_WITHOUT_FALLBACK: Final = (1, 8, 3)
_VERSION_NUMBER = re.compile(r"[+-]?[0-9]{1,4000}")


class V1Json(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of one layer's JSON. None: absent, null or empty.

    `created`: RFC3339Nano, as Go writes it. `created_by`: the words of `container_config.Cmd`, with single spaces
    between them. `parent` and `parent_id`: as written; each source has its own rule for them. `throwaway`: None if it
    is neither true nor false, which Docker refuses in schema-1 manifests, where it reads this field.
    """

    id: str | None
    parent: str | None
    parent_id: str | None
    created: str | None
    author: str | None
    comment: str | None
    created_by: str | None
    architecture: str | None
    os: str | None
    docker_version: str | None
    throwaway: bool | None


class LayerIdentity(NamedTuple):
    """The fields of a layer's JSON that chains need. None: absent, null, empty or no text."""

    id: str | None
    parent: str | None
    parent_id: str | None

    @property
    def any_parent(self) -> str | None:
        """`parent`; if there is none, the hex part of `parent_id`, which Docker 1.8.3 and 1.9 wrote for pulled
        images."""
        return self.parent or (self.parent_id or "").removeprefix("sha256:") or None


class LayerDocument(bytes):
    """A layer's json as stored, with its parsed fields, which are parsed once.

    Readers make one for each layer. It is a subclass of bytes, since its bytes are compared, hashed and carried over.
    """

    _identity: LayerIdentity | None = None
    _facts: V1Json | None = None

    @classmethod
    def of(cls, raw: bytes) -> LayerDocument:
        return raw if isinstance(raw, cls) else cls(raw)

    def identity(self, what: str = _WHAT) -> LayerIdentity:
        """The fields for chains. The types of other fields are not checked. DocumentError if the JSON is malformed."""
        if self._identity is None:
            raw = bytes(self)  # orjson takes no subclass
            fields = _identity_fields(raw, what)
            # The fast path cannot be used for this document. The complete parser also gives the facts.
            if fields is None:
                document = read_document(raw, what)
                with suppress(DocumentError):  # a field that Docker refuses: `facts` raises the error
                    self._facts = _facts(document, decode_document(_IMAGE, document, what))
                fields = _other_fields(document)
            self._identity = LayerIdentity(*map(_text_or_none, map(fields.get, LayerIdentity._fields)))
        return self._identity

    def facts(self, what: str = _WHAT) -> V1Json:
        """All fields. DocumentError if Docker refuses the document: bad syntax, or a known field of the wrong type."""
        if self._facts is None:
            self._read(what)
            assert self._facts is not None
        return self._facts

    def carried_members(self, what: str = _WHAT) -> dict[str, Any]:
        """The top-level members that Docker carries from a layer's JSON into the config, for `go_json.encode_object`.

        JSON of Docker before 1.8.3, or of an unknown version, goes through Docker's structs, which drop unknown fields
        and add missing ones. Later JSON keeps its values as written. Raises DocumentError. This also parses the fields
        for `facts`. The members are not kept, since only an image's top layer needs them.
        """
        document, image = self._read(what)
        if _needs_fallback(image.get("docker_version") or ""):
            members = _IMAGE.encode(image)
        else:
            members = carried_values(document, what)
        return {key: value for key, value in members.items() if key not in _DROPPED_KEYS}

    def forget(self) -> None:
        """Drops the parsed fields, which need more memory than the bytes. They can be parsed again."""
        del self.__dict__

    def checksum(self) -> str | None:
        """The member `checksum`, which Docker 1.4 wrote into the JSON of layers that it pushed; None if there is none.
        Parsed separately, since few layers have it."""
        return _text_or_none(_other_fields(read_document(bytes(self), _WHAT)).get("checksum"))

    def _read(self, what: str) -> tuple[Any, dict[str, Any]]:
        """(the document, the fields of Docker's structs in it). Also sets the facts and the identity."""
        document = read_document(bytes(self), what)
        image = decode_document(_IMAGE, document, what)
        if self._facts is None:
            self._facts = _facts(document, image)
            self._identity = LayerIdentity(self._facts.id, self._facts.parent, self._facts.parent_id)
        return document, image


def _facts(document: Any, image: Mapping[str, Any]) -> V1Json:
    extra = _other_fields(document)
    parent_id, throwaway = extra.get("parent_id"), extra.get("throwaway", False)
    # `created_by` is joined as in the history that Docker makes of the same JSON (moby image/v1, HistoryFromConfig).
    return V1Json(
        id=image.get("id") or None,
        parent=image.get("parent") or None,
        parent_id=parent_id if isinstance(parent_id, str) and parent_id else None,
        created=image.get("created"),
        author=image.get("author") or None,
        comment=image.get("comment") or None,
        created_by=" ".join(image.get("container_config", {}).get("Cmd") or ()) or None,
        architecture=image.get("architecture") or None,
        os=image.get("os") or None,
        docker_version=image.get("docker_version") or None,
        throwaway=throwaway if isinstance(throwaway, bool) else None,
    )


def _identity_fields(raw: bytes, what: str) -> Mapping[str, Any] | None:
    """The fields of an identity, without the proof of `read_document`. None if a field may occur twice or in another
    spelling, and if the document is no strict JSON."""
    folded = raw.lower()
    counts = [folded.count(key) for key in _IDENTITY_KEYS]
    # An escape may hide a key, as in `\u0069d`, so that it is not counted. Go's own escapes stand for `<`, `>` and `&`.
    escapes = folded.count(b"\\u")
    if max(counts) > 1 or (escapes and escapes > sum(map(folded.count, _HTML_ESCAPES))):
        return None
    try:
        document = load_json(raw, what)
    except DocumentError:
        return None
    if isinstance(document, dict) and all(map(document.__contains__, compress(LayerIdentity._fields, counts))):
        return document
    return _other_fields(document)


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def check_config(document: Any, *, salvage: bool) -> tuple[str, ...]:
    """Checks a config that is carried over byte for byte, as `read_document` gives it. DocumentError if Docker refuses
    it for a known field of the wrong type; with `salvage`, a warning instead (moby image/image.go, NewFromJSON)."""
    try:
        decode_document(_READY_CONFIG, document, "config")
    except DocumentError as exc:
        problem = f"{exc.message}; Docker refuses such a config"
        if not salvage:
            raise DocumentError(f"{problem}. `--salvage` carries it over") from exc
        return (f"salvaged: {problem}. It is carried over as it is",)
    return ()


def parse_settings(raw: bytes, what: str) -> dict[str, Any]:
    """The fields of the member `config`, name → value. Raises DocumentError if Docker refuses it."""
    settings: dict[str, Any] = decode_document(_SETTINGS, read_document(raw, what), what).get("config") or {}
    return settings


def encode_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `parse_settings` as Docker 1.10 writes them: every field in its order, without the omitted
    ones."""
    return _CONFIG.encode(settings)


def _needs_fallback(docker_version: str) -> bool:
    """True for a version below 1.8.3. As in Docker, components that are no number count as 0."""
    version = [int(part) if _VERSION_NUMBER.fullmatch(part) else 0 for part in docker_version.split(".")]
    limit = [*_FIRST_WITHOUT_FALLBACK, *[0] * (len(version) - len(_FIRST_WITHOUT_FALLBACK))]
    return [*version, *[0] * (len(limit) - len(version))] < limit


def _other_fields(document: Any) -> dict[str, Any]:
    """Fields that are not in Docker's struct of an image, with keys folded as in Go."""
    found: dict[str, Any] = {}
    if isinstance(document, (dict, RawObject)):
        for key, value in document.items():
            folded = fold_key(key)
            if folded in ("id", "parent", "parent_id", "throwaway", "checksum") and value is not None:
                found[folded] = value
    return found
