"""Reads the report and the map that runs have written."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from migrate.blobio.limits import CATALOG_BYTES, REPORT_BYTES, read_limited
from migrate.documents.image_map import MappedImage, merge_rows, parse_map
from migrate.errors import DocumentError, MigrateError, SourceUnreadableError, UnrecognisedSourceError
from migrate.layout.names import MAP_NAME, REPORT_NAME, local_path
from migrate.report.document import Report
from migrate.report.mapping import map_images
from migrate.report.parse import parse_report


def read_report(location: str) -> Report:
    """The report at `location`: a JSON file, `-` for standard input, or a target directory that holds one.

    Raises SourceUnreadableError if there is no report, DocumentError for a file that is not a report.
    """
    if location == "-":
        return _parse(read_limited(sys.stdin.buffer, REPORT_BYTES, "standard input"), "standard input")
    path = Path(local_path(location))
    if path.is_dir():
        path = path / REPORT_NAME
        if not os.path.lexists(path):
            raise SourceUnreadableError(
                f"{path.parent}: has no {REPORT_NAME}. Give the target of a finished `migrate convert`,"
                " or the file that --report wrote."
            )
    return _parse(_read(path, REPORT_BYTES), str(path))


def find_rows(location: str, wanted: Callable[[str], bool]) -> Sequence[MappedImage]:
    """The images of the map at `location` that have or had a name for which `wanted` is true. Reads the report only if
    there is no map. Raises as `read_map` does.
    """
    path = Path(local_path(location))
    kept = path / MAP_NAME if path.is_dir() else path if path.name == MAP_NAME else path.parent / MAP_NAME
    if location == "-" or not os.path.lexists(kept):
        rows, _ = read_map(location)
        return [row for row in rows if any(map(wanted, (*row.references, *row.names)))]
    return parse_map_file(kept, wanted)


def read_map(location: str) -> tuple[tuple[MappedImage, ...], Report | None]:
    """The images of all runs, from the map at `location` and from the report, and the report, or None without one.

    `location` is a target directory, a map or a report (`-` for standard input). A map in the directory of a report
    file is read, too. Raises as `read_report` does.
    """
    if location == "-":
        report = read_report(location)
        return map_images(report), report
    path = Path(local_path(location))
    place = path if path.is_dir() else path.parent
    kept = place / MAP_NAME
    if path.name == MAP_NAME or not os.path.lexists(kept):
        if path.name == MAP_NAME:
            return parse_map_file(path), None
        report = read_report(location)
        return map_images(report), report
    rows = parse_map_file(kept)
    try:
        report = read_report(location)
    except MigrateError:
        if not path.is_dir():
            raise
        return rows, None
    known = {row.key for row in rows}
    if report.dry_run:  # its images were never made, so they are not added to the map's
        return (rows if path.is_dir() else map_images(report)), report
    return merge_rows([*rows, *(row for row in map_images(report) if row.key not in known)]), report


def _parse(raw: bytes, where: str) -> Report:
    try:
        return parse_report(raw)
    except DocumentError as error:
        raise DocumentError(f"{where}: {error.message}") from error


def parse_map_file(path: str | PathLike[str], wanted: Callable[[str], bool] | None = None) -> tuple[MappedImage, ...]:
    """Raises SourceUnreadableError and DocumentError."""
    try:
        return parse_map(_read(path, CATALOG_BYTES), wanted=wanted)
    except DocumentError as error:
        raise DocumentError(f"{path}: {error.message}") from error


def _read(path: str | PathLike[str], limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a FIFO must not block
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SourceUnreadableError(f"{path}: not a regular file")
            if stream.peek(1)[:1].strip() not in (b"{", b""):  # do not read an archive, which may exceed memory
                raise UnrecognisedSourceError(
                    f"{path}: not a report. Archives have no report: convert with --report FILE, and give that FILE."
                )
            return read_limited(stream, limit, str(path))
    except OSError as error:
        raise SourceUnreadableError(f"{path}: {error.strerror}") from error
