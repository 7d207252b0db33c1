"""Checks each worker of a cluster before it gets a task: versions, access to the sources, and the shared target.

A worker without a mount would fail every archive that it gets, and a worker with another directory at the path of the
target would write the images there. The error names the worker before the first archive is read.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Final

from msgspec import Struct

from migrate import __version__
from migrate.batch.plan import Candidate, Task
from migrate.batch.targets import layout_location
from migrate.batch.task import WorkOrder
from migrate.batch.waits import read_byte
from migrate.blobio.limits import SMALL_FILE_BYTES
from migrate.errors import MigrateError, TargetError, UsageError
from migrate.storage.store import STATE_DIRECTORY
from migrate.writers.target_store import open_store

SAMPLES: Final = 8
"""Number of sources of which each worker reads a byte."""
_SAME: Final = ("deflate", "isal", "orjson")
"""Packages whose version may change the bytes that are written."""
_MARK: Final = "preflight-"


class WorkerReport(Struct, frozen=True, kw_only=True):
    """The result of the checks on one worker. `unreadable` and `target` are reasons, or None if the check succeeded."""

    versions: Mapping[str, str]
    unreadable: str | None
    target: str | None


def examine_worker(order: WorkOrder, samples: Sequence[str], mark: str) -> WorkerReport:
    """Runs on the worker: reads a byte of each sample, and writes `mark` into the target."""
    refused: str | None = None
    try:
        if order.target is not None:
            with closing(open_store(layout_location(order.target), "layout")) as store:
                store.put_now(_mark_name(mark), mark.encode("ascii"))
    except MigrateError as error:
        refused = error.message
    return WorkerReport(versions=versions(), unreadable=_unreadable(samples), target=refused)


def versions() -> dict[str, str]:
    """Versions of this program, of Python, and of the packages that compress and encode."""
    found = {"migrate": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}
    for name in _SAME:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def samples_of(tasks: Sequence[Task]) -> list[str]:
    """Some sources of a run, evenly chosen. Sources that cannot be read on this machine, either, are left out, such as
    dangling links: they are no fault of a worker."""
    candidates: list[Candidate] = [candidate for task in tasks for candidate in task.sources if candidate.unfit is None]
    step = max(1, len(candidates) // SAMPLES)
    some = [candidate.location for candidate in candidates[::step]][:SAMPLES]
    return [location for location in some if _unreadable([location]) is None]


def check_loads(reports: Mapping[str, object]) -> None:
    """`reports` by worker: None, or the error from loading this package. Raises UsageError for the first error."""
    for worker, report in sorted(reports.items()):
        if isinstance(report, TimeoutError):
            raise UsageError(
                f"worker {worker}: takes no task: it has stopped, or Dask has paused it at its memory limit; end it, or"
                " give it more memory"
            )
        if report is not None:
            raise UsageError(f"worker {worker}: cannot load this package ({report}); install {__version__} there")


def check_reports(order: WorkOrder, reports: Mapping[str, object], marks: Mapping[str, str]) -> None:
    """`reports` by worker: a WorkerReport, or the exception of the worker. `marks` are by worker, too.

    Raises UsageError for the first worker that cannot work, and TargetError for one that writes to another target.
    """
    own = versions()
    for worker, report in sorted(reports.items()):
        if not isinstance(report, WorkerReport):
            raise UsageError(f"worker {worker}: cannot work: {type(report).__name__}: {report}")
        check_report(worker, report, own)
        check_mark(order, worker, marks[worker])


def check_report(worker: str, report: WorkerReport, own: Mapping[str, str]) -> None:
    """`own` are the versions of the command. Raises UsageError and TargetError."""
    for name, version in own.items():
        if report.versions.get(name) != version:
            there = report.versions.get(name, "not installed")
            raise UsageError(
                f"worker {worker}: has {name} {there}, and the command has {version}; the result would depend on which"
                " of them did the work: install the same everywhere"
            )
    if report.unreadable is not None:
        raise UsageError(f"worker {worker}: cannot read the sources: {report.unreadable}")
    if report.target is not None:
        raise TargetError(f"worker {worker}: cannot write into the target: {report.target}")


def check_mark(order: WorkOrder, worker: str, mark: str) -> None:
    """Raises TargetError if the mark that `worker` has written is not in the target. Removes the mark."""
    if order.target is None:
        return
    name = _mark_name(mark)
    with closing(open_store(layout_location(order.target), "layout")) as store:
        found = store.read(name, SMALL_FILE_BYTES)
        store.remove([name])
    if found != mark.encode("ascii"):
        raise TargetError(
            f"worker {worker}: writes into {order.target}, but nothing of that is to be seen here; the target has to be"
            " one directory that all workers share, or a bucket"
        )


def remove_marks(order: WorkOrder) -> None:
    """Removes the marks of this run that are left at its end, from tasks whose results were not read. Other runs have
    marks of their own."""
    if order.target is None:
        return
    with closing(open_store(layout_location(order.target), "layout")) as store:
        left = [name for name in store.names(STATE_DIRECTORY) if name.startswith(f"{_MARK}{order.run}-")]
        store.remove([f"{STATE_DIRECTORY}/{name}" for name in left])


def _unreadable(samples: Sequence[str]) -> str | None:
    for location in samples:
        try:
            read_byte(location)
        except OSError as error:
            return f"{location}: {error.strerror or error}"
        except Exception as error:  # noqa: BLE001 - each fsspec file system has errors of its own
            return f"{location}: {type(error).__name__}: {error}"
    return None


def _mark_name(mark: str) -> str:
    return f"{STATE_DIRECTORY}/{_MARK}{mark}"
