"""Rows in the order of their keys, in a temporary file once they are too many for memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, Generic, TypeVar, overload

from migrate.blobio.spool import Spool

Row = TypeVar("Row")

_ROWS_IN_MEMORY: Final = 12_000
"""So many rows are in memory before the first run is written, if more are not expected."""
_ROWS_A_RUN: Final = 2_000
_ROWS_A_BLOCK: Final = 32
"""While the runs are merged, one block of each is in memory."""

_Block = tuple[int, int] | list[Row]
"""The place of the encoded rows in the file, as offset and bytes, or the rows themselves."""


class SortedRuns(Sequence[Row], Generic[Row]):
    """Rows sorted by `key`, each made anew whenever it is asked for, once they are very many. Rows with equal keys keep
    the order in which they were added.

    `encode` gives the bytes of some rows, of which `decode` makes equal ones. Rows for which it gives None stay in
    memory, and so do names that are no text (UnicodeEncodeError). The file is in `directory` or TMPDIR, and disappears
    with this object. Every method raises TargetError if it cannot be written or read. One thread at a time may use it.
    It takes as long to get one row by its place as to iterate over all before it.
    """

    def __init__(
        self,
        what: str,
        directory: str | None,
        *,
        key: Callable[[Row], Any],
        encode: Callable[[list[Row]], bytes | None],
        decode: Callable[[bytes], Iterable[Row]],
        expected: int = 0,
    ) -> None:
        """`expected`: the number of rows that will be added, if it is known."""
        self._first = _ROWS_A_RUN if expected > _ROWS_IN_MEMORY else _ROWS_IN_MEMORY
        self._what = what
        self._directory = directory
        self._key = key
        self._encode = encode
        self._decode = decode
        self._spool: Spool | None = None
        self._runs: list[list[_Block[Row]]] = []
        self._waiting: list[Row] = []
        self._length = 0

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        self._length += 1
        if len(self._waiting) >= (_ROWS_A_RUN if self._runs else self._first):
            self._write_run()

    @property
    def is_in_file(self) -> bool:
        """True for many rows. Others may as well be a tuple."""
        return self._spool is not None

    def close(self) -> None:
        """Closes the file. Nothing may be called then."""
        if self._spool is not None:
            self._spool.close()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        self._waiting.sort(key=self._key)
        if not self._runs:
            return iter(self._waiting)
        # of equal keys, those of an earlier run come first
        return heapq.merge(*map(self._read, self._runs), self._waiting, key=self._key)

    @overload
    def __getitem__(self, place: int, /) -> Row: ...
    @overload
    def __getitem__(self, place: slice, /) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice, /) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            return tuple(self)[place]
        if not -self._length <= place < self._length:
            raise IndexError(place)
        return next(islice(self, place % self._length, None))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it would have to read all rows

    def _write_run(self) -> None:
        if self._spool is None:
            self._spool = Spool(self._directory, self._what)
        rows, self._waiting = sorted(self._waiting, key=self._key), []
        blocks: list[_Block[Row]] = []
        for start in range(0, len(rows), _ROWS_A_BLOCK):
            block = rows[start : start + _ROWS_A_BLOCK]
            content = None
            with suppress(UnicodeEncodeError):
                content = self._encode(block)
            if content is None:
                blocks.append(block)
            else:
                blocks.append((self._spool.size, len(content)))
                self._spool.append(content)
        self._runs.append(blocks)

    def _read(self, blocks: Iterable[_Block[Row]]) -> Iterator[Row]:
        for block in blocks:
            if isinstance(block, list):
                yield from block
            else:
                assert self._spool is not None
                yield from self._decode(self._spool.read(*block))
