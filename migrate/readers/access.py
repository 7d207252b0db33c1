"""Checks that this user may read all of a source, before hours of work and not after."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from migrate.blobio.source_files import scan_source
from migrate.errors import PermissionSourceError

_READS_EVERYTHING: Final = (1 << 1) | (1 << 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
_READS_TRUSTED: Final = 1 << 21
"""CAP_SYS_ADMIN."""
_ALL_USERS: Final = ["0", "0", "4294967295"]


def check_readable(places: Iterable[str]) -> None:
    """PermissionSourceError naming the first file or directory that cannot be read, in order, and how many there are.

    Costs one system call per file; nothing for a user to whom permissions do not apply.
    """
    if _has_one_of(_READS_EVERYTHING):
        return
    unreadable = _unreadable(places)
    first = next(unreadable, None)
    if first is None:
        return
    more = sum(1 for _ in unreadable)
    what = f"{more + 1:,} files and folders may not be read by this user, first {first}" if more else first
    verb = "" if more else " may not be read by this user"
    raise PermissionSourceError(
        f"{what}{verb}: run as root, or on a copy made by root with `tar --xattrs --numeric-owner -S`"
    )


def may_read_trusted() -> bool:
    """True where this user sees extended attributes whose names begin with `trusted.`; others see none of them."""
    return _has_one_of(_READS_TRUSTED)


def _has_one_of(capabilities: int) -> bool:
    try:
        status = Path("/proc/self/status").read_text()
        users = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        return os.geteuid() == 0
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) & capabilities) and users == _ALL_USERS


def _unreadable(places: Iterable[str]) -> Iterator[str]:
    seen: set[int] = set()
    for place in places:
        waiting = [place]
        while waiting:
            directory = waiting.pop()
            try:
                with scan_source(directory) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
                    folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                    files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
            except PermissionError:
                yield directory
                continue
            except OSError:
                continue
            waiting.extend(os.path.join(directory, name) for name in reversed(folders))
            for entry in files:
                if entry.inode() in seen:
                    continue
                path = os.path.join(directory, entry.name)
                if os.access(path, os.R_OK, effective_ids=True):
                    seen.add(entry.inode())  # a hard link of it needs no second look
                else:
                    yield path
