"""Keeps what was read from a bucket or a registry, so that it is not transferred twice.

A layer that is already gzip is read twice: hashed, and copied once it is known that nothing equal is in the target.
From a directory the second reading costs little. From a bucket or a registry it would be the whole transfer again, so
the first one leaves the bytes in a temporary file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Final

from migrate.blobio.observed import ObservedStream
from migrate.blobio.payload import Extent
from migrate.model.options import ReadOptions
from migrate.storage.tree import OpenedFile

BUDGET: Final = 8 * 1024 * 1024 * 1024
"""Bytes kept at most; what is read beyond comes twice."""


class Replay:
    """Keeps whole streams by key, as long as there is room. Usable from several threads."""

    def __init__(self, directory: str | None = None, budget: int = BUDGET) -> None:
        self._parent = directory
        self._folder: str | None = None
        self._left = budget
        self._kept: dict[str, tuple[str, int]] = {}
        self._count = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, options: ReadOptions | None, *, is_remote: bool) -> Replay:
        """For a source. It keeps nothing where reading again costs little, nor in a dry run, which reads each layer
        once only."""
        if options is None:
            return cls(budget=BUDGET if is_remote else 0)
        return cls(options.temporary_directory, BUDGET if is_remote and not options.dry_run else 0)

    @contextmanager
    def opened(self, key: str, open_remote: Callable[[], AbstractContextManager[OpenedFile]]) -> Iterator[OpenedFile]:
        """The kept bytes of `key`; else what `open_remote` opens, which is kept if it is read to its end."""
        kept = self._kept.get(key)
        if kept is not None:
            path, size = kept
            with open(path, "rb", buffering=0) as stream:
                yield OpenedFile(stream, size, Extent(fd=stream.fileno(), offset=0, size=size), path)
            return
        with open_remote() as opened:
            copy = None if opened.extent is not None else self._begin(opened.size)
            if copy is None:
                yield opened
                return

            def keep() -> None:
                if copy.is_whole():
                    with self._lock:
                        self._kept[key] = (copy.path, copy.size)

            try:
                observed = ObservedStream(opened.stream, opened.size, copy.write, keep)
                yield OpenedFile(observed.as_binary(), opened.size)
            finally:
                copy.close()
                if key not in self._kept:
                    with self._lock:
                        self._left += copy.size
                    with contextlib.suppress(OSError):
                        os.unlink(copy.path)

    def close(self) -> None:
        """Removes all that was kept."""
        with self._lock:
            self._kept.clear()
            folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _begin(self, size: int) -> _Copy | None:
        with self._lock:
            if size > self._left or not self._left:
                return None
            try:
                if self._folder is None:
                    self._folder = tempfile.mkdtemp(prefix="migrate-", dir=self._parent)
                self._count += 1
                path = os.path.join(self._folder, str(self._count))
                file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by _Copy
            except OSError:
                return None  # without room it is transferred again
            self._left -= size
            return _Copy(file, path, size)


class _Copy:
    """A file that a stream leaves behind; one that cannot be written is given up, and the stream goes on."""

    def __init__(self, file: IO[bytes], path: str, size: int) -> None:
        self._file: IO[bytes] | None = file
        self.path = path
        self.size = size
        self._written = 0

    def write(self, block: memoryview) -> None:
        if self._file is None:
            return
        try:
            while len(block):
                count = self._file.write(block)
                self._written += count
                block = block[count:]
        except OSError:
            self.close()

    def is_whole(self) -> bool:
        return self._file is not None and self._written == self.size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
