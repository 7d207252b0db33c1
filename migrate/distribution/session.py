"""One registry over HTTP: requests that are authorised, tried again and counted.

Answers 429 and 5xx and broken connections are tried again, after growing pauses or at the time of `Retry-After`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final
from urllib.parse import quote, urlsplit

from msgspec import Struct, field

from migrate.distribution.authorization import Authorizer, Scope
from migrate.distribution.bodies import read_body
from migrate.distribution.credentials import find_credentials
from migrate.distribution.retries import ATTEMPTS, RETRIED, SLOW_ANSWERS, Sleep, is_hopeless, is_untrusted, pause
from migrate.documents.json_text import load_json
from migrate.errors import MigrateError, SourceError

try:
    import httpx
except ImportError:  # the extra [registry] is not installed; open_http reports it
    httpx = None  # type: ignore[assignment]

_BLOCK: Final = 1024 * 1024
_OF_THE_TRANSFER: Final = frozenset({b"content-encoding", b"transfer-encoding"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_API_HEADERS: Final = frozenset({"docker-distribution-api-version", "x-docker-registry-version"})
_HOPS: Final = 10
"""Redirects followed for one request, as many as Go's client follows."""


class RegistryAnswerError(SourceError):
    """The registry refused, failed for good, or answered what is no answer. `status` is None where none came."""

    code = "registry"

    def __init__(self, message: str, *, layer: str | None = None, status: int | None = None) -> None:
        super().__init__(message, layer=layer)
        self.status = status


class UnreachableError(RegistryAnswerError):
    """No answer after all attempts; the next request will most likely fail, too."""


class UntrustedCertificateError(RegistryAnswerError):
    """The registry's certificate is not trusted. Another attempt, or plain HTTP, would not make it so."""

    code = "untrusted-certificate"


