"""tar-split metadata (`tar-data.json.gz`): what a tar is made of beside its files' contents, so that it can be rebuilt.

Format: vbatts/tar-split, tar/storage/entry.go and tar/asm; gzip of JSON objects, one a line. Type 2 is a literal piece
of the tar (headers, padding, the end); type 1 stands for a file's content, which is read from a tree and has to have
the recorded CRC-64. Every member has a type 1 record, with size 0 where there is no content.
"""

from __future__ import annotations

import binascii
import gzip
import json
import posixpath
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from migrate.blobio.crc64 import crc64_iso
from migrate.errors import DamagedError, LimitError

RECORD_BYTES: Final = 64 * 1024 * 1024
"""One line. Writers before tar-split 0.12 put all that follows a tar's end, padding included, into one record."""
_BLOCK = 256 * 1024
_SEGMENT, _FILE = 2, 1


class FileRecord(NamedTuple):
    """Content of `size` bytes, never 0, that stands under `name` and has the CRC-64 `crc`, 8 bytes big-endian."""

    name: bytes
    size: int
    crc: bytes


OpenFile = Callable[[bytes], BinaryIO]
"""Opens a file of the layer by its name in the tar."""


def assemble(metadata: BinaryIO, open_file: OpenFile) -> Generator[bytes, None, None]:
    """The tar's bytes, in pieces. `metadata` is the compressed file.

    Raises DamagedError where the metadata or a file is not what was recorded, LimitError for a line over RECORD_BYTES,
    and whatever `open_file` raises.
    """
    for record in iter_records(metadata):
        if isinstance(record, FileRecord):
            yield from _checked_content(record, open_file)
        else:
            yield record


def iter_records(metadata: BinaryIO) -> Iterator[bytes | FileRecord]:
    """Literal pieces and files with content, in order. Raises DamagedError or LimitError."""
    seen: set[bytes] = set()
    for number, value in enumerate(_iter_values(metadata), 1):
        kind = value.get("type")
        if kind == _SEGMENT:
            yield _payload(value, number)
        elif kind == _FILE:
            record = _file_record(value, number, seen)
            if record.size:
                yield record


def _file_record(value: dict[str, Any], number: int, seen: set[bytes]) -> FileRecord:
    name, size = _name(value, number), value.get("size") or 0
    cleaned = posixpath.normpath(name or b".")
    if cleaned in seen:  # Docker refuses these too: only one of the contents can still be there
        raise DamagedError(f"record {number}: {_shown(name)} stands there twice")
    seen.add(cleaned)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise DamagedError(f"record {number}: {_shown(name)} has the size {size!r}")
    crc = _payload(value, number)
    if size and len(crc) != 8:
        raise DamagedError(f"record {number}: {_shown(name)} has a CRC-64 of {len(crc)} bytes")
    return FileRecord(name, size, crc)


def _name(value: dict[str, Any], number: int) -> bytes:
    raw, name = value.get("name_raw"), value.get("name", "")
    if raw:
        return _base64(raw, number)
    if not isinstance(name, str):
        raise DamagedError(f"record {number}: its name is {name!r}")
    return name.encode("utf-8", "replace")


def _payload(value: dict[str, Any], number: int) -> bytes:
    payload = value.get("payload")
    return b"" if payload is None else _base64(payload, number)


def _base64(text: object, number: int) -> bytes:
    if not isinstance(text, str):
        raise DamagedError(f"record {number}: not base64: {text!r}")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise DamagedError(f"record {number}: not base64: {error}") from error


def _iter_values(metadata: BinaryIO) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    number = 0
    for line in _iter_lines(metadata):
        position = 0
        while position < len(line):
            number += 1
            try:
                value, position = decoder.raw_decode(line, position)
            except (ValueError, RecursionError) as error:
                raise DamagedError(f"record {number}: not valid JSON: {error}") from error
            if not isinstance(value, dict):
                raise DamagedError(f"record {number}: not a JSON object")
            yield value


def _iter_lines(metadata: BinaryIO) -> Iterator[str]:
    lines = gzip.GzipFile(fileobj=metadata, mode="rb")
    try:
        while line := lines.readline(RECORD_BYTES + 1):
            if len(line) > RECORD_BYTES:
                raise LimitError(f"a record is larger than the limit of {RECORD_BYTES:,} bytes")
            if text := line.decode("utf-8", "replace").strip(" \t\r\n"):
                yield text
    except EOFError as error:
        raise DamagedError("it ends in the middle") from error
    except (OSError, zlib.error) as error:
        raise DamagedError(f"it cannot be decompressed: {error}") from error


def _checked_content(record: FileRecord, open_file: OpenFile) -> Generator[bytes, None, None]:
    crc, left = 0, record.size
    with open_file(record.name) as stream:
        while left > 0 and (block := stream.read(min(_BLOCK, left))):
            crc = crc64_iso(block, crc)
            left -= len(block)
            if left > 0:
                yield block
        too_long = left == 0 and stream.read(1) != b""
    if left > 0 or too_long:
        raise DamagedError(f"{_shown(record.name)} is {'longer' if too_long else 'shorter'} than {record.size:,} bytes")
    if crc.to_bytes(8, "big") != record.crc:
        raise DamagedError(f"{_shown(record.name)} has CRC-64 {crc:016x}, and {record.crc.hex()} was recorded")
    yield block


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
