"""Keeps bytes that were read from a bucket or a registry, so that they are not transferred twice.

A gzip layer is read twice: it is hashed, and then copied if the target has no equal layer. The second reading is fast
from a directory, but from a bucket or a registry it would be a second transfer. So the first one writes the bytes into
a temporary file.
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
"""Limit of the kept bytes. Further bytes are transferred twice."""


class Replay:
    """Keeps whole streams by key, within the limit. May be used from several threads."""

    def __init__(self, directory: str | None = None, budget: int = BUDGET) -> None:
        self._parent = directory
        self._folder: str | None = None
        self._left = budget
        self._kept: dict[str, tuple[str, int]] = {}
        self._count = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, options: ReadOptions | None, *, is_remote: bool) -> Replay:
        """The Replay for a source. It keeps nothing if the source is on this machine, and in a dry run, which reads
        each layer once."""
        if options is None:
            return cls(budget=BUDGET if is_remote else 0)
        return cls(options.temporary_directory, BUDGET if is_remote and not options.dry_run else 0)

    @contextmanager
    def opened(self, key: str, open_remote: Callable[[], AbstractContextManager[OpenedFile]]) -> Iterator[OpenedFile]:
        """The kept bytes of `key`; or else the stream of `open_remote`, whose bytes are kept if it is read to its
        end."""
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
        """Removes all kept bytes."""
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
                return None  # without a temporary file it is transferred again
            self._left -= size
            return _Copy(file, path, size)


class _Copy:
    """A copy of a stream in a file. If the file cannot be written, the copy is abandoned, and the stream is read on."""

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
