"""Named limits for all reads into memory. Exceeding one is a LimitError with its name."""

from __future__ import annotations

from typing import BinaryIO, Final

from migrate.errors import LimitError

JSON_BYTES: Final = 32 * 1024 * 1024
"""One JSON document: layer json, manifest, config, repositories. Real ones stay below 1 MiB."""
REPORT_BYTES: Final = 2 * 1024 * 1024 * 1024
"""A migration report read back. One of 10,000 images with 50 layers each holds about 250 MB."""
CATALOG_BYTES: Final = 256 * 1024 * 1024
"""index.json and manifest.json of a target: half a million images."""
JSON_DEPTH: Final = 1_000
"""Nesting of arrays and objects."""
JSON_ITEMS: Final = 1_000_000
"""Commas and opening brackets in one JSON document, including those in strings. They bound the memory of its values."""
TAR_HEADER_BYTES: Final = 1024 * 1024
"""One GNU long name or pax header."""
SPARSE_HEADER_BYTES: Final = 128 * 1024 * 1024
"""A pax header in a tar of a directory tree. Two of the pax forms of a sparse file have the whole map in it."""
PATH_BYTES: Final = 4_096
"""PATH_MAX: a longer path cannot be unpacked."""
TREE_ENTRIES: Final = 20_000_000
"""Entries of a tar of a directory tree. Each is kept in memory, with about 250 bytes."""
ARCHIVE_MEMBERS: Final = 2_000_000
"""Members of an outer archive (`docker save`)."""
CHAIN_LENGTH: Final = 10_000
"""Layers of one image. Docker itself stops at 125 or 127."""
MEASURED_ENTRIES: Final = 50_000
"""Directory entries that `convert` reads for the sizes of containers that it does not convert; takes less than a
second."""
RUN_LAYERS: Final = 5_000_000
"""Layers of all images of one run, counted once for each image: rows of the report. 10,000 images of 127 layers are a
quarter."""
DOCUMENTS_BYTES: Final = 1024 * 1024 * 1024
"""All layer documents of one archive together, which are kept in memory. A million real ones fit."""
DEEP_ENTRIES: Final = 20_000_000
"""Tar entries that `plan --deep` remembers, with about 30 bytes each. The analysis shows whether there were more."""
INDEX_DEPTH: Final = 10_000
"""Indexes inside one another in an OCI layout. Real ones have two."""
WRAPPING_DEPTH: Final = 3
"""Archives, tars and disk images inside one another, as a disk in a virtual machine's archive in a backup."""
LINK_HOPS: Final = 40
"""Symbolic links followed inside an archive for one name, as the Linux kernel counts."""
DECOMPRESSION_RATIO: Final = 1_100
"""Decompressed bytes for each compressed byte (`--max-ratio`). DEFLATE reaches at most 1,032; xz, bzip2 and zstd more,
for zeros."""
STORED_RATIO: Final = 25_000
"""The same for blobs of a target. A zstd frame that this program writes has 48 bytes for 1 MiB of zeros."""
DECOMPRESSION_GRACE: Final = 64 * 1024 * 1024
"""The ratio is not checked for output below this size."""
SMALL_FILE_BYTES: Final = 1024 * 1024
"""Files of one number or one ID: parent, layersize, checksum, link, tag."""
STATED_BYTES: Final = 1 << 50
"""The size of a layer, blob or member in a document or header. The sum for a chain of CHAIN_LENGTH layers is below
2^64, the limit of JSON writers."""
WHOLE_NUMBER: Final = (1 << 63) - 1
"""Any number in decimal digits: the largest of Go's int64."""


def parse_whole(text: bytes, most: int = WHOLE_NUMBER) -> int | None:
    """The number in `text`, which must consist of decimal digits only; None if it does not, or if it is over `most`.

    Python's `int` also accepts signs, spaces and underscores, and raises ValueError for more than 4,300 digits.
    """
    digits = text.lstrip(b"0")
    if not text.isdigit() or len(digits) > 19:
        return None
    value = int(digits or b"0")
    return value if value <= most else None


def read_limited(stream: BinaryIO, limit: int, what: str) -> bytes:
    """All bytes of `stream`. Raises LimitError if there are more than `limit`."""
    pieces: list[bytes] = []
    length = 0
    # In pieces of growing size: a raw stream allocates the whole requested size before it reads.
    while length <= limit and (piece := stream.read(min(limit + 1 - length, max(64 * 1024, length)))):
        pieces.append(piece)
        length += len(piece)
    content = b"".join(pieces)
    if len(content) > limit:
        raise LimitError(f"{what}: larger than the limit of {limit:,} bytes")
    return content
