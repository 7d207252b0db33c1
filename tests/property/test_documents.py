"""Whatever the bytes, documents are read or refused with an error of ours; and what is written can be read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrate.compose.config import HistoryStep, compose_config
from migrate.documents.docker_archive import parse_archive_manifest, parse_repositories
from migrate.documents.go_json import carried_values, check_syntax, compact, decode_literal, encode, encode_object
from migrate.documents.go_json import read_document as go_document
from migrate.documents.go_time import normalise_time
from migrate.documents.json_text import load_json, load_json_lenient
from migrate.documents.oci import parse_config, parse_index, parse_manifest
from migrate.errors import MigrateError
from migrate.model.digest import DiffID, Digest
from tests.layer_json import carried_members, parse_identity, parse_v1_json

DIFF_ID = DiffID(Digest("a" * 64))


def read_document(raw: bytes) -> object:
    return go_document(raw, "x")


def load(raw: bytes) -> object:
    return load_json(raw, "x")


def load_lenient(raw: bytes) -> object:
    return load_json_lenient(raw, "x")


def config_of(raw: bytes) -> bytes:
    return compose_config(carried_members(raw), [HistoryStep.of(parse_v1_json(raw), empty_layer=False)], [DIFF_ID])


PARSERS = [
    read_document,
    load,
    load_lenient,
    parse_v1_json,
    parse_identity,
    carried_members,
    config_of,
    parse_config,
    parse_manifest,
    parse_index,
    parse_archive_manifest,
    parse_repositories,
]

KNOWN_NAMES = """
id parent created docker_version config container_config Size throwaway Env Cmd Volumes Labels Healthcheck Tty
rootfs diff_ids history manifests layers digest size platform Config RepoTags Layers Repositories
"""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.one_of(
    texts,
    st.sampled_from(KNOWN_NAMES.split()),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    texts,
    st.sampled_from(["1.5.0", "1.9.1", "2014-01-01T00:00:00.10Z", f"sha256:{'0' * 64}"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=20
)
known_fields = st.fixed_dictionaries(
    {},
    optional={
        "id": texts,
        "created": st.sampled_from(["2014-01-01T00:00:00.10Z", "2015-12-31T23:59:59-07:00"]),
        "docker_version": st.sampled_from(["1.5.0", "1.8.3", "1.9.1", ""]),
        "author": texts,
        "container_config": st.fixed_dictionaries(
            {},
            optional={"Cmd": st.lists(texts, max_size=3) | texts, "Labels": st.dictionaries(texts, texts, max_size=3)},
        ),
        "config": st.none()
        | st.fixed_dictionaries({}, optional={"Env": st.lists(texts, max_size=3), "Tty": st.booleans()}),
        "Size": st.integers(0, 2**40),
        "unknown": values,
    },
)


@st.composite
def broken_documents(draw: st.DrawFn) -> bytes:
    """JSON with a few bytes replaced, inserted or cut."""
    raw = bytearray(json.dumps(draw(values), ensure_ascii=draw(st.booleans())).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"\\ud800"])
        )
    return bytes(raw)


@pytest.mark.parametrize("parse", PARSERS)
@given(raw=st.binary(max_size=60) | broken_documents())
@example(raw=b"")
@example(raw=b"[" * 100_000)
@example(raw=b'{"a":' * 100_000)
@example(raw=b'"' + b"\\" * 1_001)
@example(raw=b'{"a":' * 900 + b"1" + b"}" * 900)
@example(raw=b'{"Size":123456789012345678901234567890}')
@example(raw=b'{"Size":' + b"1" * 10_000 + b"}")
@example(raw=b'{"docker_version":"' + b"1" * 10_000 + b'"}')
@example(raw=b'{"a":1e999}')
@example(raw=b'{"\\n":false}')
@example(raw=b'{"schemaVersion":"' + b"x" * 9_999 + b'"}')
def test_only_errors_of_ours_come_out(parse: Callable[[bytes], object], raw: bytes) -> None:
    try:
        parse(raw)
    except MigrateError as error:
        assert error.message.isprintable()
        assert len(error.message) < 400


@given(raw=broken_documents())
def test_compaction_keeps_the_value_and_is_idempotent(raw: bytes) -> None:
    try:
        check_syntax(raw, "x")
    except MigrateError:
        return
    compacted = compact(raw)
    check_syntax(compacted, "x")
    assert compact(compacted) == compacted
    assert load_or_none(compacted) == load_or_none(raw)


def load_or_none(raw: bytes) -> Any:
    try:
        return load_json(raw, "x")
    except MigrateError:
        return None


@given(document=known_fields)
def test_the_quick_way_and_the_exact_way_give_the_same_config(document: dict[str, Any]) -> None:
    canonical = encode(document)
    assert isinstance(read_document(canonical), dict)
    config = config_of(canonical)
    assert config_of(b"{ " + canonical[1:]) == config
    if document:
        assert config_of(b"{" + encode("id") + b":" + encode("twice") + b"," + canonical[1:]) == config


@given(document=known_fields)
def test_a_config_reads_back_and_is_stable(document: dict[str, Any]) -> None:
    config = config_of(encode(document))
    facts = parse_config(config)
    assert facts.diff_ids == (DIFF_ID,)
    assert facts.history_empty == (False,)
    assert encode_object(carried_values(read_document(config), "x")) == config
    assert compact(config) == config


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_strings_read_back(text: str) -> None:
    assert decode_literal(encode(text)[1:-1]) == text


@given(literal=st.binary(max_size=20).filter(lambda raw: b"\\" not in raw))
def test_every_byte_that_is_no_text_becomes_one_replacement(literal: bytes) -> None:
    text = decode_literal(literal)
    assert text.replace("\ufffd", "").encode() in literal or "\ufffd" in text
    assert len(text) <= len(literal)


@given(
    text=st.from_regex(
        r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2]?[0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,12})?(Z|[+-]\d\d:\d\d)"
    )
)
def test_a_normalised_time_stays(text: str) -> None:
    once = normalise_time(text)
    assert once is None or normalise_time(once) == once
