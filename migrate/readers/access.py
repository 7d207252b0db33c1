"""Checks that this user may read all of a source. The check runs before the conversion, which can take hours."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from migrate.blobio.source_files import scan_source
from migrate.errors import PermissionSourceError

_READS_EVERYTHING: Final = (1 << 1) | (1 << 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
_READS_TRUSTED: Final = 1 << 21
"""CAP_SYS_ADMIN."""
_ALL_USERS: Final = ["0", "0", "4294967295"]


def check_readable(places: Iterable[str]) -> None:
    """Raises PermissionSourceError with the first file or directory that this user may not read, and their number.

    Makes one system call for each file, and none for a user to whom permissions do not apply.
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
    """True if this user sees extended attributes whose names begin with `trusted.`, which are hidden from others."""
    return _has_one_of(_READS_TRUSTED)


def _has_one_of(capabilities: int) -> bool:
    from pathlib import Path  # not needed for an archive

    try:
        status = Path("/proc/self/status").read_text()
        users = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        return os.geteuid() == 0
    # Inside a user namespace a capability is valid only for the users that are mapped into it (user_namespaces(7)). The
    # first namespace maps all of them: uid_map has the one line `0 0 4294967295`.
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
                # A folder that was removed meanwhile, or a damaged one. The reader reports it when it needs it.
                continue
            except OSError:
                continue
            # Depth first, by name: the path in the error is the same in every run.
            waiting.extend(os.path.join(directory, name) for name in reversed(folders))
            for entry in files:
                if entry.inode() in seen:
                    continue
                path = os.path.join(directory, entry.name)
                if os.access(path, os.R_OK, effective_ids=True):
                    # In an overlay store, the files of a layer are hard links to those of its parent. Each inode is
                    # checked once.
                    seen.add(entry.inode())
                else:
                    yield path
