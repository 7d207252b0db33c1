"""Targets that every worker reaches: a layout in a directory that all of them see, or in a bucket."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from migrate.batch.state import BucketState, LocalState, StateFolder
from migrate.errors import UsageError
from migrate.model.options import ConvertOptions
from migrate.storage.run_directory import STATE_DIRECTORY
from migrate.storage.staging import target_errors
from migrate.writers.base import ImageTarget

if TYPE_CHECKING:
    from migrate.writers.bucket_layout import Bucket

_OTHER_KINDS: Final = re.compile(r"(?:oci-archive|docker-archive|registry-storage):.*|docker://.*", re.DOTALL)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://.+", re.DOTALL)
_JOURNALS: Final = f"{STATE_DIRECTORY}/journals"

Publish = Callable[[bytes], None]
"""Takes the pieces of a journal, one after the other."""


def is_bucket(target: str) -> bool:
    return _URL.fullmatch(target.removeprefix("oci:")) is not None


def layout_location(target: str) -> str:
    """The path or URL of the layout. UsageError for a target that many workers cannot share."""
    if _OTHER_KINDS.fullmatch(target):
        raise UsageError(
            f"target {target}: batch writes an OCI layout, in a directory or a bucket; "
            "convert the layout's images further with skopeo, or upload it with `migrate push`"
        )
    location = target.removeprefix("oci:")
    if location in ("", "-"):
        raise UsageError(f"target {target!r}: name a directory or a bucket")
    return location


def absolute(location: str) -> str:
    """A path that means the same in every directory; URLs do already."""
    path = location.removeprefix("oci:")
    if "://" in path:
        return path
    is_plain = ".." not in path.split("/")  # behind a link, .. leads elsewhere than by its letters
    return os.path.abspath(path) if is_plain else os.path.realpath(path)


def open_worker_target(target: str, options: ConvertOptions) -> ImageTarget:
    """Raises TargetError, and UsageError for a target that many workers cannot share."""
    location = layout_location(target)
    if is_bucket(location):
        from migrate.writers.bucket_layout import BucketLayout

        return BucketLayout(location, options)
    from migrate.writers.oci_layout import OciLayout

    return OciLayout(location, options)


def open_worker_state(target: str | None, state: Path) -> StateFolder:
    """What the workers of a run share beside the blobs; in a dry run, those of one machine."""
    if target is not None and is_bucket(target):
        return BucketState(_open_bucket(target))
    return LocalState(state)


def _open_bucket(target: str) -> Bucket:
    from migrate.writers.bucket_layout import open_bucket

    return open_bucket(layout_location(target))


# --- journals ----------------------------------------------------------------------------------------------------


@contextmanager
def open_state(target: str) -> Iterator[Path]:
    """A directory with the journals of the target: its own `.migrate/`, or a copy of what stands in the bucket."""
    location = layout_location(target)
    if not is_bucket(location):
        yield Path(location) / STATE_DIRECTORY
        return
    with tempfile.TemporaryDirectory(prefix="migrate-batch-") as directory:
        bucket = _open_bucket(location)
        for name in bucket.names(_JOURNALS):
            _, _, rest = name.partition(f"{_JOURNALS}/")
            journal, slash, _ = rest.partition("/")
            content = bucket.read(name) if slash else None
            if content is not None:
                with target_errors(directory), open(Path(directory) / journal, "ab") as stream:
                    stream.write(content)
        yield Path(directory)


def journal_publisher(target: str | None, journal: str) -> Publish | None:
    """A bucket has no files that grow: each piece of a journal becomes an object, named so that they sort by time."""
    if target is None or not is_bucket(target):
        return None
    bucket = _open_bucket(target)
    taken = len(bucket.names(f"{_JOURNALS}/{journal}"))
    run = secrets.token_hex(4)

    def publish(piece: bytes) -> None:
        nonlocal taken
        taken += 1
        bucket.put(f"{_JOURNALS}/{journal}/{taken:09}-{run}", piece)

    return publish
