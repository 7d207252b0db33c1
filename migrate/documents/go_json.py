"""Reads and writes JSON as Go's encoding/json does, to the byte, since image IDs depend on it.

Docker splits a layer's JSON into raw values and writes them back (formats of Go 1.5 to 1.23; moby image/v1/imagev1.go).
So numbers keep their spelling, nested objects their duplicate keys, and bytes that are not UTF-8 are kept. No JSON
library for Python does that. The scanner here reads any document that Go accepts. If a document is proven to be in Go's
own canonical form, orjson does the same in a fraction of the time (`read_document`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from migrate.blobio.limits import JSON_BYTES
from migrate.documents.json_text import check_limits
from migrate.errors import DocumentError

_WHITESPACE: Final = b" \t\r\n"
_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_SCALAR = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null"
_TOKEN: Final = rb"[ \t\r\n]*+(?:(" + _STRING + rb")|([{}\[\],:])|(" + _SCALAR + rb"))"
_TRAILING = re.compile(rb"[ \t\r\n]*+")

# These patterns are used after `check_syntax` only. They also match text that is no JSON.
_KEY: Final = rb'(?s)[ \t\r\n]*+"((?:[^"\\]++|\\.)*+)"[ \t\r\n]*+:[ \t\r\n]*+'
_STRING_OR_BRACKET: Final = rb'(?s)"(?:[^"\\]++|\\.)*+"|([{\[])|([}\]])'
_SCALAR_END = re.compile(rb"[^ \t\r\n,\]}]++")
_STRING_OR_WHITESPACE: Final = rb'(?s)("(?:[^"\\]++|\\.)*+")|[ \t\r\n]++'

_ESCAPE: Final = r"(?s)\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u(....)|(.))"
_SURROGATE: Final = "[\ud800-\udfff]"
_SHORT_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LONG_ESCAPES: Final = {b"\\b": b"\\u0008", b"\\f": b"\\u000c"}
_ENCODED_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_INT64_LITERAL = re.compile(rb"-?[0-9]{1,19}")


class EscapedString(str):
    """A string whose literal has escapes. Go's time.Time parses the literal itself and refuses escapes."""

    __slots__ = ()


class RawValue(bytes):
    """The JSON text of a value as Go writes it, compacted and escaped."""

    __slots__ = ()


class Number:
    """A number in a document that is not in canonical form, with its spelling."""

    __slots__ = ("literal",)

    def __init__(self, literal: bytes) -> None:
        self.literal = literal

    def int64(self) -> int | None:
        """The value if Go can store it in an int64 (no fraction, no exponent, in range), else None."""
        if not _INT64_LITERAL.fullmatch(self.literal):
            return None
        return in_int64(int(self.literal))


class RawObject:
    """An object of a checked document, read one level at a time. Includes all duplicate keys, in order."""

    __slots__ = ("_raw", "_start")

    def __init__(self, raw: bytes, start: int) -> None:
        self._raw = raw
        self._start = start

    def items(self) -> Iterator[tuple[str, Any]]:
        for key, start, end in self._spans():
            yield key, _value_at(self._raw, start, end)

    def raw_items(self) -> Iterator[tuple[str, bytes]]:
        for key, start, end in self._spans():
            yield key, self._raw[start:end]

    def _spans(self) -> Iterator[tuple[str, int, int]]:
        raw, position = self._raw, self._start + 1
        key = re.compile(_KEY)
        while (match := key.match(raw, position)) is not None:
            start = match.end()
            end = _value_end(raw, start)
            yield decode_literal(match[1]), start, end
            position = _skip_whitespace(raw, end) + 1


class RawArray:
    """An array of a checked document, read one level at a time."""

    __slots__ = ("_raw", "_start")

    def __init__(self, raw: bytes, start: int) -> None:
        self._raw = raw
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        raw = self._raw
        position = _skip_whitespace(raw, self._start + 1)
        while raw[position] != 0x5D:
            end = _value_end(raw, position)
            yield _value_at(raw, position, end)
            position = _skip_whitespace(raw, end)
            if raw[position] == 0x2C:
                position = _skip_whitespace(raw, position + 1)


