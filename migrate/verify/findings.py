"""What verify reports: mismatches as values, oddities as events."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from migrate.progress import Event, Progress


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One mismatch. `where` is a path in the target, with a place inside it after a blank; both are printable."""

    where: str
    message: str


class Findings:
    """Collects mismatches, once each, and passes oddities and progress on. Usable from several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._found: dict[Finding, None] = {}
        self._lock = threading.Lock()

    @property
    def found(self) -> list[Finding]:
        return list(self._found)

    def add(self, where: str, message: str) -> None:
        with self._lock:
            self._found[Finding(printable(where), printable(message))] = None

    def note(self, where: str, message: str) -> None:
        """Odd, but no image is the worse for it."""
        self._emit(Event(kind="warning", message=f"{printable(where)}: {printable(message)}"))

    def stage(self, name: str, total_bytes: int, total_items: int) -> None:
        self._emit(Event(kind="stage", stage=name, total_bytes=total_bytes, total_items=total_items))

    def advance(self, count: int) -> None:
        self._emit(Event(kind="advance", stage="verify", bytes=count))

    def _emit(self, event: Event) -> None:
        with self._lock:
            self._progress.emit(event)


def printable(text: str) -> str:
    """`text` with everything that a terminal could take for a command written as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
