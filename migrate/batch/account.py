"""The account of a batch: the outcome of every source, as values and as CSV."""

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
    """Figures of a batch. `outcomes` counts sources, `tally` their layers; `head` is the report without its images, and
    `glance` has figures about these. `present` is the number of images that were in the target before."""

    outcomes: Counter[SourceOutcome] = field(default_factory=Counter)
    already_done: int = 0
    tally: LayerTally = field(default_factory=LayerTally)
    head: Report | None = None
    glance: Glance | None = None
    present: int = 0


class AccountRow(Struct, frozen=True):
    """The outcome of one source. `size` is in bytes (None for directories), `seconds` is the time that the worker took,
    and `tries` is the number of workers that got the source."""

    source: SourceRow
    size: int | None
    seconds: float
    worker: str | None
    tries: int


def iter_account_csv(rows: Iterable[AccountRow]) -> Iterator[bytes]:
    """A line with the names of the columns, then one for each row, for spreadsheets. Names that are not UTF-8, or that
    a spreadsheet could run as a formula, are changed; `uri` always has the exact name (RFC 8089)."""
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
