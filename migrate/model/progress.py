"""Progress as events. The library emits them, and the CLI shows them."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Event(Struct, frozen=True, kw_only=True):
    """One event. `kind` is one of

    `stage` (a stage begins: `stage`, `total_bytes`, `total_items`), `advance` (`bytes` of input were processed),
    `layer` (a layer is done: `name`, `bytes`), `image` (an image is written: `name`), `warning`, `notice` (which the
    user should see immediately) and `failure` (`source`, `message`), `source` (a source is opened or done: `name`,
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
    """The receiver of the events of a run."""

    def emit(self, event: Event, /) -> None:
        """Receives an event. Called from one thread at a time. Must not raise an error."""


class SilentProgress:
    def emit(self, event: Event, /) -> None:
        del event
