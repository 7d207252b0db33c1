"""Targets of a batch: a layout in a directory that all workers share, or in a bucket."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from migrate.batch.journal import check_owners, journal_paths, open_journal
from migrate.errors import UsageError
from migrate.layout.names import plain_path
from migrate.model.options import ConvertOptions
from migrate.storage.bucket import is_url
from migrate.storage.store import STATE_DIRECTORY, Store
from migrate.storage.syscalls import target_errors
from migrate.writers.oci_layout import OciLayout
from migrate.writers.open_target import parse_target

_JOURNALS: Final = f"{STATE_DIRECTORY}/journals"

_PIECE_BYTES: Final = 1024 * 1024 * 1024
"""Of one piece of a journal: what a run writes into it in some seconds."""

Publish = Callable[[bytes], None]
"""Takes the pieces of a journal, one after the other."""


def is_bucket(target: str) -> bool:
    return is_url(plain_path(target))


def layout_location(target: str) -> str:
    """The path or URL of the layout. Raises UsageError for a target that several workers cannot share."""
    prefix, location = parse_target(target)
    if prefix != "oci":
        raise UsageError(
            f"target {target}: batch writes an OCI layout, in a directory or a bucket; "
            "convert the layout's images further with skopeo, or upload it with `migrate push`"
        )
    return location


def absolute(location: str) -> str:
    """The absolute path of a location; URLs stay unchanged."""
    path = plain_path(location)
    if "://" in path:
        return path
    is_plain = ".." not in path.split("/")  # after a symbolic link, `..` is the parent of the link's target
    return os.path.abspath(path) if is_plain else os.path.realpath(path)


def open_worker_target(target: str, options: ConvertOptions) -> OciLayout:
    """Opens the layout on a worker. Raises TargetError, and UsageError for a target that workers cannot share."""
    return OciLayout(layout_location(target), options)


# --- journals ----------------------------------------------------------------------------------------------------


@contextmanager
def open_state(target: str) -> Iterator[Path]:
    """A directory with the journals of the target: its own `.migrate/`, or a copy of what is in the bucket."""
    location = layout_location(target)
    if not is_bucket(location):
        yield Path(location) / STATE_DIRECTORY
        return
    with tempfile.TemporaryDirectory(prefix="migrate-batch-") as directory:
        bucket = _open_bucket(location)
        for journal in bucket.names(_JOURNALS):
            with target_errors(directory), open(Path(directory) / journal, "ab") as stream:
                for piece in bucket.names(f"{_JOURNALS}/{journal}"):
                    stream.write(bucket.read(f"{_JOURNALS}/{journal}/{piece}", _PIECE_BYTES) or b"")
        yield Path(directory)


def copy_journals(target: str, directory: Path) -> None:
    """What the target's journals have, into another directory: a run on them leaves the target as it is."""
    with open_state(target) as state:
        check_owners(state)
        for path in journal_paths(state):
            copy = directory / path.name
            with target_errors(str(copy)), open_journal(path) as old, open(copy, "xb") as new:
                shutil.copyfileobj(old, new)


def journal_publisher(target: str | None, journal: str) -> Publish | None:
    """A bucket has no files that grow: each piece of a journal becomes an object, named so that they sort by time."""
    if target is None or not is_bucket(target):
        return None
    bucket = _open_bucket(layout_location(target))
    taken = len(bucket.names(f"{_JOURNALS}/{journal}"))
    run = secrets.token_hex(4)

    def publish(piece: bytes) -> None:
        nonlocal taken
        taken += 1
        bucket.put_now(f"{_JOURNALS}/{journal}/{taken:09}-{run}", piece)

    return publish


def _open_bucket(location: str) -> Store:
    from migrate.storage.bucket_store import BucketStore

    return BucketStore(location)
