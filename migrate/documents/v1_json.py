"""The `json` of one legacy layer: what Docker reads from it, and what it carries over into a config.

Structs of moby (image/image.go, container.Config) in Docker 1.10 to 24; see docs/formats/v1-image-json.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from migrate.documents.go_json import (
    EscapedString,
    Number,
    RawArray,
    RawObject,
    encode,
    fold_key,
    in_int64,
    read_document,
    read_members,
)
from migrate.documents.go_time import ZERO_TIME, normalise_time
from migrate.errors import DocumentError

_WHAT: Final = "layer json"
_DROPPED_KEYS: Final = frozenset({"id", "parent", "Size", "parent_id", "layer_id", "throwaway"})
_FIRST_WITHOUT_FALLBACK: Final = (1, 8, 3)
_VERSION_NUMBER = re.compile(r"[+-]?[0-9]{1,4000}")


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Json:
    """What stands in one layer's JSON. None: absent, null or empty.

    `created` is RFC3339Nano as Go writes it back. `created_by` is the words of `container_config.Cmd` with single
    spaces between them. `parent` and `parent_id` stand here as written; which one counts is the source's rule.
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
    throwaway: bool


def parse_v1_json(raw: bytes, what: str = _WHAT) -> V1Json:
    """Raises DocumentError where Docker refuses the document: bad syntax, or a known field of the wrong type."""
    document = read_document(raw, what)
    image = _decode_image(document, what)
    extra = _other_fields(document)
    parent_id = extra.get("parent_id")
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
        throwaway=extra.get("throwaway") is True,
    )


def parse_parent(raw: bytes, what: str = _WHAT) -> tuple[str | None, str | None]:
    """(`parent`, `parent_id`) without a look at the other fields. DocumentError where the JSON itself is broken."""
    return parse_identity(raw, what)[1:]


def parse_identity(raw: bytes, what: str = _WHAT) -> tuple[str | None, str | None, str | None]:
    """(`id`, `parent`, `parent_id`), read as `parse_parent` does."""
    fields = _other_fields(read_document(raw, what))
    legacy_id, parent, parent_id = (_text_or_none(fields.get(key)) for key in ("id", "parent", "parent_id"))
    return legacy_id, parent, parent_id


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def carried_members(raw: bytes, what: str = _WHAT) -> dict[str, bytes]:
    """The top-level members that Docker carries from a layer's JSON into the config: key → raw value.

    JSON by Docker before 1.8.3 (or by an unknown version) goes through Docker's structs, which drop what they do not
    know and fill in the rest; later JSON keeps its values as written. Raises DocumentError.
    """
    image = _decode_image(read_document(raw, what), what)
    if _needs_fallback(image.get("docker_version", "")):
        members = {key: encode(value) for key, value in _IMAGE.encode(image).items()}
    else:
        members = read_members(raw, what)
    return {key: value for key, value in members.items() if key not in _DROPPED_KEYS}


def _needs_fallback(docker_version: str) -> bool:
    """True for a version below 1.8.3, compared as Docker does: components that are no number count as 0."""
    version = [_version_number(part) for part in docker_version.split(".")]
    length = max(len(version), len(_FIRST_WITHOUT_FALLBACK))
    return _padded(version, length) < _padded(_FIRST_WITHOUT_FALLBACK, length)


def _version_number(part: str) -> int:
    return int(part) if _VERSION_NUMBER.fullmatch(part) else 0


def _padded(version: Sequence[int], length: int) -> list[int]:
    return [*version, *[0] * (length - len(version))]


def _other_fields(document: Any) -> dict[str, Any]:
    """Fields that Docker reads with structs of their own, or not at all."""
    found: dict[str, Any] = {}
    if isinstance(document, (dict, RawObject)):
        for key, value in document.items():
            folded = fold_key(key)
            if folded in ("id", "parent", "parent_id", "throwaway") and value is not None:
                found[folded] = value
    return found


# --- Go's structs ------------------------------------------------------------------------------------------------

Decode = Callable[[Any, Any, str], Any]
"""(value, what earlier equal keys gave or None, where) → decoded value. `null` comes here, too."""


def _mismatch(where: str, wanted: str) -> DocumentError:
    return DocumentError(f"{where}: not {wanted}")


def _string(value: Any, old: Any, where: str) -> Any:
    if isinstance(value, str):
        return str(value)
    if value is None:
        return old
    raise _mismatch(where, "a string")


def _bool(value: Any, old: Any, where: str) -> Any:
    if value is True or value is False:
        return value
    if value is None:
        return old
    raise _mismatch(where, "true or false")


def _int64(value: Any, old: Any, where: str) -> Any:
    if value is None:
        return old
    number = value.int64() if isinstance(value, Number) else in_int64(value) if type(value) is int else None
    if number is None:
        raise _mismatch(where, "an integer of 64 bits")
    return number


def _time(value: Any, old: Any, where: str) -> Any:
    if value is None:
        return old
    text = normalise_time(value) if isinstance(value, str) and not isinstance(value, EscapedString) else None
    if text is None:
        raise _mismatch(where, "a time of RFC 3339")
    return text


def _strings(value: Any, old: Any, where: str) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, RawArray)):
        raise _mismatch(where, "an array of strings")
    earlier = old or ()
    return [_string(item, earlier[index] if index < len(earlier) else "", where) for index, item in enumerate(value)]


def _command(value: Any, old: Any, where: str) -> Any:
    """Docker's StrSlice: an array of strings, or a string that stands for an array of one."""
    return [str(value)] if isinstance(value, str) else _strings(value, None, where)


