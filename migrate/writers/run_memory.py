"""A record of runs, so that a run which would change nothing in the target only writes the report with the new time.

`.migrate/runs` has one line for each run: its key (`convert.repeat`), the state of all files of the target except the
report, the state of the report, and the beginning of a sha256 over these three. A state is the sum of the sha256 of the
name and version of each file (inode, size, mtime and ctime in nanoseconds, or ETag), which does not depend on the order
of the files. If a file was added, removed, replaced or changed, the state differs, and the run is done in full.
docs/decisions/0004-hints-are-proven.md lists the changes that are not noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from typing import Final

from migrate.blobio.limits import REPORT_BYTES
from migrate.errors import TargetError
from migrate.layout.names import REPORT_NAME
from migrate.storage.store import STATE_DIRECTORY, Store, is_url
from migrate.storage.syscalls import SYSTEM_CALLS, SystemCalls
from migrate.writers.proofs import RecordFile
from migrate.writers.target_memory import LAYERS
from migrate.writers.target_store import open_store

RUNS: Final = f"{STATE_DIRECTORY}/runs"
_LINE: Final = rb"(?m)^([0-9a-f]{64} [0-9a-f]{64} [0-9a-f]{64}) ([0-9a-f]{16})$"
_DATES: Final = rb'(\n  "started": ")[^"\n]*(",\n  "finished": ")[^"\n]*(")'
_SUMS: Final = 1 << 256

IsProven = Callable[[str, int, str], bool]
"""(name, bytes, version) of a file of the target → whether this version is known to have the right bytes."""


def dated(report: bytes, started: str, finished: str) -> bytes:
    """The report with other times."""
    times = rb"\g<1>%s\g<2>%s\g<3>" % (started.encode("ascii"), finished.encode("ascii"))
    return re.sub(_DATES, times, report, count=1)


class RunMemory:
    """The record in one layout. All methods must be called under the lock of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def state(self, is_proven: IsProven | None = None) -> str | None:
        """The state of all files except the report and the records in `.migrate` that do not influence a result. None
        if a file has no version, has no proof, or was removed meanwhile."""
        try:
            total = 0
            for name, size, version in self._store.iter_versions():
                if name == REPORT_NAME or (name.startswith(f"{STATE_DIRECTORY}/") and not name.startswith(LAYERS)):
                    continue
                if version is None or (is_proven is not None and not is_proven(name, size, version)):
                    return None
                sentence = f"{name} {size} {version}".encode("utf-8", "surrogateescape")
                total += int.from_bytes(hashlib.sha256(sentence).digest())
            return f"{total % _SUMS:064x}"
        except TargetError:
            return None

    def note(self, key: str, state: str) -> None:
        """Records a run that has left this state. Errors are ignored: without the line, the run is done in full."""
        report = self._report_state()
        if report is not None:
            line = f"{key} {state} {report}".encode("ascii")
            record = self._record()
            with contextlib.suppress(TargetError):
                record.append(line + b" " + _check(line) + b"\n")
                record.close()

    def repeat(self, key: str, started: str, finish: Callable[[], str]) -> bytes | None:
        """Writes the report of a run that would change nothing, and returns it; None if the run has to be done."""
        ends = [
            line.decode("ascii").partition(" ")[2]
            for line, check in re.findall(_LINE, self._record().read())
            if check == _check(line) and line.startswith(key.encode("ascii"))
        ]
        # The state of a large target takes long, so it is computed only if the run is known.
        state = self.state() if ends else None
        state = state if f"{state} {self._report_state()}" in ends else None
        raw = None if state is None else self._store.read(REPORT_NAME, REPORT_BYTES)
        if state is None or raw is None:
            return None
        report = dated(raw, started, finish())
        # The report changes, and its state is part of the line, so the run is recorded again below.
        with self._store.new_file() as file:
            file.write(report)
            file.publish(REPORT_NAME)
        self._store.flush()
        self.note(key, state)
        return report

    def _report_state(self) -> str | None:
        version = self._store.version(REPORT_NAME)
        return None if version is None else hashlib.sha256(version.encode("ascii", "replace")).hexdigest()

    def _record(self) -> RecordFile:
        return RecordFile(self._store, RUNS, private=True)


def repeat_run(
    location: str, key: str, started: str, finish: Callable[[], str], files: SystemCalls = SYSTEM_CALLS
) -> bytes | None:
    """The report of a run on the layout at `location`, a path or URL, if an earlier run with the same key left the
    target as it is. None if the run has to be done; nothing is created or written then. Raises TargetError."""
    if not is_url(location) and not os.path.isfile(os.path.join(location, RUNS)):
        return None
    store = open_store(location, "an OCI layout", files)
    try:
        with store.lock():
            return RunMemory(store).repeat(key, started, finish)
    finally:
        store.close()


def _check(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:16].encode("ascii")
