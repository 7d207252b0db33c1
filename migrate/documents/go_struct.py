"""Decodes JSON into structs and encodes structs as Go does: matching of keys, merging, refused types, omitted fields.

A struct is a table of fields; a decoded struct is a dict with the fields that were set. Values are those of
`go_json.read_document`, in their plain or raw forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from migrate.documents.go_json import EscapedString, Number, RawArray, RawObject, fold_key, in_int64
from migrate.documents.go_time import normalise_time
from migrate.errors import DocumentError

Decode = Callable[[Any, Any], Any]
"""(value, the decoded value of an earlier equal key, or None) → decoded value, or MismatchError. Called for `null`,
too."""


class MismatchError(ValueError):
    """A value has another type than its field. `path`: the names of the fields around it, innermost first."""

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.path: list[str] = []

    def __str__(self) -> str:
        return f"{'.'.join(reversed(self.path)).replace('.[', '[') or 'document'}: not {self.wanted}"


class Field(msgspec.Struct, frozen=True):
    """A field of a Go struct. `zero`: the value that Go writes if the field was never set.

    `omit_empty` is Go's omitempty. `omit_nil` is omitempty of a pointer: a pointer to an empty value is not empty.
    `struct`: the struct in the field, or that the field points to.
    """

    name: str
    decode: Decode
    zero: Any
    omit_empty: bool = False
    omit_nil: bool = False
    struct: Struct | None = None


class Struct:
    """A Go struct: its fields in the order that Go writes them in."""

    def __init__(self, *fields: Field) -> None:
        self._fields = fields
        self._exact = {field.name: field for field in fields}
        self._folded = {fold_key(field.name): field for field in reversed(fields)}

    def find(self, key: str) -> Field | None:
        """The field for a member with the name `key`, None if there is none."""
        return self._exact.get(key) or self._folded.get(fold_key(key))

    def decode(self, value: Any, old: Any = None) -> dict[str, Any]:
        """Name → value of the fields in `value`, merged into `old`. A value of None is an array or pointer that is
        null."""
        decoded: dict[str, Any] = {} if old is None else old
        if value is None:
            return decoded
        if not isinstance(value, (dict, RawObject)):
            raise MismatchError("an object")
        # As in encoding/json: the field with exactly this name, else one that differs in case only.
        exact, folded = self._exact, self._folded
        for key, item in value.items():
            field = exact.get(key) or folded.get(fold_key(key))
            if field is None:
                continue
            name = field.name
            try:
                found = field.decode(item, decoded.get(name))
            except MismatchError as exc:
                exc.path.append(name)
                raise
            if found is not None or field.zero is None:
                decoded[name] = found  # as in Go, `null` does not set a string, number or boolean
        return decoded

    def decode_pointer(self, value: Any, old: Any = None) -> dict[str, Any] | None:
        """As `decode`, for a field that is a pointer: `null` clears it."""
        return None if value is None else self.decode(value, old)

    def encode(self, decoded: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that Go writes for the struct, as plain values in Go's order."""
        encoded: dict[str, Any] = {}
        for field in self._fields:
            value = decoded.get(field.name)
            if value is None:
                value = field.zero
            if (field.omit_empty and not value) or (field.omit_nil and value is None):
                continue
            if isinstance(value, dict):
                value = field.struct.encode(value) if field.struct else {key: value[key] for key in sorted(value)}
            encoded[field.name] = value
        return encoded


def decode_document(struct: Struct, document: Any, what: str) -> dict[str, Any]:
    """`Struct.decode` of a whole document, whose name in errors is `what`. Raises DocumentError."""
    try:
        return struct.decode(document)
    except MismatchError as exc:
        raise DocumentError(f"{what}: {exc}") from exc


def decode_structs(struct: Struct, expected: str = "an array of objects") -> Decode:
    """The decoder of a slice of structs. A `null` in it is a struct without any field. `expected` names it in
    errors."""

    def decode(value: Any, old: Any) -> Any:
        del old
        if value is None:
            return None
        if not isinstance(value, (list, RawArray)):
            raise MismatchError(expected)
        decoded = []
        for index, item in enumerate(value):
            try:
                decoded.append(struct.decode(item))
            except MismatchError as exc:
                # The error passes through all decoders from the inside to the outside, and each adds its part of the
                # path.
                exc.path.append(f"[{index}]")
                raise
        return decoded

    return decode


def decode_string(value: Any, old: Any) -> Any:
    if isinstance(value, str):
        return value
    if value is None:
        return old
    raise MismatchError("a string")


def decode_bool(value: Any, old: Any) -> Any:
    if value is True or value is False:
        return value
    if value is None:
        return old
    raise MismatchError("true or false")


def decode_int64(value: Any, old: Any) -> Any:
    if value is None:
        return old
    number = value.int64() if isinstance(value, Number) else in_int64(value) if type(value) is int else None
    if number is None:
        raise MismatchError("an integer of 64 bits")
    return number


def decode_int64_pointer(value: Any, old: Any) -> Any:
    return None if value is None else decode_int64(value, old)


def decode_time(value: Any, old: Any) -> Any:
    """A time as RFC3339Nano text. Go parses the literal without decoding escapes, so it refuses them."""
    if value is None:
        return old
    text = normalise_time(value) if isinstance(value, str) and not isinstance(value, EscapedString) else None
    if text is None:
        raise MismatchError("a time as in RFC 3339")
    return text


def decode_strings(value: Any, old: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, RawArray)):
        raise MismatchError("an array of strings")
    texts = list(value)
    if all(type(text) is str for text in texts):
        return texts
    # An element `null` keeps the earlier value at its place, if the same key occurred before.
    earlier = old or ()
    return [decode_string(text, earlier[at] if at < len(earlier) else "") for at, text in enumerate(texts)]


def decode_command(value: Any, old: Any) -> Any:
    """Docker's StrSlice: an array of strings, or one string in place of such an array."""
    return [value] if isinstance(value, str) else decode_strings(value, None)


def decode_name_set(value: Any, old: Any) -> Any:
    """Go's map[string]struct{}."""
    names = _map_to_fill(value, old)
    if names is not None:
        for key, item in value.items():
            if item is not None and not isinstance(item, (dict, RawObject)):
                raise MismatchError("an object of objects")
            names[key] = {}
    return names


def decode_string_map(value: Any, old: Any) -> Any:
    texts = _map_to_fill(value, old)
    if texts is not None:
        for key, item in value.items():
            texts[key] = decode_string(item, "")
    return texts


def _map_to_fill(value: Any, old: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, (dict, RawObject)):
        raise MismatchError("an object")
    return {} if old is None else old
