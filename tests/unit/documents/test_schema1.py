from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from migrate.documents.jws import signature_problem
from migrate.documents.schema1 import (
    Signature,
    decode_base64url,
    is_schema1,
    open_manifest,
    parse_schema1,
    parse_signature,
)
from migrate.errors import ConflictingLayerError, DocumentError, MigrateError, UnsupportedError
from migrate.model.digest import Digest
from tests.registry_content import base64url, in_envelope

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
BLOB = "sha256:" + "1" * 64


def manifest(*entries: tuple[str, str | None], **fields: Any) -> bytes:
    """Entries are (id, parent), newest first, as in the document."""
    history = [{"v1Compatibility": json.dumps({"id": i} | ({"parent": p} if p else {}))} for i, p in entries]
    document = {
        "schemaVersion": 1,
        "name": "team/app",
        "tag": "1.0",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": BLOB} for _ in entries],
        "history": history,
    }
    return json.dumps(document | fields).encode()


# --- the envelope ------------------------------------------------------------------------------------------------


def test_the_payload_is_rebuilt_from_length_and_tail() -> None:
    payload = b'{\n   "schemaVersion": 1,\n   "name": "a/b"\n}'
    protected = "eyJmb3JtYXRMZW5ndGgiOjQxLCJmb3JtYXRUYWlsIjoiQ24wIiwidGltZSI6IjIwMTUtMDEtMDFUMDA6MDA6MDBaIn0"
    signatures = json.dumps([{"header": {}, "signature": "AA", "protected": protected}]).encode()
    document = payload[:41] + b',"extra": 1, "signatures":' + signatures + b"}"
    opened = open_manifest(document)
    assert opened.payload == payload
    assert str(Digest.of(opened.payload)) == "sha256:6c8dfe1ac990c8a2647d557de253b058dbc742c8ea3d05cead2eae0a404c1d65"


def test_an_unsigned_manifest_is_its_own_payload() -> None:
    assert open_manifest(manifest((A, None))).payload == manifest((A, None))


@pytest.mark.parametrize(
    ("protected", "said"),
    [
        ({"formatLength": 10_000, "formatTail": "Cn0"}, "outside the document"),
        ({"formatLength": -1, "formatTail": "Cn0"}, "outside the document"),
        ({"formatLength": "1", "formatTail": "Cn0"}, "missing"),
        ({"formatLength": 1}, "missing"),
        ({"formatLength": 1, "formatTail": "!"}, "base64url"),
    ],
)
def test_an_envelope_that_cannot_be_opened(protected: dict[str, Any], said: str) -> None:
    entry = {"header": {}, "signature": "AA", "protected": base64url(json.dumps(protected).encode())}
    with pytest.raises(DocumentError, match=said):
        open_manifest(json.dumps({"signatures": [entry]}).encode())


@pytest.mark.parametrize("spelling", ["{:.1f}", "{}.9", "{}e0"])
def test_the_length_may_be_any_number(spelling: str) -> None:
    payload = manifest((A, None))
    length = spelling.format(len(payload) - 1)
    protected = base64url(b'{"formatLength": %s, "formatTail": "fQ"}' % length.encode())
    signature = {"HEADER": {}, "Signature": "AA", "Protected": protected}
    document = payload[:-1] + b',"signatures":' + json.dumps([signature]).encode() + b"}"
    assert open_manifest(document).payload == payload


@pytest.mark.parametrize("text", ["YWJjZA", "YWJjZA==", "YW Jj\nZA", " YWJj\r\nZA== "])
def test_base64url_with_blanks_and_line_ends(text: str) -> None:
    assert decode_base64url(text, "x") == b"abcd"


@pytest.mark.parametrize("text", ["YWJjZA\t", "YWJj+A", "Y", "YW=JjZA", "\xe9"])
def test_what_is_no_base64url(text: str) -> None:
    with pytest.raises(DocumentError, match="not base64url"):
        decode_base64url(text, "x")


