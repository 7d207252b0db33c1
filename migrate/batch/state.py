"""Small files below `.migrate/` that every worker of a batch can read and write."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from migrate.storage.run_directory import STATE_DIRECTORY
from migrate.storage.staging import target_errors

if TYPE_CHECKING:
    from migrate.writers.bucket_layout import Bucket


class StateFolder(Protocol):
    """Names are relative, with `/`. Losing any of it costs time, never images. Raises TargetError."""

    def get(self, name: str, /) -> bytes | None: ...

    def put(self, name: str, content: bytes, /) -> None:
        """Whole or not at all; of two that come at once, either may stay."""


class LocalState:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._prefix = f"{root}{os.sep}"
        self._mark = f".{os.getpid()}-{secrets.token_hex(4)}"

    def get(self, name: str, /) -> bytes | None:
        with target_errors(str(self._root)):
            try:
                fd = os.open(self._prefix + name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            with open(fd, "rb", buffering=0) as stream:
                return stream.read()

    def put(self, name: str, content: bytes, /) -> None:
        path = self._root / name
        temporary = path.with_name(path.name + self._mark)
        with target_errors(str(path)):
            try:
                temporary.write_bytes(content)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(content)
            os.replace(temporary, path)


class BucketState:
    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def get(self, name: str, /) -> bytes | None:
        return self._bucket.read(f"{STATE_DIRECTORY}/{name}")

    def put(self, name: str, content: bytes, /) -> None:
        self._bucket.put(f"{STATE_DIRECTORY}/{name}", content)
