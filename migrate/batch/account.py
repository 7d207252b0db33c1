"""What a batch tells at its end: every source accounted for, what was saved, and the worst failures first."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from migrate.batch.plan import Outcome
from migrate.model.legacy import Failure
from migrate.report.document import Duplicate, Report, SourceRow
from migrate.report.tables import printable, spreadsheet_cell
from migrate.report.tally import LayerTally
from migrate.report.units import count, format_share, format_size

_SHOWN: Final = 10
"""Failures and repeated layers on the terminal; all of them stand in the report and in the lists."""

ACCOUNT_COLUMNS: Final = (
    *("source", "uri", "outcome", "error", "reason", "images", "failed", "bytes", "seconds", "worker", "tries"),
)


@dataclass(slots=True)
class Account:
    """`outcomes` counts sources, `tally` their layers; `head` is the report without its images."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    already_done: int = 0
    tally: LayerTally = field(default_factory=LayerTally)
    head: Report | None = None


@dataclass(frozen=True, slots=True)
class AccountRow:
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


def worst_first(failures: Iterable[Failure]) -> list[Failure]:
    """Sources that gave nothing at all, then single images; each by location."""
    return sorted(failures, key=lambda row: (bool(row.references or row.legacy_id), row.source, row.references))


def render_account(account: Account, *, exact_bytes: bool = False) -> str:
    """A page of plain text."""
    return "".join(f"{line}\n" for line in _lines(account, exact_bytes))


def _lines(account: Account, exact: bool) -> Iterator[str]:
    report, tally = account.head, account.tally
    assert report is not None
    total = sum(account.outcomes.values())
    done = f", {account.already_done:,} of them done before" if account.already_done else ""
    yield f"{count(total, 'source')}{done}"
    for outcome in Outcome:
        yield f"  {outcome.value:<10}{account.outcomes[outcome]:>9,}"
    totals = report.totals
    yield ""
    yield f"{count(totals.images, 'image')} from {count(totals.legacy_layers, 'layer')}"
    yield f"  {'in the sources':<34}{format_size(totals.legacy_bytes, exact=exact):>12}"
    for text, size in (
        ("repeated within one source", tally.within_bytes),
        ("repeated across sources", tally.across_bytes),
    ):
        share = format_share(size, totals.legacy_bytes)
        yield f"  {text:<34}{format_size(size, exact=exact):>12}  {share:>6}"
    share = format_share(totals.unique_bytes, totals.legacy_bytes)
    yield f"  {'distinct':<34}{format_size(totals.unique_bytes, exact=exact):>12}  {share:>6}"
    if totals.blob_bytes is not None:
        yield f"  {'stored, compressed':<34}{format_size(totals.blob_bytes, exact=exact):>12}"
    yield from _repeated(tally, report.duplicates, exact)
    yield from _failures(report.failures)
    yield from _skipped(report.sources)


def _repeated(tally: LayerTally, duplicates: Sequence[Duplicate], exact: bool) -> Iterator[str]:
    shared = [row for row in duplicates if tally.users(row.diff_id) > 1]
    if shared:
        yield ""
        yield "Layers that came again and again"
    for row in shared[:_SHOWN]:
        users = tally.users(row.diff_id)
        size = format_size(row.tar_size, exact=exact)
        saved = format_size(row.saved_bytes, exact=exact)
        yield f"  {row.diff_id.hex[:12]}  {size:>12}  in {count(users, 'source')}, saves {saved}"
    if len(shared) > _SHOWN:
        yield f"  and {len(shared) - _SHOWN:,} more"


def _failures(failures: Sequence[Failure]) -> Iterator[str]:
    if failures:
        yield ""
        yield "Failures, the worst first"
    for row in worst_first(failures)[:_SHOWN]:
        what = ", ".join(row.references) or (row.legacy_id or "")[:12] or "the whole source"
        yield f"  {printable(row.source)}: {printable(what)}: {printable(row.message)}"
    if len(failures) > _SHOWN:
        yield f"  and {len(failures) - _SHOWN:,} more; the report has them all"


def _skipped(sources: Iterable[SourceRow]) -> Iterator[str]:
    """What was not taken for a source, by reason."""
    kinds: dict[str, list[str]] = {}
    for row in sources:
        if not row.images and not row.failed:
            for reason in row.warnings:
                kinds.setdefault(reason.removeprefix(f"{row.location}: "), []).append(row.location)
    if kinds:
        yield ""
        yield "Skipped, by reason"
    ranked = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    for reason, places in ranked[:_SHOWN]:
        others = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
        yield f"  {printable(places[0])}{others}: {printable(reason)}"
    if len(ranked) > _SHOWN:
        yield f"  and {len(ranked) - _SHOWN:,} more reasons; the report has them all"