def read_document(raw: bytes, what: str, size: int = JSON_BYTES) -> Any:
    """The values of a document: dict, list, str, int, float, bool and None, or the Raw classes and Number above.

    Plain values are returned only if they are proven to be the values that Go reads: except for whitespace and HTML
    escapes, the document equals the text that Go writes for them. So no key occurs twice, all numbers and other escapes
    have the usual spelling, and all text is UTF-8. Raises DocumentError if Go refuses the syntax, LimitError if the
    document has more than `size` bytes or is nested too deeply.
    """
    check_limits(raw, what, size)
    try:
        value = orjson.loads(raw)
        # Whitespace is removed from both texts, also inside strings. Both have the same strings in the same order, so
        # if they are equal without it, they are equal with it.
        if encode(value).translate(None, _WHITESPACE) == _escape_html(raw.translate(None, _WHITESPACE)):
            return value
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # JSONEncodeError: nested deeper than orjson writes
        pass
    check_syntax(raw, what)
    start = _skip_whitespace(raw, 0)
    return _value_at(raw, start, _value_end(raw, start))


def carried_values(document: Any, what: str) -> dict[str, Any]:
    """The members of an object of `read_document`, which `encode_object` writes back unchanged.

    A value is plain or a RawValue. As in Go's map[string]*json.RawMessage, the last of equal keys counts; `null` is an
    object without members.
    """
    if document is None:
        return {}
    if isinstance(document, dict):
        return dict(document)
    if isinstance(document, RawObject):
        return {key: RawValue(compact(value)) for key, value in document.raw_items()}
    raise DocumentError(f"{what}: not a JSON object")


def encode_object(members: Mapping[str, Any]) -> bytes:
    """An object as Go writes a map: keys sorted by their bytes, no whitespace. Values are plain or RawValue."""
    keys = sorted(members)
    if not any(isinstance(value, RawValue) for value in members.values()):
        return encode({key: members[key] for key in keys})
    values = (value if isinstance(value, RawValue) else encode(value) for value in map(members.__getitem__, keys))
    return b"{" + b",".join(encode(key) + b":" + value for key, value in zip(keys, values, strict=True)) + b"}"


def compact(raw: bytes) -> bytes:
    """The result of Go's json.Compact with HTML escaping for a valid document."""
    return _escape_html(re.sub(_STRING_OR_WHITESPACE, rb"\1", raw))


def encode(value: object) -> bytes:
    """Plain values as Go's json.Marshal writes them. Keys of a dict keep their order. Not for floats, which Go may
    spell in another way."""
    encoded = orjson.dumps(value)
    if b"\\b" in encoded or b"\\f" in encoded:
        encoded = _ENCODED_ESCAPE.sub(lambda match: _LONG_ESCAPES.get(match[0], match[0]), encoded)
    return _escape_html(encoded)


def _escape_html(encoded: bytes) -> bytes:
    encoded = encoded.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    if b"\xe2\x80" in encoded:
        encoded = encoded.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return encoded


def decode_literal(literal: bytes) -> str:
    """The text of a string literal without its quotes. A byte that is not UTF-8, and a lone surrogate, becomes
    U+FFFD."""
    if b"\\" not in literal:
        try:
            return literal.decode()
        except UnicodeDecodeError:
            return re.sub(_SURROGATE, "\ufffd", literal.decode("utf-8", "surrogateescape"))
    text = re.sub(_ESCAPE, _unescape, literal.decode("utf-8", "surrogateescape"))
    return re.sub(_SURROGATE, "\ufffd", text)


def _unescape(match: re.Match[str]) -> str:
    high, low, unit, short = match.groups()
    if high is not None:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))
    if unit is not None:
        return chr(int(unit, 16))
    return _SHORT_ESCAPES.get(short, short)


def indented(raw: bytes, what: str) -> Iterator[bytes]:
    """The lines of a document for display: strings are decoded, and all keys and numbers are kept as they are.

    Raises DocumentError or LimitError before the first line if Go refuses the document.
    """
    check_limits(raw, what)
    check_syntax(raw, what)
    level, opened = 0, False
    line = b""
    for match in re.finditer(_TOKEN, raw):
        string, mark, scalar = match.groups()
        closes = mark in (b"}", b"]")
        level -= closes
        # A line break follows an opening character and precedes a closing one, but an empty array or object has none.
        if opened != closes:
            yield line + b"\n"
            line = b"  " * level
        opened = mark in (b"{", b"[")
        level += opened
        line += orjson.dumps(decode_literal(string[1:-1])) if string else mark or scalar
        if mark == b",":
            yield line + b"\n"
            line = b"  " * level
        elif mark == b":":
            line += b" "
    yield line + b"\n"


