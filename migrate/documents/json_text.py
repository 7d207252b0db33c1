"""Reads and writes JSON within named limits, with this program's errors.

For documents that are only read. For documents whose bytes are carried over and hashed, see `go_json`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from migrate.blobio.limits import JSON_BYTES, JSON_DEPTH, JSON_ITEMS
from migrate.errors import DocumentError, LimitError

_PIECE_BYTES = 64 * 1024
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = r"\\u[dD][89a-fA-F]"
_ESCAPE = r"(?s)\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"


def check_limits(raw: bytes, what: str, size: int = JSON_BYTES) -> None:
    """Raises LimitError if `raw` exceeds `size`, JSON_ITEMS or JSON_DEPTH. Does not check the syntax.

    JSON_ITEMS is for documents of JSON_BYTES, and is larger in proportion for a larger `size`.
    """
    brackets = check_size(raw, what, size)
    if brackets > JSON_DEPTH and _depth_exceeds(raw, JSON_DEPTH):
        raise LimitError(f"{what}: JSON nested deeper than the limit of {JSON_DEPTH:,} (JSON_DEPTH)")


def check_size(raw: bytes, what: str, size: int) -> int:
    """As `check_limits` without the depth. Returns the number of opening brackets."""
    if len(raw) > size:
        raise LimitError(f"{what}: {len(raw):,} bytes of JSON, over the limit of {size:,} (JSON_BYTES)")
    brackets, items = raw.count(b"[") + raw.count(b"{"), JSON_ITEMS * max(1, size // JSON_BYTES)
    if len(raw) > items and brackets + raw.count(b",") > items:
        raise LimitError(f"{what}: JSON of more values than the limit of {items:,} (JSON_ITEMS)")
    return brackets


def _depth_exceeds(raw: bytes, limit: int) -> bool:
    if b"\\" in raw:  # without escaped quotation marks, every other one begins a string
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = 0
    for bracket in b"".join(raw.split(b'"')[::2]).translate(None, _NO_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > limit:
                return True
        else:
            depth -= 1
    return False


def load_json(raw: bytes, what: str, size: int = JSON_BYTES) -> Any:
    """The value of `raw`, a document of at most `size` bytes. `what`: its name in errors. DocumentError or LimitError.

    Strict UTF-8 and strict JSON. The last of equal keys counts.
    """
    check_limits(raw, what, size)
    return _load(raw, what)


def _load(raw: bytes | str, what: str) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise DocumentError(f"{what}: not valid JSON: {exc}") from exc


def load_json_lenient(raw: bytes, what: str, size: int = JSON_BYTES) -> Any:
    """As `load_json`, but bytes that are not UTF-8 and lone surrogates become U+FFFD, as in Go.

    Configs that Docker made from old JSON can have both (docs/formats/v1-image-json.md).
    """
    try:
        return load_json(raw, what, size)
    except DocumentError:
        text = raw.decode("utf-8", "replace")
    if re.search(_SURROGATE, text):
        text = re.sub(_ESCAPE, lambda match: "\\ufffd" if match[1] else match[0], text)
    return _load(text, what)


_TOKEN = rb'(?s)\s*(?:("(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")|([{}:,])|(.))'


def load_cut_object(raw: bytes, what: str, size: int = JSON_BYTES) -> Any:
    """The part of an object of objects of strings (to any depth) before the place where it is cut or damaged.

    DocumentError if there is none, LimitError as for `load_json`.
    """
    check_limits(raw, what, size)
    closers, good, depth, is_value = 0, 0, 0, False
    before: bytes | None = None
    for match in re.finditer(_TOKEN, raw):
        text, sign, other = match.groups()
        if other is not None or (sign == b"}" and before == b","):
            break
        before = sign
        if text is not None:
            if is_value:
                good, closers, is_value = match.end(), depth, False
        elif sign == b"{":
            depth, is_value = depth + 1, False
        elif sign == b"}":
            depth, is_value = depth - 1, False
            good, closers = match.end(), depth
            if not depth:
                break
        else:
            is_value = sign == b":"
    if not good:
        raise DocumentError(f"{what}: no part of it can be read")
    # The text behind the last complete member is cut off, and the objects that are open there are closed.
    return load_json_lenient(raw[:good] + b"}" * closers, what, size)


def shown(value: object) -> str:
    """A value of an untrusted document for a message: one short line without control characters."""
    try:
        text = repr(value)
    except RecursionError:  # it may be nested as deep as JSON_DEPTH
        return "something deeply nested"
    return text if len(text) <= 100 else f"{text[:96]} ..."


def encode_json(value: object) -> bytes:
    """Compact JSON, with keys in the given order. Bytes in it (`go_json.RawValue`) are JSON text already.

    DocumentError for values nested deeper than 254 and for numbers over 64 bits.
    """
    return _encode(value, 0)


def encode_json_pretty(value: object) -> bytes:
    """As `encode_report_json`, with an indentation of two spaces and a final newline."""
    return encode_report_json(value, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def encode_report_json(value: object, option: int = 0) -> bytes:
    """JSON for reports, with keys in the given order and `safe_text` for all texts.

    DocumentError as for `encode_json`.
    """
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError:
        try:
            safe = with_safe_texts(value)
        except RecursionError as exc:
            raise DocumentError("cannot be written as JSON: nested too deeply") from exc
        return _encode(safe, option)


def encode_list(frame: bytes, rows: Iterable[object], depth: int | None = None) -> bytes:
    """`frame` with `rows` in its last list, which is empty: compact, or with `depth` each on its own lines that begin
    with so many blanks, as in reports. Only one row is in memory as a value at a time."""
    return b"".join(iter_list(frame, rows, depth))


def iter_list(frame: bytes, rows: Iterable[object], depth: int | None = None) -> Iterator[bytes]:
    """The bytes of `encode_list` in pieces."""
    head, _, tail = frame.rpartition(b"]")
    separator, between, end = b"", b",", b"]"
    if depth is not None:
        indent = b"\n" + b" " * depth
        separator, between, end = indent, b"," + indent, indent[:-2] + b"]"
    waiting = [head]
    size = 0
    is_empty = True
    for row in rows:
        text = encode_json(row) if depth is None else encode_report_json(row, orjson.OPT_INDENT_2)
        waiting += (separator, text if depth is None else text.replace(b"\n", indent))
        separator, is_empty = between, False
        size += len(text)
        if size >= _PIECE_BYTES:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    yield b"".join((*waiting, b"]" if is_empty else end, tail))


def _encode(value: object, option: int) -> bytes:
    try:
        return orjson.dumps(value, _ready_json, option)
    except orjson.JSONEncodeError as exc:
        raise DocumentError(f"cannot be written as JSON: {exc}") from exc


def _ready_json(value: object) -> orjson.Fragment:
    if not isinstance(value, bytes):
        raise TypeError(type(value).__name__)
    return orjson.Fragment(value.decode("utf-8", "replace"))


def with_safe_texts(value: object) -> Any:
    """The JSON value `value` with `safe_text` applied to all texts in it."""
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, Mapping):
        return {safe_text(key): with_safe_texts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_safe_texts(item) for item in value]
    return value


def safe_text(text: str) -> str:
    """`text` with U+FFFD in place of lone surrogates, which JSON and UTF-8 cannot have. Python uses them for bytes of
    file names that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def uri_of_no_text(path: str) -> str | None:
    """What leads to a file whose name has bytes that are no text, percent-encoded (RFC 8089; of a relative path a
    relative reference); None for a path that is all text."""
    if safe_text(path) == path:
        return None
    from urllib.parse import quote_from_bytes

    return f"{'file://' if path.startswith('/') else ''}{quote_from_bytes(os.fsencode(path))}"


def text_of_uri(uri: str) -> str | None:
    """The path of a URI from `uri_of_no_text`, with U+FFFD for bytes that are no text;
    None for any other text."""
    from urllib.parse import unquote_to_bytes

    path = os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    return safe_text(path) if uri_of_no_text(path) == uri else None
