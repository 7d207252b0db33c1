"""The body of an answer, read into memory within limits of size and time: a registry may be anybody."""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Final

from migrate.blobio.limits import JSON_BYTES
from migrate.errors import LimitError

if TYPE_CHECKING:
    import httpx

_PATIENCE: Final = 30.0
_BYTES_PER_SECOND: Final = 16 * 1024
"""What a body has to bring on average once it has used up _PATIENCE, in seconds."""


class Pace:
    """Ends a body that comes drop by drop: each drop comes in time, and the whole never does."""

    def __init__(self) -> None:
        self._started = monotonic()

    def check(self, received: int) -> None:
        """Raises httpx.ReadTimeout, with which a request is made again, if `received` bytes are too few by now."""
        import httpx

        if monotonic() - self._started > _PATIENCE + received / _BYTES_PER_SECOND:
            raise httpx.ReadTimeout(f"the answer comes too slowly: {received:,} bytes in {_PATIENCE:.0f} seconds")


def read_body(answer: httpx.Response, what: str) -> bytes:
    """The whole body of a streamed answer, which is closed. LimitError if it is larger than JSON_BYTES.

    Raises httpx.HTTPError where it breaks off or comes too slowly.
    """
    content = bytearray()
    pace = Pace()
    with contextlib.closing(answer):
        for block in answer.iter_bytes():  # as it comes: gathered blocks would hide how slowly it does
            content += block
            if len(content) > JSON_BYTES:
                raise LimitError(f"{what}: larger than the limit of {JSON_BYTES:,} bytes")
            pace.check(len(content))
    return bytes(content)
