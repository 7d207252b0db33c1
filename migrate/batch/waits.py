"""Messages about waiting: a disk, a store or a scheduler that hangs also stops whatever calls it, without an error."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Self

from migrate.layout.names import REGISTRY_PREFIX, plain_path
from migrate.model.progress import Event, Progress
from migrate.storage.bucket import open_filesystem

SILENT_SECONDS: Final = 9.0
"""Time until a message about a wait: with a turn of the loops that look at the clock, less than ten seconds."""
_LOOK_SECONDS: Final = 0.5
_ASK_SECONDS: Final = SILENT_SECONDS / 4

Clock = Callable[[], float]
Cause = tuple[str, float]
"""Why no task ends, and since when (`time.monotonic`)."""


def read_byte(location: str) -> None:
    """Reads a byte of a source or target, or a listing. Raises OSError, and other errors of fsspec file systems."""
    path = plain_path(location)
    if location.startswith(REGISTRY_PREFIX):
        return  # a registry is checked when it is read
    if "://" in path:
        filesystem, key = open_filesystem(path)
        filesystem.info(key)
    else:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            os.listdir(path)
        elif stat.S_ISREG(mode):  # a byte that is read of a pipe is lost to the run
            with open(path, "rb") as stream:
                stream.read(1)


class Waits(Progress):
    """Receives the events of a run, gives them to `progress`, and adds a notice after some seconds without one, if
    the run is in a step that should not take so long. Used as a context, in which a thread looks at the clock."""

    def __init__(self, progress: Progress, clock: Clock = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._step = ""
        self._began = self._last = clock()

    def emit(self, event: Event, /) -> None:
        with self._lock:
            self._last = self._clock()
            self._progress.emit(event)

    def enter(self, step: str) -> None:
        with self._lock:
            self._began = self._clock()
            if not self._step:  # otherwise the time without a message goes on
                self._last = self._began
            self._step = step

    def look(self) -> None:
        """Emits the notice if it is time for it."""
        with self._lock:
            now = self._clock()
            if self._step and now - self._last >= SILENT_SECONDS:
                self._last = now
                message = f"still {self._step}; {now - self._began:.0f} s so far (Ctrl-C ends the run)"
                self._progress.emit(Event(kind="notice", message=message))

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="waits", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self.look()


def enter(progress: Progress, step: str) -> None:
    """Names the step that begins, such as `reading the journals`; "" for one that may take any time."""
    if isinstance(progress, Waits):
        progress.enter(step)


class Silence:
    """The time since the last task ended, and the messages about what hinders the others."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._moved = self._reported = clock()

    def end(self) -> None:
        """Notes the end of a task."""
        self._moved = self._clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._moved

    def report(self, cause: Cause | None, waiting: int, name: str, progress: Progress) -> None:
        """Emits a message about `waiting` tasks, but not sooner than some seconds after the one before. Without a cause
        their sources are large, which is no fault: then progress has the `name` of one."""
        now = self._clock()
        if not waiting or now - max(self._moved, self._reported) < SILENT_SECONDS:
            return
        self._reported = now
        if cause is None:
            progress.emit(Event(kind="advance", name=name))
            return
        tasks = f"{waiting:,} tasks wait" if waiting > 1 else "a task waits"
        message = f"{cause[0]}; {tasks}, {max(0.0, now - cause[1]):.0f} s so far (Ctrl-C ends the run)"
        progress.emit(Event(kind="notice", message=message))


class Pulse:
    """Checks whether places answer. A thread reads a byte of each, because reading may hang."""

    def __init__(self, read: Callable[[str], None] = read_byte, clock: Clock = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        """When the reading began of each place that has not answered yet."""
        self._asked: dict[str, float] = {}

    def silent(self, places: Iterable[str]) -> dict[str, float]:
        """Seconds for which each place has not answered, of those whose last reading has not ended. Begins to read
        others, each at most every few seconds, and returns at once."""
        now = self._clock()
        wanted = list(dict.fromkeys(places))
        with self._lock:
            silent = {place: now - self._since[place] for place in wanted if place in self._since}
            new = [place for place in wanted if now - self._asked.get(place, -_ASK_SECONDS) >= _ASK_SECONDS]
            new = [place for place in new if place not in self._since]
            self._since.update(dict.fromkeys(new, now))
            self._asked = {place: self._asked.get(place, now) for place in wanted} | dict.fromkeys(new, now)
        for place in new:
            threading.Thread(target=self._ask, args=(place,), name="pulse", daemon=True).start()
        return silent

    def _ask(self, place: str) -> None:
        try:
            self._read(place)
        except Exception:  # noqa: BLE001, S110 - an error is an answer
            pass
        finally:
            with self._lock:
                self._since.pop(place, None)


_pulse = Pulse()


def silent_places(places: Iterable[str]) -> dict[str, float]:
    """As `Pulse.silent`, in this process."""
    return _pulse.silent(places)


def silent_place(silent: Mapping[str, float]) -> tuple[str, float] | None:
    """The place of `silent` that has not answered for longest, and the seconds; None if none is slow."""
    place = max(silent, key=lambda place: silent[place], default="")
    return (place, silent[place]) if silent.get(place, 0.0) >= SILENT_SECONDS / 2 else None
