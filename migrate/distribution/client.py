"""The distribution protocol over HTTP: the only module that talks to a registry.

Source: distribution 2.8 `docs/spec/api.md` and the OCI distribution specification 1.1. Answers 429 and 5xx and broken
connections are tried again, after growing pauses or when `Retry-After` says. A blob's upload goes on where the registry
says it stopped. What was sent is counted.
"""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal, cast
from urllib.parse import quote, urlsplit

from migrate import __version__
from migrate.blobio.limits import JSON_BYTES
from migrate.distribution.authorization import Authorizer
from migrate.distribution.credentials import find_credentials
from migrate.distribution.download import BlobDownload
from migrate.documents.json_text import load_json
from migrate.errors import LimitError, MigrateError, SourceError, UsageError
from migrate.model.digest import Digest
from migrate.model.image import MediaType

try:
    import httpx
except ImportError:  # the extra [registry] is not installed; open_client says so
    httpx = None  # type: ignore[assignment]

CHUNK_BYTES: Final = 32 * 1024 * 1024
"""Blobs up to this size go in one request; larger ones in pieces of it."""
ATTEMPTS: Final = 7
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before the second, third, … attempt."""
_LONGEST_PAUSE: Final = 120.0
_BLOCK: Final = 1024 * 1024
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MANIFEST_TYPES: Final = (
    MediaType.DOCKER_LIST,
    MediaType.DOCKER_MANIFEST,
    MediaType.OCI_INDEX,
    MediaType.OCI_MANIFEST,
    MediaType.SCHEMA1_SIGNED,
    MediaType.SCHEMA1,
)
_PAGE: Final = 1000
_PAGES: Final = 10_000
_CERTIFICATES: Final = ("/etc/docker/certs.d", "~/.docker/certs.d")
_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_NEXT: Final = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')

Access = Literal["pull", "push"]
Sleep = Callable[[float], object]


class RegistryAnswerError(SourceError):
    """The registry refused, failed for good, or could not be reached. `status` is None for the last."""

    code = "registry"

    def __init__(self, message: str, *, layer: str | None = None, status: int | None = None) -> None:
        super().__init__(message, layer=layer)
        self.status = status


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """`digest` is the registry's word; the caller compares it with the content."""

    content: bytes
    media_type: str
    digest: Digest | None


@dataclass(slots=True)
class Traffic:
    """What was sent. `blob_bytes` counts bodies that arrived, `repeated_bytes` those that had to be sent again."""

    requests: int = 0
    blob_bytes: int = 0
    repeated_bytes: int = 0
    manifest_bytes: int = 0
    uploads: int = 0
    mounts: int = 0
    skipped: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


def open_client(host: str, *, insecure: bool = False, sleep: Sleep = time.sleep) -> RegistryClient:
    """A client for `host[:port]`, which is asked at once which scheme it speaks.

    HTTPS, with the system's certificates and those of `/etc/docker/certs.d/HOST/`. Plain HTTP only for loopback, or
    where `insecure` allows it, which also takes any certificate. Raises UsageError, RegistryAnswerError.
    """
    if httpx is None:
        raise UsageError(f"docker://{host}: needs httpx: pip install 'docker-legacy-migrate[registry]'")
    schemes = ("https", "http") if insecure or _is_loopback(host) else ("https",)
    failures = []
    for scheme in schemes:
        http = httpx.Client(
            base_url=f"{scheme}://{host}",
            verify=_certificates(host, insecure),
            timeout=httpx.Timeout(120, connect=15),
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=32),
            headers={"User-Agent": f"docker-legacy-migrate/{__version__}", "Accept-Encoding": "identity"},
        )
        client = RegistryClient(host, http, insecure=insecure, sleep=sleep)
        try:
            client.ping(attempts=1 if scheme == "https" and len(schemes) > 1 else ATTEMPTS)
        except RegistryAnswerError as exc:
            client.close()
            failures.append(exc.message)
            if exc.status is not None:
                raise
        else:
            return client
    raise RegistryAnswerError(f"{host}: cannot be reached: {'; '.join(failures)}")


