from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from migrate.batch.journal import pack_record, unpack_record
from migrate.batch.records import ImageRecord, LayerRecord, Role, SourceRecord, encode_record, parse_record
from migrate.convert.publish import FinishedImage
from migrate.model.container import Container, Volume
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, Descriptor, HashedLayer, Platform, StoredBlob
from migrate.model.legacy import Failure, LegacyID, LegacyLayer, ReadyIndex
from migrate.model.reference import Reference

SOURCE = "/shelf/a\udcff.tar"


def digest(text: str) -> Digest:
    return Digest.of(text.encode())


def row(name: str, role: Role = Role.MADE, *, empty: bool = False) -> LayerRecord:
    blob = None if empty else StoredBlob(digest=digest(f"blob {name}"), size=len(name), compression="gzip")
    hashed = HashedLayer(
        diff_id=DiffID(digest(name)),
        tar_size=1_024,
        empty=empty,
        blob=blob,
        origin="diff",
        exact=False,
        note="made anew \ud800",
        flags=("odd",),
    )
    return LayerRecord(LegacyID(name), hashed, role)


def image(rows: tuple[LayerRecord, ...], chain: tuple[int, ...], *, ready: bool = False) -> ImageRecord:
    composed = ComposedImage(
        config_document=b'{"a":"\xff"}',
        config_media_type="config",
        manifest_document=b"{}" if ready else b"",
        manifest_media_type="manifest",
        diff_ids=tuple(rows[number].hashed.diff_id for number in chain if rows[number].hashed),  # type: ignore[union-attr]
        layers=(Descriptor(media_type="layer", digest=digest("l"), size=3),) if ready else (),
        platform=Platform(os="linux", architecture="arm", variant="v7"),
        created=None,
    )
    bare = [LegacyLayer(legacy_id=rows[number].legacy_id, json=b"", parent=None, payload=None) for number in chain]
    finished = FinishedImage(
        source=SOURCE,
        order=0,
        legacy_id=LegacyID("top"),
        composed=composed,
        chain=tuple((layer, rows[number].hashed) for layer, number in zip(bare, chain, strict=True)),
        references=(Reference("app", "1"), Reference("Odd\udcff", "x")),
        containers=("c",),
        legacy_digests=(digest("old"),),
        warnings=("w",),
        index=ReadyIndex(content=b"i", media_type="t", references=(Reference("l", "1"),), children=()),
        ready=ready,
        certain=False,
    )
    return ImageRecord(finished, chain)


ROWS = (row("a"), row("b", Role.CARRIED), row("e", empty=True), LayerRecord(LegacyID("t"), None), row("k", Role.KEPT))
FAILURE = Failure(source=SOURCE, references=("x:1",), legacy_id="t", layer=None, error="chain", message="gone \udc80")


@pytest.mark.parametrize("ready", [False, True])
def test_a_record_comes_back_as_it_was(ready: bool) -> None:
    record = SourceRecord(
        type="docker-root",
        layers=ROWS,
        images=(image(ROWS, (0, 1, 2, 3, 4), ready=ready), image(ROWS, (0, 0, 1))),
        failures=(FAILURE,),
        warnings=("odd",),
    )
    assert parse_record(encode_record(record), SOURCE) == record
    assert unpack_record(pack_record(record).encode(), SOURCE) == record


def test_a_record_of_many_layers_keeps_their_numbers() -> None:
    rows = tuple(row(f"layer {number}") for number in range(2_500))
    record = SourceRecord(type="registry-v2", layers=rows, images=(image(rows, (2_499, 1_000, 0)),))
    assert parse_record(encode_record(record), SOURCE) == record


def test_texts_that_all_records_have_are_in_memory_once() -> None:
    content = encode_record(
        SourceRecord(type="docker-archive", layers=ROWS, images=(image(ROWS, (0, 1, 4), ready=True),))
    )
    one, other = (parse_record(content, SOURCE) for _ in range(2))
    for first, second in zip(one.layers, other.layers, strict=True):
        if first.hashed is not None and second.hashed is not None:
            assert first.hashed.origin is second.hashed.origin
            if first.hashed.blob is not None and second.hashed.blob is not None:
                assert first.hashed.blob.compression is second.hashed.blob.compression
    ours, theirs = (record.images[0].finished.composed for record in (one, other))
    assert ours.config_media_type is theirs.config_media_type and ours.platform.os is theirs.platform.os
    assert all(a.media_type is b.media_type for a, b in zip(ours.layers, theirs.layers, strict=True))


