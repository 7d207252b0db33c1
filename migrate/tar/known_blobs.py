"""Blobs whose bytes follow from their digest: the tar without entries, as Docker and other programs compress it.

Nearly every image has a step that changes no file. Without these, one lost blob of 32 bytes would fail all images.

Output of pigz 2.6, zopfli, skopeo 1.9, zstd 1.5, libdeflate and ISA-L; that of zlib, bzip2 and xz is computed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import Final

from migrate.model.digest import Digest

_TIMES: Final = (bytes(4), bytes.fromhex("00096e88"))
"""No time; and the one that Go's gzip wrote for no time, as in distribution's constant (registry/handlers,
digestSHA256GzippedEmptyTar) and in blobs of skopeo, podman and buildah."""
_HINTS: Final = (0, 2, 4)
"""No hint, best and fastest."""
_SYSTEMS: Final = (3, 255)
"""Unix, unknown."""
_TAR_SIZES: Final = (0, 512, 1024, 10_240, 20_480)
"""No bytes at all; a block; the end marker; the end marker filled up to one and two records of GNU tar."""
_DEFLATED: Final = {
    1024: (
        "621805a360148c5800080000ffff",  # Go
        "621805a360148c5800000000ffff0300",  # klauspost/pgzip: skopeo, podman, buildah
        "62601885a370148e5408000000ffff0300",  # the same, levels 1 and 2
        "631805a360148c580000",  # libdeflate, ISA-L
        "631805a360148c586d00",  # ISA-L, level 3
        "6318b160148c82510000",  # zopfli, pigz -11
        "63601805a321301a0223350400",  # pigz -1
    ),
    10_240: (
        "ecc0010d000000c220fba736c737180000000000000000009073000000ffff0300",
        "ecc10109000000c2b0f74f6d0e61ac0000000000000000008037030000ffff0300",
        "edc1010d000000c220fba736c7376000000000000000000040ce01",
        "edcd010d0000008230fba73607db097026499224499270381c0e87c3e170381c0e87c3d168341a8d46a3d172c703",
        "edc1010d000000c220fba736c73760e4000000000000000000c001",
        "edd0010d000000c2a0f74f6d0e37884061c0800103060c183060c0800103060c183060c0800103060c183060c0800103060c183060c0"
        "800103060cbc0d0c",
    ),
}
"""The tars as compressors other than zlib write them."""
_ZSTD_BLOCKS: Final = {
    # the checksum of the content, and the block as the levels of the zstd command write it
    512: ("7cb8c3e8", ("4d00001000000100fb2ac002", "45000008000100fca84e08")),
    1024: ("cdac85f0", ("4d00001000000100fb2b8005", "45000008000100fca99c10", "45000008000100fc2b2004")),
    10_240: ("bcbd7ed6", ("4d00001000000100fb870758", "4d000008000100fc07de0901", "45000008000100fc870742")),
    20_480: ("30064b73", ("4d00001000000100fbcf0eb0", "4d000008000100fc0fbb1302")),
}
_ZSTD_MAGIC: Final = bytes.fromhex("28b52ffd")
_ZSTD_WINDOWS: Final = (0x48, 0x50, 0x58, 0x60, 0x68)
_LEVELS: Final = (60, 68, 70, 78)
_KLAUSPOST: Final = (
    # klauspost/compress (skopeo, podman, buildah), with the window of one of its four levels between the parts
    ("28b52ffd04", "400000000000000000000045000000015400022df509cdac85f0"),
    ("28b52ffd04", "4000000000000000000000450000000154000231f587bcbd7ed6"),
    (  # zstd:chunked, whose tar has the end marker alone: the table of contents and its place follow
        "28b52ffd04",
        "4c00000800015401022dfc09010000cdac85f0502a4d182900000028b52ffd0400e100007b2276657273696f6e223a312c22656e7472696573"
        "223a6e756c6c7dab589d23502a4d1828000000210000000000000029000000000000001c000000000000000100000000000000476e556c496e"
        "5578",
    ),
)
_ZSTD_OF_NOTHING: Final = ("28b52ffd240001000099e9d851", "28b52ffd2000010000")
_XZ_DICTIONARIES: Final = (0x0C, 0x10, 0x12, 0x14, 0x16, 0x18, 0x1A, 0x1C)
"""The size of the dictionary, as the header has it, of xz's levels."""


