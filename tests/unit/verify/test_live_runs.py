"""verify beside a run that is at work on the same target: what it finds is never the run's own doing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue

import pytest

from migrate import api
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event, SilentProgress
from migrate.verify import LIVE, verify
from migrate.writers.base import ImageTarget
from migrate.writers.oci_layout import OciLayout
from migrate.writers.registry_storage import RegistryStorage
from tests.faults import FaultyFileSystem
from tests.images import layer, put_image
from tests.shelves import archive

OPTIONS = ConvertOptions()
KINDS: dict[str, Callable[[Path, FaultyFileSystem], ImageTarget]] = {
    "layout": lambda path, files: OciLayout(path, OPTIONS, files=files),
    "registry-storage": lambda path, files: RegistryStorage(str(path), OPTIONS, files=files),
}


class Telling:
    """Progress that calls `act` at the `at`-th event, once."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self.count = 0
        self._at, self._act = at, act

    def emit(self, _: Event, /) -> None:
        self.count += 1
        if self.count == self._at:
            self._act()


class Beside:
    """One verify of `path` in a thread, for which a run stands still until it has ended or waits for the run."""

    def __init__(self, path: Path) -> None:
        self.found: list[object] = []
        self.thread = threading.Thread(target=self._look)
        self._path = path
        self._told: Queue[str] = Queue()

    def stand_still(self) -> None:
        if self.thread.ident is None:
            self.thread.start()
            self._told.get()

    def emit(self, event: Event, /) -> None:
        if event.message == LIVE:
            self._told.put(LIVE)

    def _look(self) -> None:
        try:
            if self._path.exists() and os.listdir(self._path):
                self.found += verify(str(self._path), 1, self)
        finally:
            self._told.put("ended")


@pytest.mark.parametrize("prefix", ["oci:", "registry-storage:"])
def test_a_conversion_between_any_two_reads(prefix: str, tmp_path: Path) -> None:
    """A whole conversion into the target, wherever verify may be."""
    (tmp_path / "0.tar").write_bytes(archive("first"))
    target = tmp_path / "target"
    api.convert(tmp_path / "0.tar", f"{prefix}{target}")
    counted = Telling(0, lambda: None)
    assert verify(str(target), 1, counted) == []
    for at in range(1, counted.count + 1):
        (tmp_path / f"{at}.tar").write_bytes(archive("first", at, created=f"2015-01-01T00:00:{at % 60:02d}Z"))

        def convert(at: int = at) -> None:
            api.convert(tmp_path / f"{at}.tar", f"{prefix}{target}")

        assert verify(str(target), 1, Telling(at, convert)) == [], f"a conversion at event {at}"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_verify_at_any_call_of_a_run(kind: str, tmp_path: Path) -> None:
    """The run stands still at one of its calls until verify has ended, or waits for the run."""
    sound = tmp_path / "sound"

    def convert(path: Path, files: FaultyFileSystem) -> None:
        target = KINDS[kind](path, files)
        try:
            put_image(target, [layer("base")], "base:1")
            put_image(target, [layer("base"), layer("top")], "app:1", "app:latest")
            target.finish(b'{"images": []}')
        finally:
            target.close()

    files = FaultyFileSystem()
    convert(sound, files)
    for at in range(1, files.calls + 1):
        path = tmp_path / str(at) / "target"
        path.parent.mkdir()
        beside = Beside(path)
        convert(path, FaultyFileSystem(at, beside.stand_still))
        beside.thread.join()
        found = beside.found
        assert found == [], f"verify at call {at}"


def test_verify_while_a_process_converts(tmp_path: Path) -> None:
    sources = []
    for number in range(12):
        sources.append(tmp_path / f"{number}.tar")
        sources[-1].write_bytes(archive(f"app{number % 3}", number, created=f"2015-01-01T00:00:{number:02d}Z"))
    target = tmp_path / "target"
    api.convert(sources[0], target)
    pid = os.fork()
    if pid == 0:
        try:
            for source in sources[1:]:
                api.convert(source, target)
        finally:
            os._exit(0)
    tries = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert verify(str(target), 1, SilentProgress()) == []
        tries += 1
    assert tries
