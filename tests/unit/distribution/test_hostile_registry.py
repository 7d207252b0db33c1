"""A registry that leads its client to another server: that one gets no password, no token, and no plain text of TLS."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.distribution.authorization import AuthorizationError
from migrate.distribution.client import RegistryClient, open_client
from migrate.distribution.credentials import encode_config
from migrate.distribution.session import RegistryAnswerError
from migrate.documents.json_text import encode_json
from migrate.errors import LimitError, MigrateError
from migrate.model.digest import Digest
from tests.registries import make_certificate
from tests.scripted import Answer, Reply, Request, scripted_server

CONTENT = b"0123456789" * 5
DIGEST = Digest.of(CONTENT)
SECRET = "s3cret"
LOGIN = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()


def upload(client: RegistryClient) -> None:
    client.upload_blob("app", DIGEST, len(CONTENT), lambda: io.BytesIO(CONTENT))


def mount(client: RegistryClient) -> None:
    location = client.mount_blob("app", DIGEST, "other")
    client.upload_blob("app", DIGEST, len(CONTENT), lambda: io.BytesIO(CONTENT), location)


def download(client: RegistryClient) -> None:
    with client.open_blob("app", DIGEST) as stream:
        stream.read()


Way = tuple[Callable[[str], Answer], Callable[[RegistryClient], object]]
"""(what the registry answers, given the address of the other server; what the client does)"""


def redirecting(status: int = 307) -> Callable[[str], Answer]:
    return lambda other: lambda request: Reply(status, headers={"Location": other + request.path})


def locating(**replies: Reply) -> Callable[[str], Answer]:
    """Answers each method so; a reply without a Location names an upload at the other server."""

    def answers(other: str) -> Answer:
        def answer(request: Request) -> Reply:
            reply = replies[request.method]
            return Reply(reply.status, headers={"Location": f"{other}/upload", **reply.headers})

        return answer

    return answers


def paging(other: str) -> Answer:
    return lambda _: Reply(
        body=b'{"tags": ["1"], "repositories": ["app"]}', headers={"Link": f'<{other}/page>; rel="next"'}
    )


HERE = {"Location": "/v2/app/blobs/uploads/1"}
WAYS: dict[str, Way] = {
    "manifest": (redirecting(), lambda client: client.manifest("app", "1")),
    "manifest, 301": (redirecting(301), lambda client: client.manifest("app", "1")),
    "manifest HEAD": (redirecting(), lambda client: client.manifest_digest("app", "1")),
    "blob HEAD": (redirecting(), lambda client: client.blob_size("app", DIGEST)),
    "blob": (redirecting(), download),
    "config": (redirecting(), lambda client: client.read_blob("app", DIGEST, 1000)),
    "tags": (redirecting(), lambda client: client.tags("app")),
    "next page of tags": (paging, lambda client: client.tags("app")),
    "next page of the catalog": (paging, lambda client: client.catalog()),
    "upload": (locating(POST=Reply(202)), upload),
    "mount": (locating(POST=Reply(202)), mount),
    "first chunk": (locating(POST=Reply(202)), upload),
    "second chunk": (locating(POST=Reply(202, headers=HERE), PATCH=Reply(202)), upload),
    "lost chunk": (
        locating(POST=Reply(202, headers=HERE), PATCH=Reply(416), GET=Reply(204, headers={"Range": "0-19"})),
        upload,
    ),
}
ASKS: dict[str, Callable[[str], str]] = {
    "basic": lambda _: 'Basic realm="here"',
    "bearer": lambda other: f'Bearer realm="{other}/token",service="s"',
}


@pytest.fixture
def log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bool], None]:
    """Leaves the password or an identity token for `host:port` in Docker's configuration."""

    def write(host: str, identity_token: bool) -> None:
        config = encode_config({host: ("user", SECRET)})
        if identity_token:
            config = encode_json({"auths": {host: {"identitytoken": SECRET}}})
        (tmp_path / "config.json").write_bytes(config)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    return write


def assert_nothing_given(seen: list[Request]) -> None:
    for request in seen:
        assert not any(name.lower() == "authorization" for name in request.headers), request
        assert SECRET.encode() not in request.body and SECRET not in request.path
        assert not request.path.startswith("/token")


