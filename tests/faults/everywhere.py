"""Faults at every system call that changes a target, in whole conversions and batches as a program would run them."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from migrate import api
from migrate.batch.batch import BatchRequest, run_batch
from migrate.errors import MigrateError, TargetError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.storage.syscalls import SystemCalls
from migrate.verify import verify
from tests.faults import KILLED
from tests.shelves import archive

ERRORS: Final = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)
_CALLS: Final = tuple(name for name, value in vars(SystemCalls).items() if callable(value) and name != "close")


@contextmanager
def every_call(fault: Callable[[int], None]) -> Iterator[None]:
    """`fault` is called, with its number, before each call of any SystemCalls of this process."""
    lock, count = threading.Lock(), 0
    sound = {name: getattr(SystemCalls, name) for name in _CALLS}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(self: SystemCalls, *arguments: Any, **named: Any) -> Any:
            nonlocal count
            with lock:
                count += 1
                number = count
            fault(number)
            return sound[name](self, *arguments, **named)

        return call

    for name in _CALLS:
        setattr(SystemCalls, name, wrapped(name))
    try:
        yield
    finally:
        for name, method in sound.items():
            setattr(SystemCalls, name, method)


def convert_to(prefix: str) -> Callable[[Path, Path], None]:
    return lambda shelf, target: _raise_none(api.convert(sorted(shelf.iterdir()), f"{prefix}{target}"))


def _raise_none(outcome: api.Outcome) -> None:
    assert outcome.exit_code == 0, outcome.report.failures


def batch_into(shelf: Path, target: Path) -> None:
    """With workers that are threads, so that the fault reaches them."""
    options = ConvertOptions(jobs=2, exact_sizes=True)
    request = BatchRequest(target=str(target), options=options, locations=[str(shelf)], executor="threads")
    run_batch(request, SilentProgress()).close()


KINDS: Final[dict[str, Callable[[Path, Path], None]]] = {
    "layout": convert_to("oci:"),
    "registry-storage": convert_to("registry-storage:"),
    "oci-archive": convert_to("oci-archive:"),
    "docker-archive": convert_to("docker-archive:"),
    "batch": batch_into,
}


def write_shelf(folder: Path) -> Path:
    """Two archives: two layers in common, three names, one of which both claim."""
    folder.mkdir()
    (folder / "a.tar").write_bytes(archive("app"))
    (folder / "b.tar").write_bytes(archive("app", 1, created="2015-01-01T00:00:00Z"))
    return folder


def images_of(target: Path) -> dict[str, bytes]:
    """All that a target is, but for our state, the report with its times and the map."""
    if target.is_file():
        return {"": target.read_bytes()}
    return {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in sorted(target.rglob("*"))
        if path.is_file()
        and ".migrate" not in path.parts
        and path.name not in ("migration-report.json", "migration-map.json")
    }


def is_clean(target: Path) -> bool:
    if not target.exists() or (target.is_dir() and not os.listdir(target)):
        return True
    return verify(str(target), 1, SilentProgress()) == []


@dataclass
class Tally:
    calls: int = 0
    tries: int = 0
    silent: int = 0


def try_calls(kind: str, fault: int | None, place: Path, step: int = 1, first: int = 1) -> Tally:
    """An error of that number, or a kill (None), at each `step`-th call and all that follow it."""
    convert = KINDS[kind]
    shelf = write_shelf(place / "shelf")
    tally = Tally()

    def count(number: int) -> None:
        tally.calls = max(tally.calls, number)

    with every_call(count):
        convert(shelf, place / "sound")
    expected = images_of(place / "sound")
    for at in range(first, tally.calls + 1, step):
        folder = place / "tries" / str(at)
        folder.mkdir(parents=True)
        target = folder / "target"
        where = f"{kind}, {'kill' if fault is None else errno.errorcode[fault]} at call {at}"
        if fault is None:
            _killed(convert, shelf, target, at)
        else:
            is_silent = _refused(convert, shelf, target, at, fault, where)
            assert not is_silent or images_of(target) == expected, f"{where}: nobody was told"
            tally.silent += is_silent
        assert is_clean(target), where
        convert(shelf, target)
        assert images_of(target) == expected, f"{where}: completed to something else"
        assert is_clean(target), where
        assert os.listdir(folder) == ["target"], f"{where}: something stayed beside the target"
        tally.tries += 1
        shutil.rmtree(folder)
    return tally


def _refused(convert: Any, shelf: Path, target: Path, at: int, number: int, where: str) -> bool:
    """True where nobody was told, which is right where only leftovers stay."""

    def fault(count: int) -> None:
        if count >= at:
            raise OSError(number, os.strerror(number))

    try:
        with every_call(fault):
            convert(shelf, target)
    except TargetError as exc:
        assert exc.exit_code == 5, where
        assert os.strerror(number) in exc.message, where
        return False
    except MigrateError as exc:
        raise AssertionError(f"{where}: {exc.message}") from exc
    return True


def _killed(convert: Any, shelf: Path, target: Path, at: int) -> None:
    def fault(count: int) -> None:
        if count >= at:
            os._exit(KILLED)

    pid = os.fork()
    if pid == 0:
        try:
            with every_call(fault):
                convert(shelf, target)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), f"ended with {code} at call {at}"