def known_blob(digest: Digest) -> bytes | None:
    """The bytes with the digest, if it is that of an empty tar; else None."""
    return _blobs().get(digest)


@cache
def _blobs() -> Mapping[Digest, bytes]:
    # imported here, as few sources lack a blob
    import bz2
    import gzip

    blobs = [*map(bytes.fromhex, (*_ZSTD_OF_NOTHING, *(f"{a}{level}{b}" for a, b in _KLAUSPOST for level in _LEVELS)))]
    for size in _TAR_SIZES:
        tar = bytes(size)
        blobs += (tar, gzip.compress(tar, mtime=0), *_iter_gzip(tar), *_iter_xz(tar))
        packed = bz2.compress(tar, 1)
        blobs += (packed[:3] + b"%d" % level + packed[4:] for level in range(1, 10))
        if size in _ZSTD_BLOCKS:
            blobs += _iter_zstd(size, *_ZSTD_BLOCKS[size])
    return {Digest.of(content): content for content in blobs}


def _iter_gzip(tar: bytes) -> Iterator[bytes]:
    tail = zlib.crc32(tar).to_bytes(4, "little") + len(tar).to_bytes(4, "little")
    compressors = (zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS) for level in range(10))
    streams = {compressor.compress(tar) + compressor.flush() for compressor in compressors}
    for deflated in streams.union(map(bytes.fromhex, _DEFLATED.get(len(tar), ()))):
        for time, hint, system in product(_TIMES, _HINTS, _SYSTEMS):
            yield b"\x1f\x8b\x08\0" + time + bytes((hint, system)) + deflated + tail


def _iter_zstd(size: int, checksum: str, blocks: Iterable[str]) -> Iterator[bytes]:
    """With the window of a stream, or the size of a file (RFC 8878, 3.1.1.1)."""
    for block in map(bytes.fromhex, blocks):
        for has_sum, end in ((4, bytes.fromhex(checksum)), (0, b"")):
            for window in _ZSTD_WINDOWS:
                yield _ZSTD_MAGIC + bytes((has_sum, window)) + block + end
            yield _ZSTD_MAGIC + bytes((0x60 | has_sum,)) + (size - 256).to_bytes(2, "little") + block + end


def _iter_xz(tar: bytes) -> Iterator[bytes]:
    """The levels write the same block under another size of the dictionary, which is in the block's header. With
    threads, the default since xz 5.6, that header has the sizes of the block, too (the .xz file format, 3.1)."""
    import lzma

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 * 1024}]
    packed = lzma.compress(tar, lzma.FORMAT_RAW, filters=filters)
    for check, check_size in (
        (lzma.CHECK_NONE, 0),
        (lzma.CHECK_CRC32, 4),
        (lzma.CHECK_CRC64, 8),
        (lzma.CHECK_SHA256, 32),
    ):
        made = lzma.compress(tar, check=check, filters=filters)
        if not tar:
            yield made
            continue
        stream = made[:12]
        block = made[24 : 24 + (len(packed) + 3) // 4 * 4 + check_size]
        for dictionary in _XZ_DICTIONARIES:
            filter_flags = b"\x21\1" + bytes((dictionary,))
            # xz leaves room for the sizes of the largest block of the level.
            threads = 16 if dictionary == _XZ_DICTIONARIES[0] else 20
            sizes = _xz_number(len(packed)) + _xz_number(len(tar))
            for fields, size in ((b"\0" + filter_flags, 12), (b"\xc0" + sizes + filter_flags, threads)):
                header = (bytes((size // 4 - 1,)) + fields).ljust(size - 4, b"\0")
                index = b"\0\1" + _xz_number(size + len(packed) + check_size) + _xz_number(len(tar))
                index += bytes(-len(index) % 4)
                end = (len(index) // 4).to_bytes(4, "little") + stream[6:8]
                yield stream + _with_sum(header) + block + _with_sum(index) + _xz_sum(end) + end + b"YZ"


def _with_sum(content: bytes) -> bytes:
    return content + _xz_sum(content)


def _xz_sum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def _xz_number(value: int) -> bytes:
    """Seven bits in each byte, the lowest first (the .xz file format, 1.2)."""
    more = value >> 7
    return bytes((value & 0x7F | 0x80,)) + _xz_number(more) if more else bytes((value,))
