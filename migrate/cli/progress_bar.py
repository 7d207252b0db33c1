"""The progress bar on a terminal. A module of its own, because importing tqdm takes long."""

from __future__ import annotations

from collections.abc import MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from migrate.cli.terminal import (
    Clock,
    Tally,
    TerminalProgress,
    colour_enabled,
    figures,
    has_known_width,
    message_line,
    terminal_width,
)
from migrate.model.progress import Event
from migrate.model.text import printable
from migrate.report.tables import Paint

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm


class _StageBar(_Tqdm):
    """tqdm draws the bar and limits how often; the text beside it is that of `progress_line`."""

    def __init__(self, tally: Tally, **options: Any) -> None:
        self._tally = tally
        super().__init__(**options)

    @property
    def format_dict(self) -> MutableMapping[str, Any]:
        fields = super().format_dict
        fields["figures"] = "  ".join(figures(self._tally))
        return fields


BAR_INTERVAL = 0.1


class Bar(TerminalProgress):
    """One bar for the current stage, redrawn a few times a second, with messages above it."""

    def __init__(self, stream: TextIO, verbose: int, clock: Clock, interval: float = BAR_INTERVAL) -> None:
        super().__init__(stream, clock)
        self._verbose = verbose
        self._interval = interval
        self._paint = Paint(colour_enabled(stream))
        self._bar: _StageBar | None = None

    def _show(self, event: Event) -> None:
        self._tally.take(event)
        if event.kind == "stage":
            self._close()
            tally = self._tally
            tqdm.monitor_interval = 0  # no thread that redraws the bar: events are frequent enough
            self._bar = _StageBar(
                tally,
                total=tally.total_bytes or tally.total_items or None,
                desc=printable(tally.stage),
                dynamic_ncols=has_known_width(self._stream),
                ncols=terminal_width(self._stream),
                leave=False,
                mininterval=self._interval,
                file=self._stream,
                bar_format="{desc} {percentage:3.0f}% {bar} {figures}" if tally.has_total else "{desc}  {figures}",
            )
        line = message_line(event, self._verbose, self._paint)
        if line is not None:
            tqdm.write(line, file=self._stream)
        if self._bar is None:
            return
        if event.kind == "advance" and (self._tally.total_bytes or not self._tally.has_total):
            self._bar.update(event.bytes)
        elif event.kind in ("layer", "image", "finished"):
            self._bar.update(0 if self._tally.total_bytes or not self._tally.has_total else 1)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
        except (OSError, ValueError):
            return
