from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from typing import BinaryIO

import pytest

from migrate.errors import DamagedError, LimitError, MigrateError, MissingLayerError
from migrate.tar import tarsplit
from tests.roots import tar_split

HELLO_CRC = "YUw+7uLYEAA="
"""Of b"hello\\n", as the format's own example has it."""


def _compressed(*records: object) -> BinaryIO:
    return io.BytesIO(gzip.compress(b"".join(json.dumps(record).encode() + b"\n" for record in records)))


def _segment(raw: bytes) -> dict[str, object]:
    return {"type": 2, "payload": base64.b64encode(raw).decode(), "position": 0}


def _file(name: str, size: int = 6, payload: object = HELLO_CRC, **more: object) -> dict[str, object]:
    return {"type": 1, "name": name, "size": size, "payload": payload, "position": 1, **more}


def _assemble(metadata: BinaryIO, files: Mapping[bytes, bytes]) -> bytes:
    def open_file(name: bytes) -> BinaryIO:
        if name not in files:
            raise MissingLayerError(f"{name!r}: no such file")
        return io.BytesIO(files[name])

    return b"".join(tarsplit.assemble(metadata, open_file))


def _tar(format: int, names: Mapping[str, bytes], tail: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue() + tail


FILES = {
    "etc/hostname": b"hello\n",
    "empty": b"",
    "big": bytes(range(256)) * 4000,
    "é" * 70: b"x" * 511,
    "d" * 150: b"y",
}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("tail", [b"", b"\0" * 10_240, b"left over"])
def test_a_tar_comes_back_bit_for_bit(format: int, tail: bytes) -> None:
    files = {name: content for name, content in FILES.items() if format != tarfile.USTAR_FORMAT or name.isascii()}
    files = {name: content for name, content in files.items() if format != tarfile.USTAR_FORMAT or len(name) < 100}
    tar = _tar(format, files, tail)
    metadata = gzip.compress(tar_split(tar))
    contents = {name.encode(): content for name, content in files.items()}
    assert _assemble(io.BytesIO(metadata), contents) == tar
    assert tarsplit.read_sizes(io.BytesIO(metadata)).tar == len(tar)


def test_the_formats_own_example() -> None:
    metadata = _compressed(
        _segment(b"header of etc/"), _file("etc/", 0, None), _segment(b"header"), _file("etc/hostname"), _segment(b"")
    )
    assert _assemble(metadata, {b"etc/hostname": b"hello\n"}) == b"header of etc/headerhello\n"


def test_a_name_that_is_not_utf8_stands_in_base64() -> None:
    record = _file("") | {"name_raw": base64.b64encode(b"\xff\xfe").decode()}
    del record["name"]
    assert _assemble(_compressed(record), {b"\xff\xfe": b"hello\n"}) == b"hello\n"


def test_json_needs_no_line_ends_and_unknown_types_are_passed_over() -> None:
    raw = json.dumps(_segment(b"a")) + json.dumps({"type": 3}) + "  " + json.dumps(_file("f")) + "\n\n"
    assert _assemble(io.BytesIO(gzip.compress(raw.encode())), {b"f": b"hello\n"}) == b"ahello\n"


@pytest.mark.parametrize("content", [b"hellO\n", b"hello", b"hello\n\n", b""])
def test_a_file_that_changed_is_found(content: bytes) -> None:
    with pytest.raises(DamagedError, match="etc/hostname"):
        _assemble(_compressed(_file("etc/hostname")), {b"etc/hostname": content})


def test_a_missing_file_is_found() -> None:
    with pytest.raises(MissingLayerError):
        _assemble(_compressed(_file("gone")), {})


@pytest.mark.parametrize(
    "record",
    [
        _file("f", payload="!!!!"),
        _file("f", payload="AAAA"),
        _file("f", payload=7),
        _file("f", size=-1),
        _file("f", payload=HELLO_CRC) | {"size": "6"},
        _file("f") | {"name": 5},
        {"type": 2, "payload": "a"},
        [],
        "text",
    ],
)
def test_bad_records_are_damage(record: object) -> None:
    with pytest.raises(DamagedError):
        _assemble(_compressed(record), {b"f": b"hello\n"})


@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a/b", "a//b"), ("a", "b/../a"), ("/a", "//a")])
def test_a_name_that_stands_there_twice_is_refused_as_docker_refuses_it(names: tuple[str, str]) -> None:
    metadata = _compressed(*(_file(name, 0, None) for name in names))
    with pytest.raises(DamagedError, match="twice"):
        _assemble(metadata, {})


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
def test_truncated_metadata_is_damage(cut: float) -> None:
    whole = gzip.compress(tar_split(_tar(tarfile.USTAR_FORMAT, {"etc/hostname": b"hello\n"})))
    with pytest.raises(DamagedError):
        _assemble(io.BytesIO(whole[: int(len(whole) * cut)]), {b"etc/hostname": b"hello\n"})


@pytest.mark.parametrize(
    "raw", [b"no gzip at all", gzip.compress(b'{"type":2,"payload":')[:-9] + b"\xff" * 9], ids=["none", "cut"]
)
def test_what_is_no_gzip_is_damage(raw: bytes) -> None:
    with pytest.raises(DamagedError):
        _assemble(io.BytesIO(raw), {})


GOOD = gzip.compress(b'{"type":2,"payload":"AAAA","position":0}\n')


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty file"),
        pytest.param(GOOD[:5], id="half a header"),
        pytest.param(GOOD + bytes(512), id="zeros behind the member"),
        pytest.param(GOOD + b"\x1f", id="half a header behind the member"),
        pytest.param(GOOD[:-8] + b"\0\0\0\0" + GOOD[-4:], id="wrong CRC-32"),
        pytest.param(GOOD[:-4] + b"\0\0\0\0", id="wrong size"),
    ],
)
def test_what_go_refuses_as_gzip_is_damage(raw: bytes) -> None:
    with pytest.raises(DamagedError):
        _assemble(io.BytesIO(raw), {})
    with pytest.raises(DamagedError):
        tarsplit.read_sizes(io.BytesIO(raw))


def test_metadata_in_several_gzip_members_is_read_to_the_end() -> None:
    assert _assemble(io.BytesIO(GOOD + GOOD), {}) == bytes(6)


def test_a_line_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarsplit, "LINE_BYTES", 1000)
    with pytest.raises(LimitError, match="1,000"):
        _assemble(_compressed(_segment(b"x" * 1000)), {})


def test_deep_json_is_damage() -> None:
    with pytest.raises(MigrateError):
        _assemble(io.BytesIO(gzip.compress(b'{"type":' + b"[" * 100_000 + b"\n")), {})
