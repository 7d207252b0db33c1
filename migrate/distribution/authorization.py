"""Logs in to a registry: Basic, or Bearer with a token from its token server.

Source: distribution 2.8 `docs/spec/auth/{token,oauth}.md`. Credentials are sent to the registry and to its token server
only; to the latter only over TLS, unless the registry itself uses plain HTTP. The session calls this for challenges of
the registry's own origin only.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from migrate.distribution.bodies import read_body
from migrate.distribution.credentials import Credentials
from migrate.distribution.retries import ATTEMPTS, RETRIED, SLOW_ANSWERS, Sleep, is_hopeless, pause
from migrate.documents.json_text import load_json
from migrate.errors import MigrateError, SourceError

if TYPE_CHECKING:
    import httpx

_CHALLENGE: Final = re.compile(r'(?<![A-Za-z_])([A-Za-z_]++)=(?:"((?:[^"\\]|\\.)*+)"|([^\s,"]++))')
"""Possessive, and a name matches at its first letter only: the time is linear in the header's length."""
_PASSWORD_KINDS: Final = ("basic", "token")
"""Challenges for a password. The index of the v1 protocol sent `Token`, and accepted a password."""
CHALLENGE_BYTES: Final = 8 * 1024
"""Limit of a `WWW-Authenticate` header: what servers usually accept for all headers together."""
_CLIENT_ID: Final = "docker-legacy-migrate"

Access = Literal["pull", "push"]
Scope = tuple[str, Access]
"""(repository, kind of access). An empty repository is the catalog."""


class AuthorizationError(SourceError):
    """The registry or its token server refused the login."""

    code = "unauthorized"


class Authorizer:
    """Keeps one token for each scope, which is fetched when the registry first requires one."""

    def __init__(
        self,
        http: httpx.Client,
        credentials: Callable[[], Credentials | None],
        *,
        sleep: Sleep = time.sleep,
    ) -> None:
        self._http = http
        self._sleep = sleep
        self._find = credentials
        self._found: Credentials | None = None
        self._looked = False
        self._lock = threading.Lock()
        self._challenge: tuple[str, Mapping[str, str]] | None = None
        self._headers: dict[tuple[Scope, Scope | None], str] = {}

    def challenged(self, headers: Mapping[str, str]) -> None:
        """Remembers the registry's challenge for later requests. AuthorizationError if it is too long.

        `headers`: those of the registry's own answer.
        """
        text = headers.get("WWW-Authenticate", "")
        if len(text) > CHALLENGE_BYTES:
            raise AuthorizationError(f"WWW-Authenticate: larger than the limit of {CHALLENGE_BYTES:,} bytes")
        kind, _, rest = text.partition(" ")
        parameters = {
            match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
            for match in _CHALLENGE.finditer(rest)
        }
        self._challenge = (kind.lower(), parameters)

    @property
    def requires_password(self) -> bool:
        """True if the registry itself requires a password, and no token."""
        return self._challenge is not None and self._challenge[0] in _PASSWORD_KINDS

    def headers(self, scope: Scope, also: Scope | None = None) -> dict[str, str]:
        """The headers for a request to the registry itself. They must not be sent to another host."""
        if self._challenge is None:
            return {}
        with self._lock:
            known = self._headers.get((scope, also))
            if known is None:
                known = self._headers[scope, also] = self._authorization(scope, also)
        return {"Authorization": known} if known else {}

    def refresh(self, headers: Mapping[str, str], scope: Scope, also: Scope | None = None) -> None:
        """Called after a 401: the token has expired, or there was none. AuthorizationError if there are no
        credentials."""
        self.challenged(headers)
        with self._lock:
            self._headers[scope, also] = self._authorization(scope, also)
            if not self._headers[scope, also]:
                raise AuthorizationError("the registry needs a login: run `docker login` first")

    def _authorization(self, scope: Scope, also: Scope | None) -> str:
        assert self._challenge is not None
        kind, parameters = self._challenge
        if not self._looked:
            self._found, self._looked = self._find(), True
        credentials = self._found
        if kind == "bearer":
            return f"Bearer {self._fetch_token(parameters, [scope] + ([also] if also else []), credentials)}"
        if kind in _PASSWORD_KINDS and credentials is not None and not credentials.is_identity_token:
            return _basic(credentials)
        return ""

    def _fetch_token(self, parameters: Mapping[str, str], scopes: list[Scope], credentials: Credentials | None) -> str:
        realm = parameters.get("realm", "")
        try:
            scheme = urlsplit(realm).scheme
        except ValueError:
            scheme = ""
        # A registry behind TLS must not make the client send a password in plain text.
        plain = self._http.base_url.scheme == "http"
        if scheme != "https" and not (scheme == "http" and plain):
            raise AuthorizationError(f"the token server {realm!r} is not reached over TLS")
        wanted = [
            f"repository:{repository}:{'pull,push' if access == 'push' else 'pull'}"
            if repository
            else "registry:catalog:*"
            for repository, access in scopes
        ]
        service = parameters.get("service", "")
        if credentials is not None and credentials.is_identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.secret,
                "service": service,
                "scope": " ".join(wanted),
                "client_id": _CLIENT_ID,
            }
            return self._token_of(realm, "POST", data=form)
        query: list[tuple[str, str]] = [("service", service), *(("scope", scope) for scope in wanted)]
        headers = {"Authorization": _basic(credentials)} if credentials is not None else {}
        return self._token_of(realm, "GET", params=query, headers=headers)

    def _token_of(self, realm: str, method: str, **arguments: object) -> str:
        status, reason, content = self._request(realm, method, arguments)
        if status != 200:
            hint = " (run `docker login` first?)" if status in (401, 403) else ""
            raise AuthorizationError(f"token server {realm}: {status} {reason}{hint}")
        try:
            document = load_json(content, "token")
        except MigrateError as exc:
            raise AuthorizationError(f"token server {realm}: {exc.message}") from exc
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        # The token becomes a part of a header, where a line break would begin another header.
        if not (isinstance(token, str) and token and token.isascii() and token.isprintable()):
            raise AuthorizationError(f"token server {realm}: its answer holds no token")
        return token

    def _request(self, realm: str, method: str, arguments: Mapping[str, Any]) -> tuple[int, str, bytes]:
        """(status, reason, body) of the answer. The request is repeated after failures, as those to the registry."""
        import httpx

        attempt = slow = 0
        while True:
            answer: httpx.Response | None = None
            try:
                request = self._http.build_request(method, realm, **arguments)
                answer = self._http.send(request, stream=True)
                content = read_body(answer, f"token server {realm}")
                if answer.status_code not in RETRIED or attempt + 1 == ATTEMPTS:
                    return answer.status_code, answer.reason_phrase, content
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                # A timeout takes two minutes (`open_http`), so fewer timeouts than other failures are tolerated.
                slow += isinstance(exc, httpx.ReadTimeout)
                if is_hopeless(exc) or attempt + 1 == ATTEMPTS or slow >= SLOW_ANSWERS:
                    raise AuthorizationError(f"token server {realm}: {exc}") from exc
                answer = None
            pause(self._sleep, answer, attempt)
            attempt += 1


def _basic(credentials: Credentials) -> str:
    packed = base64.b64encode(f"{credentials.user}:{credentials.secret}".encode()).decode("ascii")
    return f"Basic {packed}"
