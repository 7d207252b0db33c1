"""Paths of sources on disk: finds sources that are named twice, and refuses to write to a source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from migrate.errors import UsageError
from migrate.layout.names import plain_path
from migrate.writers.open_target import target_path, target_url

_Mark = tuple[int, int]
"""Device and inode. They identify a file behind any hard link, symbolic link or bind mount."""

_LOCAL = ("file://", "local://")
"""URL schemes that fsspec treats as a local path."""
_SCHEMES = {"s3a": "s3", "gcs": "gs"}
"""URL schemes that are another name of a scheme."""


def distinct_sources(locations: Iterable[str]) -> list[str]:
    """Each source once, by the first of its names: `a.tar`, `./a.tar` and `/shelf/a.tar` can be one file.

    A symbolic or hard link to a file is a source of its own.
    """
    places = _Places()
    found: dict[str, str] = {}
    for location in locations:
        path = _path_on_disk(location)
        found.setdefault(location if path is None else places.of(path), location)
    return list(found.values())


def without_target(sources: Iterable[str], target: str) -> list[str]:
    """The sources without the target: a glob of the sources matches the target when the command is run again."""
    path = target_path(target)
    mark = None if path is None else _mark_of(path)
    return [source for source in sources if mark is None or _mark_of(_path_on_disk(source) or "") != mark]


def refuse_to_write(sources: Sequence[str], *, target: str | None = None, files: Iterable[str] = ()) -> None:
    """Raises UsageError if the target or an output file is a source or lies in one, or if a source lies in the target,
    where it could be replaced. To be called before anything is opened."""
    path = None if target is None else target_path(target) or _path_on_disk(target_url(target) or "-")
    written = [] if path is None else [(f"the target {target}", path)]
    written += [(f"the output file {name}", name) for name in files]
    # Device and inode of everything that is written and of all directories around it. A source that is one of these
    # is written to, by whatever path it was named.
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
    """The URL of a folder in a bucket, with a final slash: the prefix of the URLs of all objects in it."""
    scheme, _, path = url.partition("://")
    return f"{_SCHEMES.get(scheme, scheme)}://{path.rstrip('/')}/"


def _path_on_disk(location: str) -> str | None:
    path = plain_path(location)
    for scheme in _LOCAL:
        path = path.removeprefix(scheme)
    return None if path == "-" or "://" in path else path


def _marks_around(path: str) -> Iterator[_Mark]:
    """The marks of the file at `path` and of every directory above it."""
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
    except (OSError, ValueError):  # a file that does not exist cannot be written to; opening it gives the error
        return None
    return status.st_dev, status.st_ino


class _Places:
    """Absolute paths without links. Each directory is resolved once, for all files in it."""

    def __init__(self) -> None:
        self._directories: dict[str, str] = {}

    def of(self, location: str) -> str:
        """The path of a file or of a link to a file, in its real directory. A link to a directory is that directory."""
        directory, name = os.path.split(location)
        if name in ("", ".", "..") or os.path.isdir(location):
            return os.path.realpath(location)
        if directory not in self._directories:
            self._directories[directory] = os.path.realpath(directory)
        return os.path.join(self._directories[directory], name)
