"""Finds the candidates for a batch: searches directories, and expands globs and lists. It does not read files: a worker
finds out whether a file is an image archive when it opens it.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Final

from migrate.batch.plan import Candidate, SourceIdentity
from migrate.blobio.source_files import list_source
from migrate.convert.source_paths import distinct_sources
from migrate.errors import MigrateError, SourceError, SourceUnreadableError, UsageError
from migrate.layout.names import REGISTRY_PREFIX
from migrate.model.legacy import SourceType
from migrate.model.options import ReadOptions
from migrate.readers.detect import detect, open_source
from migrate.readers.parts import Parts, is_called_archive, parts_of
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.store import STATE_DIRECTORY

_MAGIC: Final = frozenset("*?[")
_LINE_BYTES: Final = 64 * 1024
_SPECIAL: Final = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def expand(locations: Iterable[str], lists: Iterable[BinaryIO] = ()) -> list[str]:
    """The files, directories and URLs that the user names, with globs and lists expanded, each once.

    Raises UsageError for a glob without a match and for standard input. A path that does not exist is kept, so that it
    is reported as failed.
    """
    named = (*locations, *(line for stream in lists for line in read_list(stream)))
    paths = (one.removeprefix("file://") for one in named)  # a directory is searched, and a bucket listed
    return distinct_sources(match for text in paths for match in _expand(text))


def find_candidates(named: Iterable[str], *, source_type: str | None = None, insecure: bool = False) -> list[Candidate]:
    """All possible sources, each once, in the order of `named` and sorted within a directory.

    `insecure` is that of ReadOptions, for registries."""
    found: dict[str, tuple[SourceIdentity, str | None]] = {}
    for text in named:
        if text.startswith(REGISTRY_PREFIX):
            found.setdefault(text, (_identify_registry(text, source_type, insecure), None))
            continue
        if "://" in text:
            found |= {url: (identity, unfit) for url, identity, unfit in _expand_url(text) if url not in found}
            continue
        for location in _search(text, source_type):
            is_named = location == text
            if location not in found or (is_named and found[location][1] is not None):
                found[location] = look_at(location, source_type, is_named=is_named)
    distinct = set(distinct_sources(location for location, (_, unfit) in found.items() if unfit is None))
    kept = [location for location, (_, unfit) in found.items() if unfit is not None or location in distinct]
    return [Candidate(location, found[location][0], order, found[location][1]) for order, location in enumerate(kept)]


def read_list(stream: BinaryIO) -> Iterator[str]:
    """The lines of a list, in the file system's encoding, without blank lines. Raises UsageError for a binary file."""
    while line := stream.readline(_LINE_BYTES + 1):
        if len(line) > _LINE_BYTES or b"\0" in line:
            raise UsageError("--from-file: not a list with one path per line")
        text = os.fsdecode(line.rstrip(b"\r\n"))
        if text.strip():
            yield text


def list_line(location: str) -> bytes | None:
    """The line of a list that `read_list` reads back as `location`; None for a name that cannot be in a list, such as
    one with a newline."""
    line = os.fsencode(location) + b"\n"
    try:
        return line if list(read_list(io.BytesIO(line))) == [location] else None
    except UsageError:
        return None


def _expand(text: str) -> Sequence[str]:
    if text == "-":
        raise UsageError(
            "standard input cannot be a source of a batch: workers cannot read it, and a later run could not compare"
            " it; use `migrate convert -`"
        )
    if "://" in text or not _MAGIC & set(text) or os.path.lexists(text):
        return [text]
    matches = sorted(glob.glob(text, recursive=True, include_hidden=False))
    if not matches:
        raise UsageError(f"{text}: nothing matches")
    return ["./-" if match == "-" else match for match in matches]


# --- directories -------------------------------------------------------------------------------------------------


def _search(path: str, source_type: str | None) -> Iterator[str]:
    """`path` itself, if it is a file or a source, or missing; then everything below it that is not part of that source,
    sorted."""
    if source_type not in (None, SourceType.DOCKER_ARCHIVE.value) or not os.path.isdir(path):
        yield path
        return
    waiting = [(path, True)]  # no recursion: a tree may be deeper than Python's stack
    while waiting:
        place, is_searched = waiting.pop()
        if not is_searched:
            yield place
            continue
        types = _types_of(place)
        if types:
            yield place
        try:
            names = sorted(list_source(place), reverse=True)
        except OSError:
            if not types:
                yield place  # opening it gives the reason
            continue
        parts = parts_of(Path(place), types)
        children = [os.path.join(place, name) for name in names if name != STATE_DIRECTORY and not parts.has(name)]
        waiting += [(child, os.path.isdir(child) and not os.path.islink(child)) for child in children]


def _types_of(path: str) -> list[SourceType]:
    try:
        with DirectoryTree(path) as tree:
            return detect(tree)
    except MigrateError:
        return []


# --- URLs --------------------------------------------------------------------------------------------------------


