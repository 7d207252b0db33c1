"""A blob that waits on this machine until its digest is known, for targets that need the name first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import IO

from migrate.model.digest import Digest
from migrate.storage.syscalls import target_errors

_WHAT = "a temporary file"

Upload = Callable[[str, Digest, int], None]
"""(path, digest, size): brings the file to the target, unless it is there."""


class SpooledBlobWriter:
    """Fills BlobWriter: bytes go to a temporary file, and from there to the target. `TMPDIR` says where."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._size = 0
        self._file: IO[bytes] | None = None

    def write(self, block: bytes | bytearray | memoryview, /) -> int:
        with target_errors(_WHAT):
            if self._file is None:
                self._file = tempfile.NamedTemporaryFile(prefix="migrate-", buffering=0)  # noqa: SIM115
            view = memoryview(block)
            while len(view):
                view = view[self._file.write(view) :]
        self._size += len(block)
        return len(block)

    def commit(self, digest: Digest, /) -> None:
        with target_errors(_WHAT):
            if self._file is None:
                self._file = tempfile.NamedTemporaryFile(prefix="migrate-", buffering=0)  # noqa: SIM115
        self._upload(self._file.name, digest, self._size)

    def __enter__(self) -> SpooledBlobWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
