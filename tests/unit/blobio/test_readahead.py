from __future__ import annotations

import gzip
import io
import threading

import pytest

from migrate.blobio.readahead import ReadAhead
from migrate.errors import DamagedError, TruncatedError
from tests.unit.rehash.sources import make_tar

CONTENT = make_tar(1, (9_000_000, 5))


def test_all_bytes_come_in_order() -> None:
    with ReadAhead(io.BytesIO(gzip.compress(CONTENT, 1)), "gzip", "archive") as stream:
        first = stream.read(10)
        buffer = bytearray(100)
        assert stream.readinto(buffer) == 100
        assert first + bytes(buffer) + stream.read() == CONTENT
        assert stream.read(5) == b""


_NO_BLOCK = bytes.fromhex("1f8b08000000000000ff") + b"\xff" * 64
"""A gzip member whose first block is of a type that does not exist (RFC 1951, 3.2.3)."""


@pytest.mark.parametrize(("tail", "error"), [(_NO_BLOCK, DamagedError), (b"\x1f\x8b\x08", TruncatedError)])
def test_an_error_follows_the_bytes_before_it(tail: bytes, error: type[Exception]) -> None:
    with ReadAhead(io.BytesIO(gzip.compress(CONTENT, 1) + tail), "gzip", "archive") as stream:
        received = 0
        with pytest.raises(error, match="archive"):
            while block := stream.read(1 << 20):
                received += len(block)
        assert received == len(CONTENT)
        with pytest.raises(error):
            stream.read(1)


def test_leaving_early_ends_the_thread() -> None:
    with ReadAhead(io.BytesIO(gzip.compress(CONTENT * 3, 1)), "gzip", "archive") as stream:
        assert stream.read(1)
    assert not [thread for thread in threading.enumerate() if thread.name == "decompress"]
