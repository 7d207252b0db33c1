"""A server on loopback that answers each request as a test says: registries that are odd, broken or hostile."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.registries import ServerCertificate, serving


@dataclass(frozen=True)
class Request:
    """What arrived. `path` holds the query, too."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """`cut`: hang up after so many bytes of the body. `wait`: send nothing until this is set. `raw`: sent first."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    wait: threading.Event | None = None
    raw: bytes | None = None


Answer = Callable[[Request], Reply]


@contextmanager
def scripted_server(answer: Answer, tls: ServerCertificate | None = None) -> Iterator[tuple[str, list[Request]]]:
    """(`host:port`, the requests that have arrived so far)."""
    seen: list[Request] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the body waits 40 ms for the reader to confirm the headers

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = Request(self.command, self.path, dict(self.headers), self._body(length))
            seen.append(request)
            reply = answer(request)
            if reply.wait is not None:
                reply.wait.wait(60)
            with suppress(ConnectionError):  # the client has given up
                self._reply(reply)

        def _body(self, length: int) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(length)
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _reply(self, reply: Reply) -> None:
            self.wfile.write(reply.raw or b"")
            self.send_response(reply.status)
            length = {} if "Transfer-Encoding" in reply.headers else {"Content-Length": str(len(reply.body))}
            for key, value in {**length, **reply.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body[: reply.cut])
            if reply.cut is not None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with serving(Handler, tls) as port:
        yield f"127.0.0.1:{port}", seen


def answers(*rules: tuple[str, Reply], default: Reply | None = None) -> Answer:
    """The reply of the first rule whose text stands in the path; `/v2/` itself is a registry's; 404 for the rest."""

    def answer(request: Request) -> Reply:
        for part, reply in rules:
            if part in request.path:
                return reply
        return Reply() if request.path == "/v2/" else default or Reply(404)

    return answer
