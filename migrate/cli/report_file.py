"""The report that a run left behind."""

from __future__ import annotations

import sys
from pathlib import Path

from migrate.blobio.limits import REPORT_BYTES, read_limited
from migrate.errors import DocumentError, SourceUnreadableError
from migrate.layout.names import REPORT_NAME, plain_path
from migrate.report.document import Report
from migrate.report.json import parse_report


def read_report(location: str) -> Report:
    """The report at `location`: a JSON file, `-` for standard input, or a target directory that holds one.

    Raises SourceUnreadableError where there is none, DocumentError where it is none.
    """
    raw, where = _read(location)
    try:
        return parse_report(raw)
    except DocumentError as error:
        raise DocumentError(f"{where}: {error.message}") from error


def _read(location: str) -> tuple[bytes, str]:
    if location == "-":
        return read_limited(sys.stdin.buffer, REPORT_BYTES, "standard input"), "standard input"
    path = Path(plain_path(location))
    if path.is_dir():
        path = path / REPORT_NAME
        if not path.exists():
            raise SourceUnreadableError(
                f"{path.parent}: holds no {REPORT_NAME}. Name the target of a finished `migrate convert`,"
                " or the file that --report wrote."
            )
    try:
        with path.open("rb") as stream:
            if stream.peek(1)[:1].strip() not in (b"{", b""):  # an archive may be larger than memory
                raise DocumentError(
                    f"{path}: not a report. Archives hold none: give --report FILE when you convert, then name it."
                )
            return read_limited(stream, REPORT_BYTES, str(path)), str(path)
    except OSError as error:
        raise SourceUnreadableError(f"{path}: {error.strerror}") from error
