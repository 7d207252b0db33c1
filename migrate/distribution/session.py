"""One registry over HTTP: requests with authorization, which are repeated after failures, and counted.

After a status 429 or 5xx, or a broken connection, a request is repeated, after growing pauses or those of
`Retry-After`.
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
"""Limit of redirects for one request, as in Go's client."""


class RegistryAnswerError(SourceError):
    """The registry refused a request, failed permanently, or sent an invalid answer. `status` is None without an
    answer."""

    code = "registry"

    def __init__(self, message: str, *, layer: str | None = None, status: int | None = None) -> None:
        super().__init__(message, layer=layer)
        self.status = status


class UnreachableError(RegistryAnswerError):
    """There was no answer after all attempts. The next request will most likely fail, too."""


class UntrustedCertificateError(RegistryAnswerError):
    """The registry's certificate is not trusted. Neither another attempt nor plain HTTP would help."""

    code = "untrusted-certificate"


class Traffic(Struct, eq=False):
    """Counters. `blob_bytes`: bytes of blobs that arrived; `repeated_bytes`: bytes that had to be sent again."""

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
        """Checks that `path` (`/v2/`) is a registry's. A 401 of the registry itself is valid; a web page is not."""
        answer = self.send("GET", path, None, accept=(200, 401), attempts=attempts, connects=2)
        if answer.status_code == 401:
            if not self._is_own(answer.request.url):
                raise self.refused(answer, path)
            self._authorizer.challenged(answer.headers)
            if self._authorizer.requires_password:  # a proxy may require one for every path, also on other servers
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
        """The answer, with a status in `accept`. The request is repeated if that can help.

        `connects`: the number of attempts to connect to a closed port.
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
                # An answer that is not streamed is read here, so that a connection that breaks in its body is an
                # attempt.
                if not (stream and last.status_code in accept):
                    last = self._loaded(last)
                if last.status_code in accept:
                    return last
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                self._refuse_hopeless(exc, f"{method} {url}")
                last, broken = None, exc
                attempt += 1
                slow += isinstance(exc, httpx.ReadTimeout)
                # After timeouts, or if the port is closed, further attempts would only make the user wait.
                if slow >= SLOW_ANSWERS or (isinstance(exc, httpx.ConnectError) and attempt >= connects):
                    break
                continue
            # The first 401 has the address of the token server, and a later one may mean an expired token. Neither
            # counts as an attempt.
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
        """The answer, after redirects if `method` is GET or HEAD. Credentials are sent to the registry itself only."""
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
            # A redirect may lead to another host, which must not get the credentials of this one.
            if _origin(request.url) != _origin(answer.request.url):
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
                request.headers.pop("Authorization", None)
            if request.url in seen or len(seen) > _HOPS:
                kind = "in a cycle" if request.url in seen else f"more than {_HOPS} times"
                raise RegistryAnswerError(f"{self.host}: {method} {url}: redirected {kind}, last to {request.url}")
            seen.add(request.url)

    def _request(self, method: str, url: str | httpx.URL, **arguments: Any) -> httpx.Request:
        """A request. Refuses to leave TLS: an address in a redirect, link or location of an https registry must be
        https."""
        request = self._http.build_request(method, url, **arguments)
        if self._http.base_url.scheme == "https" and request.url.scheme != "https":
            raise RegistryAnswerError(f"{self.host}: {method} {request.url}: refused: leads from https to plain http")
        return request

    def _is_own(self, url: httpx.URL) -> bool:
        return _origin(url) == _origin(self._http.base_url)

    def send_part(
        self, method: str, url: str, scope: Scope, source: IO[bytes], offset: int, count: int
    ) -> httpx.Response | None:
        """Sends one request, once, with `count` bytes of a file from `offset`. None if the connection broke."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(count)}
        if method == "PATCH":
            # Without the unit `bytes`, which HTTP has (OCI distribution specification, "Pushing a blob in chunks").
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
        # A token may expire during a long upload. The caller sends the part again, with the new token.
        if answer.status_code == 401:
            if not own:
                raise self.refused(answer, url)
            self._authorizer.refresh(answer.headers, scope)
        return answer

    def pause(self, answer: httpx.Response | None, attempt: int) -> None:
        """Waits before another attempt. `attempt` counts from 0."""
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
        """The answer with its body in memory, within a limit."""
        content = read_body(answer, f"{self.host}{answer.request.url.path}")
        headers = [pair for pair in answer.headers.raw if pair[0].lower() not in _OF_THE_TRANSFER]
        extensions = {"reason_phrase": answer.extensions.get("reason_phrase", b"")}
        return httpx.Response(
            answer.status_code, headers=headers, content=content, request=answer.request, extensions=extensions
        )

    def location(self, answer: httpx.Response, default: str | None = None) -> str:
        location = answer.headers.get("Location", default)
        if not location:
            raise RegistryAnswerError(f"{self.host}: {answer.request.url.path}: the answer names no upload location")
        return self.relative(location)

    def relative(self, location: str) -> str:
        """`location` for `send`, relative to the client's base. An address on another host is unchanged.

        The scheme and the port of the registry's own host are removed, since a registry behind a proxy may have wrong
        ones.
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
    """False for the web page that some servers send for every path. Docker 1.9 only looked for the header of v2, which
    not all registries send, and accepted any answer for v1."""
    if not _API_HEADERS.isdisjoint(name.lower() for name in answer.headers):
        return True
    body = answer.content.strip()
    return not body or (body.startswith(b"{") if path.endswith("/v2/") else not body.startswith(b"<"))


def quoted(text: str) -> str:
    return quote(text, safe=":@")


def _errors_of(answer: httpx.Response) -> str:
    """The registry's own reason as ` (CODE: message)`, or ""."""
    if answer.request.method == "HEAD":
        return ""
    try:
        document: Any = load_json(answer.content[:_BLOCK], "answer")
        errors = document["errors"]
        words = [f"{item.get('code', '')}: {item.get('message', '')}" for item in errors[:3]]
    except (MigrateError, KeyError, TypeError, AttributeError):
        return ""
    return f" ({'; '.join(words)})"
