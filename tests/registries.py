"""Registries for tests: the shipped storage trees, real docker-registry servers on loopback, and bad ways to them."""

from __future__ import annotations

import base64
import datetime
import http.client
import http.server
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.archives import unpack
from tests.cases import Case
from tests.peers import free_port, need

_START_SECONDS = 30


def extract_tree(case: Case, directory: Path) -> Path:
    """The case's storage tree, unpacked below `directory`."""
    root = directory / case.name
    root.mkdir()
    with tarfile.open(case.path / "registry.tar.xz") as archive:
        unpack(archive, root)
    return root


def should_convert(expected: dict[str, Any]) -> bool:
    """What a registry case says of one tag; a case that says nothing is whole."""
    verdict = expected.get("should_convert", True)
    return verdict if isinstance(verdict, bool) else str(verdict).startswith("yes")


def should_warn(expected: dict[str, Any]) -> bool:
    return "warning" in str(expected.get("should_convert", ""))


# --- servers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """Something that speaks HTTP. `host` is `127.0.0.1:PORT`."""

    host: str


@dataclass(frozen=True)
class Registry(Server):
    """A running docker-registry on the storage tree `root`."""

    root: Path
    scheme: str = "http"

    def blob_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.root.glob("docker/registry/v2/blobs/sha256/*/*/data"))


@contextmanager
def docker_registry(
    root: Path,
    *,
    schema1: bool = False,
    tls: ServerCertificate | None = None,
    token: TokenServer | None = None,
) -> Iterator[Registry]:
    """Debian's docker-registry on the storage tree at `root`; ended by its PID."""
    need("docker-registry")
    port = free_port()
    config = root.parent / f"{root.name}-registry-{port}.json"
    log = config.with_suffix(".log")
    document: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "compatibility": {"schema1": {"enabled": schema1}},
    }
    if tls is not None:
        document["http"]["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    if token is not None:
        document["auth"] = {
            "token": {
                "realm": token.realm,
                "service": "registry",
                "issuer": "test",
                "rootcertbundle": str(token.certificate),
            }
        }
    config.write_text(json.dumps(document))  # JSON is YAML
    with open(log, "wb") as output:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=output, stderr=output)
        try:
            _wait_for_port(process, port, log)
            yield Registry(f"127.0.0.1:{port}", root, "https" if tls is not None else "http")
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)  # a server's start has no other sign
        else:
            return
    raise AssertionError(f"docker-registry did not start:\n{log.read_text()[-3000:]}")


# --- a way to a registry on which things happen ------------------------------------------------------------------


@dataclass
class Passage:
    """What went through a `Proxy`: every request that arrived, and the body bytes that reached the registry."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    failed: int = 0
    body_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, method: str, path_part: str = "") -> int:
        return sum(1 for seen, path in self.requests if seen == method and path_part in path)


Fault = Callable[[int, str, str], str | None]
"""(number of the request from 1, method, path) → None, or `503`, `429`, `cut` (no answer), `half` (a body cut off)."""


def every_third(number: int, method: str, path: str) -> str | None:
    del method, path
    return "503" if number % 3 == 0 else None


@contextmanager
def proxy(registry: Server, fault: Fault = lambda *_: None) -> Iterator[tuple[str, Passage]]:
    """`host:port` of a server that passes requests on to the registry unless `fault` says otherwise."""
    passage = Passage()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the body waits 40 ms for the reader to confirm the headers

        def handle_any(self) -> None:
            with passage.lock:
                passage.requests.append((self.command, self.path))
                number = len(passage.requests)
            kind = fault(number, self.command, self.path)
            length = int(self.headers.get("Content-Length") or 0)
            if kind == "half":
                self._forward(self.rfile.read(length // 2), length)
            body = b"" if kind == "half" else self.rfile.read(length)
            if kind is not None:
                with passage.lock:
                    passage.failed += 1
                self._fail(kind)
                return
            self._answer(body)

        def _fail(self, kind: str) -> None:
            if kind in ("cut", "half"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(int(kind))
            self.send_header("Content-Length", "0")
            if kind == "429":
                self.send_header("Retry-After", "7")
            self.end_headers()

        def _forward(self, part: bytes, length: int) -> None:
            """Sends the beginning of a body to the registry, and then hangs up."""
            connection = http.client.HTTPConnection(registry.host)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                connection.putheader(key, value)
            connection.endheaders()
            connection.send(part)
            del length
            with passage.lock:
                passage.body_bytes += len(part)
            assert connection.sock is not None
            connection.sock.shutdown(socket.SHUT_WR)
            connection.getresponse().read()  # the registry has noticed, and stored what came
            connection.close()

        def _answer(self, body: bytes) -> None:
            connection = http.client.HTTPConnection(registry.host)
            connection.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            with passage.lock:
                passage.body_bytes += len(body)
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(key, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with serving(Handler) as port:
        yield f"127.0.0.1:{port}", passage


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler], tls: ServerCertificate | None = None) -> Iterator[int]:
    """The port of a server on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- certificates and tokens -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServerCertificate:
    """A certificate for 127.0.0.1, its key, and the private CA that signed it (PEM files)."""

    certificate: Path
    key: Path
    authority: Path


def make_certificate(directory: Path) -> ServerCertificate:
    authority_key, authority = _certificate("test CA", None, None)
    key, certificate = _certificate("127.0.0.1", authority_key, authority)
    return ServerCertificate(
        _write(directory / "server.crt", _pem(certificate)),
        _write(directory / "server.key", _key_pem(key)),
        _write(directory / "ca.crt", _pem(authority)),
    )


def _certificate(
    name: str, issuer_key: ec.EllipticCurvePrivateKey | None, issuer: x509.Certificate | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    return key, builder.sign(issuer_key or key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@dataclass
class TokenServer:
    """Gives tokens to `user` with `password`, and remembers the scopes it was asked for."""

    realm: str
    certificate: Path
    scopes: list[str] = field(default_factory=list)


@contextmanager
def token_server(directory: Path, user: str, password: str) -> Iterator[TokenServer]:
    """A token server as the distribution registry's `auth: token` wants it."""
    key, certificate = _certificate("test", None, None)
    found: list[TokenServer] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the body waits 40 ms for the reader to confirm the headers

        def do_GET(self) -> None:
            asked = base64.b64decode((self.headers.get("Authorization") or "").removeprefix("Basic ")).decode()
            scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
            found[0].scopes.extend(scopes)
            body = json.dumps({"token": _token(key, certificate, scopes)}).encode()
            if asked != f"{user}:{password}":
                body = b"{}"
                self.send_response(401)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with serving(Handler) as port:
        found.append(TokenServer(f"http://127.0.0.1:{port}/token", _write(directory / "tokens.crt", _pem(certificate))))
        yield found[0]


def _token(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, scopes: list[str]) -> str:
    now = int(time.time())
    access = []
    for scope in scopes:
        kind, name, actions = scope.split(":", 2)
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    der = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    header = {"typ": "JWT", "alg": "ES256", "x5c": [der]}
    claims = {
        "iss": "test",
        "sub": "user",
        "aud": "registry",
        "exp": now + 300,
        "nbf": now - 10,
        "iat": now,
        "jti": "1",
        "access": access,
    }
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def copy_tree(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target
