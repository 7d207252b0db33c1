"""The store for the files of a target: a directory, which is created if needed, or a bucket."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from os import PathLike
from typing import Final

from migrate.errors import TargetError
from migrate.model.digest import Digest
from migrate.storage.directory_store import DirectoryStore, make_durable_directory
from migrate.storage.store import NewFile, Store, is_url
from migrate.storage.syscalls import SYSTEM_CALLS, SystemCalls, target_errors

_BLOCK: Final = 1024 * 1024


def open_store(location: str | PathLike[str], kind: str, files: SystemCalls = SYSTEM_CALLS) -> Store:
    """`kind` names the kind of target in errors, such as "an OCI layout". Raises TargetError, and UsageError for a URL
    that needs a library which is not installed."""
    text = os.fspath(location)
    if is_url(text):
        from migrate.storage.bucket_store import BucketStore

        return BucketStore(text)
    path = text.rstrip("/") or "/"
    # `lexists`, so that a dangling link gets this message, too
    if os.path.lexists(path) and not os.path.isdir(path):
        found = f"is a link to {os.readlink(path)}, not to a directory" if os.path.islink(path) else "is a file"
        raise TargetError(
            f"{path}: {found}; {kind} is a directory (a file is written by oci-archive:FILE or docker-archive:FILE)"
        )
    with target_errors(text):
        made = make_durable_directory(path, files)
    return DirectoryStore(path, files, made=made)


def write_pieces(file: NewFile, pieces: Iterable[bytes]) -> Digest:
    """Writes a file that may be too large for memory, and returns the digest of its content."""
    digest = hashlib.sha256()
    for piece in pieces:
        file.write(piece)
        digest.update(piece)
    return Digest.of_hash(digest)


def digest_of_file(store: Store, name: str) -> Digest | None:
    """The digest of a file's content; None if there is no such file."""
    stream = store.open(name)
    if stream is None:
        return None
    with stream, target_errors(store.shown(name)):
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK):
            digest.update(block)
        return Digest.of_hash(digest)
