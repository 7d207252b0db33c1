"""Progress of a run on stderr: plain lines, JSON lines or nothing. Also the width and colours of a terminal."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TextIO

from migrate.cli.messages import encode_event
from migrate.model.progress import Event
from migrate.model.text import printable
from migrate.report.tables import Paint, Style
from migrate.report.units import count, format_seconds, format_share, format_size

PLAIN_INTERVAL = 5.0
JSON_INTERVAL = 0.5
_ITEMS = {
    **dict.fromkeys(("compress", "hash"), "layer"),
    **dict.fromkeys(("verify", "push"), "blob"),
    **dict.fromkeys(("batch", "complete", "merge"), "source"),
}
"""The unit of each stage's items."""
_RATE_WINDOW = 10.0
_WIDTH_WITHOUT_TERMINAL = 120

Clock = Callable[[], float]


def colour_enabled(stream: TextIO) -> bool:
    """Colour only on terminals, and never with NO_COLOR (no-color.org) or TERM=dumb."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def terminal_width(stream: TextIO) -> int:
    """Cells of a line: COLUMNS if set, else the width of the terminal, else 120 for a log file."""
    fallback = 80 if stream.isatty() else _WIDTH_WITHOUT_TERMINAL
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and len(columns) < 6 and int(columns) > 0:
        return int(columns)
    if not stream.isatty():
        return fallback
    try:
        return os.get_terminal_size(stream.fileno()).columns or fallback
    except OSError:
        return fallback


def has_known_width(stream: TextIO) -> bool:
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):  # not a terminal, or a stream without a file (io.UnsupportedOperation)
        return False


class Tally:
    """Progress of the current stage. Rates are those of the last ten seconds, so that they follow the disk's speed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.begin(Event(kind="stage"))

    def begin(self, event: Event) -> None:
        self.stage = event.stage
        self.total_bytes = event.total_bytes
        self.total_items = event.total_items
        self.bytes = 0
        self.items = 0
        self.name = ""
        self.began = self._clock()
        self._marks: deque[tuple[float, int]] = deque([(self.began, 0)])

    def take(self, event: Event) -> None:
        if event.kind == "stage":
            self.begin(event)
        elif event.kind == "advance":
            self.bytes += event.bytes
            self.name = event.name or self.name
            now = self._clock()
            if now - self._marks[-1][0] >= _RATE_WINDOW / 50:
                self._marks.append((now, self.bytes))
                while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_WINDOW:
                    self._marks.popleft()
        elif event.kind in ("layer", "image", "finished"):
            self.items += 1
            self.name = event.name or self.name

    @property
    def rate(self) -> float:
        """Bytes a second."""
        began, already = self._marks[0]
        seconds = self._clock() - began
        return (self.bytes - already) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        if self.total_bytes and self.rate:
            return max(0, self.total_bytes - self.bytes) / self.rate
        elapsed = self._clock() - self.began
        if not self.total_bytes and self.total_items and self.items and elapsed:
            return max(0, self.total_items - self.items) * elapsed / self.items
        return None

    @property
    def has_total(self) -> bool:
        return bool(self.total_bytes or self.total_items)


