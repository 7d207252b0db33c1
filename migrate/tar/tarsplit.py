"""tar-split metadata (`tar-data.json.gz`): all of a tar except its files' contents, so that the tar can be rebuilt.

Format: vbatts/tar-split, tar/storage/entry.go and tar/asm; gzip of JSON objects, one on each line. Type 2 is a literal
piece of the tar (headers, padding, the end). Type 1 is a file's content, which is read from a tree and must have the
recorded CRC-64. Every member has a record of type 1, with size 0 if it has no content.
"""

from __future__ import annotations

import binascii
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple, cast

from fastcrc import crc64

from migrate.blobio.compression import open_decompressed
from migrate.errors import DamagedError, LimitError, TruncatedError
from migrate.tar.entries import TarEntry, TarScanner
from migrate.tar.names import go_clean, shown_name

LINE_BYTES: Final = 64 * 1024 * 1024
"""Limit of one line. Writers before tar-split 0.12 put all bytes behind a tar's end, with its padding, into one
record."""
_BLOCK = 256 * 1024
_ZEROS: Final = memoryview(bytes(1024 * 1024))
_LINES_BUFFER = 64 * 1024
_DECODER = json.JSONDecoder()
_SPACES = (" ", "\t", "\r", "\n")
_SEGMENT, _FILE = 2, 1
_USUAL_SEGMENT: Final = re.compile(rb'\{"type":2,"payload":"([A-Za-z0-9+/]*={0,2})","position":\d+\}\n')
_USUAL_FILE: Final = re.compile(
    rb'\{"type":1,"name":"([\x20\x21\x23-\x5b\x5d-\x7e]+)"(?:,"size":(\d{1,18}))?,'
    rb'"payload":(?:"([A-Za-z0-9+/]{11}=)"|null),"position":\d+\}\n'
)
"""Lines in the form of tar-split itself, which need no JSON parser."""


class FileRecord(NamedTuple):
    """A file's content: `size` bytes with the CRC-64 `crc` (8 bytes, big-endian). `iter_tar_split` yields none of size
    0."""

    name: bytes
    size: int
    crc: bytes


OpenFile = Callable[[bytes], BinaryIO]
"""Opens a file of the layer by its name in the tar."""


def assemble(metadata: BinaryIO, open_file: OpenFile) -> Iterator[bytes]:
    """The tar's bytes, in pieces. `metadata` is the compressed file.

    Raises DamagedError if the metadata is damaged or a file is not the recorded one, LimitError for a line over
    LINE_BYTES, and any error of `open_file`.
    """
    for record in iter_tar_split(metadata):
        if not isinstance(record, FileRecord):
            yield record
        elif record.size < _BLOCK:
            yield _small_content(record, open_file)
        else:
            yield from _checked_content(record, open_file)


class Sizes(NamedTuple):
    """The sizes in bytes of the tar that `assemble` gives, and of the files in it."""

    tar: int
    files: int


def read_sizes(metadata: BinaryIO) -> Sizes:
    """The sizes that the metadata records, without reading a file. Raises DamagedError or LimitError."""
    size = files = 0
    for number, line in enumerate(_iter_lines(metadata), 1):
        if segment := _USUAL_SEGMENT.fullmatch(line):
            # Four base64 digits are three bytes, and each `=` is one byte less.
            digits = segment[1]
            size += len(digits) // 4 * 3 - digits.endswith(b"=") - digits.endswith(b"==")
        elif usual := _USUAL_FILE.fullmatch(line):
            files += int(usual[2] or 0)
        else:
            for record in _parse_line(line, number, set()):
                if isinstance(record, FileRecord):
                    files += record.size
                else:
                    size += len(record)
    return Sizes(size + files, files)


def link_bytes(metadata: BinaryIO) -> int:
    """The bytes of all targets of symbolic links in the tar. Raises the errors of `assemble`, and TruncatedError."""
    links = _LinkBytes("the tar")
    for record in iter_tar_split(metadata):
        if not isinstance(record, FileRecord):
            links.feed(memoryview(record))
            continue
        for start in range(0, record.size, len(_ZEROS)):
            # The headers alone matter. Zeros take the place of the files' contents.
            links.feed(_ZEROS[: min(len(_ZEROS), record.size - start)])
    return links.total


class _LinkBytes(TarScanner):
    total = 0

    def on_entry(self, entry: TarEntry) -> None:
        if entry.kind == ord("2"):
            self.total += len(entry.link)


