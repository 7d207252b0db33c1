"""An archive at a web server: every odd answer is an error in words, and none is a wrong result."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.archives import V1Archive
from tests.command import migrate
from tests.scripted import Reply, scripted_server


def saved() -> bytes:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base"))
    return archive.build()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}), "the server answered 401 (Unauthorized)"),
        (Reply(403), "the server answered 403 (Forbidden)"),
        (Reply(500), "the server answered 500 (Internal Server Error)"),
        (Reply(302, headers={"Location": "/image.tar"}), "the server redirects without an end"),
        (Reply(body=saved(), cut=1000), "the connection ended before all bytes had come"),
        (Reply(body=b"<!DOCTYPE html><html>Log in</html>"), "is a page of HTML"),
        (Reply(), "is empty"),
        (Reply(404), "does not exist"),
    ],
    ids=["401", "403", "500", "ring", "cut", "page", "empty", "404"],
)
def test_the_error_is_in_words(reply: Reply, words: str) -> None:
    with scripted_server(lambda _: reply) as (host, _):
        result = migrate("plan", f"http://{host}/image.tar?signature=secret")
    assert result.code == 4
    assert words in " ".join(result.err.split())
    assert "Error:" not in result.err
    assert "message=" not in result.err


@pytest.mark.parametrize("headers", [{}, {"Accept-Ranges": "bytes"}], ids=["", "ranges stated"])
def test_a_server_without_ranges(headers: Mapping[str, str]) -> None:
    with scripted_server(lambda _: Reply(body=saved(), headers=dict(headers))) as (host, _):
        result = migrate("plan", f"http://{host}/image.tar")
    assert (result.code, "1 would be written" in result.out) == (0, True)