def _expand_url(url: str) -> Iterator[tuple[str, SourceIdentity, str | None]]:
    """The objects of a URL, a prefix or a glob, listed by fsspec, with their identities from the listing."""
    from migrate.storage.bucket import open_filesystem

    filesystem, path = open_filesystem(url)
    if url.startswith(("http://", "https://")):  # no listings there
        try:
            identity = _object_identity(filesystem.info(path))
        except Exception as exc:  # noqa: BLE001 - the worker that opens it gives the error
            identity = SourceIdentity(None, f"unreadable {type(exc).__name__}")
        yield url, identity, None
        return
    scheme = url.partition("://")[0]
    try:
        found = filesystem.glob(path, detail=True) if _MAGIC & set(path) else filesystem.find(path, detail=True)
    except Exception as exc:
        raise SourceUnreadableError(f"{url}: cannot be listed: {exc}") from exc
    names = sorted(name for name, facts in found.items() if facts.get("type", "file") != "directory")
    if not names:
        raise UsageError(f"{url}: nothing there")
    for name in names:
        unfit = None if found[name].get("type", "file") == "file" else "neither a file nor a directory"
        yield f"{scheme}://{str(name).removeprefix(f'{scheme}://')}", _object_identity(found[name]), unfit


def _identify_registry(location: str, source_type: str | None, insecure: bool) -> SourceIdentity:
    """The identity of a registry: a digest of all that it lists, because it has no time of its last change."""
    options = ReadOptions(
        dry_run=True, insecure=insecure, source_type=None if source_type is None else SourceType(source_type)
    )
    try:
        with closing(open_source(location, options)) as source:
            listing = source.listing()
    except SourceError as exc:  # the worker that opens it gives the error
        return SourceIdentity(None, f"unreadable {exc.code}")
    digest = hashlib.sha256()
    for one in (*listing.images, *listing.indexes, *listing.failures, *listing.warnings):
        digest.update(repr(one).encode("utf-8", "surrogateescape"))
    return SourceIdentity(None, f"registry {digest.hexdigest()}")


# --- identity ----------------------------------------------------------------------------------------------------


def look_at(
    location: str, source_type: str | None = None, *, is_named: bool = True
) -> tuple[SourceIdentity, str | None]:
    """The identity of the path as it is now, and the reason why it is not opened, if any: a worker would wait forever,
    or find nothing.

    Without `is_named`, the path was found in a directory. A broken link with the name of an archive is opened, so that
    it is reported as failed. Never raises: a path that cannot be read has an identity, too.
    """
    try:
        status = os.stat(location)
    except OSError as exc:
        is_failure = is_named or is_called_archive(location) or not os.path.islink(location)
        unfit = None if is_failure else f"a link that leads nowhere ({exc.strerror})"
        return SourceIdentity(0, f"unreadable {exc.errno}"), unfit
    if stat.S_ISREG(status.st_mode):
        return SourceIdentity(status.st_size, f"mtime {status.st_mtime_ns}"), None
    if not stat.S_ISDIR(status.st_mode):
        kind = next((name for is_kind, name in _SPECIAL if is_kind(status.st_mode)), "not a file")
        return SourceIdentity(0, kind), f"{kind}, which batch does not read"
    if not is_named and os.path.islink(location):
        return SourceIdentity(0, "link"), "a link to a directory, which is not followed; name it to have it searched"
    # A digest of the names, sizes and times of a store's documents. The files of its layers would take too long.
    types = [SourceType(source_type)] if source_type is not None else _types_of(location)
    digest = hashlib.sha256()
    for line in _tree_lines(location, parts_of(Path(location), types), follows=SourceType.DOCKER_ROOT in types):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return SourceIdentity(None, f"tree {digest.hexdigest()}"), None


def _object_identity(facts: Mapping[str, Any]) -> SourceIdentity:
    size = facts.get("size")
    mark = facts.get("ETag") or facts.get("etag") or facts.get("LastModified") or facts.get("mtime")
    return SourceIdentity(int(size) if size is not None else None, f"object {mark}")


def _tree_lines(root: str, parts: Parts, *, follows: bool) -> Iterator[str]:
    """A line for each document of a store. `follows`: folders directly below the root may be links, for example if
    `graph` was moved to a larger disk."""
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        steps = waiting.pop()
        prefix = "".join(f"{step}/" for step in steps)
        try:
            names = sorted(list_source(os.path.join(root, prefix)))
        except OSError as exc:
            yield f"{prefix} {exc.errno}\n"
            continue
        for name in names:
            if not steps and not parts.has(name):  # other files beside the store do not change it
                continue
            try:
                status = os.stat(os.path.join(root, prefix, name), follow_symlinks=follows and not steps)
            except OSError as exc:
                yield f"{prefix}{name} {exc.errno}\n"
                continue
            is_folder = stat.S_ISDIR(status.st_mode)
            yield f"{prefix}{name} {0 if is_folder else status.st_size} {status.st_mtime_ns}\n"
            if is_folder and parts.lists((*steps, name)):
                waiting.append((*steps, name))