@pytest.mark.parametrize("identity_token", [False, True], ids=["password", "identity token"])
@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"], ids=["other port", "other host"])
@pytest.mark.parametrize("way", WAYS)
def test_another_server_gets_no_credentials(
    way: str,
    name: str,
    asks: str,
    identity_token: bool,
    log_in: Callable[[str, bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The registry itself wants a password (or takes anybody, where there is an identity token only)."""
    monkeypatch.setattr("migrate.distribution.uploads.CHUNK_BYTES", 20 if "chunk" in way else 1000)
    make_answer, act = WAYS[way]
    other = ""

    def registry(request: Request) -> Reply:
        if not identity_token and request.headers.get("Authorization") != LOGIN:
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="registry"'})
        return Reply() if request.path == "/v2/" else make_answer(other)(request)

    def harvester(_: Request) -> Reply:
        return Reply(401, headers={"WWW-Authenticate": ASKS[asks](other)})

    with scripted_server(harvester) as (host, seen), scripted_server(registry) as (registry_host, own):
        other = f"http://{name}:{host.partition(':')[2]}"
        log_in(registry_host, identity_token)
        client = open_client(registry_host, sleep=lambda _: None)
        with pytest.raises(MigrateError):
            act(client)
        client.close()
    assert_nothing_given(seen)
    assert len(own) < 40
    if name == "localhost" or "Location" not in way:
        assert len(seen) <= 2


@pytest.mark.parametrize("asks", ASKS)
def test_another_server_cannot_ask_in_the_registrys_name(asks: str, log_in: Callable[[str, bool], None]) -> None:
    """`/v2/` itself leads elsewhere, and the challenge comes from there."""
    other = ""

    def registry(request: Request) -> Reply:
        return Reply(307, headers={"Location": f"{other}/v2/"}) if request.path == "/v2/" else Reply(404)

    with scripted_server(lambda _: Reply(401, headers={"WWW-Authenticate": ASKS[asks](other)})) as (host, seen):
        with scripted_server(registry) as (registry_host, _):
            other = f"http://{host}"
            log_in(registry_host, False)
            with pytest.raises(RegistryAnswerError, match="gets no credentials"):
                open_client(registry_host, sleep=lambda _: None)
    assert len(seen) == 1
    assert_nothing_given(seen)


def test_a_redirect_within_the_registry_keeps_its_credentials(log_in: Callable[[str, bool], None]) -> None:
    def registry(request: Request) -> Reply:
        if request.headers.get("Authorization") != LOGIN:
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="registry"'})
        if request.path.endswith("/tags/list?n=1000"):
            return Reply(307, headers={"Location": "/elsewhere/tags"})
        return Reply(body=b'{"tags": ["1"]}')

    with scripted_server(registry) as (host, _):
        log_in(host, False)
        client = open_client(host, sleep=lambda _: None)
        assert client.tags("app") == ["1"]
        client.close()


# --- from https to http ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_https_never_goes_on_over_http(
    way: str, insecure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrate.distribution.uploads.CHUNK_BYTES", 20 if "chunk" in way else 1000)
    make_answer, act = WAYS[way]
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    other = ""

    def registry(request: Request) -> Reply:
        return Reply() if request.path == "/v2/" else make_answer(other)(request)

    with scripted_server(lambda _: Reply(200, CONTENT)) as (host, seen):
        with scripted_server(registry, certificate) as (registry_host, _):
            other = f"http://localhost:{host.partition(':')[2]}"
            client = open_client(registry_host, insecure=insecure, sleep=lambda _: None)
            with pytest.raises(RegistryAnswerError, match="from https to plain http"):
                act(client)
            client.close()
    assert seen == []


@pytest.mark.parametrize("insecure", [False, True])
def test_a_token_server_of_an_https_registry_has_to_speak_tls(
    insecure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_in: Callable[[str, bool], None]
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    realm = ""

    def registry(_: Request) -> Reply:
        return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})

    with scripted_server(lambda _: Reply(200, b'{"token": "abc"}')) as (host, seen):
        with scripted_server(registry, certificate) as (registry_host, _):
            realm = f"http://{host}/token"
            log_in(registry_host, False)
            client = open_client(registry_host, insecure=insecure, sleep=lambda _: None)
            with pytest.raises(AuthorizationError, match="not reached over TLS"):
                client.tags("app")
            client.close()
    assert seen == []


# --- answers without an end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [1, 2, 3])
@pytest.mark.parametrize("way", [way for way in WAYS if WAYS[way][1] is not upload and "page" not in way][:7])
def test_a_ring_of_redirects_is_followed_once(way: str, ring: int) -> None:
    if way == "mount":
        pytest.fail("an upload is not redirected")

    def registry(request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply()
        number = int(request.path.rpartition("=")[2]) if "?at=" in request.path else 0
        return Reply(307, headers={"Location": f"/ring?at={(number + 1) % ring}"})

    with scripted_server(registry) as (host, seen):
        client = open_client(host, sleep=lambda _: None)
        with pytest.raises(RegistryAnswerError, match="redirected in a cycle"):
            WAYS[way][1](client)
        client.close()
    assert len(seen) <= ring + 2


def test_redirects_without_an_end_are_given_up() -> None:
    def registry(request: Request) -> Reply:
        return Reply() if request.path == "/v2/" else Reply(302, headers={"Location": request.path + "x"})

    with scripted_server(registry) as (host, seen):
        client = open_client(host, sleep=lambda _: None)
        with pytest.raises(RegistryAnswerError, match="redirected more than 10 times"):
            client.tags("app")
        client.close()
    assert len(seen) == 12


@pytest.mark.parametrize("ring", [1, 2, 5])
def test_a_ring_of_pages_is_followed_once(ring: int) -> None:
    def registry(request: Request) -> Reply:
        number = int(request.path.rpartition("=")[2]) if "last=" in request.path else 0
        link = f'</v2/app/tags/list?last={(number + 1) % ring}>; rel="next"'
        return Reply(body=b'{"tags": ["1"]}', headers={"Link": link})

    with scripted_server(registry) as (host, seen):
        client = open_client(host, sleep=lambda _: None)
        with pytest.raises(RegistryAnswerError, match="form a cycle"):
            client.tags("app")
        client.close()
    assert len(seen) <= ring + 2


HEADERS = {
    "letters": lambda count: "a" * count,
    "names": lambda count: "a=" * (count // 2),
    "quotes": lambda count: 'a="' * (count // 3),
    "open quote": lambda count: 'Bearer realm="' + "\\a" * (count // 2),
    "brackets": lambda count: "<" * count,
    "blanks": lambda count: "<>" + " " * (count - 3) + "x",
    "pages": lambda count: "<a> " * (count // 4),
    "semicolons": lambda count: "<>;" * (count // 3),
}


@pytest.mark.parametrize("text", HEADERS.values(), ids=HEADERS)
def test_long_headers_take_no_time(text: Callable[[int], str]) -> None:
    """60 kB of each; with a pattern that looks at each letter from each letter this test takes minutes."""

    def registry(request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply()
        if request.path.startswith("/v2/app"):
            return Reply(401, headers={"WWW-Authenticate": text(60_000)})
        return Reply(body=b'{"repositories": ["a"]}', headers={"Link": text(60_000)})

    with scripted_server(registry) as (host, _):
        client = open_client(host, sleep=lambda _: None)
        with pytest.raises(AuthorizationError, match="limit of 8,192 bytes"):
            client.tags("app")
        assert client.catalog() == ["a"]
        client.close()


def test_a_link_beyond_the_limit() -> None:
    reply = Reply(body=b'{"repositories": ["a"]}', headers={"Link": "x" * 65_000, "link": "y" * 2_000})
    with scripted_server(lambda _: reply) as (host, _):
        client = open_client(host, sleep=lambda _: None)
        with pytest.raises(LimitError, match="Link: larger than the limit of 65,536 bytes"):
            client.catalog()
        client.close()


def test_interim_answers_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.distribution.measured._HEAD_BYTES", 10_000)
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000

    with scripted_server(lambda request: Reply(raw=interim if request.path != "/v2/" else None)) as (host, seen):
        client = open_client(host, sleep=lambda _: None)
        with pytest.raises(RegistryAnswerError, match="10,000 bytes without an answer's headers"):
            client.tags("app")
        client.close()
    assert len(seen) == 8
