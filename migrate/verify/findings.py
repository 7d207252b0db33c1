"""The results of verify: mismatches (findings) and harmless irregularities (warnings)."""

from __future__ import annotations

import threading

from msgspec import Struct

from migrate.model.progress import Event, Progress
from migrate.model.text import printable


class Finding(Struct, frozen=True, order=True):
    """One mismatch. `where` is a path in the target, and after a space a place in that file. Both are printable."""

    where: str
    message: str


class Verification(Struct, frozen=True):
    """The result for one target. `warnings` damage no image; `images` counts images whose documents could be read."""

    findings: list[Finding]
    warnings: list[Finding]
    images: int


class Findings:
    """Collects findings and warnings, each once, and emits warnings and progress. Usable from several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._found: dict[Finding, None] = {}
        self._noted: dict[Finding, None] = {}
        self._emitted: set[Finding] = set()
        self.images = 0
        self._lock = threading.Lock()

    def verification(self) -> Verification:
        return Verification(self.found, list(self._noted), self.images)

    @property
    def found(self) -> list[Finding]:
        return list(self._found)

    def restart(self) -> None:
        """Drops all findings before the target is read again: a run that changed it may have caused them."""
        with self._lock:
            self._found, self._noted, self.images = {}, {}, 0

    def add(self, where: str, message: str) -> None:
        with self._lock:
            self._found[Finding(printable(where), printable(message))] = None

    def note(self, where: str, message: str) -> None:
        """Adds an irregularity that damages no image."""
        finding = Finding(printable(where), printable(message))
        with self._lock:
            known = finding in self._emitted
            self._emitted.add(finding)
            self._noted[finding] = None
        if not known:
            self._emit(Event(kind="warning", message=f"{finding.where}: {finding.message}"))

    def stage(self, name: str, total_bytes: int, total_items: int) -> None:
        self._emit(Event(kind="stage", stage=name, total_bytes=total_bytes, total_items=total_items))

    def advance(self, count: int) -> None:
        self._emit(Event(kind="advance", stage="verify", bytes=count))

    def _emit(self, event: Event) -> None:
        with self._lock:
            self._progress.emit(event)
