"""Targets of a batch: a layout in a directory that all workers share, or in a bucket."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from migrate.batch.journal import Journals, is_journal, stored_name
from migrate.blobio.several import in_threads
from migrate.errors import UsageError
from migrate.layout.names import plain_path
from migrate.model.options import ConvertOptions
from migrate.storage.directory_store import DirectoryStore
from migrate.storage.store import STATE_DIRECTORY, AppendedFile, is_url
from migrate.storage.syscalls import target_errors
from migrate.writers.oci_layout import OciLayout
from migrate.writers.open_target import parse_target
from migrate.writers.target_store import open_store

_JOURNALS: Final = f"{STATE_DIRECTORY}/journals"
_COPY_BYTES: Final = 1024 * 1024
_PIECE_BYTES: Final = 1024 * 1024 * 1024
"""Limit of one piece of a journal, which has the lines of a second."""
_AT_ONCE: Final = 16
"""Number of pieces that are read at the same time."""


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
def open_state(target: str, *, copied: bool = False) -> Iterator[Journals]:
    """The journals of the target; none if it does not exist. With `copied`, and for a bucket, they are copied into a
    temporary store on this machine, so that the target is not changed."""
    location = layout_location(target)
    if not copied and not is_bucket(location) and os.path.isdir(location):
        with closing(DirectoryStore(location)) as store, closing(Journals(store)) as journals:
            yield journals
        return
    with (
        tempfile.TemporaryDirectory(prefix="migrate-batch-") as directory,
        closing(DirectoryStore(directory, durable=False)) as store,
        closing(Journals(store)) as journals,
    ):
        for journal, piece in _iter_pieces(location):
            with closing(store.append_to(stored_name(journal))) as copy:
                copy.append(piece)
        yield journals


def _iter_pieces(location: str) -> Iterator[tuple[str, bytes]]:
    """The pieces of all journals, one after the other, with the journal's name. A bucket has no files that grow, so
    each piece is an object there. Their names sort by time."""
    if is_bucket(location):
        bucket = open_store(location, "layout")
        for journal in filter(is_journal, bucket.names(_JOURNALS)):
            names = [f"{_JOURNALS}/{journal}/{name}" for name in bucket.names(f"{_JOURNALS}/{journal}")]
            for start in range(0, len(names), _AT_ONCE):
                pieces = in_threads(
                    lambda name: bucket.read(name, _PIECE_BYTES), names[start : start + _AT_ONCE], _AT_ONCE, "journals"
                )
                yield from ((journal, piece or b"") for piece in pieces)
    elif os.path.isdir(location):
        with closing(DirectoryStore(location)) as store, closing(Journals(store)) as journals:
            journals.check_owners()
            for journal in journals.names():
                with journals.open(journal) as stream, target_errors(journals.shown(journal)):
                    while piece := stream.read(_COPY_BYTES):
                        yield journal, piece


def open_mirror(target: str, journal: str) -> AppendedFile | None:
    """A copy in the bucket of the journal that a run writes; None for a target on this machine."""
    location = layout_location(target)
    return (
        open_store(location, "layout").append_to(f"{_JOURNALS}/{journal}", alone=True) if is_bucket(location) else None
    )
