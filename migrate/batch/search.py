"""From the sources of the command line to candidates: directories searched, globs and lists expanded. Reads no content
of files; whether a file is an image archive shows when a worker opens it.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from migrate.batch.plan import Candidate, Identity
from migrate.blobio.rundir import STATE_DIRECTORY
from migrate.errors import MigrateError, SourceUnreadableError, UsageError
from migrate.locations import distinct_sources
from migrate.readers.detect import detect_directory

_MAGIC: Final = frozenset("*?[")
_LINE_BYTES: Final = 64 * 1024
_TREE_DEPTH: Final = 12
"""Deeper levels of a store hold layer files, whose changes show in the levels above."""
_LAYER_TREES: Final = frozenset({"aufs", "overlay", "vfs", "btrfs", "devicemapper", "blobs", "_uploads"})
"""Folders of stores that hold layers, not images: walking them would cost as much as reading the store."""


def expand(locations: Iterable[str], lists: Iterable[BinaryIO] = ()) -> list[str]:
    """What the user names: files, directories and URLs, with globs and lists expanded, each once.

    Raises UsageError for a glob without a match and for standard input; a path that does not exist stays, so that it
    is reported as failed.
    """
    named = (*locations, *(line for stream in lists for line in read_list(stream)))
    return distinct_sources(match for text in named for match in _expand(text))


def find_candidates(named: Iterable[str], *, source_type: str | None = None) -> list[Candidate]:
    """Everything that may be a source, each once, in the order of `named` and sorted within a directory."""
    found: dict[str, Identity] = {}
    paths: list[str] = []
    for text in named:
        if "://" in text:
            listed = dict(_expand_url(text))
            found |= listed
            paths += listed
        else:
            paths += _search(text, source_type)
    return [
        Candidate(location, found.get(location) or identify(location), order)
        for order, location in enumerate(distinct_sources(paths))
    ]


def read_list(stream: BinaryIO) -> Iterator[str]:
    """The lines of a list, in the file system's encoding; empty ones and blank ones are left out. UsageError for a
    binary file."""
    while line := stream.readline(_LINE_BYTES + 1):
        if len(line) > _LINE_BYTES or b"\0" in line:
            raise UsageError("--from-file: not a list of paths, one a line")
        text = os.fsdecode(line.rstrip(b"\r\n"))
        if text.strip():
            yield text


def list_line(location: str) -> bytes | None:
    """The line of a list that `read_list` reads back as `location`; None for a name that no line can hold, such as one
    with a newline in it."""
    line = os.fsencode(location) + b"\n"
    try:
        return line if list(read_list(io.BytesIO(line))) == [location] else None
    except UsageError:
        return None


def _expand(text: str) -> Sequence[str]:
    if text == "-":
        raise UsageError(
            "standard input cannot be a source of a batch: its workers do not have it, and a later run could not tell"
            " it from another; use `migrate convert -`"
        )
    if "://" in text or not _MAGIC & set(text) or os.path.lexists(text):
        return [text]
    matches = sorted(glob.glob(text, recursive=True, include_hidden=False))
    if not matches:
        raise UsageError(f"{text}: nothing matches")
    return ["./-" if match == "-" else match for match in matches]


# --- directories -------------------------------------------------------------------------------------------------


def _search(path: str, source_type: str | None) -> Iterator[str]:
    """`path` itself, if it is a file, absent or a source as a whole; else what is below it, sorted."""
    if source_type not in (None, "docker-archive") or not os.path.isdir(path) or _is_source(path):
        yield path
        return
    try:
        names = sorted(os.listdir(path))
    except OSError:
        yield path  # opening it will tell why it cannot be read
        return
    for name in names:
        child = os.path.join(path, name)
        if name == STATE_DIRECTORY or (os.path.islink(child) and os.path.isdir(child)):
            continue  # a link to a directory could lead round in a circle
        if os.path.isdir(child):
            yield from _search(child, source_type)
        elif os.path.isfile(child):
            yield child


def _is_source(path: str) -> bool:
    try:
        return bool(detect_directory(Path(path)))
    except (OSError, MigrateError):
        return False


# --- URLs --------------------------------------------------------------------------------------------------------


def _expand_url(url: str) -> Iterator[tuple[str, Identity]]:
    """An object, what is below a prefix, or a glob, through fsspec; with the identity that the listing tells."""
    filesystem, path = open_url(url)
    if url.startswith(("http://", "https://")):  # no listings there
        yield url, _identify_page(filesystem, path)
        return
    scheme = url.partition("://")[0]
    try:
        found = filesystem.glob(path, detail=True) if _MAGIC & set(path) else filesystem.find(path, detail=True)
    except Exception as exc:
        raise SourceUnreadableError(f"{url}: cannot be listed: {exc}") from exc
    names = sorted(name for name, facts in found.items() if facts.get("type", "file") == "file")
    if not names:
        raise UsageError(f"{url}: nothing there")
    for name in names:
        yield f"{scheme}://{str(name).removeprefix(f'{scheme}://')}", _object_identity(found[name])


def _identify_page(filesystem: Any, path: str) -> Identity:
    try:
        return _object_identity(filesystem.info(path))
    except Exception as exc:  # noqa: BLE001 - the worker that opens it will say what is wrong
        return Identity(None, f"unreadable {type(exc).__name__}")


def open_url(url: str) -> tuple[Any, str]:
    """The fsspec file system of `url` and the path in it. UsageError where fsspec, or its driver, is not installed."""
    from migrate.distribution.objects import open_filesystem

    return open_filesystem(url)


# --- identity ----------------------------------------------------------------------------------------------------


def identify(location: str) -> Identity:
    """The identity of what stands at the path now. Never raises: what cannot be looked at has an identity, too."""
    try:
        status = os.stat(location)
    except OSError as exc:
        return Identity(None, f"unreadable {exc.errno}")
    if stat.S_ISDIR(status.st_mode):
        return Identity(None, _tree_mark(location))
    return Identity(status.st_size, f"mtime {status.st_mtime_ns}")


def _object_identity(facts: Mapping[str, Any]) -> Identity:
    size = facts.get("size")
    mark = facts.get("ETag") or facts.get("etag") or facts.get("LastModified") or facts.get("mtime")
    return Identity(int(size) if size is not None else None, f"object {mark}")


def _tree_mark(path: str) -> str:
    """A digest over names, sizes and times of a store's documents, without its layers' own files."""
    digest = hashlib.sha256()
    for line in _tree_lines(path, "", _TREE_DEPTH):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return f"tree {digest.hexdigest()}"


def _tree_lines(path: str, prefix: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as exc:
        yield f"{prefix} {exc.errno}\n"
        return
    for entry in entries:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as exc:
            yield f"{prefix}{entry.name} {exc.errno}\n"
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        yield f"{prefix}{entry.name} {0 if is_folder else status.st_size} {status.st_mtime_ns}\n"
        if is_folder and depth and entry.name not in _LAYER_TREES and not entry.name.endswith("layer"):
            yield from _tree_lines(entry.path, f"{prefix}{entry.name}/", depth - 1)
