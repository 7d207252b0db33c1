"""`.migrate/payloads`: what places in sources held, as earlier runs read them (`migrate.rehash.recall`).

One line each: the place (64 hex digits), what it held, and the beginning of a sha256 over both, so that a torn or
damaged line is none. Lines are appended some dozens at a time; those of a killed run's last moments are lost, which
costs reading those layers again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from typing import Final

from migrate.storage.run_directory import STATE_DIRECTORY
from migrate.storage.staging import StagingArea, target_error, write_all

PATH: Final = f"{STATE_DIRECTORY}/payloads"
_LINE: Final = re.compile(rb"^([0-9a-f]{64}) ([ -~]{1,400}) ([0-9a-f]{16})$", re.MULTILINE)
_RECORD_BYTES: Final = 1024 * 1024 * 1024
"""Three million layers; what lies beyond is not read."""
_LINES: Final = 64


class PayloadRecord:
    """Fills RemembersPayloads for a target on a file system."""

    def __init__(self, area: StagingArea) -> None:
        self._area = area
        self._known: dict[bytes, bytes] | None = None
        self._waiting: list[bytes] = []
        self._fd = -1
        self._lock = threading.Lock()

    def known_payload(self, place: str, /) -> bytes | None:
        with self._lock:
            return self._read_once().get(place.encode("ascii"))

    def remember_payload(self, place: str, facts: bytes, /) -> None:
        key = place.encode("ascii")
        with self._lock:
            known = self._read_once()
            if known.get(key) == facts:
                return
            known[key] = facts
            self._waiting.append(b"%s %s %s\n" % (key, facts, _check(key, facts)))
            if len(self._waiting) >= _LINES:
                self._write()

    def close(self) -> None:
        """Writes what is waiting; a target that takes no more loses it in silence, for nothing depends on it."""
        with self._lock, contextlib.suppress(Exception):
            if self._waiting and not self._area.failed:
                self._write()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self) -> None:
        files = self._area.files
        lines, self._waiting = b"\n" + b"".join(self._waiting), []  # a killed run may have left half a line
        try:
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fd = files.open(PATH, flags, self._area.root_fd)
            write_all(files, self._fd, lines)
        except OSError as exc:
            raise target_error(exc, f"{self._area.root}/{PATH}") from exc

    def _read_once(self) -> dict[bytes, bytes]:
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError):
                fd = os.open(PATH, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._area.root_fd)
                with os.fdopen(fd, "rb") as stream:
                    content = stream.read(_RECORD_BYTES)
                for match in _LINE.finditer(content):
                    key, facts, check = match.groups()
                    if check == _check(key, facts):
                        self._known[key] = facts
        return self._known


def _check(key: bytes, facts: bytes) -> bytes:
    return hashlib.sha256(key + b" " + facts).hexdigest()[:16].encode("ascii")