class Traffic(Struct, eq=False):
    """What was sent. `blob_bytes` counts bodies that arrived, `repeated_bytes` those that had to be sent again."""

    requests: int = 0
    blob_bytes: int = 0
    repeated_bytes: int = 0
    manifest_bytes: int = 0
    uploads: int = 0
    mounts: int = 0
    skipped: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class RegistrySession:
    """Requests to one registry. Every method may be called from several threads; raises RegistryAnswerError."""

    def __init__(self, host: str, http: httpx.Client, *, sleep: Sleep = time.sleep) -> None:
        self.host = host
        self.traffic = Traffic()
        self.sleep = sleep
        self._http = http
        self._authorizer = Authorizer(http, lambda: find_credentials(host), sleep=sleep)

    def ping(self, path: str, attempts: int = ATTEMPTS) -> None:
        """Finds out whether `path` (`/v2/`) is there. A 401 of the registry's own is a good answer, a web page none."""
        answer = self.send("GET", path, None, accept=(200, 401), attempts=attempts, connects=2)
        if answer.status_code == 401:
            if not self._is_own(answer.request.url):
                raise self.refused(answer, path)
            self._authorizer.challenged(answer.headers)
            if self._authorizer.wants_password:  # a proxy may demand one wherever a request goes
                answer = self.send("GET", path, ("", "pull"))
        if answer.status_code == 200 and not _is_of_registry(answer, path):
            raise RegistryAnswerError(f"{self.host}: GET {path}: 200, with a page that is no registry's", status=200)

    def send(
        self,
        method: str,
        url: str,
        scope: Scope | None,
        *,
        accept: Sequence[int] = (200,),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        stream: bool = False,
        also: Scope | None = None,
        attempts: int = ATTEMPTS,
        connects: int = ATTEMPTS,
    ) -> httpx.Response:
        """The answer, one of `accept`; the request is repeated where that can help.

        `connects`: attempts to connect where nothing listens.
        """
        refreshed = slow = 0
        last: httpx.Response | None = None
        broken: Exception | None = None
        attempt = 0
        while attempt < attempts:
            if attempt:
                self.pause(last, attempt - 1)
            try:
                last = self._follow(method, url, scope, headers or {}, body, also)
                broken = None
                # an answer that is not streamed is read here, so that a connection that breaks in its body counts, too
                if not (stream and last.status_code in accept):
                    last = self._loaded(last)
                if last.status_code in accept:
                    return last
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                self._refuse_hopeless(exc, f"{method} {url}")
                last, broken = None, exc
                attempt += 1
                slow += isinstance(exc, httpx.ReadTimeout)
                # where answers do not come in time, or nothing listens, more attempts only make the user wait
                if slow >= SLOW_ANSWERS or (isinstance(exc, httpx.ConnectError) and attempt >= connects):
                    break
                continue
            # the first 401 has where tokens come from, and a token may expire; neither costs an attempt
            if last.status_code == 401 and scope is not None and refreshed < 2 and self._is_own(last.request.url):
                refreshed += 1
                self._authorizer.refresh(last.headers, scope, also)
                continue
            if last.status_code not in RETRIED:
                raise self.refused(last, url)
            attempt += 1
        if last is not None:
            raise self.refused(last, url)
        raise UnreachableError(f"{self.host}: {method} {url}: {broken or 'no answer'}") from broken

    def _follow(
        self,
        method: str,
        url: str,
        scope: Scope | None,
        headers: Mapping[str, str],
        body: bytes | None,
        also: Scope | None,
    ) -> httpx.Response:
        """The answer, after redirects if `method` is GET or HEAD. Only the registry itself gets credentials."""
        request = self._request(method, url, content=body, headers=headers)
        seen = {request.url}
        while True:
            if scope is not None and self._is_own(request.url):
                request.headers.update(self._authorizer.headers(scope, also))
            self.traffic.add(requests=1)
            answer = self._http.send(request, stream=True)
            location = answer.headers.get("Location")
            if method not in ("GET", "HEAD") or answer.status_code not in _REDIRECTS or not location:
                return answer
            answer.close()
            request = self._request(method, answer.request.url.join(location), headers=headers)
            # credentials of one host are not for another, which a redirect may name
            if _origin(request.url) != _origin(answer.request.url):
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
                request.headers.pop("Authorization", None)
            if request.url in seen or len(seen) > _HOPS:
                kind = "in a ring" if request.url in seen else f"more than {_HOPS} times"
                raise RegistryAnswerError(f"{self.host}: {method} {url}: redirected {kind}, last to {request.url}")
            seen.add(request.url)

    def _request(self, method: str, url: str | httpx.URL, **arguments: Any) -> httpx.Request:
        """Refuses to leave TLS: what an https registry names in a redirect, link or location has to be https."""
        request = self._http.build_request(method, url, **arguments)
        if self._http.base_url.scheme == "https" and request.url.scheme != "https":
            raise RegistryAnswerError(f"{self.host}: {method} {request.url}: refused: leads from https to plain http")
        return request

    def _is_own(self, url: httpx.URL) -> bool:
        return _origin(url) == _origin(self._http.base_url)

    def send_part(
        self, method: str, url: str, scope: Scope, source: IO[bytes], offset: int, count: int
    ) -> httpx.Response | None:
        """One request, once, with `count` bytes of a file from `offset`; None if the connection broke."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(count)}
        if method == "PATCH":
            headers["Content-Range"] = f"{offset}-{offset + count - 1}"
        self.traffic.add(requests=1)
        source.seek(offset)
        try:
            request = self._request(method, url, content=_blocks(source, count), headers=headers)
            own = self._is_own(request.url)
            if own:
                request.headers.update(self._authorizer.headers(scope))
            answer = self._loaded(self._http.send(request, stream=True))
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            self._refuse_hopeless(exc, f"{method} {url}")
            return None
        if answer.status_code == 401:
            if not own:
                raise self.refused(answer, url)
            self._authorizer.refresh(answer.headers, scope)
        return answer

    def pause(self, answer: httpx.Response | None, attempt: int) -> None:
        """Waits before another attempt, `attempt` counting from 0."""
        pause(self.sleep, answer, attempt)

    def refused(self, answer: httpx.Response, url: str) -> RegistryAnswerError:
        reason = _errors_of(answer)
        path = urlsplit(url).path
        found = answer.request.url
        elsewhere = "" if self._is_own(found) else f" from {found.scheme}://{found.netloc.decode('ascii')}"
        if elsewhere and answer.status_code == 401:
            elsewhere += ", which gets no credentials: they are for the registry itself"
        return RegistryAnswerError(
            f"{self.host}: {answer.request.method} {path}: {answer.status_code} {answer.reason_phrase}"
            f"{elsewhere}{reason}",
            status=answer.status_code,
        )

    def _refuse_hopeless(self, exc: Exception, what: str) -> None:
        if is_untrusted(exc):
            raise UntrustedCertificateError(f"{self.host}: {exc} (see docs/howto/push.md)") from exc
        if is_hopeless(exc):
            raise RegistryAnswerError(f"{self.host}: {what}: {exc}") from exc

    def _loaded(self, answer: httpx.Response) -> httpx.Response:
        """The answer with its body in memory, however much more of it a registry would send."""
        content = read_body(answer, f"{self.host}{answer.request.url.path}")
        headers = [pair for pair in answer.headers.raw if pair[0].lower() not in _OF_THE_TRANSFER]
        said = {"reason_phrase": answer.extensions.get("reason_phrase", b"")}
        return httpx.Response(
            answer.status_code, headers=headers, content=content, request=answer.request, extensions=said
        )

    def location(self, answer: httpx.Response, default: str | None = None) -> str:
        location = answer.headers.get("Location", default)
        if not location:
            raise RegistryAnswerError(f"{self.host}: {answer.request.url.path}: the answer names no upload location")
        return self.relative(location)

    def relative(self, location: str) -> str:
        """Registries behind a proxy may name themselves with the wrong scheme or port; another host stays another.

        The result is for `send`, whose addresses begin behind the client's base.
        """
        try:
            parts, _ = urlsplit(location), httpx.URL(location)
        except (ValueError, httpx.InvalidURL) as exc:
            raise RegistryAnswerError(f"{self.host}: the answer names an invalid address: {location!r}") from exc
        if parts.netloc and parts.hostname != urlsplit(f"//{self.host}").hostname:
            return location
        path = parts.path.removeprefix(self._http.base_url.path.rstrip("/"))
        return f"{path}?{parts.query}" if parts.query else path

    def close(self) -> None:
        self._http.close()


# --- small pieces ------------------------------------------------------------------------------------------------


def _blocks(source: IO[bytes], count: int) -> Iterator[bytes]:
    while count:
        block = source.read(min(count, _BLOCK))
        if not block:
            raise RegistryAnswerError("a blob became shorter while it was sent")
        count -= len(block)
        yield block


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _is_of_registry(answer: httpx.Response, path: str) -> bool:
    """False for the page that some servers give in place of everything. Docker 1.9 looked for the header of v2 alone,
    which not all registries send, and took any answer for one of v1."""
    if not _API_HEADERS.isdisjoint(name.lower() for name in answer.headers):
        return True
    body = answer.content.strip()
    return not body or (body.startswith(b"{") if path.endswith("/v2/") else not body.startswith(b"<"))


def quoted(text: str) -> str:
    return quote(text, safe=":@")


def _errors_of(answer: httpx.Response) -> str:
    """The reason that the registry gives: `: CODE: message`, or nothing."""
    if answer.request.method == "HEAD":
        return ""
    try:
        document: Any = load_json(answer.content[:_BLOCK], "answer")
        errors = document["errors"]
        words = [f"{item.get('code', '')}: {item.get('message', '')}" for item in errors[:3]]
    except (MigrateError, KeyError, TypeError, AttributeError):
        return ""
    return f" ({'; '.join(words)})"
