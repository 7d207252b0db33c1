"""The account of a batch at its end: what became of every source."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from migrate.batch.plan import SourceOutcome
from migrate.report.document import Report, SourceRow
from migrate.report.glance import Glance
from migrate.report.tables import spreadsheet_cell
from migrate.report.tally import LayerTally

ACCOUNT_COLUMNS: Final = (
    *("source", "uri", "outcome", "error", "reason", "images", "failed", "bytes", "seconds", "worker", "tries"),
)


class Account(Struct):
    """`outcomes` counts sources, `tally` their layers; `head` is the report without its images, and `glance` what they
    are like. `present` of the images were in the target before."""

    outcomes: Counter[SourceOutcome] = field(default_factory=Counter)
    already_done: int = 0
    tally: LayerTally = field(default_factory=LayerTally)
    head: Report | None = None
    glance: Glance | None = None
    present: int = 0


class AccountRow(Struct, frozen=True):
    """What became of one source. `size` is its own in bytes (None for directories), `seconds` what the worker took,
    and `tries` counts the workers that were given it."""

    source: SourceRow
    size: int | None
    seconds: float
    worker: str | None
    tries: int


def iter_account_csv(rows: Iterable[AccountRow]) -> Iterator[bytes]:
    """A line with the names of the columns, then one for each row, for spreadsheets. A name that is no text, or begins
    like a formula, is altered there; `uri` always leads to the file (RFC 8089)."""
    yield _csv_line(ACCOUNT_COLUMNS)
    for row in rows:
        source = row.source
        location = source.location
        uri = location if "://" in location else Path(location).absolute().as_uri()
        values = (location, uri, source.outcome, source.error, source.reason, source.images, source.failed)
        yield _csv_line((*values, row.size, row.seconds, row.worker, row.tries))


def _csv_line(values: Iterable[object]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        spreadsheet_cell("" if cell is None else str(cell)) for cell in values
    )
    return line.getvalue().encode()
