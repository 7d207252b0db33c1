"""An open layer: a stream, and other ways to read the same bytes."""

from __future__ import annotations

from typing import BinaryIO

from msgspec import Struct


class Extent(Struct, frozen=True, kw_only=True):
    """Bytes in one piece of a file, read by position from `fd`. The owner of `fd` keeps it open."""

    fd: int
    offset: int
    size: int


class Payload(Struct, kw_only=True):
    """A layer's bytes as stored.

    `stream` reads them once, from the start. `extent`, if not None, has the same bytes, and can be read by position
    from any thread. `origin`, `exact`, `damaged` and `note` are those of the report, and are final after the stream's
    end (a reader may set them while it reads). `path`: a file with exactly these bytes, if there is one, so that a
    target may link it and need not copy it.
    """

    stream: BinaryIO
    origin: str
    size: int | None = None
    extent: Extent | None = None
    exact: bool = True
    note: str | None = None
    damaged: bool = False
    path: str | None = None
