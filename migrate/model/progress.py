"""Progress as events. Who shows them, and how, is the CLI's business; the library only emits."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Event(Struct, frozen=True, kw_only=True):
    """One step forward. `kind` is one of

    `stage` (a stage begins: `stage`, `total_bytes`, `total_items`), `advance` (`bytes` of input were processed),
    `layer` (a layer is done: `name`, `bytes`), `image` (an image is written: `name`), `warning`, `notice`
    (which a person should see now) and `failure` (`source`, `message`), `source` (a source is opened or done: `name`,
    `message`), `finished` (a source of a batch is done: `name`, `outcome`, `message`, `bytes`).
    """

    kind: str
    stage: str = ""
    name: str = ""
    source: str = ""
    message: str = ""
    bytes: int = 0
    total_bytes: int = 0
    total_items: int = 0
    outcome: str = ""


class Progress(Protocol):
    """What receives the events of a run."""

    def emit(self, event: Event, /) -> None:
        """Takes an event; called from one thread at a time; must not raise."""


class SilentProgress:
    def emit(self, event: Event, /) -> None:
        del event
