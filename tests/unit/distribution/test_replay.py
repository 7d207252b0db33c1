from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from migrate.distribution.replay import Replay
from migrate.storage.tree import OpenedFile


class Far:
    """A source that counts how often it is opened."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.count = 0

    @contextmanager
    def open(self) -> Iterator[OpenedFile]:
        self.count += 1
        yield OpenedFile(io.BytesIO(self.content), len(self.content))


def test_what_was_read_whole_does_not_come_again(tmp_path: Path) -> None:
    far, replay = Far(b"x" * 100_000), Replay(str(tmp_path))
    for _ in range(3):
        with replay.opened("a", far.open) as opened:
            assert opened.stream.read() == far.content
    assert far.count == 1 and opened.path is not None and opened.extent is not None
    replay.close()
    assert list(tmp_path.iterdir()) == []
    replay.close()


def test_what_was_read_in_part_comes_again(tmp_path: Path) -> None:
    far, replay = Far(b"x" * 100), Replay(str(tmp_path))
    for _ in range(2):
        with replay.opened("a", far.open) as opened:
            assert opened.stream.read(10) == b"x" * 10
    assert far.count == 2
    replay.close()


def test_beyond_the_budget_and_without_room_nothing_is_kept(tmp_path: Path) -> None:
    for replay in (Replay(str(tmp_path), budget=99), Replay(str(tmp_path / "absent"))):
        far = Far(b"x" * 100)
        for _ in range(2):
            with replay.opened("a", far.open) as opened:
                assert opened.stream.read() == far.content
        assert far.count == 2
        replay.close()


def test_room_is_given_back(tmp_path: Path) -> None:
    replay = Replay(str(tmp_path), budget=100)
    with replay.opened("a", Far(b"x" * 100).open) as opened:
        opened.stream.read(1)
    far = Far(b"y" * 100)
    for _ in range(2):
        with replay.opened("b", far.open) as opened:
            opened.stream.read()
    assert far.count == 1
    replay.close()
