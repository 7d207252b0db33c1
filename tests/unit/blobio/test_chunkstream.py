from __future__ import annotations

from collections.abc import Iterator

import pytest

from migrate.blobio.chunkstream import ChunkStream, open_chunks
from migrate.errors import DamagedError

PIECES = [b"", b"a", b"bcd", b"", b"efghij", b""]
WHOLE = b"abcdefghij"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 11])
def test_reads_are_full_until_the_end(size: int) -> None:
    stream = open_chunks(iter(PIECES))
    blocks = list(iter(lambda: stream.read(size), b""))
    assert b"".join(blocks) == WHOLE
    assert all(len(block) == size for block in blocks[:-1])


@pytest.mark.parametrize("size", [1, 4, 10, 64])
def test_readinto_fills_the_buffer(size: int) -> None:
    stream = ChunkStream(iter(PIECES))
    found, buffer = b"", bytearray(size)
    while count := stream.readinto(buffer):
        found += buffer[:count]
    assert found == WHOLE
    assert stream.readinto(buffer) == 0


def test_read_without_a_size_takes_all() -> None:
    assert ChunkStream(iter(PIECES)).read() == WHOLE


def test_an_error_comes_out_of_the_read_that_needs_the_piece() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"abc"
        raise DamagedError("gone")

    stream = ChunkStream(pieces())
    assert stream.read(3) == b"abc"
    with pytest.raises(DamagedError, match="gone"):
        stream.read(1)


def test_closing_ends_the_generator() -> None:
    ended = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"abc"
        finally:
            ended.append(True)

    with ChunkStream(pieces()) as stream:
        stream.read(1)
    assert ended == [True]
