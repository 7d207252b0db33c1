"""Targets that every worker reaches: a layout in a directory that all of them see, or in a bucket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from migrate.batch.state import LocalState, StateFolder
from migrate.blobio.rundir import STATE_DIRECTORY
from migrate.errors import UsageError
from migrate.model.options import ConvertOptions
from migrate.writers.base import ImageTarget

_OTHER_KINDS: Final = re.compile(r"(?:oci-archive|docker-archive|registry-storage):.*|docker://.*", re.DOTALL)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://.+", re.DOTALL)


def is_bucket(target: str) -> bool:
    return _URL.fullmatch(target) is not None


def layout_path(target: str) -> Path:
    """The directory of a target that is no bucket. UsageError for a target that many workers cannot share."""
    if _OTHER_KINDS.fullmatch(target):
        raise UsageError(
            f"target {target}: batch writes an OCI layout, in a directory or a bucket; "
            "convert the layout's images further with skopeo, or upload it with `migrate push`"
        )
    path = target.removeprefix("oci:")
    if path in ("", "-") or is_bucket(path):
        raise UsageError(f"target {target!r}: name a directory or a bucket")
    return Path(path)


def open_worker_target(target: str, options: ConvertOptions) -> ImageTarget:
    """Raises TargetError, and UsageError for a target that many workers cannot share."""
    from migrate.writers.oci_layout import OciLayout

    return OciLayout(layout_path(target), options)


def state_directory(target: str) -> Path:
    return layout_path(target) / STATE_DIRECTORY


def open_worker_state(target: str | None, state: Path) -> StateFolder:
    """What the workers of a run share beside the blobs."""
    del target
    return LocalState(state)