class RegistryClient:
    """One registry. Every method may be called from several threads; raises RegistryAnswerError."""

    def __init__(self, host: str, http: httpx.Client, *, insecure: bool = False, sleep: Sleep = time.sleep) -> None:
        self.host = host
        self.traffic = Traffic()
        self._http = http
        self._sleep = sleep
        self._authorizer = Authorizer(http, lambda: find_credentials(host), insecure=insecure)

    def ping(self, attempts: int = ATTEMPTS) -> None:
        """Learns whether this is a registry. An answer that asks who we are is a good answer."""
        answer = self._send("GET", "/v2/", None, accept=(200, 401), attempts=attempts, authorize=False)
        if answer.status_code == 401:
            self._authorizer.challenged(answer.headers)

    # --- reading -------------------------------------------------------------------------------------------------

    def manifest_digest(self, repository: str, reference: str, access: Access = "pull") -> Digest | None:
        """What the registry holds under a tag or digest; None if nothing."""
        path = f"/v2/{repository}/manifests/{_quoted(reference)}"
        scope = (repository, access)
        answer = self._send("HEAD", path, scope, accept=(200, 404), headers={"Accept": ", ".join(_MANIFEST_TYPES)})
        return _digest_or_none(answer.headers.get("Docker-Content-Digest")) if answer.status_code == 200 else None

    def manifest(self, repository: str, reference: str) -> FetchedManifest:
        path = f"/v2/{repository}/manifests/{_quoted(reference)}"
        headers = {"Accept": ", ".join(_MANIFEST_TYPES)}
        answer = self._send("GET", path, (repository, "pull"), headers=headers, stream=True)
        content = self._read_limited(answer, path)
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return FetchedManifest(content, media_type, _digest_or_none(answer.headers.get("Docker-Content-Digest")))

    def blob_size(self, repository: str, digest: Digest, access: Access = "pull") -> int | None:
        """Bytes of a blob that the repository may serve; None if it has none of that digest."""
        path = f"/v2/{repository}/blobs/{digest}"
        answer = self._send("HEAD", path, (repository, access), accept=(200, 404))
        return int(answer.headers.get("Content-Length", 0)) if answer.status_code == 200 else None

    def open_blob(self, repository: str, digest: Digest) -> BlobDownload:
        """The blob as a stream that goes on after a broken connection. The caller closes it, and checks the digest."""

        def request(offset: int) -> httpx.Response:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            accept = (206,) if offset else (200,)
            return self._send("GET", path, (repository, "pull"), accept=accept, headers=headers, stream=True)

        path = f"/v2/{repository}/blobs/{digest}"
        return BlobDownload(request, f"{self.host}: blob {digest}", self._sleep, _PAUSES)

    def read_blob(self, repository: str, digest: Digest, limit: int) -> bytes:
        with self.open_blob(repository, digest) as stream:
            content = bytearray()
            while block := stream.read(_BLOCK):
                content += block
                if len(content) > limit:
                    raise LimitError(f"{self.host}: blob {digest}: larger than the limit of {limit:,} bytes")
        return bytes(content)

    def tags(self, repository: str) -> list[str]:
        return sorted(self._pages(f"/v2/{repository}/tags/list?n={_PAGE}", (repository, "pull"), "tags"))

    def catalog(self) -> list[str]:
        """All repositories, where the registry tells."""
        return sorted(self._pages(f"/v2/_catalog?n={_PAGE}", ("", "pull"), "repositories"))

    def _pages(self, path: str, scope: tuple[str, Access], key: str) -> Iterator[str]:
        next_path: str | None = path
        for _ in range(_PAGES):
            if next_path is None:
                return
            answer = self._send("GET", next_path, scope, stream=True)
            document = load_json(self._read_limited(answer, path), f"{self.host}{path}")
            names = document.get(key) if isinstance(document, dict) else None
            yield from (name for name in names or () if isinstance(name, str))
            following = _NEXT.search(answer.headers.get("Link", ""))
            next_path = self._relative(following[1]) if following else None
        raise LimitError(f"{self.host}{path}: more than {_PAGES:,} pages")

    def _read_limited(self, answer: httpx.Response, path: str) -> bytes:
        content = bytearray()
        try:
            with contextlib.closing(answer):
                for block in answer.iter_bytes(_BLOCK):
                    content += block
                    if len(content) > JSON_BYTES:
                        raise LimitError(f"{self.host}{path}: larger than the limit of {JSON_BYTES:,} bytes")
        except httpx.HTTPError as exc:
            raise RegistryAnswerError(f"{self.host}{path}: {exc}") from exc
        return bytes(content)

    # --- writing -------------------------------------------------------------------------------------------------

    def put_manifest(self, repository: str, reference: str, content: bytes, media_type: str) -> None:
        path = f"/v2/{repository}/manifests/{_quoted(reference)}"
        headers = {"Content-Type": media_type}
        self._send("PUT", path, (repository, "push"), accept=(200, 201, 202), headers=headers, body=content)
        self.traffic.add(manifest_bytes=len(content))

    def mount_blob(self, repository: str, digest: Digest, origin: str) -> str | None:
        """None if the registry took the blob over from `origin`; else where to upload it."""
        path = f"/v2/{repository}/blobs/uploads/?mount={_quoted(str(digest))}&from={_quoted(origin)}"
        answer = self._send("POST", path, (repository, "push"), accept=(201, 202), also=(origin, "pull"))
        if answer.status_code == 201:
            self.traffic.add(mounts=1)
            return None
        return self._location(answer)

    def upload_blob(
        self,
        repository: str,
        digest: Digest,
        size: int,
        open_source: Callable[[], IO[bytes]],
        session: str | None = None,
    ) -> None:
        """Sends a blob: at once if it is small, else in chunks; goes on where the registry says it stopped."""
        self.traffic.add(uploads=1)
        with open_source() as source:
            if size <= CHUNK_BYTES:
                self._upload_at_once(repository, digest, size, source, session)
            else:
                self._upload_in_chunks(repository, digest, size, source, session)

    def _upload_at_once(
        self, repository: str, digest: Digest, size: int, source: IO[bytes], session: str | None
    ) -> None:
        for attempt in range(ATTEMPTS):
            location = session or self._start_upload(repository)
            session = None
            url = f"{location}{'&' if '?' in location else '?'}digest={_quoted(str(digest))}"
            answer = self._put_bytes("PUT", url, repository, source, 0, size)
            if answer is not None and answer.status_code in (200, 201, 202, 204):
                self.traffic.add(blob_bytes=size)
                return
            self.traffic.add(repeated_bytes=size)
            self._check_again(answer, url, attempt)
            if self.blob_size(repository, digest, "push") == size:
                return  # it had arrived; only the answer was lost
        raise RegistryAnswerError(f"{self.host}/{repository}: blob {digest}: gave up after {ATTEMPTS} attempts")

    def _upload_in_chunks(
        self, repository: str, digest: Digest, size: int, source: IO[bytes], session: str | None
    ) -> None:
        location = session or self._start_upload(repository)
        offset = attempt = 0
        while offset < size:
            count = min(CHUNK_BYTES, size - offset)
            answer = self._put_bytes("PATCH", location, repository, source, offset, count)
            if answer is not None and answer.status_code in (201, 202, 204):
                self.traffic.add(blob_bytes=count)
                location, offset, attempt = self._location(answer), offset + count, 0
                continue
            self._check_again(answer, location, attempt, and_also=(404, 416))
            attempt += 1
            if attempt >= ATTEMPTS:
                raise RegistryAnswerError(f"{self.host}/{repository}: blob {digest}: gave up after {attempt} attempts")
            location, arrived = self._where_it_stopped(repository, location)
            kept = max(0, min(arrived, offset + count) - offset)
            self.traffic.add(blob_bytes=kept, repeated_bytes=count - kept)
            offset = min(arrived, offset + count)
        self._finish_upload(repository, digest, size, location)

    def _finish_upload(self, repository: str, digest: Digest, size: int, location: str) -> None:
        url = f"{location}{'&' if '?' in location else '?'}digest={_quoted(str(digest))}"
        scope: tuple[str, Access] = (repository, "push")
        answer = self._send("PUT", url, scope, accept=(200, 201, 202, 204, 404), body=b"")
        if answer.status_code == 404 and self.blob_size(repository, digest, "push") != size:
            raise RegistryAnswerError(f"{self.host}/{repository}: blob {digest}: its upload was lost", status=404)

    def _start_upload(self, repository: str) -> str:
        path = f"/v2/{repository}/blobs/uploads/"
        return self._location(self._send("POST", path, (repository, "push"), accept=(202,)))

    def _where_it_stopped(self, repository: str, location: str) -> tuple[str, int]:
        """(location, bytes that have arrived) of an upload; a lost one begins anew."""
        answer = self._send("GET", location, (repository, "push"), accept=(200, 202, 204, 404))
        if answer.status_code == 404:
            return self._start_upload(repository), 0
        found = _RANGE.fullmatch(answer.headers.get("Range", ""))
        last = int(found[1]) if found else 0
        # "0-0" stands for nothing as well as for one byte.
        return self._location(answer, location), last + 1 if last else 0

    def _put_bytes(
        self, method: str, url: str, repository: str, source: IO[bytes], offset: int, count: int
    ) -> httpx.Response | None:
        """One request with a part of the file; None if the connection broke."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(count)}
        if method == "PATCH":
            headers["Content-Range"] = f"{offset}-{offset + count - 1}"
        headers |= self._authorizer.headers(url, (repository, "push"))
        self.traffic.add(requests=1)
        source.seek(offset)
        try:
            answer = self._http.request(method, url, content=_blocks(source, count), headers=headers)
        except httpx.TransportError:
            return None
        if answer.status_code == 401:
            self._authorizer.refresh(answer.headers, (repository, "push"))
        return answer

    def _check_again(
        self, answer: httpx.Response | None, url: str, attempt: int, and_also: tuple[int, ...] = (404,)
    ) -> None:
        """Pauses before another attempt, or raises if none can help."""
        if answer is not None and answer.status_code not in _RETRIED | {401, *and_also}:
            raise self._refused(answer, url)
        self._pause(answer, attempt)

    # --- one request ---------------------------------------------------------------------------------------------

    def _send(
        self,
        method: str,
        url: str,
        scope: tuple[str, Access] | None,
        *,
        accept: Sequence[int] = (200,),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        stream: bool = False,
        also: tuple[str, Access] | None = None,
        attempts: int = ATTEMPTS,
        authorize: bool = True,
    ) -> httpx.Response:
        """The answer, one of `accept`; asks again where that can help."""
        asked_who = 0
        last: httpx.Response | None = None
        broken: Exception | None = None
        attempt = 0
        while attempt < attempts:
            if attempt:
                self._pause(last, attempt - 1)
            sent = dict(headers or {})
            if authorize and scope is not None:
                sent |= self._authorizer.headers(url, scope, also)
            request = self._http.build_request(method, url, content=body, headers=sent)
            self.traffic.add(requests=1)
            try:
                last = self._http.send(request, stream=stream, follow_redirects=method in ("GET", "HEAD"))
                broken = None
                if last.status_code in accept:
                    return last
                if stream:
                    last.read()
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                last, broken = None, exc
                attempt += 1
                continue
            if last.status_code == 401 and scope is not None and authorize and asked_who < 2:
                asked_who += 1
                self._authorizer.refresh(last.headers, scope, also)
                continue
            if last.status_code not in _RETRIED:
                raise self._refused(last, url)
            attempt += 1
        if last is not None:
            raise self._refused(last, url)
        raise RegistryAnswerError(f"{self.host}: {method} {url}: {broken or 'no answer'}") from broken

    def _pause(self, answer: httpx.Response | None, attempt: int) -> None:
        wanted = _retry_after(answer.headers.get("Retry-After")) if answer is not None else None
        usual = _PAUSES[min(attempt, len(_PAUSES) - 1)]
        self._sleep(usual if wanted is None else min(wanted, _LONGEST_PAUSE))

    def _refused(self, answer: httpx.Response, url: str) -> RegistryAnswerError:
        reason = _errors_of(answer)
        path = urlsplit(url).path
        return RegistryAnswerError(
            f"{self.host}: {answer.request.method} {path}: {answer.status_code} {answer.reason_phrase}{reason}",
            status=answer.status_code,
        )

    def _location(self, answer: httpx.Response, default: str | None = None) -> str:
        location = answer.headers.get("Location", default)
        if not location:
            raise RegistryAnswerError(f"{self.host}: {answer.request.url.path}: the answer names no upload location")
        return self._relative(location)

    def _relative(self, location: str) -> str:
        """Registries behind a proxy may name themselves with the wrong scheme or port; another host stays another."""
        parts = urlsplit(location)
        if parts.netloc and parts.hostname != urlsplit(f"//{self.host}").hostname:
            return location
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def close(self) -> None:
        self._http.close()


# --- small pieces ------------------------------------------------------------------------------------------------


def _certificates(host: str, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for base in _CERTIFICATES:
        folder = Path(base).expanduser() / host
        with contextlib.suppress(OSError):
            for path in sorted(folder.glob("*.crt")):
                context.load_verify_locations(path)
            for path in sorted(folder.glob("*.cert")):
                context.load_cert_chain(path, path.with_suffix(".key"))
    return context


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _blocks(source: IO[bytes], count: int) -> Iterator[bytes]:
    while count:
        block = source.read(min(count, _BLOCK))
        if not block:
            raise RegistryAnswerError("a blob became shorter while it was sent")
        count -= len(block)
        yield block


def _quoted(text: str) -> str:
    return quote(text, safe=":@")


def _digest_or_none(text: str | None) -> Digest | None:
    try:
        return Digest.parse(text or "")
    except ValueError:
        return None


def _retry_after(text: str | None) -> float | None:
    """Seconds, from either form that RFC 9110 allows."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def _errors_of(answer: httpx.Response) -> str:
    """What the registry says about it: `: CODE: message`, or nothing."""
    if answer.request.method == "HEAD":
        return ""
    try:
        document: Any = load_json(answer.content[:_BLOCK], "answer")
        errors = document["errors"]
        words = [f"{item.get('code', '')}: {item.get('message', '')}" for item in errors[:3]]
    except (MigrateError, KeyError, TypeError, AttributeError):
        return ""
    return f" ({'; '.join(words)})"


def as_binary(download: BlobDownload) -> BinaryIO:
    return cast(BinaryIO, download)
