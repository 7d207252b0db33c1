"""The body of an answer, read into memory as far as the limit goes: a registry may be anybody."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from migrate.blobio.limits import JSON_BYTES
from migrate.errors import LimitError

if TYPE_CHECKING:
    import httpx

_BLOCK: Final = 1024 * 1024


def read_body(answer: httpx.Response, what: str) -> bytes:
    """The whole body of a streamed answer, which is closed. LimitError if it is larger than JSON_BYTES."""
    content = bytearray()
    with contextlib.closing(answer):
        for block in answer.iter_bytes(_BLOCK):
            content += block
            if len(content) > JSON_BYTES:
                raise LimitError(f"{what}: larger than the limit of {JSON_BYTES:,} bytes")
    return bytes(content)
