"""Progress as bar, plain lines and JSON lines; the clock is given, so every line can be foretold."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
from collections.abc import Callable, Iterator

import pytest

from migrate.cli.progress import make_progress
from migrate.cli.progress_bar import Bar
from migrate.cli.terminal import (
    JsonLines,
    NoProgress,
    PlainLines,
    Tally,
    colour_enabled,
    short_name,
    terminal_width,
)
from migrate.model.progress import Event

LAYER = "ab" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def big_layer(clock: Clock, emit: Callable[[Event], None]) -> None:
    """One layer of 3 GB in steps of 100 MB, two steps a second."""
    emit(Event(kind="stage", stage="hash", total_bytes=3_000_000_000, total_items=1))
    for _ in range(30):
        clock.now += 0.5
        emit(Event(kind="advance", name=LAYER, bytes=100_000_000))
    emit(Event(kind="layer", name=LAYER, bytes=3_000_000_000))


def test_plain_lines_for_one_huge_layer() -> None:
    clock, stream = Clock(), io.StringIO()
    with PlainLines(stream, 0, clock) as progress:
        big_layer(clock, progress.emit)
        progress.emit(Event(kind="failure", name="acme/web:1", message="no bytes"))
    assert stream.getvalue().splitlines() == [
        "hash       3.00 GB in 1 layer",
        "hash        33 %  1.00 GB of 3.00 GB  200 MB/s  10 s left  0 of 1 layer  abababababab",
        "hash        67 %  2.00 GB of 3.00 GB  200 MB/s  5 s left  0 of 1 layer  abababababab",
        "hash       100 %  3.00 GB of 3.00 GB  200 MB/s  0 s left  0 of 1 layer  abababababab",
        "migrate: error: acme/web:1: no bytes",
        "hash       3.00 GB  done in 15 s, 200 MB/s",
    ]


def test_plain_lines_for_thousands_of_small_layers() -> None:
    clock, stream = Clock(), io.StringIO()
    with PlainLines(stream, 0, clock) as progress:
        progress.emit(Event(kind="stage", stage="batch", total_items=4000))
        for number in range(4000):
            clock.now += 0.0078125  # exact in binary
            progress.emit(Event(kind="layer", name=f"{number:064x}"))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "batch      4,000 sources"
    assert lines[1].startswith("batch       16 %  26 s left  640 of 4,000 sources  0000000000")
    assert lines[-1] == "batch      done in 31 s"
    assert len(lines) == 8


def test_verbose_plain_lines_name_layers_images_and_warnings() -> None:
    stream = io.StringIO()
    with PlainLines(stream, 1, Clock()) as progress:
        progress.emit(Event(kind="layer", name=LAYER, bytes=5_000_000))
        progress.emit(Event(kind="image", name="acme/web:1"))
        progress.emit(Event(kind="warning", message="odd \x1b[31mtar"))
    assert stream.getvalue().splitlines() == [
        "layer    abababababab  5.00 MB",
        "image    acme/web:1",
        "warning  odd \\x1b[31mtar",
    ]


@pytest.mark.parametrize("mode", ["none", "plain", "bar"])
def test_a_failure_has_one_line_in_every_mode(mode: str) -> None:
    stream = io.StringIO()
    with make_progress(mode, stream=stream) as progress:
        progress.emit(Event(kind="failure", name="acme/web:1", message="layer\n\x1b[31mno bytes"))
        progress.emit(Event(kind="failure", name="/shelf/a.tar", message="/shelf/a.tar: is empty"))
        progress.emit(Event(kind="finished", name="/shelf/a.tar", outcome="failed", message="/shelf/a.tar: is empty"))
    assert stream.getvalue().splitlines() == [
        "migrate: error: acme/web:1: layer\\x0a\\x1b[31mno bytes",
        "migrate: error: /shelf/a.tar: is empty",
    ]


def test_plain_lines_keep_warnings_for_the_summary() -> None:
    stream = io.StringIO()
    PlainLines(stream, 0, Clock()).emit(Event(kind="warning", message="odd"))
    assert stream.getvalue() == ""


def test_json_lines_are_objects_and_few() -> None:
    clock, stream = Clock(), io.StringIO()
    with JsonLines(stream, clock, interval=5.0) as progress:
        big_layer(clock, progress.emit)
        progress.emit(Event(kind="image", name="acme/web:1"))
        progress.emit(Event(kind="failure", name="acme/x:1", message="no bytes"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {"event": "stage", "stage": "hash", "total_bytes": 3_000_000_000, "total_items": 1}
    assert lines[1] == {
        "event": "progress",
        "stage": "hash",
        "name": LAYER,
        "bytes": 100_000_000,
        "total_bytes": 3_000_000_000,
        "items": 0,
        "total_items": 1,
        "bytes_per_second": 200_000_000,
        "seconds_left": 14.5,
    }
    assert [line["event"] for line in lines] == ["stage", *["progress"] * 3, "layer", "image", "failure"]
    assert lines[-1] == {"event": "failure", "stage": "hash", "name": "acme/x:1", "message": "no bytes"}


def test_a_rate_follows_the_last_seconds() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.take(Event(kind="stage", stage="hash", total_bytes=100_000))
    for size in [100] * 100 + [1000] * 30:
        clock.now += 1
        tally.take(Event(kind="advance", bytes=size))
    assert tally.rate == 1000
    assert tally.seconds_left == 60


def test_a_closed_stream_does_not_stop_the_run() -> None:
    stream = io.StringIO()
    with PlainLines(stream, 0, Clock()) as progress:
        stream.close()
        progress.emit(Event(kind="failure", message="x"))
        progress.emit(Event(kind="stage", stage="hash"))


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()
    shown = _on_terminal(lambda stream: _run_bar(stream, clock))
    assert "hash" in shown
    assert "of 3.00 GB" in shown
    assert "abababababab" in shown
    assert "acme/web:1: no bytes" in shown


def _run_bar(stream: io.TextIOWrapper, clock: Clock) -> None:
    assert isinstance(make_progress("auto", stream=stream, clock=clock), Bar)
    with Bar(stream, 0, clock, interval=0) as progress:
        big_layer(clock, progress.emit)
        progress.emit(Event(kind="failure", name="acme/web:1", message="no bytes"))
        progress.emit(Event(kind="stage", stage="writing", total_items=2))
        progress.emit(Event(kind="image", name="acme/web:1"))
        progress.emit(Event(kind="stage", stage="syncing"))


def _on_terminal(run: Callable[[io.TextIOWrapper], None]) -> str:
    leader, follower = pty.openpty()
    try:
        with os.fdopen(follower, "w", encoding="utf-8") as stream:
            run(stream)
        return b"".join(_all_of(leader)).decode()
    finally:
        os.close(leader)


def _all_of(leader: int) -> Iterator[bytes]:
    """What a terminal that has been closed still holds; Linux gives it in pieces, and then EIO."""
    with contextlib.suppress(OSError):
        while piece := os.read(leader, 1 << 16):
            yield piece


def test_modes() -> None:
    stream = io.StringIO()
    assert isinstance(make_progress("auto", stream=stream), PlainLines)
    assert isinstance(make_progress("plain", stream=stream), PlainLines)
    assert isinstance(make_progress("bar", stream=stream), Bar)
    assert isinstance(make_progress("json", quiet=True, stream=stream), JsonLines)
    assert type(make_progress("none", stream=stream)) is NoProgress
    assert type(make_progress("auto", quiet=True, stream=stream)) is NoProgress


def test_colour_only_on_terminals_and_never_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert not colour_enabled(io.StringIO())
    answers: list[bool] = []

    def ask(stream: io.TextIOWrapper) -> None:
        answers.append(colour_enabled(stream))
        monkeypatch.setenv("NO_COLOR", "1")
        answers.append(colour_enabled(stream))
        stream.write("x")

    _on_terminal(ask)
    assert answers == [True, False]


def test_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width(io.StringIO()) == 120
    monkeypatch.setenv("COLUMNS", "66")
    assert terminal_width(io.StringIO()) == 66


def test_names_are_short_and_safe() -> None:
    assert short_name("sha256:" + "0" * 64) == "0" * 12
    assert short_name("acme/web:1") == "acme/web:1"
    assert short_name("x" * 60) == "x" * 39 + "…"
    assert short_name("a\x07b") == "a\\x07b"
