"""Uploads blobs: small ones in one request, others in chunks. After a failure the upload continues at the registry's
offset."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Final

from migrate.distribution.authorization import Scope
from migrate.distribution.retries import ATTEMPTS, RETRIED
from migrate.distribution.session import RegistryAnswerError, RegistrySession, quoted
from migrate.model.digest import Digest

if TYPE_CHECKING:
    import httpx

CHUNK_BYTES: Final = 32 * 1024 * 1024
"""Blobs up to this size are sent in one request, larger ones in chunks of it."""
_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")


class BlobUpload:
    """The upload of one blob into one repository. `holds_blob` checks whether the registry has it."""

    def __init__(
        self, session: RegistrySession, repository: str, digest: Digest, size: int, holds_blob: Callable[[], bool]
    ) -> None:
        self._session = session
        self._repository = repository
        self._digest = digest
        self._size = size
        self._holds_blob = holds_blob
        self._scope: Scope = (repository, "push")

    def send(self, source: IO[bytes], location: str | None = None) -> None:
        """Uploads the blob. `location`: of an upload that has begun already. Raises RegistryAnswerError."""
        self._session.traffic.add(uploads=1)
        if self._size <= CHUNK_BYTES:
            self._send_at_once(source, location)
        else:
            self._send_in_chunks(source, location)

    def _send_at_once(self, source: IO[bytes], location: str | None) -> None:
        answer: httpx.Response | None = None
        for attempt in range(ATTEMPTS):
            url = self._with_digest(location or self._begin())
            location = None
            answer = self._session.send_part("PUT", url, self._scope, source, 0, self._size)
            if answer is not None and answer.status_code in (200, 201, 202, 204):
                self._session.traffic.add(blob_bytes=self._size)
                return
            self._check_again(answer, url, attempt, (404,))
            if answer is None and self._holds_blob():  # the blob has arrived, and only the answer was lost
                self._session.traffic.add(blob_bytes=self._size)
                return
            self._session.traffic.add(repeated_bytes=self._size)
        raise self._gave_up(answer)

    def _send_in_chunks(self, source: IO[bytes], location: str | None) -> None:
        location = location or self._begin()
        offset = furthest = attempt = 0
        while offset < self._size:
            count = min(CHUNK_BYTES, self._size - offset)
            answer = self._session.send_part("PATCH", location, self._scope, source, offset, count)
            if answer is not None and answer.status_code in (201, 202, 204):
                self._session.traffic.add(blob_bytes=count)
                location, offset = self._session.location(answer), offset + count
                # Only new progress resets the attempts: a registry that loses its uploads accepts the first chunk each
                # time.
                if offset > furthest:
                    furthest, attempt = offset, 0
                continue
            self._check_again(answer, location, attempt, (404, 416))
            attempt += 1
            if attempt >= ATTEMPTS:
                raise self._gave_up(answer)
            # The registry's own count is used: a chunk may have been stored although its answer was lost.
            location, arrived = self._where_it_stopped(location)
            kept = max(0, min(arrived, offset + count) - offset)
            self._session.traffic.add(blob_bytes=kept, repeated_bytes=count - kept)
            offset = min(arrived, offset + count)
        url = self._with_digest(location)
        answer = self._session.send("PUT", url, self._scope, accept=(200, 201, 202, 204, 404), body=b"")
        if answer.status_code == 404 and not self._holds_blob():
            raise RegistryAnswerError(
                f"{self._session.host}/{self._repository}: blob {self._digest}: its upload was lost", status=404
            )

    def _begin(self) -> str:
        path = f"/v2/{self._repository}/blobs/uploads/"
        return self._session.location(self._session.send("POST", path, self._scope, accept=(202,)))

    def _where_it_stopped(self, location: str) -> tuple[str, int]:
        """(location, number of bytes that have arrived) of an upload. If the upload is lost, a new one is begun."""
        answer = self._session.send("GET", location, self._scope, accept=(200, 202, 204, 404))
        if answer.status_code == 404:
            return self._begin(), 0
        found = _RANGE.fullmatch(answer.headers.get("Range", ""))
        last = int(found[1]) if found else 0
        # "0-0" is sent both for no bytes and for one byte.
        return self._session.location(answer, location), last + 1 if last else 0

    def _check_again(self, answer: httpx.Response | None, url: str, attempt: int, also: tuple[int, ...]) -> None:
        """Waits before another attempt, or raises an error if none can help."""
        if answer is not None and answer.status_code not in RETRIED | {401, *also}:
            raise self._session.refused(answer, url)
        self._session.pause(answer, attempt)

    def _with_digest(self, location: str) -> str:
        return f"{location}{'&' if '?' in location else '?'}digest={quoted(str(self._digest))}"

    def _gave_up(self, last: httpx.Response | None) -> RegistryAnswerError:
        reason = f"{last.status_code} {last.reason_phrase}" if last is not None else "the connection broke"
        return RegistryAnswerError(
            f"{self._session.host}/{self._repository}: blob {self._digest}: failed after {ATTEMPTS} attempts: {reason}"
        )
