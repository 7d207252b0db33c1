"""The key of a run, by which a later run finds that it would change nothing.

The key covers the version of this program, the options and the sources: of each source file its path, inode, size,
mtime and ctime, as for layers that are not read again (`rehash.payload_memory`). Everything else that the result
depends on is in the target (`writers.run_memory`).
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
    """64 hex digits, equal for runs that read the same sources and give the same result. None if that cannot be known:
    for sources that are not regular files, and files that were changed just now."""
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
    """Identity and state of a regular file on this machine; None for others, and for files changed just now."""
    try:
        status = os.stat(path)
        place = os.path.realpath(path)
    except (OSError, ValueError):
        return None
    state = settled_state(status) if stat.S_ISREG(status.st_mode) else None
    return None if state is None else (place, status.st_dev, *state)
