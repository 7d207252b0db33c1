"""Opens the store for the files of a target: a directory, which is created if needed, or a bucket."""

from __future__ import annotations

import os
from pathlib import Path

from migrate.errors import TargetError
from migrate.storage.bucket import is_url
from migrate.storage.directory_store import DirectoryStore, make_durable_directory
from migrate.storage.store import Store
from migrate.storage.syscalls import SYSTEM_CALLS, SystemCalls, target_errors


def open_store(location: str | Path, kind: str, files: SystemCalls = SYSTEM_CALLS) -> Store:
    """`kind` names the kind of target in errors, such as "an OCI layout". Raises TargetError, and UsageError for a URL
    that needs a library which is not installed."""
    text = str(location)
    if is_url(text):
        from migrate.storage.bucket_store import BucketStore

        return BucketStore(text)
    path = Path(location)
    # `lexists`, so that a dangling link gets this message, too
    if os.path.lexists(path) and not os.path.isdir(path):
        found = f"is a link to {os.readlink(path)}, not to a directory" if path.is_symlink() else "is a file"
        raise TargetError(
            f"{path}: {found}; {kind} is a directory (a file is written by oci-archive:FILE or docker-archive:FILE)"
        )
    with target_errors(text):
        made = make_durable_directory(path, files)
    return DirectoryStore(path, files, made=made)