def fold_key(key: str) -> str:
    """`key` folded as Go does to match it with a field name of ASCII letters: two other letters fold to `s` and `k`."""
    if not key.isascii():
        key = key.replace("\u017f", "s").replace("\u212a", "k")
        if not key.isascii():
            return key
    return key.lower()


def in_int64(value: int) -> int | None:
    """`value` if it fits into an int64, else None."""
    return value if -(1 << 63) <= value < 1 << 63 else None


def check_syntax(raw: bytes, what: str) -> None:
    """Raises DocumentError if Go's json.Unmarshal refuses `raw`. The caller checks the limits."""
    position = 0
    opened = bytearray()
    wanted = "value"
    one_token = re.compile(_TOKEN)
    while wanted != "end":
        match = one_token.match(raw, position)
        following = None if match is None else _next_wanted(wanted, raw[match.start(match.lastindex or 0)], opened)
        if match is None or following is None:
            offset = _skip_whitespace(raw, position)
            raise DocumentError(f"{what}: not valid JSON: {_describe(raw, offset)} where {_WANTED[wanted]} is expected")
        wanted = following
        position = match.end()
    if (offset := _skip_whitespace(raw, position)) != len(raw):
        raise DocumentError(f"{what}: not valid JSON: {_describe(raw, offset)} after the document's end")


_WANTED: Final = {
    "value": "a value",
    "first-element": "a value or ]",
    "first-key": "a key or }",
    "key": "a key",
    "colon": "a colon",
    "separator": "a comma or the closing bracket",
}


def _describe(raw: bytes, offset: int) -> str:
    return "the end" if offset >= len(raw) else f"{raw[offset : offset + 12]!r} at byte {offset}"


def _next_wanted(wanted: str, token: int, opened: bytearray) -> str | None:
    """The kind of token that may follow `token` (its first byte), if `wanted` is expected; None if the token is
    wrong."""
    # 0x22 is a quote, 0x2C a comma, 0x3A a colon, 0x5B and 0x5D are brackets, 0x7B and 0x7D are braces. `opened` holds
    # the closing characters of the open arrays and objects.
    if wanted == "separator":
        if token == 0x2C:
            return "key" if opened[-1] == 0x7D else "value"
        return _close(token, opened)
    if wanted == "colon":
        return "value" if token == 0x3A else None
    if wanted in ("key", "first-key"):
        if token == 0x22:
            return "colon"
        return _close(token, opened) if wanted == "first-key" else None
    if token == 0x7B:
        opened.append(0x7D)
        return "first-key"
    if token == 0x5B:
        opened.append(0x5D)
        return "first-element"
    if token == 0x5D and wanted == "first-element":
        return _close(token, opened)
    if token in b"}],:":
        return None
    return "separator" if opened else "end"


def _close(token: int, opened: bytearray) -> str | None:
    if token != opened[-1]:
        return None
    opened.pop()
    return "separator" if opened else "end"


def _skip_whitespace(raw: bytes, position: int) -> int:
    match = _TRAILING.match(raw, position)
    assert match is not None
    return match.end()


def _value_end(raw: bytes, start: int) -> int:
    first = raw[start]
    if first not in b'{["':
        match = _SCALAR_END.match(raw, start)
        assert match is not None
        return match.end()
    depth = 0
    for match in re.compile(_STRING_OR_BRACKET).finditer(raw, start):
        if match.lastindex == 1:
            depth += 1
        elif match.lastindex == 2:
            depth -= 1
        if not depth:
            return match.end()
    raise AssertionError("an unbalanced document passed check_syntax")


def _value_at(raw: bytes, start: int, end: int) -> Any:
    first = raw[start]
    if first == 0x22:
        literal = raw[start + 1 : end - 1]
        return EscapedString(decode_literal(literal)) if b"\\" in literal else decode_literal(literal)
    if first == 0x7B:
        return RawObject(raw, start)
    if first == 0x5B:
        return RawArray(raw, start)
    literal = raw[start:end]
    return _LITERALS[literal] if literal in _LITERALS else Number(literal)


_LITERALS: Final[Mapping[bytes, bool | None]] = {b"true": True, b"false": False, b"null": None}
