"""An opened layer: a stream, and what the pipeline may use instead of it."""

from __future__ import annotations

from typing import BinaryIO

from msgspec import Struct


class Extent(Struct, frozen=True, kw_only=True):
    """Bytes that lie in one piece in a file: read by position from `fd`, whose owner keeps it open."""

    fd: int
    offset: int
    size: int


class Payload(Struct, kw_only=True):
    """A layer's bytes as stored.

    `stream` reads them from the start, once. `extent`, where given, holds the same bytes and can be read by position
    from any thread. `origin`, `exact`, `damaged` and `note` are those of the report, and are final only after the
    stream's end (a reader may set them while it reads). `path` is a file that holds exactly these bytes, where there is
    one, so that a target may link instead of copy.
    """

    stream: BinaryIO
    origin: str
    size: int | None = None
    extent: Extent | None = None
    exact: bool = True
    note: str | None = None
    damaged: bool = False
    path: str | None = None