def iter_tar_split(metadata: BinaryIO) -> Iterator[bytes | FileRecord]:
    """The literal pieces, and the files with content, in order. Raises DamagedError or LimitError."""
    seen: set[bytes] = set()
    for number, line in enumerate(_iter_lines(metadata), 1):
        if segment := _USUAL_SEGMENT.fullmatch(line):
            yield _base64(segment[1], number)
        elif usual := _USUAL_FILE.fullmatch(line):
            name, size, crc = usual.groups()
            record = FileRecord(name, int(size or 0), _base64(crc or b"", number))
            if _is_new(record, number, seen):
                yield record
        else:
            yield from _parse_line(line, number, seen)


def _parse_line(line: bytes, number: int, seen: set[bytes]) -> Iterator[bytes | FileRecord]:
    for value in _iter_values(line, number):
        kind = value.get("type")
        if kind == _SEGMENT:
            yield _payload(value, number)
        elif kind == _FILE:
            raw_name, name, size = value.get("name_raw"), value.get("name", ""), value.get("size") or 0
            # tar-split uses `name_raw` for a name that is not valid UTF-8, which a JSON string cannot hold
            # (tar/storage/entry.go).
            if raw_name:
                name = _base64(raw_name, number)
            elif isinstance(name, str):
                name = name.encode("utf-8", "replace")
            else:
                raise DamagedError(f"record {number}: its name is {name!r}")
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise DamagedError(f"record {number}: {shown_name(name)} has the size {size!r}")
            record = FileRecord(name, size, _payload(value, number))
            if _is_new(record, number, seen):
                yield record


def _is_new(record: FileRecord, number: int, seen: set[bytes]) -> bool:
    """True for a record with content. Raises DamagedError for a repeated name, as Docker does: the tree has only one of
    the two contents."""
    cleaned = go_clean(record.name)
    if cleaned in seen:
        raise DamagedError(f"record {number}: the name {shown_name(record.name)} occurs twice")
    seen.add(cleaned)
    if record.size and len(record.crc) != 8:
        raise DamagedError(f"record {number}: {shown_name(record.name)} has a CRC-64 of {len(record.crc)} bytes")
    return record.size > 0


def _payload(value: dict[str, Any], number: int) -> bytes:
    payload = value.get("payload")
    return b"" if payload is None else _base64(payload, number)


def _base64(text: object, number: int) -> bytes:
    if not isinstance(text, str | bytes):
        raise DamagedError(f"record {number}: not base64: {text!r}")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise DamagedError(f"record {number}: not base64: {error}") from error


def _iter_values(line: bytes, number: int) -> Iterator[dict[str, Any]]:
    """The JSON objects of one line. Go's decoder accepts several, without line ends between them."""
    text = line.decode("utf-8", "replace").strip("".join(_SPACES))
    position = 0
    while position < len(text):
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"record {number}: not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise DamagedError(f"record {number}: not a JSON object")
        yield value
        while text[position : position + 1] in _SPACES:
            position += 1


def _iter_lines(metadata: BinaryIO) -> Iterator[bytes]:
    """The lines of the metadata. As in Go's gzip, an empty file and zeros behind the last member are errors."""
    lines = io.BufferedReader(cast(io.RawIOBase, open_decompressed(metadata, "gzip", "the metadata")), _LINES_BUFFER)
    try:
        while line := lines.readline(LINE_BYTES + 1):
            if len(line) > LINE_BYTES:
                raise LimitError(f"a record is larger than the limit of {LINE_BYTES:,} bytes")
            yield line
    except TruncatedError as error:
        raise DamagedError(error.message) from error


def _small_content(record: FileRecord, open_file: OpenFile) -> bytes:
    with open_file(record.name) as stream:
        content = stream.read(record.size + 1)
        while len(content) < record.size and (more := stream.read(record.size + 1 - len(content))):
            content += more
    _check(record, len(content), crc64.go_iso(content))
    return content


def _checked_content(record: FileRecord, open_file: OpenFile) -> Iterator[bytes]:
    """The content in blocks. The last block is yielded after the whole file was checked, so that a damaged layer does
    not come to its end."""
    crc, left, block = 0, record.size, b""
    with open_file(record.name) as stream:
        while left >= 0 and (following := stream.read(min(_BLOCK, left + 1))):
            yield block
            block = following
            crc = crc64.go_iso(block, crc)
            left -= len(block)
    _check(record, record.size - left, crc)
    yield block


def _check(record: FileRecord, size: int, crc: int) -> None:
    if size != record.size:
        compared = "longer" if size > record.size else "shorter"
        raise DamagedError(f"{shown_name(record.name)} is {compared} than {record.size:,} bytes")
    if crc.to_bytes(8, "big") != record.crc:
        raise DamagedError(f"{shown_name(record.name)} has CRC-64 {crc:016x}, and {record.crc.hex()} was recorded")
