"""Compressed streams as users have them: concatenated, cut, with a tail, or made to explode."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import subprocess
from collections.abc import Callable
from typing import Any

import deflate
import pytest

from migrate.blobio.compression import (
    BLOCK_BYTES,
    DecompressedStream,
    block_compressor,
    detect_compression,
    open_decompressed,
    zstd_module,
)
from migrate.errors import DamagedError, LimitError, MigrateError, TruncatedError
from migrate.model.options import LEVELS, Compression
from tests.unit.rehash.sources import make_tar

Compress = Callable[[bytes], bytes]
KINDS: dict[str, Compress] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: bytes(zstd_module().compress(content)),
}
CONTENT = make_tar(1, (400_000, 3))


def unpacked(content: bytes, kind: str) -> bytes:
    return open_decompressed(io.BytesIO(content), kind, "layer x").read()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_told_by_content(kind: str) -> None:
    packed = KINDS[kind](CONTENT)
    assert detect_compression(packed[:16]) == kind
    assert unpacked(packed, kind) == CONTENT


@pytest.mark.parametrize("head", [b"", b"\x1f\x8b", CONTENT[:16], b"BZh/etc/passwd\0\0", bytes(16), b"BZh9"])
def test_everything_else_is_plain(head: bytes) -> None:
    assert detect_compression(head) == "none"
    stream = io.BytesIO(b"plain")
    assert open_decompressed(stream, "none", "x") is stream


@pytest.mark.parametrize("kind", KINDS)
def test_members_follow_each_other(kind: str) -> None:
    compress = KINDS[kind]
    parts = [CONTENT, b"", b"x", CONTENT[:777]]
    assert unpacked(b"".join(map(compress, parts)), kind) == b"".join(parts)


def test_zstd_skippable_frames_are_skipped() -> None:
    skippable = b"\x5a\x2a\x4d\x18\x04\0\0\0abcd"
    packed = skippable + KINDS["zstd"](CONTENT) + skippable
    assert detect_compression(packed[:16]) == "zstd"
    assert unpacked(packed, "zstd") == CONTENT


def test_xz_padding_is_four_zeros_or_many() -> None:
    packed = lzma.compress(CONTENT)
    assert unpacked(packed + bytes(4) + packed + bytes(300_000), "xz") == CONTENT * 2
    with pytest.raises(DamagedError, match="padding"):
        unpacked(packed + bytes(3), "xz")


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_seen(kind: str) -> None:
    packed = KINDS[kind](CONTENT[:5_000])
    for length in range(len(packed)):
        with pytest.raises(TruncatedError, match="layer x"):
            unpacked(packed[:length], kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [b"x", bytes(2), b"\x1f\x8b\x09aaaaaaaaaaaaaaaaa", b"garbage" * 100_000])
def test_a_tail_is_damage(kind: str, tail: bytes) -> None:
    with pytest.raises(DamagedError, match="layer x"):
        unpacked(KINDS[kind](CONTENT) + tail, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_gives_our_errors_only(kind: str) -> None:
    packed = bytearray(KINDS[kind](CONTENT[:3_000]))
    for place in range(len(packed)):
        packed[place] ^= 0x41
        try:
            unpacked(bytes(packed), kind)
        except MigrateError as exc:
            assert "layer x" in exc.message
        packed[place] ^= 0x41


def test_a_bomb_meets_its_limit() -> None:
    zeros = zstd_module().compress(bytes(300 * 1024 * 1024))
    stream = DecompressedStream(io.BytesIO(zeros), "zstd", "layer x")
    with pytest.raises(LimitError, match="1,100 to 1"):
        while stream.read_block(BLOCK_BYTES):
            pass


def test_another_ratio_may_be_allowed() -> None:
    zeros = zstd_module().compress(bytes(80 * 1024 * 1024))
    stream = open_decompressed(io.BytesIO(zeros), "zstd", "layer x", 100_000)
    assert sum(iter(lambda: len(stream.read(BLOCK_BYTES)), 0)) == 80 * 1024 * 1024
    with pytest.raises(LimitError, match="30,000 to 1"):
        stream = open_decompressed(io.BytesIO(zeros), "zstd", "layer x", 30_000)
        while stream.read(BLOCK_BYTES):
            pass


def test_a_greedy_xz_meets_its_limit() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    packed = lzma.compress(b"small", filters=filters)
    with pytest.raises(LimitError, match="memory"):
        unpacked(packed, "xz")


def test_short_reads_of_a_pipe_are_enough() -> None:
    class Dribble(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self._stream = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            return self._stream.readinto(memoryview(buffer)[:3])

    stream: Any = Dribble(KINDS["gzip"](CONTENT) * 2)
    assert open_decompressed(stream, "gzip", "x").read() == CONTENT * 2


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.GZIP_FAST, Compression.ZSTD])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["nothing", "one", "many"])
def test_blocks_are_whole_members(compression: Compression, content: bytes) -> None:
    compress = block_compressor(compression)
    packed = bytes(compress(memoryview(content))) + bytes(compress(memoryview(content)))
    kind = "zstd" if compression is Compression.ZSTD else "gzip"
    assert unpacked(packed, kind) == content * 2


def test_blocks_of_gzip_are_the_same_bytes_everywhere() -> None:
    """A change of these bytes changes the digest of every blob: it is a line under Digests in the changelog."""
    block = bytes(range(256)) * 64
    packed = bytes(block_compressor(Compression.GZIP)(memoryview(block)))
    assert packed[:10].hex() == "1f8b08000000000000ff"
    assert hashlib.sha256(packed).hexdigest() == GOLDEN_GZIP


GOLDEN_GZIP = "7d36a8616eb89df7c6690753d77fb161656face56d00622234ead94920fbdf19"


@pytest.mark.parametrize(("compression", "level"), [(kind, level) for kind in LEVELS for level in LEVELS[kind]])
def test_each_level_of_the_table_works(compression: Compression, level: int) -> None:
    packed = bytes(block_compressor(compression, level)(memoryview(CONTENT)))
    kind = detect_compression(packed[:16])
    assert open_decompressed(io.BytesIO(packed), kind, "it").read() == CONTENT


@pytest.mark.peer
@pytest.mark.parametrize(
    ("compression", "command"), [(Compression.GZIP, ["gzip", "-dc"]), (Compression.ZSTD, ["zstd", "-dc"])]
)
def test_the_tools_read_our_blocks(compression: Compression, command: list[str]) -> None:
    compress = block_compressor(compression)
    packed = b"".join(bytes(compress(memoryview(part))) for part in (CONTENT, b"", CONTENT))
    subprocess.run([command[0], "-tq"], input=packed, check=True)
    done = subprocess.run(command, input=packed, check=True, capture_output=True)
    assert done.stdout == CONTENT * 2


_NOISE = random.Random(7).randbytes(BLOCK_BYTES)
_TEXT = b"".join(b"line %d of a file\n" % number for number in range(80_000))[:BLOCK_BYTES]


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1, 700_001, BLOCK_BYTES])
@pytest.mark.parametrize("level", [1, 2, 12])
def test_blocks_that_do_not_shrink_are_stored_and_others_are_not(size: int, level: int) -> None:
    compress = block_compressor(Compression.GZIP, level)
    stored, shrunk = compress(memoryview(_NOISE)[:size]), compress(memoryview(_TEXT)[:size])
    assert gzip.decompress(stored) == _NOISE[:size]
    assert gzip.decompress(shrunk) == _TEXT[:size]
    assert stored[10] & 0b110 == 0  # RFC 1951, 3.2.3: a block without compression
    assert len(shrunk) < size / 2


@pytest.mark.parametrize("noise", [0, 10, 50, 90, 100])
def test_a_stored_block_costs_little_room(noise: int) -> None:
    """Blocks with some percent of noise: whatever the samples show, a twentieth more is the most."""
    cut = BLOCK_BYTES * noise // 100
    for content in (_NOISE[:cut] + _TEXT[cut:], _TEXT[: BLOCK_BYTES - cut] + _NOISE[:cut]):
        best = len(deflate.gzip_compress(content, 2))
        got = block_compressor(Compression.GZIP)(memoryview(content))
        assert gzip.decompress(got) == content
        assert len(got) <= best * 1.05


def _mixed(is_noise: Callable[[int], bool]) -> bytes:
    """A block whose sectors of 512 bytes are noise or zeros."""
    places = range(0, BLOCK_BYTES, 512)
    return b"".join(_NOISE[at : at + 512] if is_noise(at // 512) else bytes(512) for at in places)


@pytest.mark.parametrize(("every", "stored"), [(100, True), (50, True), (20, False), (10, False)])
def test_a_block_is_compressed_if_that_saves_more_than_three_percent(every: int, stored: bool) -> None:
    content = _mixed(lambda number: number % every != every - 1)
    got = block_compressor(Compression.GZIP)(memoryview(content))
    assert gzip.decompress(got) == content
    assert (len(got) >= BLOCK_BYTES) == stored


@pytest.mark.parametrize("sectors", [2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_pages_with_one_part_of_noise_are_compressed(sectors: int, place: int) -> None:
    """A database or file system has the same parts at the same place of each page: samples are taken of all parts."""
    content = _mixed(lambda number: number % sectors == place % sectors)
    assert len(block_compressor(Compression.GZIP)(memoryview(content))) < BLOCK_BYTES * 0.6
