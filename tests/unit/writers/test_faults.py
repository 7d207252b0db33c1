"""Faults at every system call of a small conversion: the target stays valid, and the same run again completes it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from migrate.errors import TargetError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.storage.syscalls import FileSystem
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests.faults import KILLED, Diary, FaultyFileSystem, FullDisk, ShortWrites, kills, raises
from tests.images import layer, put_image

OPTIONS = ConvertOptions()
BASE, MIDDLE, TOP = layer("base"), layer("middle", os.urandom(200_000)), layer("top", compress=False)


def convert(path: Path, files: FileSystem) -> None:
    """Four images, the third with a large layer (written in pieces), and layers that are remembered."""
    target = OciLayout(path, OPTIONS, files=files)
    try:
        put_image(target, [BASE], "base:1")
        put_image(target, [BASE, MIDDLE], "app:1", "app:latest")
        target.flush()
        put_image(target, [BASE, MIDDLE, TOP, BASE], "top:1")
        put_image(target, [TOP])
        target.finish(b'{"images": []}')
    finally:
        target.close()


def snapshot(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and ".migrate" not in file.parts
    }


def clean(path: Path) -> bool:
    """An empty directory, which a run leaves that is ended in its first instant, is nothing that could be verified."""
    return not path.exists() or not os.listdir(path) or verify(str(path), 2, SilentProgress()) == []


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: hundreds of conversions, and the syncs are counted, not waited for."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="migrate-test-", dir=where) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, bytes]]:
    path = tmp_path_factory.mktemp("undisturbed") / "layout"
    files = FaultyFileSystem()
    convert(path, files)
    assert clean(path)
    return files.calls, snapshot(path)


def check_recovery(path: Path, expected: dict[str, bytes], at: int) -> None:
    assert clean(path), f"after a fault at call {at}"
    convert(path, FileSystem())
    assert snapshot(path) == expected, f"completed after a fault at call {at}"
    assert not list((path / ".migrate").glob("tmp-*"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_an_error_at_any_call(undisturbed: tuple[int, dict[str, bytes]], number: int, memory: Path) -> None:
    calls, expected = undisturbed
    for at in range(1, calls + 1):
        path = memory / str(at)
        try:
            convert(path, FaultyFileSystem(at, raises(number)))
        except TargetError as exc:
            assert exc.exit_code == 5
            assert os.strerror(number) in exc.message
        else:
            assert at > calls - 8, f"the error of call {at} was lost"  # removing temporary files may fail in silence
        check_recovery(path, expected, at)


def test_a_kill_at_any_call(undisturbed: tuple[int, dict[str, bytes]], memory: Path) -> None:
    calls, expected = undisturbed
    killed = 0
    for at in range(1, calls + 1):
        path = memory / str(at)
        killed += run_in_child(partial(convert, path, FaultyFileSystem(at, kills))) == KILLED
        check_recovery(path, expected, at)
    assert killed == calls


def run_in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_disk_that_fills_up_and_is_given_room(undisturbed: tuple[int, dict[str, bytes]], memory: Path) -> None:
    _, expected = undisturbed
    for room in range(0, 200_000, 9_973):
        path = memory / str(room)
        with pytest.raises(TargetError, match="the disk is full: make room"):
            convert(path, FullDisk(room))
        check_recovery(path, expected, room)


def test_short_writes_are_completed(undisturbed: tuple[int, dict[str, bytes]], memory: Path) -> None:
    convert(memory / "layout", ShortWrites())
    assert snapshot(memory / "layout") == undisturbed[1]


def test_data_before_names_and_names_before_the_index(tmp_path: Path) -> None:
    diary = Diary()
    convert(tmp_path / "layout", diary)
    assert diary.mistakes == []
    renamed = [name for event, name in diary.events if event == "rename"]
    assert renamed[-3:] == ["manifest.json", "index.json", "migration-report.json"]


def test_many_small_blobs_cost_few_syncs(tmp_path: Path) -> None:
    diary = Diary()
    target = OciLayout(tmp_path / "layout", OPTIONS, files=diary)
    for number in range(3_000):
        put_image(target, [layer(f"file-{number}", compress=False)])
    target.finish(b"{}")
    target.close()
    assert diary.mistakes == []
    assert sum(event.startswith("sync") for event, _ in diary.events) < 60
