"""Finished images and rows of the report as bytes, for other processes and temporary files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import force_setattr

from migrate.blobio.records import decoder_of
from migrate.blobio.sorted_runs import SortedRuns
from migrate.convert.publish import FinishedImage
from migrate.model.digest import Digest
from migrate.report.document import ReportImage
from migrate.report.model import image_order

_MOST_LAYERS: Final = 32
"""Images with more stay in memory, where those that are built on one another share layers and parts of documents."""

encode_images: Final = msgspec.msgpack.Encoder(enc_hook=bytes).encode  # the documents of images are assembled here
decode_images: Final = decoder_of(list[FinishedImage], lambda _, value: value)
_decode_rows: Final = decoder_of(list[ReportImage])


def decode_slim_images(content: bytes) -> list[FinishedImage]:
    """As `decode_images`, for images that stay in memory: equal digests of an image are one object, and so are
    words."""
    images: list[FinishedImage] = decode_images(content)
    for image in images:
        composed = image.composed
        digests: dict[Digest, Digest] = {}
        force_setattr(image, "source", sys.intern(image.source))
        for _, hashed in image.chain:
            if hashed is not None:
                digests[hashed.diff_id] = hashed.diff_id
                force_setattr(hashed, "origin", sys.intern(hashed.origin))
                if (blob := hashed.blob) is not None:
                    digests[blob.digest] = blob.digest
                    force_setattr(blob, "compression", sys.intern(blob.compression))
        force_setattr(composed, "diff_ids", tuple(digests.get(one, one) for one in composed.diff_ids))
        for layer in composed.layers:
            force_setattr(layer, "digest", digests.get(layer.digest, layer.digest))
            force_setattr(layer, "media_type", sys.intern(layer.media_type))
        for name in ("config_media_type", "manifest_media_type"):
            force_setattr(composed, name, sys.intern(getattr(composed, name)))
    return images


def sorted_images(directory: str | None, expected: int) -> SortedRuns[FinishedImage]:
    """For the images of a run, in the order in which they are written, which does not depend on the order of work. If
    many are expected, they are in a file in `directory`."""
    return SortedRuns(
        "images",
        directory,
        key=lambda image: (image.identity, image.order),
        encode=_encode_simple,
        decode=decode_images,
        expected=expected,
    )


def sorted_report_rows(directory: str | None, expected: int) -> SortedRuns[ReportImage]:
    """For the images of a report, in its order. If many are expected, they are in a file in `directory`."""
    return SortedRuns(
        "rows of the report",
        directory,
        key=image_order,
        encode=msgspec.msgpack.encode,
        decode=_decode_rows,
        expected=expected,
    )


def _encode_simple(images: Sequence[FinishedImage]) -> bytes | None:
    """None for images of a manifest list, which is one object for all of them, and for long chains."""
    if any(image.index is not None or len(image.chain) > _MOST_LAYERS for image in images):
        return None
    return encode_images(images)
