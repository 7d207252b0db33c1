"""A large index, which is parsed in parts, has the entries and errors of one that is parsed at once."""

from __future__ import annotations

import random
from typing import Any

import pytest

from migrate.documents import oci
from migrate.documents.oci import REF_NAME, IndexEntry, encode_index, parse_index
from migrate.errors import SourceError
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, MediaType, Platform

ODD = '},{"mediaType":"'
INSERTED = (
    b"",
    b"}",
    b'"',
    b" ",
    b"]}",
    b'],"manifests":[',
    b'},{"mediaType":"',
    b",",
    b'"other":[{"mediaType":"x"}],',
)


def random_entry(choose: random.Random, *, other: bool) -> IndexEntry:
    annotations = {REF_NAME: choose.choice(["app:1", ODD, "caf\u00e9"]), "x": ODD}
    return IndexEntry(
        descriptor=Descriptor(
            media_type=choose.choice([MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST, "", ODD]),
            digest=Digest(choose.randbytes(32).hex()),
            size=choose.randrange(1 << 40),
        ),
        platform=choose.choice([None, Platform(os="linux", architecture="arm", variant="v7")]),
        annotations=choose.choice([{}, annotations]),
        other={"urls": [{"mediaType": "x"}, {"mediaType": "y"}]} if other and choose.random() < 0.2 else {},
    )


def parsed(raw: bytes, monkeypatch: pytest.MonkeyPatch, *, parts: bool) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(oci, "_LARGE_INDEX", 0 if parts else 1 << 30)
        patched.setattr(oci, "_ENTRIES_BYTES", 300)
        try:
            return parse_index(raw)
        except SourceError as error:
            return str(error)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("number", range(20))
def test_random_indexes(number: int, other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = random.Random(number)
    entries = tuple(random_entry(choose, other=other) for _ in range(choose.choice([0, 1, 2, 20])))
    raw = encode_index(entries)
    whole = parsed(raw, monkeypatch, parts=False)
    assert whole.manifests == entries
    assert parsed(raw, monkeypatch, parts=True) == whole
    for _ in range(200):
        start = choose.randrange(len(raw))
        changed = raw[:start] + choose.choice(INSERTED) + raw[start + choose.randrange(4) :]
        assert parsed(changed, monkeypatch, parts=True) == parsed(changed, monkeypatch, parts=False)
    # lists inside the list that look like its end
    for place in range(raw.count(b'},{"mediaType"')):
        pieces = raw.split(b'},{"mediaType"')
        for between in (
            b'}],"manifests":[{"mediaType"',
            b'}],"x":[{"mediaType"',
            b'},[{"mediaType":"x"}],{"mediaType"',
        ):
            changed = (
                b'},{"mediaType"'.join(pieces[: place + 1]) + between + b'},{"mediaType"'.join(pieces[place + 1 :])
            )
            assert parsed(changed, monkeypatch, parts=True) == parsed(changed, monkeypatch, parts=False)


def test_equal_texts_are_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = random.Random(1)
    first, *others = parsed(
        encode_index(random_entry(choose, other=False) for _ in range(20)), monkeypatch, parts=True
    ).manifests
    same = [one for one in others if one.descriptor.media_type == first.descriptor.media_type]
    assert same and all(one.descriptor.media_type is first.descriptor.media_type for one in same)
