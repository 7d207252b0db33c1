"""Reads the body of an answer into memory, within a limit, since a registry is not trusted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from migrate.blobio.limits import JSON_BYTES
from migrate.errors import LimitError

if TYPE_CHECKING:
    import httpx


def read_body(answer: httpx.Response, what: str) -> bytes:
    """The whole body of a streamed answer, which is closed. LimitError if it is larger than JSON_BYTES.

    Raises httpx.HTTPError if the connection breaks or is too slow.
    """
    content = bytearray()
    with contextlib.closing(answer):
        for block in answer.iter_bytes():
            content += block
            if len(content) > JSON_BYTES:
                raise LimitError(f"{what}: larger than the limit of {JSON_BYTES:,} bytes")
    return bytes(content)
