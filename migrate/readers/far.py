"""For sources that may stand far away: which of them keep what they have read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from migrate.distribution.replay import Replay
from migrate.model.options import ReadOptions
from migrate.storage.local_tree import OpenedFile


def replay_for(options: ReadOptions | None) -> Replay | None:
    """None for a dry run, which reads every layer once only."""
    if options is None:
        return Replay()
    return None if options.dry_run else Replay(options.temporary_directory)


def open_once(
    replay: Replay | None, key: str, open_far: Callable[[], AbstractContextManager[OpenedFile]]
) -> AbstractContextManager[OpenedFile]:
    return open_far() if replay is None else replay.opened(key, open_far)
