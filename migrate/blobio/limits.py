"""Named limits for every read into memory. Going over one is a LimitError that names the limit."""

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
"""Commas and opening brackets in one JSON document, strings included: they bound the memory that its values take."""
TAR_HEADER_BYTES: Final = 1024 * 1024
"""One GNU long name or pax header."""
SPARSE_HEADER_BYTES: Final = 128 * 1024 * 1024
"""A pax header of a file in a tar of a directory tree: in two of pax's forms it holds a sparse file's whole map."""
PATH_BYTES: Final = 4_096
"""PATH_MAX: no longer path can be unpacked."""
TREE_ENTRIES: Final = 20_000_000
"""Entries of a tar of a directory tree, which stay in memory at about 250 bytes each."""
ARCHIVE_MEMBERS: Final = 2_000_000
"""Members of an outer archive (`docker save`)."""
CHAIN_LENGTH: Final = 10_000
"""Layers of one image. Docker itself stops at 125 or 127."""
MEASURED_ENTRIES: Final = 50_000
"""Directory entries that `convert` looks at for the sizes of containers that it does not convert: under a second."""
RUN_LAYERS: Final = 5_000_000
"""Layers of all images of one run, counted in every image: rows of the report. 10,000 images of 127 are a quarter."""
DOCUMENTS_BYTES: Final = 1024 * 1024 * 1024
"""All layer documents of one archive together, which stay in memory. A million real ones fit."""
DEEP_ENTRIES: Final = 20_000_000
"""Tar entries that `plan --deep` remembers, at about 30 bytes each; the analysis shows whether there were more."""
INDEX_DEPTH: Final = 10_000
"""Indexes inside one another in an OCI layout. Real ones have two."""
WRAPPING_DEPTH: Final = 3
"""Archives, tars and disk images inside one another, as a disk in a virtual machine's archive in a backup."""
LINK_HOPS: Final = 40
"""Symbolic links followed inside an archive for one name, as the Linux kernel counts."""
DECOMPRESSION_RATIO: Final = 1_100
"""Bytes out per byte in (`--max-ratio`). DEFLATE cannot go over 1,032; xz, bzip2 and zstd can, on zeros."""
STORED_RATIO: Final = 25_000
"""The same for blobs of a target: a zstd frame that this program writes takes 48 bytes for 1 MiB of zeros."""
DECOMPRESSION_GRACE: Final = 64 * 1024 * 1024
"""Output below this is never counted as a bomb."""
SMALL_FILE_BYTES: Final = 1024 * 1024
"""Files of one number or one ID: parent, layersize, checksum, link, tag."""
STATED_BYTES: Final = 1 << 50
"""A size that a document or header states of a layer, blob or member. The sum of a chain of CHAIN_LENGTH stays below
2^64, beyond which JSON writers take no number."""
WHOLE_NUMBER: Final = (1 << 63) - 1
"""Any number that is spelled in decimal digits, but for leading zeros: the largest of Go's int64."""


def parse_whole(text: bytes, most: int = WHOLE_NUMBER) -> int | None:
    """The number that `text` spells in decimal digits and nothing else; None where it does not, or is over `most`.

    Python's own `int` takes signs, spaces and underscores too, and raises a ValueError of its own for 4,300 digits.
    """
    digits = text.lstrip(b"0")
    if not text.isdigit() or len(digits) > 19:
        return None
    value = int(digits or b"0")
    return value if value <= most else None


def read_limited(stream: BinaryIO, limit: int, what: str) -> bytes:
    """All of `stream`, or LimitError if it holds more than `limit` bytes."""
    pieces: list[bytes] = []
    length = 0
    # In pieces that grow: a raw stream would make room for the whole limit first, and then gives less.
    while length <= limit and (piece := stream.read(min(limit + 1 - length, max(64 * 1024, length)))):
        pieces.append(piece)
        length += len(piece)
    content = b"".join(pieces)
    if len(content) > limit:
        raise LimitError(f"{what}: larger than the limit of {limit:,} bytes")
    return content
