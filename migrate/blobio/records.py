"""Short records by key, in a temporary file once they are too many for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import msgspec

from migrate.blobio.spool import Spool
from migrate.model.packed import PackedTable

_BYTES_IN_MEMORY: Final = 4 * 1024 * 1024
_PLACE_BYTES: Final = 8
_SIZE_BYTES: Final = 4


class Records:
    """Records by keys of one length. Very many take some twenty bytes of memory each, and the key; their bytes are in
    a file in `directory` or TMPDIR, which disappears with this object.

    Every method raises TargetError if the file cannot be written or read. One thread at a time may use it.
    """

    def __init__(self, what: str, directory: str | None, *, key: int) -> None:
        self._what = what
        self._directory = directory
        self._places = PackedTable(key=key, row=_PLACE_BYTES + _SIZE_BYTES)
        self._spool: Spool | None = None
        self._last = bytearray()
        """What is not in the file yet."""
        self._begin = 0
        """The place of `_last`."""

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[bytes]:
        """All records, in any order."""
        return (self._read(place) for _, place in self._places)

    def add(self, key: bytes, record: bytes) -> None:
        """Adds a record, also if the key has some already."""
        self._places.add(key, self._append(record))

    def replace(self, key: bytes, record: bytes) -> None:
        """Makes `record` the only one of a key that has at most one."""
        self._places.remove(key)
        self._places.add(key, self._append(record))

    def of(self, key: bytes) -> list[bytes]:
        """The records of a key, in the order in which they were added."""
        return [self._read(place) for place in self._places.rows(key)]

    def close(self) -> None:
        """Closes the file. Nothing may be called then."""
        if self._spool is not None:
            self._spool.close()

    def _append(self, record: bytes) -> bytes:
        if len(self._last) + len(record) > _BYTES_IN_MEMORY:
            if self._spool is None:
                self._spool = Spool(self._directory, self._what)
            self._spool.append(self._last)
            self._begin, self._last = self._spool.size, bytearray()
        place = self._begin + len(self._last)
        self._last += record
        return place.to_bytes(_PLACE_BYTES) + len(record).to_bytes(_SIZE_BYTES)

    def _read(self, place: bytes) -> bytes:
        offset, size = int.from_bytes(place[:_PLACE_BYTES]), int.from_bytes(place[_PLACE_BYTES:])
        if offset >= self._begin:
            return bytes(self._last[offset - self._begin : offset - self._begin + size])
        assert self._spool is not None
        return self._spool.read(offset, size)


def decoder_of(kind: Any, dec_hook: Callable[[type, Any], Any] | None = None) -> Callable[[bytes], Any]:
    """Makes a value of this type from its bytes of `msgspec.msgpack.encode`. `dec_hook` is that of msgspec."""

    @cache
    def decoder() -> msgspec.msgpack.Decoder[Any]:
        return msgspec.msgpack.Decoder(kind, dec_hook=dec_hook)  # made when it is needed, since that takes a while

    return lambda content: decoder().decode(content)
