from __future__ import annotations

import json
from typing import Any

import pytest

from migrate.documents import docker_archive
from migrate.documents.docker_archive import (
    ArchiveManifestEntry,
    encode_archive_manifest,
    parse_archive_manifest,
    parse_repositories,
)
from migrate.errors import DocumentError, LimitError
from migrate.model.reference import Reference


def test_an_archive_manifest_reads_back() -> None:
    entries = (
        ArchiveManifestEntry(config="c.json", repo_tags=("a:1", "host:5000/b:2"), layers=("x/layer.tar", "y.tar")),
        ArchiveManifestEntry(config="blobs/sha256/c", repo_tags=(), layers=()),
    )
    encoded = encode_archive_manifest(entries)
    assert encoded == (
        b'[{"Config":"c.json","RepoTags":["a:1","host:5000/b:2"],"Layers":["x/layer.tar","y.tar"]},'
        b'{"Config":"blobs/sha256/c","RepoTags":null,"Layers":[]}]\n'
    )
    assert parse_archive_manifest(encoded) == entries


def test_what_other_producers_add_is_ignored() -> None:
    raw = b'[{"Config":"c","Layers":["l"],"Parent":"p","LayerSources":{"sha256:0":{}}}]'
    assert parse_archive_manifest(raw) == (ArchiveManifestEntry(config="c", repo_tags=(), layers=("l",)),)


def test_an_archive_manifest_is_read_as_go_reads_it() -> None:
    raw = b'[{"config":"c","Config":"d","repotags":["a:1"],"LAYERS":["l"],"layers":["m","caf\xe9"],"x":1e400}]'
    expected = ArchiveManifestEntry(config="d", repo_tags=("a:1",), layers=("m", "caf\ufffd"))
    assert parse_archive_manifest(raw) == (expected,)


@pytest.mark.parametrize("odd", [None, {}, {"Config": None}, {"Config": ""}])
def test_an_entry_without_a_config_leaves_the_others(odd: Any) -> None:
    empty, whole = parse_archive_manifest(json.dumps([odd, {"Config": "c"}]).encode())
    assert (empty.config, whole.config) == ("", "c")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "manifest.json: not an array of images"),
        ({}, "manifest.json: not an array of images"),
        ([1], "manifest.json[0]: not an object"),
        ([{"Config": "c", "RepoTags": "a"}], "manifest.json[0].RepoTags: not an array of strings"),
        ([{"Config": "c", "Layers": [1]}], "manifest.json[0].Layers: not a string"),
    ],
)
def test_broken_archive_manifests(document: Any, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_archive_manifest(json.dumps(document).encode())
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, ()),
        (None, ()),
        ({"a": None}, ()),
        (
            {"a": {"2": "x", "1": "y"}, "h:5000/b": {"latest": "z"}},
            (("a", "2", "x"), ("a", "1", "y"), ("h:5000/b", "latest", "z")),
        ),
        ({"Repositories": {"a": {"1": "x"}}}, (("a", "1", "x"),)),
        ({"Repositories": {}}, ()),
        ({"Repositories": None}, ()),
        ({"Repositories": {"1": "x"}}, (("Repositories", "1", "x"),)),
        ({"a": {f"sha256:{'0' * 64}": "x"}}, (("a", f"sha256:{'0' * 64}", "x"),)),
    ],
)
def test_repositories_in_both_shapes(document: Any, expected: tuple[tuple[str, str, str], ...]) -> None:
    found, problems = parse_repositories(json.dumps(document).encode())
    assert problems == ()
    assert found == tuple((Reference(name, tag), legacy_id) for name, tag, legacy_id in expected)


def test_a_name_that_is_not_unicode_does_not_hide_the_others() -> None:
    found, _ = parse_repositories(b'{"caf\xe9":{"1":"x"},"b":{"2":"y"}}')
    assert found == ((Reference("caf�", "1"), "x"), (Reference("b", "2"), "y"))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"a":{"1":'])
def test_broken_repositories(raw: bytes) -> None:
    with pytest.raises(DocumentError, match=r"^repositories: "):
        parse_repositories(raw)


@pytest.mark.parametrize("bad", [b"1", b'{"1":2}', b'["1"]'])
def test_one_name_that_cannot_be_read_hides_no_other(bad: bytes) -> None:
    found, problems = parse_repositories(b'{"a":%b,"b":{"2":"y"}}' % bad)
    assert found == ((Reference("b", "2"), "y"),)
    assert len(problems) == 1 and problems[0].startswith("repositories: 'a'")


def test_the_names_before_a_cut_are_read() -> None:
    whole = b'{"a":{"1":"x","2":"y"},"b\\"}":{"3":"z"}}'
    for cut in range(len(whole)):
        try:
            found, problems = parse_repositories(whole[:cut])
        except DocumentError:
            assert cut < whole.index(b',"2"')
            continue
        assert [legacy_id for _, legacy_id in found] == ["x", "y", "z"][: len(found)]
        assert len(found) == sum(f'"{legacy_id}"'.encode() in whole[:cut] for legacy_id in "xyz")
        assert len(problems) == 1


WHOLE = b'{"a":{"1":"x","2":"y"},"b\\"},":{"3":"},{"}, "c":{},"d":{"4":"z"}}\n'


@pytest.mark.parametrize(
    "raw",
    [
        WHOLE,
        *(WHOLE[:cut] for cut in range(1, len(WHOLE))),
        WHOLE.replace(b'"d"', b'"a"'),
        WHOLE.replace(b'"d"', b'"Repositories"'),
        WHOLE.replace(b"}}", b"},}"),
        WHOLE.replace(b"}, ", b"},,"),
        WHOLE.replace(b"{}", b'{"5":1}'),
        WHOLE.replace(b'"d"', b'"\xe9"'),
        WHOLE + b"{}",
        b'{"Repositories":%b}' % WHOLE,
        b"[%b]" % WHOLE,
    ],
)
def test_a_large_document_gives_in_pieces_what_it_gives_whole(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed() -> Any:
        try:
            return parse_repositories(raw)
        except DocumentError as error:
            return error.message

    whole = parsed()
    monkeypatch.setattr(docker_archive, "_LARGE_BYTES", 0)
    for size in range(40):
        monkeypatch.setattr(docker_archive, "_PIECE_BYTES", size)
        assert parsed() == whole


def test_the_pieces_of_a_large_document_are_parsed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.dumps({f"app-{number}": {"latest": "x" * 64} for number in range(20_000)}).encode()
    whole = parse_repositories(raw)
    assert len(whole[0]) == 20_000
    monkeypatch.setattr(docker_archive, "load_json_lenient", None)  # which would parse it whole
    assert parse_repositories(raw) == whole


def test_limits() -> None:
    for parse in (parse_archive_manifest, parse_repositories):
        with pytest.raises(LimitError):
            parse(b"[" * 10_000)
