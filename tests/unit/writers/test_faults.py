"""Faults at every system call of a small conversion: the target stays valid, and the same run again completes it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from migrate.errors import TargetError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.storage.bucket_store import BucketStore
from migrate.storage.syscalls import SystemCalls
from migrate.verify import verify
from migrate.writers.base import ImageTarget
from migrate.writers.docker_archive import DockerArchive, OciArchive
from migrate.writers.oci_layout import OciLayout
from migrate.writers.registry_storage import RegistryStorage
from tests.buckets import memory_bucket, objects, write_files
from tests.faults import (
    KILLED,
    Diary,
    FaultyFileSystem,
    FaultyObjects,
    FullDisk,
    Killed,
    ShortWrites,
    dies,
    kills,
    raises,
)
from tests.images import layer, put_image

OPTIONS = ConvertOptions()
BASE, MIDDLE, TOP = layer("base"), layer("middle", os.urandom(200_000)), layer("top", compress=False)
ERRORS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT]

TARGETS: dict[str, Callable[[Path, SystemCalls], ImageTarget]] = {
    "layout": lambda path, files: OciLayout(path, OPTIONS, files=files),
    "registry-storage": lambda path, files: RegistryStorage(str(path), OPTIONS, files=files),
    "oci-archive": lambda path, files: OciArchive(str(path), OPTIONS, files=files),
    "docker-archive": lambda path, files: DockerArchive(str(path), OPTIONS, files=files),
}
BUCKETS: dict[str, Callable[[BucketStore], ImageTarget]] = {
    "layout": lambda store: OciLayout("memory://bucket/out", OPTIONS, store=store),
    "registry-storage": lambda store: RegistryStorage("memory://bucket/out", OPTIONS, store=store),
}
SILENT_CALLS = 8
"""Removing the temporary files at the end may fail in silence: the next run removes them."""


def convert(target: ImageTarget) -> None:
    """Four images, the third with a large layer (written in pieces), and layers that are remembered."""
    try:
        put_image(target, [BASE], "base:1")
        put_image(target, [BASE, MIDDLE], "app:1", "app:latest")
        target.flush()
        put_image(target, [BASE, MIDDLE, TOP, BASE], "top:1")
        put_image(target, [TOP])
        target.finish(b'{"images": []}')
    finally:
        target.close()


@dataclass(frozen=True)
class Kind:
    """One kind of target in the file system, with what an undisturbed run makes of it in how many calls."""

    open: Callable[[Path, SystemCalls], ImageTarget]
    calls: int
    expected: dict[str, bytes]

    def convert(self, path: Path, files: SystemCalls) -> None:
        convert(self.open(path, files))


def snapshot(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and ".migrate" not in file.parts
    }


def clean(path: Path) -> bool:
    """An empty directory, which a run leaves that is ended in its first instant, is nothing that could be verified."""
    return not path.exists() or (path.is_dir() and not os.listdir(path)) or found_by_verify(path) == []


def found_by_verify(path: Path) -> list[object]:
    return list(verify(str(path), 2, SilentProgress()))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: hundreds of conversions, and the syncs are counted, not waited for."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="migrate-test-", dir=where) as directory:
        yield Path(directory)


@pytest.fixture(scope="module", params=sorted(TARGETS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    return undisturbed(request.param, tmp_path_factory.mktemp("undisturbed") / "target")


def undisturbed(name: str, path: Path) -> Kind:
    files = FaultyFileSystem()
    convert(TARGETS[name](path, files))
    assert clean(path)
    return Kind(TARGETS[name], files.calls, snapshot(path))


def check_recovery(kind: Kind, path: Path, at: int) -> None:
    """Whatever happened, what is there is clean, and the same run again completes it and leaves nothing behind."""
    assert clean(path), f"after a fault at call {at}"
    kind.convert(path, SystemCalls())
    assert snapshot(path) == kind.expected, f"completed after a fault at call {at}"
    assert not list((path / ".migrate").glob("tmp-*"))
    assert os.listdir(path.parent) == [path.name], f"a spool stayed after a fault at call {at}"


@pytest.mark.parametrize("number", ERRORS)
def test_an_error_at_any_call(kind: Kind, number: int, memory: Path) -> None:
    silent = 0
    for at in range(1, kind.calls + 1):
        path = memory / str(at) / "target"
        path.parent.mkdir()
        try:
            kind.convert(path, FaultyFileSystem(at, raises(number)))
        except TargetError as exc:
            assert exc.exit_code == 5
            assert os.strerror(number) in exc.message
        else:
            assert snapshot(path) == kind.expected, f"the error of call {at} was lost"
            silent += 1
        check_recovery(kind, path, at)
    assert silent <= SILENT_CALLS


def test_a_kill_at_any_call(kind: Kind, memory: Path) -> None:
    killed = 0
    for at in range(1, kind.calls + 1):
        path = memory / str(at) / "target"
        path.parent.mkdir()
        killed += run_in_child(partial(kind.convert, path, FaultyFileSystem(at, kills))) == KILLED
        check_recovery(kind, path, at)
    assert killed == kind.calls


def run_in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- buckets ---------------------------------------------------------------------------------------------------------


def bucket_store(filesystem: Any, at: int | None = None, fault: Callable[[], None] | None = None) -> BucketStore:
    store = BucketStore("memory://bucket/out")
    store._fs = filesystem if at is None else FaultyObjects(filesystem, at, fault)
    return store


@pytest.mark.parametrize("fault", ["error", "kill"])
@pytest.mark.parametrize("name", sorted(BUCKETS))
def test_an_error_or_the_end_at_any_change_of_a_bucket(name: str, fault: str, memory: Path) -> None:
    def refuse() -> None:
        raise PermissionError("403 Forbidden")

    with memory_bucket() as filesystem:
        counted = bucket_store(filesystem, 10**9)
        convert(BUCKETS[name](counted))
        expected = without_state(objects(filesystem, "bucket/out"))
        calls = cast(FaultyObjects, counted._fs).calls
    assert calls > 8
    for at in range(1, calls + 1):
        with memory_bucket() as filesystem:
            with pytest.raises(TargetError if fault == "error" else Killed):
                convert(BUCKETS[name](bucket_store(filesystem, at, refuse if fault == "error" else dies)))
            left = objects(filesystem, "bucket/out")
            assert not left or "oci-layout" not in left or clean(write_files(left, memory / f"{at}"))
            convert(BUCKETS[name](bucket_store(filesystem)))
            found = objects(filesystem, "bucket/out")
            assert without_state(found) == expected, f"completed after a fault at change {at}"
            assert clean(write_files(found, memory / f"{at}-again"))


def without_state(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if not name.startswith(".migrate/")}


# --- full disks, short writes, order ---------------------------------------------------------------------------------


def test_a_disk_that_fills_up_and_is_given_room(kind: Kind, memory: Path) -> None:
    for room in range(0, 200_000, 9_973):
        path = memory / str(room) / "target"
        path.parent.mkdir()
        with pytest.raises(TargetError, match="the disk is full: make room"):
            kind.convert(path, FullDisk(room))
        check_recovery(kind, path, room)


def test_short_writes_are_completed(kind: Kind, memory: Path) -> None:
    kind.convert(memory / "target", ShortWrites())
    assert snapshot(memory / "target") == kind.expected


def test_data_before_names_and_names_before_the_index(tmp_path: Path) -> None:
    diary = Diary()
    convert(OciLayout(tmp_path / "layout", OPTIONS, files=diary))
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
