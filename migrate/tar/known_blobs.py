"""Blobs whose bytes follow from their digest: the tar without entries, as Docker and other programs compress it.

Nearly every image has a step that changes no file. Without these, one lost blob of 32 bytes would fail all images.

Output of pigz 2.6, zopfli, skopeo 1.9, zstd 1.5, libdeflate and ISA-L; that of zlib is computed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
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
_TAR_SIZES: Final = (0, 1024, 10_240)
"""No bytes at all; the end marker; the end marker filled up to GNU tar's record size."""
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
_ZSTD_FRAMES: Final = {
    # klauspost/compress (skopeo, podman, buildah), at its four levels, and the zstd command: from a pipe, of a file
    1024: (
        *(f"28b52ffd04{level}400000000000000000000045000000015400022df509cdac85f0" for level in (60, 68, 70, 78)),
        *(f"28b52ffd04{level}4d00001000000100fb2b8005cdac85f0" for level in (48, 58)),
        *(f"28b52ffd00{level}4d00001000000100fb2b8005" for level in (48, 58)),
        "28b52ffd6400034d00001000000100fb2b8005cdac85f0",
        "28b52ffd6000034d00001000000100fb2b8005",
        "28b52ffd046845000008000100fc2b2004cdac85f0",
        "28b52ffd60000345000008000100fca99c10",
        "28b52ffd60000345000008000100fc2b2004",
    ),
    10_240: (
        *(f"28b52ffd04{level}4000000000000000000000450000000154000231f587bcbd7ed6" for level in (60, 68, 70, 78)),
        *(f"28b52ffd04{level}4d00001000000100fb870758bcbd7ed6" for level in (48, 58)),
        *(f"28b52ffd00{level}4d00001000000100fb870758" for level in (48, 58)),
        "28b52ffd6400274d00001000000100fb870758bcbd7ed6",
        "28b52ffd6000274d00001000000100fb870758",
        "28b52ffd046845000008000100fc870742bcbd7ed6",
        "28b52ffd6000274d000008000100fc07de0901",
        "28b52ffd60002745000008000100fc870742",
    ),
    0: ("28b52ffd240001000099e9d851", "28b52ffd2000010000"),
}


def known_blob(digest: Digest) -> bytes | None:
    """The bytes with the digest, if it is that of an empty tar; else None."""
    return _blobs().get(digest)


@cache
def _blobs() -> Mapping[Digest, bytes]:
    import gzip  # few archives lack a blob

    blobs: list[bytes] = []
    for size in _TAR_SIZES:
        tar = bytes(size)
        tail = zlib.crc32(tar).to_bytes(4, "little") + size.to_bytes(4, "little")
        compressors = (zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS) for level in range(10))
        streams = {compressor.compress(tar) + compressor.flush() for compressor in compressors}
        blobs += (
            b"\x1f\x8b\x08\0" + time + bytes((hint, system)) + deflated + tail
            for deflated in streams.union(map(bytes.fromhex, _DEFLATED.get(size, ())))
            for time, hint, system in product(_TIMES, _HINTS, _SYSTEMS)
        )
        blobs += (tar, gzip.compress(tar, mtime=0), *map(bytes.fromhex, _ZSTD_FRAMES.get(size, ())))
    return {Digest.of(content): content for content in blobs}
