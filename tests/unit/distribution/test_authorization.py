"""A token server is named by the registry: it may be anybody, and may answer anything."""

from __future__ import annotations

import itertools

import httpx
import pytest

from migrate.distribution.authorization import AuthorizationError, Authorizer
from migrate.distribution.transport import open_http
from migrate.errors import LimitError
from tests.scripted import Reply, Request, scripted_server


def token_of_so_many_letters(request: Request) -> Reply:
    """For `/<number>`."""
    return Reply(body=b'{"token": "%s"}' % (b"x" * int(request.path.partition("?")[0][1:])))


def ask(client: httpx.Client, realm: str, pauses: list[float] | None = None) -> dict[str, str]:
    naps = [] if pauses is None else pauses
    authorizer = Authorizer(client, lambda: None, sleep=naps.append)
    authorizer.challenged({"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})
    return authorizer.headers(("a", "pull"))


def test_a_token_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.distribution.bodies.JSON_BYTES", 1000)
    with scripted_server(token_of_so_many_letters) as (host, _), open_http("http", host, insecure=False) as client:
        server = f"http://{host}"
        assert ask(client, f"{server}/10") == {"Authorization": "Bearer " + "x" * 10}
        with pytest.raises(LimitError, match=f"token server {server}/1000: larger than the limit of 1,000 bytes"):
            ask(client, f"{server}/1000")


@pytest.mark.parametrize("realm", ["http://[::1", "http://[bad]/", "http://a:b:c/", "http://a:99999/", "http://", ""])
def test_a_realm_that_is_no_address(realm: str) -> None:
    with open_http("http", "127.0.0.1:1", insecure=False) as client:
        with pytest.raises(AuthorizationError, match="token server"):
            ask(client, realm)


def ask_scripted(replies: list[Reply]) -> tuple[dict[str, str], list[float]]:
    """The answer to the registry, and the pauses, where the token server replies so; its last reply stays."""
    pauses: list[float] = []
    with scripted_server(lambda _: replies.pop(0) if len(replies) > 1 else replies[0]) as (host, _):
        with open_http("http", host, insecure=False) as client:
            return ask(client, f"http://{host}/token", pauses), pauses


TOKEN = Reply(body=b'{"token": "abc"}')


@pytest.mark.parametrize("failure", [Reply(503), Reply(429), Reply(200, TOKEN.body, cut=5)])
def test_a_token_is_asked_for_again(failure: Reply) -> None:
    assert ask_scripted([failure, failure, TOKEN]) == ({"Authorization": "Bearer abc"}, [0.5, 1.0])


def test_a_token_server_that_stays_down_is_given_up_without_a_word_of_login() -> None:
    with pytest.raises(AuthorizationError, match=r"503 Service Unavailable$"):
        ask_scripted([Reply(503)])
    with pytest.raises(AuthorizationError, match=r"403 Forbidden .run `docker login` first"):
        ask_scripted([Reply(403)])


def test_a_token_that_comes_drop_by_drop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=100)
    monkeypatch.setattr("migrate.distribution.measured.monotonic", lambda: next(seconds))
    with pytest.raises(AuthorizationError, match=r"too slowly: .* bytes in 100 seconds"):
        ask_scripted([Reply(body=TOKEN.body + b" " * 200_000)])  # more than one read takes


@pytest.mark.parametrize(
    "body", ["[]", "5", "{}", '{"token": 5}', '{"token": ""}', r'{"token": "\u00e9"}', r'{"token": "a\nb"}']
)
def test_a_token_that_is_none(body: str) -> None:
    with pytest.raises(AuthorizationError, match="holds no token"):
        ask_scripted([Reply(body=body.encode())])