@pytest.mark.parametrize("payload", [b'{"schemaVersion": 2}', b'{"schemaVersion": true}', b'{"a": 1}'])
def test_only_schema_1_comes_in_an_envelope(payload: bytes) -> None:
    with pytest.raises(DocumentError, match="signed content is not of schema 1"):
        open_manifest(in_envelope(payload, more={"schemaVersion": 1}))


def test_signatures_have_to_agree() -> None:
    def entry(length: int) -> dict[str, Any]:
        packed = base64url(json.dumps({"formatLength": length, "formatTail": "fQ"}).encode())
        return {"header": {}, "signature": "AA", "protected": packed}

    with pytest.raises(DocumentError, match="do not agree"):
        open_manifest(json.dumps({"signatures": [entry(1), entry(2)]}).encode())


# --- signatures --------------------------------------------------------------------------------------------------


def signed(payload: bytes, kind: str) -> Signature:
    protected = base64url(b'{"formatLength":1,"formatTail":"fQ"}')
    message = f"{protected}.{base64url(payload)}".encode()
    if kind == "RS256":
        private = rsa.generate_private_key(65537, 2048)
        numbers = private.public_key().public_numbers()
        jwk = {"kty": "RSA", "n": base64url(_bytes(numbers.n)), "e": base64url(_bytes(numbers.e))}
        return Signature(
            {"alg": kind, "jwk": jwk}, protected, private.sign(message, padding.PKCS1v15(), hashes.SHA256())
        )
    curve, name, digest, length = {
        "ES256": (ec.SECP256R1(), "P-256", hashes.SHA256(), 32),
        "ES384": (ec.SECP384R1(), "P-384", hashes.SHA384(), 48),
        "ES512": (ec.SECP521R1(), "P-521", hashes.SHA512(), 66),
    }[kind]
    key = ec.generate_private_key(curve)
    point = key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": name, "x": base64url(_bytes(point.x)), "y": base64url(_bytes(point.y))}
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
    return Signature({"alg": kind, "jwk": jwk}, protected, r.to_bytes(length, "big") + s.to_bytes(length, "big"))


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


@pytest.mark.parametrize("kind", ["ES256", "ES384", "ES512", "RS256"])
def test_signatures_verify_over_the_payload_only(kind: str) -> None:
    signature = signed(b"payload", kind)
    assert signature_problem(b"payload", signature) is None
    assert signature_problem(b"Payload", signature) == "does not verify"


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"alg": "none"},
        {"alg": "ES256"},
        {"alg": "HS256", "jwk": {"kty": "oct", "k": "AA"}},
        {"alg": "ES256", "jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}},
        {"alg": "ES256", "jwk": {"kty": "EC", "crv": "P-1", "x": "AA", "y": "AA"}},
        {"alg": "RS256", "jwk": {"kty": "RSA", "n": "", "e": "AQAB"}},
        {"alg": "ES256", "x5c": ["bm8="]},
        {"alg": ["ES256"], "jwk": 1},
    ],
)
def test_a_signature_that_cannot_be_checked_says_why(header: dict[str, Any]) -> None:
    problem = signature_problem(b"payload", Signature(header, "e30", b"\0" * 64))
    assert problem is not None and problem.startswith("cannot be checked: ")


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"header":{},"protected":"e30","signature":5}', b"\xff"])
def test_what_is_no_signature(raw: bytes) -> None:
    with pytest.raises(DocumentError):
        parse_signature(raw)


# --- the payload -------------------------------------------------------------------------------------------------


def test_entries_come_base_first_with_their_json_verbatim() -> None:
    raw = '{"id":"%s", "parent":"%s","Size": 1 }\n' % (A, B)  # noqa: UP031
    document = json.loads(manifest((A, B), (B, None)))
    document["history"][0]["v1Compatibility"] = raw
    parsed = parse_schema1(json.dumps(document).encode())
    assert [entry.legacy_id for entry in parsed.entries] == [B, A]
    assert parsed.entries[1].json == raw.encode() and parsed.entries[1].parent == B
    assert (parsed.name, parsed.tag, parsed.architecture) == ("team/app", "1.0", "amd64")


