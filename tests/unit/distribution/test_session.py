"""What a registry sends is read up to a limit, whatever it answers."""

from __future__ import annotations

import gzip
import http.server
import ssl

import httpx
import pytest

from migrate.distribution.client import open_client
from migrate.distribution.session import RegistryAnswerError, RegistrySession
from migrate.distribution.transport import open_http
from migrate.errors import LimitError, UsageError
from migrate.model.digest import Digest
from tests.registries import serving
from tests.scripted import Reply, scripted_server


class Talkative(http.server.BaseHTTPRequestHandler):
    """Answers `/<status>/<bytes>` with so many of them; compressed if the path says so."""

    def do_GET(self) -> None:
        _, status, size, *rest = self.path.split("/")
        body = gzip.compress(b"x" * int(size)) if rest == ["gzip"] else b"x" * int(size)
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", "sha256:1")
        if rest == ["gzip"]:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


class _Registry(Talkative):
    def do_GET(self) -> None:
        self.path = "/200/2"
        super().do_GET()


def test_the_certificates_are_loaded_once_for_both_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        contexts.append(create())
        return contexts[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    monkeypatch.setattr("migrate.distribution.session._is_of_registry", lambda *_: True)
    with serving(_Registry) as port:
        client = open_client(f"127.0.0.1:{port}")  # HTTPS first, then HTTP
        client.close()
    assert len(contexts) == 1


def test_answers_larger_than_the_limit_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.distribution.bodies.JSON_BYTES", 100_000)
    with serving(Talkative) as port, open_http("http", f"127.0.0.1:{port}", insecure=False) as client:
        session = RegistrySession("registry", client, sleep=lambda _: None)
        answer = session.send("GET", "/200/100000", None)
        assert (len(answer.content), answer.headers["Docker-Content-Digest"]) == (100_000, "sha256:1")
        assert session.send("GET", "/200/90000/gzip", None).text == "x" * 90_000
        for path in ("/200/100001", "/404/100001", "/503/100001", "/200/5000000/gzip"):
            with pytest.raises(LimitError, match="larger than the limit of 100,000 bytes"):
                session.send("GET", path, None)
        with pytest.raises(RegistryAnswerError, match="404 Not Found"):
            session.send("GET", "/404/10", None)
        assert session.send("GET", "/200/5000000", None, stream=True).read() == b"x" * 5_000_000


class Misleading(http.server.BaseHTTPRequestHandler):
    """Names in `Location` and `Link` what the path says."""

    def do_GET(self) -> None:
        self.send_response(202)
        place = bytes.fromhex(self.path[1:]).decode("latin-1")
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.mark.parametrize("place", ["http://[::1", "http://[bad]/", "http://a:b:c/"])
def test_a_location_that_is_no_address(place: str) -> None:
    with serving(Misleading) as port, open_http("http", f"127.0.0.1:{port}", insecure=False) as client:
        session = RegistrySession("registry", client, sleep=lambda _: None)
        answer = session.send("GET", f"/{place.encode().hex()}", None, accept=(202,))
        with pytest.raises(RegistryAnswerError, match="invalid address"):
            session.location(answer)


@pytest.mark.parametrize("text", ["²", "Mon, 01 Jan 0001 00:00:00 +2359", "tomorrow", "Mon, 99 Jan 2020 00:00:00 GMT"])
def test_a_time_to_wait_that_is_none(text: str) -> None:
    naps: list[float] = []
    session = RegistrySession("registry", open_http("http", "registry", insecure=False), sleep=naps.append)
    session.pause(httpx.Response(503, headers=[(b"Retry-After", text.encode("latin-1"))]), 1)
    assert naps == [1.0] or naps == [0.0]


@pytest.mark.parametrize("host", ["[bad", "a:b:c", "h:99999", "h:0", ""])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(UsageError, match="HOST"):
        open_client(host)


def test_headers_need_not_be_ascii() -> None:
    reply = Reply(404, headers={"Via": "1.1 proxy-Z\xfcrich", "Warning": "199 - \xff"})
    with scripted_server(lambda _: reply) as (host, _), open_http("http", host, insecure=False) as client:
        session = RegistrySession("registry", client, sleep=lambda _: None)
        assert session.send("GET", "/", None, accept=(404,)).headers["Via"] == "1.1 proxy-Z\xfcrich"
        with pytest.raises(RegistryAnswerError, match="404 Not Found"):
            session.send("GET", "/", None)


def test_cookies_are_not_kept() -> None:
    with scripted_server(lambda _: Reply(headers={"Set-Cookie": "a=\xfc; Path=/"})) as (host, seen):
        client = open_client(host)
        client.blob_size("app", Digest.of(b""))
        client.close()
    assert len(seen) == 2 and not any("Cookie" in request.headers for request in seen)