@pytest.mark.parametrize("name", ["a", "a\\u00e9", "a\\udcff"])
def test_a_record_of_an_earlier_version_is_read(name: str) -> None:
    """Its rows have nine values, and its JSON has only ASCII."""
    hashed = f'["{name}","{"1" * 64}",1024,false,["{"2" * 64}",99,"gzip","carried"],"diff",false,null,["odd"]]'
    image = (
        f'{{"id":"{name}","chain":[0,1],"config":"e30=","config_type":"c","manifest_type":"m",'
        f'"diff_ids":["{"1" * 64}"],"platform":["linux","amd64",null],"created":null,"references":[["{name}","1"]]}}'
    )
    last = f'{{"type":"docker-root","failures":[],"warnings":["{name}"]}}'
    content = f'{{"layers":[{hashed},["t"]]}}\n{{"image":{image}}}\n{last}\n'.encode("ascii")
    record = parse_record(content, SOURCE)
    text = json.loads(f'"{name}"')
    first, second = record.layers
    assert (first.legacy_id, first.role, second) == (text, Role.CARRIED, LayerRecord(LegacyID("t"), None))
    assert first.hashed is not None and first.hashed.blob is not None
    assert (first.hashed.diff_id, first.hashed.flags, first.hashed.flagged) == (Digest("1" * 64), ("odd",), ())
    assert first.hashed.blob.digest == Digest("2" * 64)
    (one,) = record.images
    assert (one.finished.composed.config, one.finished.references) == (b"{}", (Reference(text, "1"),))
    assert record.warnings == (text,)
    assert parse_record(encode_record(record), SOURCE) == record


@pytest.mark.parametrize("row", ["[]", '["a","D"]', '["a","D",1,false,null,"diff",true,null]', "[1]"])
def test_a_row_that_lacks_values_is_a_value_error(row: str) -> None:
    content = f'{{"layers":[{row.replace("D", "1" * 64)}]}}\n{{"type":null,"failures":[],"warnings":[]}}\n'
    with pytest.raises(ValueError, match="not a record"):
        parse_record(content.encode(), SOURCE)


def test_an_empty_record() -> None:
    assert parse_record(encode_record(SourceRecord()), SOURCE) == SourceRecord()


@given(st.binary(max_size=300))
def test_other_bytes_are_a_value_error(content: bytes) -> None:
    for parse in (parse_record, unpack_record):
        try:
            parse(content, SOURCE)
        except ValueError:
            continue


@given(st.integers(0, 2_000), st.integers(0, 255))
def test_a_changed_record_is_a_value_error_or_another_record(position: int, value: int) -> None:
    content = bytearray(encode_record(SourceRecord(type="x", layers=ROWS, images=(image(ROWS, (0, 1)),))))
    content[position % len(content)] = value
    try:
        parse_record(bytes(content), SOURCE)
    except ValueError:
        return


def test_the_images_of_a_record_know_no_blob() -> None:
    """Which blob a layer has is decided when all records are there."""
    record = SourceRecord(layers=ROWS, images=(image(ROWS, (0,)),))
    (parsed,) = parse_record(encode_record(record), SOURCE).images
    assert parsed.finished.composed.layers == ()
    assert replace(parsed.finished.composed, manifest_document=b"").manifest == parsed.finished.composed.manifest


# --- records that somebody else wrote --------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a JSON document."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("new", [None, True, -1, 10**30, 1.5, "text", [], [None], {}, {"a": 1}], ids=repr)
def test_any_value_of_any_type_is_a_value_error_or_a_record_of_right_types(new: Any) -> None:
    volume = Volume(path="/v", source="/s", bytes=None)
    container = Container(id="c", name="n", image="i", state="dead", created=None, volumes=(volume,), unseen=("/x",))
    one = image(ROWS, (0, 1), ready=True)
    one = replace(one, finished=replace(one.finished, container=container))
    record = SourceRecord(layers=ROWS, images=(one,), failures=(FAILURE,), warnings=("w",), containers=(container,))
    lines = [json.loads(line) for line in encode_record(record).splitlines()]
    for number, line in enumerate(lines):
        for path in places(line):
            changed = [*lines[:number], replaced(line, path, new), *lines[number + 1 :]]
            content = "\n".join(map(json.dumps, changed)).encode()
            try:
                parsed = parse_record(content, SOURCE)
            except ValueError:
                continue
            again = parse_record(encode_record(parsed), SOURCE)
            assert again == parsed, path
            assert all(type(row.hashed.tar_size) is int for row in parsed.layers if row.hashed is not None)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_record_nested_without_end_is_a_value_error(opening: str) -> None:
    for parse in (parse_record, lambda content, source: unpack_record(packed(content), source)):
        with pytest.raises(ValueError, match="/shelf"):
            parse(b'{"type":' + opening.encode() * 200_000, SOURCE)


def test_a_record_that_unpacks_without_end_is_not_parsed() -> None:
    """A few hundred kilobytes that would be 300 MB of text, and gigabytes of Python's objects."""
    tracemalloc.start()
    for bomb in (bytes(10_000_000), b"[" + b"1," * 8_500_000 + b"1]"):
        with pytest.raises(ValueError, match="limit of"):
            unpack_record(packed(bomb * (30 if bomb[0] == 0 else 1)), SOURCE)
    assert tracemalloc.get_traced_memory()[1] < 700_000_000
    tracemalloc.stop()


def packed(content: bytes) -> bytes:
    return base64.b64encode(zlib.compress(content, 1))
