from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.documents.json_text import (
    encode_json,
    encode_json_pretty,
    encode_list,
    load_json,
    load_json_lenient,
    shown,
)
from migrate.errors import DocumentError, LimitError


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": [1, {"b": []}]}, {}, {"c": "caf\ufffd"}]])
def test_a_list_row_by_row_is_the_list(rows: list[object]) -> None:
    assert encode_list(encode_json({"a": [1], "rows": []}), rows) == encode_json({"a": [1], "rows": rows})
    frame = encode_json_pretty({"version": 1, "rows": []})
    assert encode_list(frame, rows, depth=4) == encode_json_pretty({"version": 1, "rows": rows})


def test_the_last_of_equal_keys_counts() -> None:
    assert load_json(b'{"a":1,"a":2}', "x") == {"a": 2}


@pytest.mark.parametrize("raw", [b"", b"{", b"{} x", b"\xef\xbb\xbf{}", b'"\xff"', rb'"\ud800"', b"NaN", b"{'a':1}"])
def test_what_is_no_json_is_a_document_error_that_names_the_document(raw: bytes) -> None:
    with pytest.raises(DocumentError, match=r"^manifest\.json: not valid JSON"):
        load_json(raw, "manifest.json")


@pytest.mark.parametrize("read", [load_json, load_json_lenient])
@pytest.mark.parametrize(
    ("raw", "limit"),
    [
        pytest.param(b" " * (32 * 1024 * 1024 + 1), "JSON_BYTES", id="size"),
        pytest.param(b"[" * 10_000 + b"]" * 10_000, "JSON_DEPTH", id="arrays"),
        pytest.param(b'{"a":' * 1_001 + b"1" + b"}" * 1_001, "JSON_DEPTH", id="objects"),
        pytest.param(b"[" * 1_000_000, "JSON_DEPTH", id="unclosed"),
        pytest.param(
            rb'["\\\\",' + b"[" * 1_000 + b"]" * 1_001, "JSON_DEPTH", id="behind a backslash at a string's end"
        ),
        pytest.param(
            rb'["\\\"",' + b"[" * 1_000 + b"]" * 1_001, "JSON_DEPTH", id="behind a quotation mark in a string"
        ),
        pytest.param(b"[" + b"0," * 1_000_000 + b"0]", "JSON_ITEMS", id="values"),
        pytest.param(b"[" + b"[]," * 600_000 + b"0]", "JSON_ITEMS", id="empty arrays"),
    ],
)
def test_limits_are_named(raw: bytes, limit: str, read: object) -> None:
    assert callable(read)
    with pytest.raises(LimitError, match=limit):
        read(raw, "x")


def test_a_document_of_ours_may_be_larger() -> None:
    raw = b"[" + b"0," * 1_000_000 + b"0]" + b" " * (32 * 1024 * 1024)
    assert len(load_json(raw, "x", 64 * 1024 * 1024)) == 1_000_001
    with pytest.raises(LimitError, match="over the limit of 33,000,000"):
        load_json(raw, "x", 33_000_000)


def test_depth_just_below_the_limit_and_brackets_in_strings_pass() -> None:
    assert load_json(b"[" * 1_000 + b"]" * 1_000, "x")
    assert load_json(b'["' + b"[" * 5_000 + rb"\"[[" + b'"]', "x") == ["[" * 5_000 + '"[[']
    assert load_json(b"[" + b",".join([b"[]"] * 5_000) + b"]", "x") == [[]] * 5_000


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a":"caf\xe9"}', {"a": "caf�"}),
        (rb'{"a":"x\ud800y"}', {"a": "x�y"}),
        (rb'{"a":"\ud83d\ude00"}', {"a": "😀"}),
        (rb'{"a":"\\ud800"}', {"a": r"\ud800"}),
        (rb'{"\udfff":"\\\uDC00"}', {"�": "\\�"}),
        (b'{"a":"\xff\\ud83d\\ude00"}', {"a": "�😀"}),
    ],
)
def test_lenient_reading_replaces_what_is_no_text(raw: bytes, value: object) -> None:
    assert load_json_lenient(raw, "x") == value


@pytest.mark.parametrize("raw", [b"", b"{", b"NaN", b'"\\x"', b'{"a":\xff}', b'"\xff'])
def test_lenient_reading_is_no_more_lenient_than_that(raw: bytes) -> None:
    with pytest.raises(DocumentError):
        load_json_lenient(raw, "x")


def test_encoding_keeps_the_order_of_keys() -> None:
    assert encode_json({"b": 1, "a": [True, None, "é"]}) == '{"b":1,"a":[true,null,"é"]}'.encode()
    assert encode_json_pretty({"b": 1, "a": []}) == b'{\n  "b": 1,\n  "a": []\n}\n'


def nested(depth: int) -> object:
    value: object = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("encode", [encode_json, encode_json_pretty])
@pytest.mark.parametrize("value", [nested(300), 1 << 64])
def test_what_cannot_be_written_is_a_document_error(encode: Callable[[object], bytes], value: object) -> None:
    with pytest.raises(DocumentError, match="cannot be written as JSON"):
        encode(value)


def test_a_value_nested_as_deep_as_a_document_may_be_can_be_told_of() -> None:
    assert shown(load_json(b"[" * 1_000 + b"]" * 1_000, "x")) == "something deeply nested"
    assert shown([["a\n"]]) == r"[['a\n']]"
