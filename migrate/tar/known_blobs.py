"""Blobs whose bytes follow from their digest: the tar without entries, as Docker and others compressed it.

Nearly every image has a step that changes no file, so that one lost blob of 32 bytes would cost them all.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from migrate.model.digest import Digest

_GO_DEFLATED: Final = bytes.fromhex("621805a360148c5800080000ffff2eafb5ef00040000")
"""1,024 zeros as Go's compress/flate writes them, with CRC-32 and length."""
_GO_HEADERS: Final = tuple(bytes.fromhex(text) for text in ("1f8b080000096e8800ff", "1f8b08000000000000ff"))
"""distribution's constant (registry/handlers, digestSHA256GzippedEmptyTar), which has a time; and Go's own header."""
_TAR_SIZES: Final = (0, 1024, 10_240)
"""No bytes at all, the end of a tar, and the block that GNU tar fills with it."""


def known_blob(digest: Digest) -> bytes | None:
    """The bytes that have the digest, where it is that of an empty tar."""
    return _blobs().get(digest)


@cache
def _blobs() -> Mapping[Digest, bytes]:
    return {Digest.of(content): content for content in _iter_blobs()}


def _iter_blobs() -> Iterator[bytes]:
    yield from (header + _GO_DEFLATED for header in _GO_HEADERS)
    for size in _TAR_SIZES:
        tar = bytes(size)
        yield tar
        for level in range(10):
            compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
            deflated = compressor.compress(tar) + compressor.flush()
            tail = zlib.crc32(tar).to_bytes(4, "little") + size.to_bytes(4, "little")
            for extra in (0, 2, 4):  # the hint for fastest and best, and the system: Unix or unknown
                for system in (3, 255):
                    yield bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, extra, system)) + deflated + tail
        yield gzip.compress(tar, mtime=0)