def _name_set(value: Any, old: Any, where: str) -> Any:
    if value is None:
        return None
    if not isinstance(value, (dict, RawObject)):
        raise _mismatch(where, "an object")
    names = old if old is not None else {}
    for key, item in value.items():
        if item is not None and not isinstance(item, (dict, RawObject)):
            raise _mismatch(f"{where}.{key}", "an object")
        names[str(key)] = {}
    return names


def _string_map(value: Any, old: Any, where: str) -> Any:
    if value is None:
        return None
    if not isinstance(value, (dict, RawObject)):
        raise _mismatch(where, "an object")
    texts = old if old is not None else {}
    for key, item in value.items():
        texts[str(key)] = _string(item, "", f"{where}.{key}")
    return texts


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a Go struct. `zero` is what Go writes where the field was never set.

    `omit_empty` is Go's omitempty; for a field that is a pointer that means `omit_nil`, as a pointer to an empty value
    is not empty.
    """

    name: str
    decode: Decode
    zero: Any
    omit_empty: bool = False
    omit_nil: bool = False


class Struct:
    """A Go struct: fields in the order in which Go writes them."""

    def __init__(self, *fields: Field) -> None:
        self._fields = fields
        self._exact = {field.name: field for field in fields}
        self._folded: dict[str, Field] = {}
        for field in fields:
            self._folded.setdefault(fold_key(field.name), field)

    def decode(self, value: Any, old: Any, where: str) -> dict[str, Any]:
        """Field name → value for the fields that stand in `value`. Members merge into `old`, as Go does."""
        decoded: dict[str, Any] = old if old is not None else {}
        if value is None:
            return decoded
        if not isinstance(value, (dict, RawObject)):
            raise _mismatch(where, "an object")
        exact, folded = self._exact, self._folded
        for key, item in value.items():
            field = exact.get(key) or folded.get(fold_key(key))
            if field is not None:
                name = field.name
                decoded[name] = field.decode(item, decoded.get(name), f"{where}: {name}")
        return decoded

    def encode(self, decoded: Mapping[str, Any]) -> dict[str, Any]:
        """All that Go writes for the struct, as plain values in Go's order."""
        encoded: dict[str, Any] = {}
        for field in self._fields:
            value = decoded.get(field.name)
            if value is None:
                value = field.zero
            if (value or not field.omit_empty) and (value is not None or not field.omit_nil):
                encoded[field.name] = _encode_value(field, value)
        return encoded


def _encode_value(field: Field, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    struct = _NESTED.get(field.decode)
    if struct is not None:
        return struct.encode(value)
    return {key: value[key] for key in sorted(value)}


def _config(value: Any, old: Any, where: str) -> Any:
    return _CONFIG.decode(value, old, where)


def _config_pointer(value: Any, old: Any, where: str) -> Any:
    return None if value is None else _CONFIG.decode(value, old, where)


def _health_pointer(value: Any, old: Any, where: str) -> Any:
    return None if value is None else _HEALTH.decode(value, old, where)


_HEALTH: Final = Struct(
    Field("Test", _strings, None, omit_empty=True),
    Field("Interval", _int64, 0, omit_empty=True),
    Field("Timeout", _int64, 0, omit_empty=True),
    Field("StartPeriod", _int64, 0, omit_empty=True),
    Field("Retries", _int64, 0, omit_empty=True),
)

# The union of Docker 1.10 (PublishService) and 1.12 to 24 (Healthcheck, StopTimeout, Shell).
_CONFIG: Final = Struct(
    Field("Hostname", _string, ""),
    Field("Domainname", _string, ""),
    Field("User", _string, ""),
    Field("AttachStdin", _bool, False),
    Field("AttachStdout", _bool, False),
    Field("AttachStderr", _bool, False),
    Field("ExposedPorts", _name_set, None, omit_empty=True),
    Field("PublishService", _string, "", omit_empty=True),
    Field("Tty", _bool, False),
    Field("OpenStdin", _bool, False),
    Field("StdinOnce", _bool, False),
    Field("Env", _strings, None),
    Field("Cmd", _command, None),
    Field("Healthcheck", _health_pointer, None, omit_nil=True),
    Field("ArgsEscaped", _bool, False, omit_empty=True),
    Field("Image", _string, ""),
    Field("Volumes", _name_set, None),
    Field("WorkingDir", _string, ""),
    Field("Entrypoint", _command, None),
    Field("NetworkDisabled", _bool, False, omit_empty=True),
    Field("MacAddress", _string, "", omit_empty=True),
    Field("OnBuild", _strings, None),
    Field("Labels", _string_map, None),
    Field("StopSignal", _string, "", omit_empty=True),
    Field("StopTimeout", _int64, None, omit_nil=True),
    Field("Shell", _command, None, omit_empty=True),
)

_IMAGE: Final = Struct(
    Field("id", _string, "", omit_empty=True),
    Field("parent", _string, "", omit_empty=True),
    Field("comment", _string, "", omit_empty=True),
    Field("created", _time, ZERO_TIME),
    Field("container", _string, "", omit_empty=True),
    Field("container_config", _config, {}),
    Field("docker_version", _string, "", omit_empty=True),
    Field("author", _string, "", omit_empty=True),
    Field("config", _config_pointer, None, omit_nil=True),
    Field("architecture", _string, "", omit_empty=True),
    Field("variant", _string, "", omit_empty=True),
    Field("os", _string, "", omit_empty=True),
    Field("Size", _int64, 0, omit_empty=True),
)

_NESTED: Final[Mapping[Decode, Struct]] = {
    _config: _CONFIG,
    _config_pointer: _CONFIG,
    _health_pointer: _HEALTH,
}


def _decode_image(document: Any, what: str) -> dict[str, Any]:
    return _IMAGE.decode(document, None, what)
