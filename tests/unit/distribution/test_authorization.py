"""A token server is named by the registry: it may be anybody, and may answer anything."""

from __future__ import annotations

import http.server

import httpx
import pytest

from migrate.distribution.authorization import AuthorizationError, Authorizer
from migrate.errors import LimitError
from tests.registries import _serving


class TokenServer(http.server.BaseHTTPRequestHandler):
    """Answers `/<bytes>` with a token of so many letters."""

    def do_GET(self) -> None:
        body = b'{"token": "%s"}' % (b"x" * int(self.path.partition("?")[0][1:]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def ask(client: httpx.Client, realm: str) -> dict[str, str]:
    authorizer = Authorizer(client, lambda: None)
    authorizer.challenged({"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})
    return authorizer.headers("/v2/", ("a", "pull"))


def test_a_token_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.distribution.bodies.JSON_BYTES", 1000)
    with _serving(TokenServer) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        server = f"http://127.0.0.1:{port}"
        assert ask(client, f"{server}/10") == {"Authorization": "Bearer " + "x" * 10}
        with pytest.raises(LimitError, match=f"token server {server}/1000: larger than the limit of 1,000 bytes"):
            ask(client, f"{server}/1000")


@pytest.mark.parametrize("realm", ["http://[::1", "http://[bad]/", "http://a:b:c/", "http://a:99999/", "http://", ""])
def test_a_realm_that_is_no_address(realm: str) -> None:
    with httpx.Client(base_url="http://127.0.0.1:1") as client:
        with pytest.raises(AuthorizationError, match="token server"):
            ask(client, realm)
