"""The state of a batch. It is read from the journals, while the batch runs or later."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from migrate.batch.journal import Journals
from migrate.batch.plan import SourceOutcome
from migrate.batch.targets import open_state
from migrate.errors import UsageError


class JournalStatus(Struct):
    """One journal. `planned` and `done` count sources of its latest run, `done_before` those that earlier runs had
    done. `outcomes` counts all sources of the journal, as the latest merge left them. `planned_bytes` and `done_bytes`
    are sizes of sources; `first` and `last` are the times of the run's lines, in seconds since 1970. `started` is None
    if the journal has only lines of merges."""

    name: str
    running: bool
    planned: int = 0
    planned_bytes: int = 0
    done: int = 0
    done_before: int = 0
    done_bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    started: str | None = None
    merged: str | None = None
    first: int | None = None
    last: int | None = None
    last_failure: str | None = None

    def seconds_left(self, now: float) -> float | None:
        """The estimated time left, from the speed of the run so far; None if no source is done yet."""
        done_now = self.done - self.done_before
        if not self.running or self.first is None or not done_now:
            return None
        elapsed = max(1.0, now - self.first)
        if self.planned_bytes and self.done_bytes:
            return max(0.0, (self.planned_bytes - self.done_bytes) * elapsed / self.done_bytes)
        return max(0.0, (self.planned - self.done) * elapsed / done_now)

    def document(self, now: float) -> dict[str, Any]:
        """The status as plain JSON values."""
        left = self.seconds_left(now)
        return {
            "journal": self.name,
            "running": self.running,
            "started": self.started,
            "merged": self.merged,
            "sources": self.planned,
            "done": self.done,
            "done_before": self.done_before,
            "bytes": self.planned_bytes,
            "done_bytes": self.done_bytes,
            **{outcome.value: self.outcomes[outcome.value] for outcome in SourceOutcome},
            "seconds_left": None if left is None else round(left),
            "last_failure": self.last_failure,
        }


def read_status(target: str) -> list[JournalStatus]:
    """One status for each journal of the target. Raises UsageError if there is none."""
    with open_state(target) as journals:
        names = journals.names()
        if not names:
            raise UsageError(f"{target}: no journal of a batch there")
        found = [_read(journals, name) for name in names]
    merge: Mapping[str, Any] = next((merge for _, _, merge in found if merge), {})
    # The merge knows more than the lines that it read, such as conflicts over names, but nothing about later lines.
    changed, ends = merge.get("outcomes", {}), merge.get("journals", {})
    for status, outcomes, _ in found:
        end = ends.get(status.name, 0)
        status.outcomes.update(
            changed.get(source, outcome) if offset < end else outcome for source, (outcome, offset) in outcomes.items()
        )
    return [status for status, _, _ in found]


def _read(journals: Journals, name: str) -> tuple[JournalStatus, Mapping[str, tuple[str, int]], Mapping[str, Any]]:
    """The status, the outcome of each source with the place of its line, and the line of the latest merge."""
    status = JournalStatus(name, journals.is_running(name))
    outcomes: dict[str, tuple[str, int]] = {}
    merge: Mapping[str, Any] = {}
    for line in journals.iter_lines(name):
        fields = line.fields
        if "run" in fields:  # a new run: the counts begin again
            status.started = fields["run"]
            status.done = status.done_before = fields.get("done_before", 0)
            status.planned = fields.get("sources", 0) + status.done_before
            status.planned_bytes, status.done_bytes = fields.get("bytes", 0), 0
            status.first = status.last = status.merged = None
        elif "merged" in fields:
            status.merged, merge = fields["merged"], fields
        elif line.is_source:
            outcomes[fields["source"]] = fields["outcome"], line.place.offset
            if not fields.get("again"):
                status.done += 1
                status.done_bytes += fields.get("size") or 0
                status.first = status.first or fields.get("finished")
                status.last = fields.get("finished")
                if fields["outcome"] == SourceOutcome.FAILED:
                    status.last_failure = fields.get("message")
    return status, outcomes, merge


def iter_status_lines(statuses: list[JournalStatus], now: float | None = None) -> Iterator[str]:
    """The lines that the command prints."""
    from migrate.model.text import printable
    from migrate.report.units import count, format_seconds, format_share, format_size

    now = time.time() if now is None else now
    for status in statuses:
        state = "running" if status.running else "merged" if status.merged else "stopped"
        if status.started is None:
            yield f"{status.name}: {state}{f' {status.merged}' if status.merged else ''}"
            continue
        yield f"{status.name}: {state}, started {status.started}"
        before = f", {status.done_before:,} of them done before" if status.done_before else ""
        share = format_share(status.done, status.planned)
        yield f"  {status.done:,} of {count(status.planned, 'source')} ({share}){before}"
        if status.planned_bytes:
            yield f"  {format_size(status.done_bytes)} of {format_size(status.planned_bytes)} read"
        before = "" if status.outcomes.total() <= status.done else "of all runs: "
        counts = ", ".join(f"{status.outcomes[outcome.value]:,} {outcome.value}" for outcome in SourceOutcome)
        yield f"  {before}{counts}"
        left = status.seconds_left(now)
        if left is not None:
            yield f"  about {format_seconds(left)} left"
        if status.last_failure:
            yield f"  last failure: {printable(status.last_failure)}"
