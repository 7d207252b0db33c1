"""Whether a run was done before: its key, and what it would give.

A run is its program, its options and its sources. Of a source that is one file, the file's place, inode, size, mtime
and ctime are taken, as for the layers that are not read again (`rehash.payload_memory`). All else that a result depends
on is in the target (`writers.run_memory`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence

from migrate import __version__
from migrate.blobio.source_files import settled_state
from migrate.layout.names import plain_path
from migrate.model.options import CHANGES, Changes, ConvertOptions


def run_key(locations: Sequence[str], options: ConvertOptions, report_options: Mapping[str, object]) -> str | None:
    """64 hex digits: equal for runs that read the same and make the same of it. None where that cannot be known."""
    if options.dry_run or options.check_existing or options.pool_files:
        return None
    paths = [plain_path(location) for location in locations]
    states = [_state_of(path) for path in paths]
    if "-" in paths or None in states:
        return None
    deciding = [(name, repr(getattr(options, name))) for name in CHANGES if CHANGES[name] is not Changes.NOTHING]
    facts = (__version__, list(locations), states, deciding, sorted(report_options.items()))
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()


def _state_of(path: str) -> tuple[object, ...] | None:
    """Of a regular file of this machine that does not change."""
    try:
        status = os.stat(path)
        place = os.path.realpath(path)
    except (OSError, ValueError):
        return None
    state = settled_state(status) if stat.S_ISREG(status.st_mode) else None
    return None if state is None else (place, status.st_dev, *state)
