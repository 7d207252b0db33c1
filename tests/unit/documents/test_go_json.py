"""What Go's encoding/json does, rule by rule. Expected bytes are those of Go 1.19."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.documents.go_json import (
    EscapedString,
    Number,
    RawArray,
    RawObject,
    RawValue,
    carried_values,
    check_syntax,
    compact,
    decode_literal,
    encode,
    encode_object,
    fold_key,
    indented,
    read_document,
)
from migrate.errors import DocumentError, LimitError


def carried(raw: bytes) -> bytes:
    return encode_object(carried_values(read_document(raw, "x"), "x"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b'{ "b" : 1 ,\n\t"a":\r[ 1 , 2 ] }', b'{"a":[1,2],"b":1}', id="whitespace goes, keys are sorted"),
        pytest.param(b'{"a":"x < y"}', rb'{"a":"x \u003c y"}', id="whitespace in strings stays"),
        pytest.param(b'{"a":1.50e+3,"b":-0,"c":1E2}', b'{"a":1.50e+3,"b":-0,"c":1E2}', id="spelling of numbers"),
        pytest.param(b'{"a":12345678901234567890123}', b'{"a":12345678901234567890123}', id="large integer"),
        pytest.param(rb'{"a":"x\/y\u00E9\u000a"}', rb'{"a":"x\/y\u00E9\u000a"}', id="spelling of escapes"),
        pytest.param(b'{"a":"<>&"}', rb'{"a":"\u003c\u003e\u0026"}', id="HTML is escaped"),
        pytest.param(b'{"a":{"<":"&"}}', rb'{"a":{"\u003c":"\u0026"}}', id="HTML in nested keys, too"),
        pytest.param(
            '{"a":"\u2028\u2029\u2027"}'.encode(),
            b'{"a":"\\u2028\\u2029\xe2\x80\xa7"}',
            id="line separators are escaped",
        ),
        pytest.param(b'{"a":"caf\xe9"}', b'{"a":"caf\xe9"}', id="bytes that are no text pass"),
        pytest.param(b'{"a":{"x":1,"x":2}}', b'{"a":{"x":1,"x":2}}', id="equal keys of nested objects both stay"),
        pytest.param(b'{"a":1,"b":2,"a":3}', b'{"a":3,"b":2}', id="the last of equal keys at the top wins"),
        pytest.param(rb'{"\u0061":1,"a":2}', b'{"a":2}', id="keys are equal after decoding"),
        pytest.param(b'{"caf\xe9":1}', '{"caf\ufffd":1}'.encode(), id="keys are decoded and written anew"),
        pytest.param(
            rb'{"\b\f\n\u001f\u007f/<":1 }', b'{"\\u0008\\u000c\\n\\u001f\x7f/\\u003c":1}', id="escapes in keys"
        ),
        pytest.param(b'{"A":1,"a":2,"_":3}', b'{"A":1,"_":3,"a":2}', id="keys are sorted by bytes"),
        pytest.param('{"\U0001f600":1,"\uffff":2}'.encode(), '{"\uffff":2,"\U0001f600":1}'.encode(), id="of UTF-8"),
        pytest.param(b'{"a":{"c":1,"b":2}}', b'{"a":{"c":1,"b":2}}', id="keys of nested objects are not sorted"),
        pytest.param(b'{"a":null,"b":true,"c":[],"d":{}}', b'{"a":null,"b":true,"c":[],"d":{}}', id="literals"),
        pytest.param(b" null\n", b"{}", id="null is an object without members"),
        pytest.param(b'{"a":"\\ud800" }', b'{"a":"\\ud800"}', id="lone surrogates pass as escapes"),
    ],
)
def test_values_are_carried_as_go_carries_raw_messages(raw: bytes, expected: bytes) -> None:
    assert carried(raw) == expected


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"a"', b"true"])
def test_only_objects_have_members(raw: bytes) -> None:
    with pytest.raises(DocumentError, match="not a JSON object"):
        carried(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"   ",
        b"{",
        b"}",
        b"[1,]",
        b"[,1]",
        b'{"a":1,}',
        b'{"a" 1}',
        b'{"a"}',
        b"{1:2}",
        b'{"a":1]',
        b"[1}",
        b"[1 2]",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"-",
        b"1e",
        b"0x1",
        b"tru",
        b"True",
        b"nulll",
        b"NaN",
        b"Infinity",
        b"'a'",
        b'"a',
        b'"\\"',
        b'"\\x41"',
        b'"\\u12g4"',
        b'"\\u123"',
        b'"a\nb"',
        b'"\x00"',
        b"{} {}",
        b"{}x",
        b"\xef\xbb\xbf{}",
        b"\xa0{}",
        b"\x0b{}",
        b"[1]\x00",
        b"/**/{}",
    ],
)
def test_syntax_that_go_refuses(raw: bytes) -> None:
    with pytest.raises(DocumentError, match=r"^x: not valid JSON: "):
        check_syntax(raw, "x")
    with pytest.raises(DocumentError, match=r"^x: not valid JSON: "):
        read_document(raw, "x")


@pytest.mark.parametrize(
    "raw",
    [
        b"0",
        b"-0.0e-0",
        b" [ ] ",
        b'{"":""}',
        b'"\x7f\xff"',
        rb'"\ud800\u0000\/"',
        b"[[],{},[{}]]",
        b'{"a":[1,{"b":null}]}',
    ],
)
def test_syntax_that_go_accepts(raw: bytes) -> None:
    check_syntax(raw, "x")


def test_errors_say_what_stands_where() -> None:
    with pytest.raises(DocumentError, match=r"^layer json: not valid JSON: b'\}' at byte 7 where a key is expected$"):
        check_syntax(b'{"a":1,}', "layer json")
    with pytest.raises(DocumentError, match="the end where a comma or the closing bracket is expected"):
        check_syntax(b"[1", "x")


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (b"abc", "abc"),
        (rb"\"\\\/\b\f\n\r\t", '"\\/\b\f\n\r\t'),
        (rb"\u00e9\u00E9", "éé"),
        (rb"\ud83d\ude00", "😀"),
        (rb"\uD83D\uDE00", "😀"),
        (rb"\ud83d", "�"),
        (rb"\ude00\ud83d", "��"),
        (rb"\ud83d\ud83d\ude00", "�😀"),
        (rb"\ud83dA", "�A"),
        (rb"\ud83d\n", "�\n"),
        (rb"\\ud83d", r"\ud83d"),
        (b"caf\xe9", "caf�"),
        (b"\xe2\x80", "��"),
        (b"\xed\xa0\x80", "���"),
        (b"\xf4\x90\x80\x80", "����"),
        (b"\xc0\x80", "��"),
        (b"\\ud83d\xed\xb8\x80", "����"),
        ("�".encode(), "�"),
    ],
)
def test_strings_are_decoded_as_go_decodes_them(literal: bytes, text: str) -> None:
    assert decode_literal(literal) == text


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ('"\\/', rb'"\"\\/"'),
        ("\n\r\t", rb'"\n\r\t"'),
        ("\b\f\x00\x1f", rb'"\u0008\u000c\u0000\u001f"'),
        ("\\b\\f\\\b", rb'"\\b\\f\\\u0008"'),
        ("\x7f", b'"\x7f"'),
        ("<a@b> & co", rb'"\u003ca@b\u003e \u0026 co"'),
        ("\u2028\u2029", rb'"\u2028\u2029"'),
        ("é😀", '"é😀"'.encode()),
        ({"b": [1, True, None], "a": {}}, b'{"b":[1,true,null],"a":{}}'),
    ],
)
def test_encoding(value: object, encoded: bytes) -> None:
    assert encode(value) == encoded


def test_compaction_is_idempotent_and_leaves_strings_alone() -> None:
    raw = b'{ "a b" : [ "x\\" y" , {} ] }\n'
    assert compact(raw) == b'{"a b":["x\\" y",{}]}'
    assert compact(compact(raw)) == compact(raw)


@pytest.mark.parametrize(
    ("key", "folded"),
    [
        ("ID", "id"),
        ("Parent", "parent"),
        ("\u017fize", "size"),
        ("doc\u212aer_version", "docker_version"),
        ("é\u017f", "és"),
    ],
)
def test_keys_fold_as_go_folds_names_of_ascii_letters(key: str, folded: str) -> None:
    assert fold_key(key) == folded


def test_keys_that_only_look_alike_do_not_fold() -> None:
    assert fold_key("\u0130d") not in ("id", "ID")
    assert fold_key("ıd") != "id"


def plain(value: Any) -> Any:
    """A document that was read in raw form, as plain values."""
    if isinstance(value, (dict, RawObject)):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, (list, RawArray)):
        return [plain(item) for item in value]
    return value.literal.decode() if isinstance(value, Number) else value


def test_a_document_in_go_s_own_form_reads_as_plain_values() -> None:
    document = read_document(rb'{"a":"\u003c","b":[1,{"c":null}]}' + b"\n", "x")
    assert document == {"a": "<", "b": [1, {"c": None}]}
    assert isinstance(document, dict)
    assert read_document(b'{\n\t"a": " b ", "c":\r[ 1 ] }', "x") == {"a": " b ", "c": [1]}


def test_characters_that_go_escapes_for_html_make_no_document_slow() -> None:
    raw = '{"a<": "b && c > d\u2028"}'.encode()
    assert read_document(raw, "x") == {"a<": "b && c > d\u2028"}
    assert carried(raw) == compact(raw)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"a":1,"a":1}', id="a key twice"),
        pytest.param(rb'{"a":"\/"}', id="an escape that Go would not write"),
        pytest.param(b'{"a ": 1,"a ":1}', id="a key twice, with blanks"),
        pytest.param(rb'{"a":"\u0020"}', id="a blank of another spelling"),
        pytest.param(b'{"a":1e2}', id="a number of another spelling"),
        pytest.param(b'{"a":"\xff"}', id="bytes that are no text"),
        pytest.param(b'{"a":18446744073709551616}', id="an integer too large"),
    ],
)
def test_any_other_document_keeps_its_bytes(raw: bytes) -> None:
    assert isinstance(read_document(raw, "x"), RawObject)


def test_raw_values_are_read_level_by_level() -> None:
    raw = rb' {"a" : [ 1.0 , "\u0041" , {"b":[ ],"b":{ }} , [ [ "]" ] ] ] , "c\"" : true } '
    assert plain(read_document(raw, "x")) == [
        ("a", ["1.0", "A", [("b", []), ("b", [])], [["]"]]]),
        ('c"', True),
    ]


def test_strings_with_escapes_are_marked() -> None:
    (_, escaped), (_, simple) = read_document(rb'{"a":"\u0041", "b":"A"}', "x").items()
    assert (escaped, simple) == ("A", "A")
    assert isinstance(escaped, EscapedString)
    assert not isinstance(simple, EscapedString)


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        (b"0", 0),
        (b"-0", 0),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"9223372036854775808", None),
        (b"1.0", None),
        (b"1e3", None),
        (b"1" * 5_000, None),
    ],
)
def test_integers_of_64_bits(literal: bytes, value: int | None) -> None:
    assert Number(literal).int64() == value


def test_raw_values_stand_beside_plain_ones() -> None:
    assert encode_object({"b": RawValue(b"1.50"), "a": "<"}) == rb'{"a":"\u003c","b":1.50}'


def test_an_indented_document_keeps_every_key_and_number() -> None:
    raw = rb'{"b":1e400,"a":[ ],"a":{"\u0062\ud800":[12345678901234567890123,{}],"x":"<\n\"]"}, "c":null}'
    text = b"".join(indented(raw, "x")).decode()
    assert (
        text
        == """{
  "b": 1e400,
  "a": [],
  "a": {
    "b\ufffd": [
      12345678901234567890123,
      {}
    ],
    "x": "<\\n\\"]"
  },
  "c": null
}
"""
    )
    assert list(indented(b" 1.0\n", "x")) == [b"1.0\n"]


@pytest.mark.parametrize("raw", [b'{"a":1,}', b"[" * 5_000])
def test_what_go_refuses_is_not_indented_in_part(raw: bytes) -> None:
    with pytest.raises((DocumentError, LimitError)):
        next(indented(raw, "x"))


def test_limits_hold_before_anything_is_parsed() -> None:
    with pytest.raises(LimitError, match="JSON_DEPTH"):
        read_document(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "x")
    with pytest.raises(LimitError, match="JSON_BYTES"):
        read_document(b'"' + b"a" * 100_000_000 + b'"', "x")
