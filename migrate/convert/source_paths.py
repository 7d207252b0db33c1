"""Where sources are on the disk: two names of one source are one, and nothing is ever written to one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from migrate.errors import UsageError
from migrate.layout.names import plain_path
from migrate.writers.open_target import target_path, target_url

_Mark = tuple[int, int]
"""Device and inode: no hard link, symbolic link or bind mount hides which file a name leads to."""

_LOCAL = ("file://", "local://")
"""What fsspec takes for a path on this disk."""
_SCHEMES = {"s3a": "s3", "gcs": "gs"}
"""Schemes that are another name of one."""


def distinct_sources(locations: Iterable[str]) -> list[str]:
    """Each source once, by the first of its names: `a.tar`, `./a.tar` and `/shelf/a.tar` can be one.

    A link to a file, and a hard link, is a source of its own.
    """
    places = _Places()
    found: dict[str, str] = {}
    for location in locations:
        path = _path_on_disk(location)
        found.setdefault(location if path is None else places.of(path), location)
    return list(found.values())


def without_target(sources: Iterable[str], target: str) -> list[str]:
    """The sources but for the target itself: a glob that is run again matches what its first run made."""
    path = target_path(target)
    mark = None if path is None else _mark_of(path)
    return [source for source in sources if mark is None or _mark_of(_path_on_disk(source) or "") != mark]


def refuse_to_write(sources: Sequence[str], *, target: str | None = None, files: Iterable[str] = ()) -> None:
    """A source is only read. UsageError where the target or one of the files is a source or lies in one, and where a
    source lies in the target, among what is written there. To be called before anything is opened."""
    path = None if target is None else target_path(target) or _path_on_disk(target_url(target) or "-")
    written = [] if path is None else [(f"the target {target}", path)]
    written += [(f"the output file {name}", name) for name in files]
    marks = {mark: what for what, name in reversed(written) for mark in _marks_around(name)}
    home = None if path is None else os.path.join(os.path.realpath(path), "")
    places = _Places()
    for source in sources:
        place = _path_on_disk(source)
        if place is None:
            continue
        what = marks.get(_mark_of(place) or (-1, -1))
        if what is not None:
            raise UsageError(f"{what} is the source {source} or lies in it, and a source is never written to")
        if home is not None and places.of(place).startswith(home):
            raise UsageError(f"the source {source} lies in the target {target}, and a source is never written to")
    if target is not None and (url := target_url(target)) is not None:
        prefix = _folder_of(url)
        for source in sources:
            folder = _folder_of(source) if "://" in source else ""
            if folder and prefix.startswith(folder):
                raise UsageError(
                    f"the target {target} is the source {source} or lies in it; a source is never written to"
                )
            if folder.startswith(prefix):
                raise UsageError(f"the source {source} lies in the target {target}, and a source is never written to")


def _folder_of(url: str) -> str:
    """What the names of all objects below it begin with."""
    scheme, _, path = url.partition("://")
    return f"{_SCHEMES.get(scheme, scheme)}://{path.rstrip('/')}/"


def _path_on_disk(location: str) -> str | None:
    path = plain_path(location)
    for scheme in _LOCAL:
        path = path.removeprefix(scheme)
    return None if path == "-" or "://" in path else path


def _marks_around(path: str) -> Iterator[_Mark]:
    """Of what is at `path`, and of every directory that it lies in."""
    place = os.path.realpath(path)
    while True:
        mark = _mark_of(place)
        if mark is not None:
            yield mark
        parent = os.path.dirname(place)
        if parent == place:
            return
        place = parent


def _mark_of(path: str) -> _Mark | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # what is not there cannot be written to; opening it gives the error
        return None
    return status.st_dev, status.st_ino


class _Places:
    """Absolute paths without links; a shelf's many files cost one look at their directory."""

    def __init__(self) -> None:
        self._directories: dict[str, str] = {}

    def of(self, location: str) -> str:
        """The file's or link's own place in its directory; a link to a directory is that directory."""
        directory, name = os.path.split(location)
        if name in ("", ".", "..") or os.path.isdir(location):
            return os.path.realpath(location)
        if directory not in self._directories:
            self._directories[directory] = os.path.realpath(directory)
        return os.path.join(self._directories[directory], name)
