"""The runs that left a target as it is: repeating one of them has nothing to do but to date the report anew.

`.migrate/runs` has a line a run: its key (`convert.repeat`), the state of all files of the target but for the report,
that of the report, and the beginning of a sha256 over the three. A state is a sum of sha256 over the name and the
version of each file (inode, size, mtime and ctime in nanoseconds, or ETag), so that files may come in any order. A
target of which one file is another, or changed, or more or less, has another state, and the run is done as if nothing
was known. docs/decisions/0004-hints-are-proven.md lists what is not noticed.
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
from migrate.storage.bucket import is_url
from migrate.storage.store import STATE_DIRECTORY, Store
from migrate.storage.syscalls import SYSTEM_CALLS, SystemCalls
from migrate.writers.proofs import RecordFile
from migrate.writers.target_memory import LAYERS
from migrate.writers.target_store import open_store

RUNS: Final = f"{STATE_DIRECTORY}/runs"
_LINE: Final = re.compile(rb"^([0-9a-f]{64} [0-9a-f]{64} [0-9a-f]{64}) ([0-9a-f]{16})$", re.MULTILINE)
_DATES: Final = re.compile(rb'(\n  "started": ")[^"\n]*(",\n  "finished": ")[^"\n]*(")')
_SUMS: Final = 1 << 256

IsProven = Callable[[str, int, str], bool]
"""(name, bytes, version) of a file of the target: whether this version of it is known to hold what it should."""


def dated(report: bytes, started: str, finished: str) -> bytes:
    """The report of the same run at another time."""
    return _DATES.sub(rb"\g<1>%s\g<2>%s\g<3>" % (started.encode("ascii"), finished.encode("ascii")), report, count=1)


class RunMemory:
    """Of a layout in a store. All of it is to be called under the store's lock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def state(self, is_proven: IsProven | None = None) -> str | None:
        """Of all files but the report, and the records of `.migrate` that decide nothing. None where a file could
        change unseen, or is not proven, or has gone meanwhile."""
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
        """The run has ended, and left this state. In silence where that cannot be written: nothing depends on it."""
        report = self._report_state()
        if report is not None:
            line = f"{key} {state} {report}".encode("ascii")
            record = self._record()
            with contextlib.suppress(TargetError):
                record.append(line + b" " + _check(line) + b"\n")
                record.close()

    def repeat(self, key: str, started: str, finish: Callable[[], str]) -> bytes | None:
        """Writes the report of a run that would change nothing, and returns it; None where the run has to be done."""
        ends = [
            line.decode("ascii").partition(" ")[2]
            for line, check in _LINE.findall(self._record().read())
            if check == _check(line) and line.startswith(key.encode("ascii"))
        ]
        state = self.state() if ends else None
        state = state if f"{state} {self._report_state()}" in ends else None
        raw = None if state is None else self._store.read(REPORT_NAME, REPORT_BYTES)
        if state is None or raw is None:
            return None
        report = dated(raw, started, finish())
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
    """The report of a run on the layout at `location`, a path or URL, if an earlier run with the same key left
    everything as it would. None, and nothing is made or written, where the run has to be done. Raises TargetError."""
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
