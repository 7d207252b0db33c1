"""Chooses the display of a run's progress."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from migrate.cli.terminal import Clock, JsonLines, NoProgress, PlainLines, TerminalProgress


def make_progress(
    mode: str, quiet: bool = False, verbose: int = 0, stream: TextIO | None = None, clock: Clock = time.monotonic
) -> TerminalProgress:
    """`mode` is a value of `--progress`. `quiet` shows failures only, but does not change JSON lines. `verbose` adds
    every layer, image and warning to the bar and to plain lines."""
    stream = sys.stderr if stream is None else stream
    if mode == "json":
        return JsonLines(stream, clock)
    if mode == "none" or quiet:
        return NoProgress(stream, clock)
    if mode == "bar" or (mode == "auto" and stream.isatty() and os.environ.get("TERM") != "dumb"):
        from migrate.cli.progress_bar import Bar  # with tqdm, which takes long to load

        return Bar(stream, verbose, clock)
    return PlainLines(stream, verbose, clock)