def test_of_neighbours_with_one_id_the_base_ward_one_stays() -> None:
    document = json.loads(manifest((A, B), (A, B), (B, None)))
    for index, blob in enumerate(["3", "2", "1"]):
        document["fsLayers"][index]["blobSum"] = f"sha256:{blob * 64}"
    entries = parse_schema1(json.dumps(document).encode()).entries
    assert [(entry.legacy_id, entry.blob_sum.hex[0]) for entry in entries] == [(B, "1"), (A, "2")]


def test_throwaway_entries_are_known() -> None:
    document = json.loads(manifest((A, B), (B, None)))
    document["history"][0]["v1Compatibility"] = json.dumps({"id": A, "parent": B, "throwaway": True})
    assert [entry.throwaway for entry in parse_schema1(json.dumps(document).encode()).entries] == [False, True]


def test_keys_match_as_in_go() -> None:
    text = manifest((A, B), (B, None)).decode()
    for key in ("schemaVersion", "fsLayers", "blobSum", "history", "v1Compatibility", "tag", "name", "architecture"):
        text = text.replace(f'"{key}"', f'"{key.upper()}"')
    assert is_schema1(json.loads(text))
    parsed, plain = parse_schema1(text.encode()), parse_schema1(manifest((A, B), (B, None)))
    assert parsed == plain and parsed.name == "team/app"


@pytest.mark.parametrize("value", [True, False, None])
def test_throwaway_is_true_false_or_nothing(value: bool | None) -> None:
    history = [{"v1Compatibility": json.dumps({"id": A, "ThrowAway": value})}]
    assert parse_schema1(manifest((A, None), history=history)).entries[0].throwaway is (value is True)


@pytest.mark.parametrize("value", ["true", "", 1, 0, [], {}])
def test_throwaway_of_another_type_is_refused(value: object) -> None:
    history = [{"v1Compatibility": json.dumps({"id": A, "throwaway": value})}]
    with pytest.raises(DocumentError, match="throwaway is neither true nor false"):
        parse_schema1(manifest((A, None), history=history))


@pytest.mark.parametrize("member", [{"name": 5}, {"tag": []}, {"fsLayers": {}}, {"history": ["x"]}, {"mediaType": 1}])
def test_a_member_of_another_type_is_refused(member: dict[str, Any]) -> None:
    with pytest.raises(DocumentError, match="not a"):
        parse_schema1(manifest((A, None), **member))


@pytest.mark.parametrize(
    ("payload", "error", "said"),
    [
        (manifest(), DocumentError, "no layers"),
        (manifest((A, None), fsLayers=[]), DocumentError, "no layers"),
        (manifest((A, None), history=[]), DocumentError, "1 fsLayers but 0 history"),
        (manifest((A, B)), DocumentError, "the base layer .* has a parent"),
        (manifest((A, C), (B, None)), DocumentError, "parent is"),
        (manifest((A, None), (B, None)), DocumentError, "parent is None"),
        (manifest((A, B), (B, A), (A, None)), ConflictingLayerError, "appears twice"),
        (manifest(("x", None)), DocumentError, "64 hexadecimal digits"),
        (manifest((A, None), fsLayers=[{"blobSum": "tarsum.v1+sha256:00"}]), UnsupportedError, "tarsum"),
        (manifest((A, None), fsLayers=[{"blobSum": "md5:00"}]), DocumentError, "not a sha256 digest"),
        (manifest((A, None), history=[{"v1Compatibility": "{"}]), DocumentError, "not valid JSON"),
        (manifest((A, None), history=[{}]), DocumentError, "v1Compatibility is missing"),
        (b"[]", DocumentError, "not an object"),
    ],
)
def test_what_a_client_refuses(payload: bytes, error: type[MigrateError], said: str) -> None:
    with pytest.raises(error, match=said):
        parse_schema1(payload)


def test_every_problem_is_listed() -> None:
    with pytest.raises(DocumentError) as caught:
        parse_schema1(manifest(("x", None), ("y", None)))
    assert "history[0]" in caught.value.message and "history[1]" in caught.value.message


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_input_gives_another_error(raw: bytes) -> None:
    for parse in (open_manifest, parse_schema1, parse_signature):
        with contextlib.suppress(MigrateError):
            parse(raw)