class TerminalProgress:
    """Base of all renderings: a tally, and a stream that may be closed during the run."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._tally = Tally(clock)
        self._gone = False

    def emit(self, event: Event, /) -> None:
        if self._gone:
            return
        try:
            self._show(event)
        except (OSError, ValueError):  # stderr was closed: the run continues without progress
            self._gone = True

    def _show(self, event: Event) -> None:
        raise NotImplementedError

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class NoProgress(TerminalProgress):
    """Shows failures and notices only."""

    def _show(self, event: Event) -> None:
        if event.kind in ("failure", "notice"):
            self._write(message_line(event, 0, Paint(False)) or "")


def failure_line(event: Event) -> str:
    """One line with the source and the failed image or layer, each named once."""
    text = event.message if event.name in event.message else f"{event.name}: {event.message}"
    text = text if event.source in text else f"{event.source}: {text}"
    return f"migrate: error: {' '.join(printable(text).split())}"


def message_line(event: Event, verbose: int, paint: Paint) -> str | None:
    """The line for an event, or None for events that are not shown."""
    if event.kind == "failure":
        return failure_line(event)
    message = "" if event.outcome == "failed" else event.message  # each failure has a line of its own
    text = ": ".join(part for part in (short_name(event.name), printable(message)) if part)
    if event.kind == "notice":
        return f"migrate: warning: {' '.join(text.split())}"
    if event.kind == "warning":
        return f"{paint('warning', Style.YELLOW)}  {text}" if verbose else None
    if verbose and event.kind in ("layer", "image", "source", "finished"):
        size = f"  {format_size(event.bytes)}" if event.bytes else ""
        return f"{f'{event.outcome} ' if event.outcome else event.kind:<9}{text}{size}"
    return None


class PlainLines(TerminalProgress):
    """For logs: one line at the start and end of a stage, one every few seconds, and one for every failure."""

    def __init__(self, stream: TextIO, verbose: int, clock: Clock, interval: float = PLAIN_INTERVAL) -> None:
        super().__init__(stream, clock)
        self._verbose = verbose
        self._interval = interval
        self._last = clock()

    def _show(self, event: Event) -> None:
        if event.kind == "stage":
            self._end_stage()
        self._tally.take(event)
        if event.kind == "stage":
            # a stage without totals has nothing to report before it ends
            if self._tally.has_total or self._tally.stage == "batch":
                tally = self._tally
                size = f"  {format_size(tally.total_bytes)}" if tally.total_bytes else ""
                items = count(tally.total_items, _ITEMS.get(tally.stage, "item")) if tally.total_items else ""
                what = f"{size} in {items}" if size and items else size or f"  {items or 'nothing to do'}"
                self._write(f"{printable(tally.stage):<9}{what}")
            self._last = self._clock()
            return
        line = message_line(event, self._verbose, Paint(False))
        if line is not None:
            self._write(line)
        now = self._clock()
        if now - self._last >= self._interval and self._tally.stage:
            self._last = now
            self._write(progress_line(self._tally))

    def _end_stage(self) -> None:
        tally = self._tally
        if tally.stage and (tally.bytes or tally.items):
            seconds = self._clock() - tally.began
            rate = f", {format_size(round(tally.bytes / seconds))}/s" if tally.bytes and seconds > 0 else ""
            size = f"  {format_size(tally.bytes)}" if tally.bytes else ""
            self._write(f"{printable(tally.stage):<9}{size}  done in {format_seconds(seconds)}{rate}")
        tally.begin(Event(kind="stage"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._end_stage()
            except (OSError, ValueError):
                return


def progress_line(tally: Tally) -> str:
    """`hashing    42 %  1.22 GB of 2.91 GB  310 MB/s  6 s left  12 of 300  0123456789ab`."""
    parts = [f"{printable(tally.stage):<9}"]
    if tally.total_bytes:
        parts.append(f"{format_share(tally.bytes, tally.total_bytes):>5}")
    elif tally.total_items:
        parts.append(f"{format_share(tally.items, tally.total_items):>5}")
    return "  ".join([*parts, *figures(tally)])


def figures(tally: Tally) -> Iterator[str]:
    """Bytes, rate, time left, items done, and the name of the current item."""
    if tally.total_bytes:
        yield f"{format_size(tally.bytes)} of {format_size(tally.total_bytes)}"
    elif tally.bytes:
        yield format_size(tally.bytes)
    if tally.bytes:
        yield f"{format_size(round(tally.rate))}/s"
    left = tally.seconds_left
    if left is not None:
        yield f"{format_seconds(left)} left"
    if tally.total_items or tally.items:
        unit = _ITEMS.get(tally.stage, "item")
        done = f"{tally.items:,} of {count(tally.total_items, unit)}"
        yield done if tally.total_items else f"{count(tally.items, unit)} done"
    if tally.name:
        yield short_name(tally.name)


def short_name(name: str) -> str:
    """The first 12 digits of an ID; other names as they are, cut at 40."""
    digits = name.removeprefix("sha256:")
    if len(digits) == 64 and all(character in "0123456789abcdef" for character in digits):
        return digits[:12]
    return printable(name if len(name) <= 40 else name[:39] + "…")


class JsonLines(TerminalProgress):
    """For programs: one JSON object per line (docs/reference/progress.md)."""

    def __init__(self, stream: TextIO, clock: Clock, interval: float = JSON_INTERVAL) -> None:
        super().__init__(stream, clock)
        self._interval = interval
        self._last = clock() - interval

    def _show(self, event: Event) -> None:
        self._tally.take(event)
        if event.kind == "advance":
            # An event for every block of every layer would be millions of lines.
            now = self._clock()
            if now - self._last < self._interval:
                return
            self._last = now
            tally = self._tally
            left = tally.seconds_left
            self._write_json(
                {
                    "event": "progress",
                    "stage": tally.stage,
                    "name": tally.name,
                    "bytes": tally.bytes,
                    "total_bytes": tally.total_bytes or None,
                    "items": tally.items,
                    "total_items": tally.total_items or None,
                    "bytes_per_second": round(tally.rate),
                    "seconds_left": None if left is None else round(left, 1),
                }
            )
        else:
            self._write_json(self._other(event))

    def _other(self, event: Event) -> dict[str, object]:
        if event.kind == "stage":
            return {
                "event": "stage",
                "stage": event.stage,
                "total_bytes": event.total_bytes or None,
                "total_items": event.total_items or None,
            }
        fields: dict[str, object] = {"event": event.kind, "stage": self._tally.stage, "name": event.name}
        if event.outcome:
            fields["outcome"] = event.outcome
        if event.kind in ("layer", "finished"):
            fields["bytes"] = event.bytes
        if event.source:
            fields["source"] = event.source
        if event.message:
            fields["message"] = event.message
        return fields

    def _write_json(self, fields: dict[str, object]) -> None:
        self._write(encode_event(fields))
