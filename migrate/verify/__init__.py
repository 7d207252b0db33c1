"""Verification of a target: reads it again and recomputes every digest, size and diffID from its bytes.

No number is used because a document has it. The name of a blob is compared with its sha256, and the diffID of a layer
with the sha256 of its uncompressed bytes.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from migrate.blobio.limits import CATALOG_BYTES, REPORT_BYTES
from migrate.errors import SourceUnreadableError, UnrecognisedSourceError
from migrate.layout.names import ARCHIVE_MANIFEST, INDEX, MAP_NAME, REPORT_NAME, local_path
from migrate.model.progress import Event, Progress
from migrate.storage.run_directory import NO_LOCKS
from migrate.storage.store import STATE_DIRECTORY
from migrate.verify.archive import verify_archive
from migrate.verify.files import DirectoryFiles, Files, TarFiles, read_plain
from migrate.verify.findings import Finding, Findings, Verification
from migrate.verify.layout import verify_layout
from migrate.verify.map_check import read_kept
from migrate.verify.registry import REGISTRY_ROOT, verify_registry

__all__ = ["Finding", "Verification", "examine", "verify"]

LIVE: Final = "another run is using the target; it is read again, and that run waits before it changes a document"
_STARTED = frozenset({"blobs", STATE_DIRECTORY, "lost+found"})
"""What a run that was killed right after its start may leave of a layout. `.migrate` is created first."""

_STARTED_REGISTRY = frozenset({REGISTRY_ROOT[0], STATE_DIRECTORY})
"""The same for the storage of a registry, whose folders have no file then."""


def verify(location: str, jobs: int, progress: Progress) -> list[Finding]:
    """The mismatches in a target; empty if it is clean. Raises as `examine` does."""
    return examine(location, jobs, progress).findings


def examine(location: str, jobs: int, progress: Progress) -> Verification:
    """Every mismatch in the target at `location`, in the order of its files, and harmless irregularities.

    The target is an OCI layout or registry storage in a directory, or an oci-archive or docker-archive in a file. It is
    recognised by its content; a prefix as in `convert` is allowed. Irregularities that damage no image (leftovers of a
    killed run, blobs that no image needs) are emitted as `warning` events, too. Raises SourceUnreadableError if it
    cannot be opened, and UnrecognisedSourceError for anything else.
    """
    path = local_path(location)
    path = path.rstrip("/") or path[:1] or "."
    findings = Findings(progress)
    before = _state_of(path)
    _read(path, findings, jobs)
    # A run that changes the target meanwhile can cause findings: documents of one moment are compared with blobs of
    # another. Then it is read again under the lock of runs.
    if findings.found and (before != _state_of(path) or not _is_quiet(path)):
        progress.emit(Event(kind="notice", message=LIVE))
        with _run_lock(path) as fd:  # runs change documents and remove blobs only while they have this lock
            if fd is not None:
                _flock(fd, fcntl.LOCK_SH)
            findings.restart()
            _read(path, findings, jobs)
    return findings.verification()


def _read(path: str, findings: Findings, jobs: int) -> None:
    try:
        files = _open(path)
    except OSError as exc:
        raise SourceUnreadableError(f"{path}: {exc.strerror}") from exc
    try:
        _verify_kind(path, files, findings, jobs)
    finally:
        files.close()


# --- beside a run ------------------------------------------------------------------------------------------------


def _is_quiet(path: str) -> bool:
    """False while a run is replacing documents of the target."""
    with _run_lock(path) as fd:
        return fd is None or _flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextmanager
def _run_lock(path: str) -> Iterator[int | None]:
    """A descriptor of the lock file of the target's runs, or None if no run has created one. Nothing is written."""
    try:
        fd = os.open(
            os.path.join(path, STATE_DIRECTORY, "lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        yield None
        return
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _flock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno not in NO_LOCKS:  # a file system without locks, such as some NFS
            raise
    return True


def _state_of(path: str) -> object:
    """Names and times of the target. Two states differ if a run has changed the target in between."""
    if not os.path.isdir(path):
        return None
    files = _open(path)
    try:
        names = dict(files.names())
    finally:
        files.close()
    documents = (os.path.join(path, name) for name in (INDEX, ARCHIVE_MANIFEST, MAP_NAME, REPORT_NAME))
    return names, [os.lstat(document).st_mtime_ns for document in documents if os.path.exists(document)]


def _open(path: str) -> Files:
    if not os.path.isdir(path):
        return TarFiles(path)
    for root in (path, *(os.path.join(path, *REGISTRY_ROOT[depth:]) for depth in (2, 1, 0))):
        repositories, blobs, layout = (os.path.join(root, name) for name in ("repositories", "blobs", "oci-layout"))
        if os.path.isdir(repositories) and os.path.isdir(blobs) and not os.path.exists(layout):
            return DirectoryFiles(root)
    return DirectoryFiles(path)


def _verify_kind(path: str, files: Files, findings: Findings, jobs: int) -> None:
    names, problems = files.names(), files.problems()
    tops = {name.partition("/")[0] for name in names} | files.directories()
    present = tops | {problem.where for problem in problems}
    started = STATE_DIRECTORY in tops and tops <= _STARTED and os.path.isdir(path)
    kind: Callable[[Files, Findings, int], None] | None = None
    if "oci-layout" in present or "index.json" in present or started:
        kind = verify_layout
    elif "manifest.json" in names:
        kind = verify_archive
    elif ("repositories" in present and "blobs" in present) or (not names and tops == _STARTED_REGISTRY):
        documents = (
            read_plain(os.path.join(path, MAP_NAME), CATALOG_BYTES),
            read_plain(os.path.join(path, REPORT_NAME), REPORT_BYTES),
        )
        kind = partial(verify_registry, kept=read_kept(*documents, findings))
    if kind is not None or not os.path.isdir(path):  # in a directory that is not a target, links are not findings
        for problem in problems:
            findings.add(problem.where, problem.message)
    if kind is not None:
        kind(files, findings, jobs)
    elif findings.found:
        return
    elif not present:
        raise UnrecognisedSourceError(f"{path}: nothing to verify: it is empty")
    else:
        raise UnrecognisedSourceError(
            f"{path}: no OCI layout, docker archive or registry storage of schema-2 images (verify checks targets;"
            " `migrate inspect` lists the images of a source)"
        )
