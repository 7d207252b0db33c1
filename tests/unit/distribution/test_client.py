"""The protocol with registries that break off, mumble, or answer what nobody asked for."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from migrate.distribution.client import RegistryClient
from migrate.distribution.session import RegistryAnswerError, RegistrySession
from migrate.distribution.transport import open_http
from migrate.errors import TruncatedError
from migrate.model.digest import Digest
from tests.scripted import Answer, Reply, Request, scripted_server


@contextmanager
def client_for(answer: Answer) -> Iterator[tuple[RegistryClient, list[Request], list[float]]]:
    """(client, the requests, the pauses)"""
    pauses: list[float] = []
    with scripted_server(answer) as (host, seen), open_http("http", host, insecure=False) as http:
        yield RegistryClient(RegistrySession(host, http, sleep=pauses.append)), seen, pauses


def once(first: Reply, then: Reply) -> Answer:
    replies = [first, then]
    return lambda _: replies.pop(0) if len(replies) > 1 else replies[0]


CONTENT = json.dumps({"tags": ["1.0"], "repositories": ["app"], "filler": "x" * 100}).encode()
DIGEST = Digest.of(CONTENT)
DOCUMENTS: dict[str, Callable[[RegistryClient], object]] = {
    "manifest": lambda client: client.manifest("app", "1.0").content,
    "config": lambda client: client.read_blob("app", DIGEST, 1000),
    "tags": lambda client: client.tags("app"),
    "catalog": lambda client: client.catalog(),
}


@pytest.mark.parametrize("read", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_whose_body_breaks_off_is_asked_for_again(read: Callable[[RegistryClient], object]) -> None:
    with client_for(once(Reply(body=CONTENT, cut=20), Reply(body=CONTENT))) as (client, seen, pauses):
        assert read(client) in (CONTENT, ["1.0"], ["app"])
        assert len(seen) == 2 and pauses == [0.5]


@pytest.mark.parametrize("read", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_that_never_comes_whole_is_given_up(read: Callable[[RegistryClient], object]) -> None:
    with client_for(lambda _: Reply(body=CONTENT, cut=20)) as (client, seen, _):
        with pytest.raises(RegistryAnswerError, match="closed connection without sending complete message body"):
            read(client)
        assert len(seen) == 7


@pytest.mark.parametrize("read", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_that_comes_drop_by_drop_is_given_up(
    read: Callable[[RegistryClient], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=100)
    monkeypatch.setattr("migrate.distribution.measured.monotonic", lambda: next(seconds))
    with client_for(lambda _: Reply(body=CONTENT + b" " * 200_000)) as (client, seen, _):  # more than one read takes
        with pytest.raises(RegistryAnswerError, match="too slowly"):
            read(client)
        assert len(seen) == 2


BLOB = bytes(range(256)) * 20_000  # more than one block of the download
PLACES = [0, 1, 100, 2_000_000, len(BLOB) - 1]


class Breaking:
    """Cuts each of the first answers to a blob at one of `cuts`, counted in the bytes that it would send."""

    def __init__(self, cuts: list[int], *, knows_range: bool) -> None:
        self.cuts = cuts
        self.knows_range = knows_range

    def answer(self, request: Request) -> Reply:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1]) if self.knows_range else 0
        cut = self.cuts.pop(0) if self.cuts else None
        return Reply(206 if start else 200, BLOB[start:], cut=cut)


@pytest.mark.parametrize("knows_range", [True, False])
@pytest.mark.parametrize("cuts", [[place] for place in PLACES] + [PLACES, PLACES[::-1]])
def test_a_download_goes_on_where_it_broke_off(cuts: list[int], knows_range: bool) -> None:
    with client_for(Breaking(list(cuts), knows_range=knows_range).answer) as (client, seen, _):
        with client.open_blob("app", DIGEST) as stream:
            assert stream.read() == BLOB
        assert len(seen) > 1


@pytest.mark.parametrize("knows_range", [True, False])
def test_a_download_that_never_gets_on_is_given_up(knows_range: bool) -> None:
    with client_for(Breaking([0] * 100, knows_range=knows_range).answer) as (client, seen, pauses):
        with client.open_blob("app", DIGEST) as stream, pytest.raises(TruncatedError, match="several times"):
            stream.read()
        assert len(seen) == 7 and pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_blob_that_comes_drop_by_drop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=100)
    monkeypatch.setattr("migrate.distribution.measured.monotonic", lambda: next(seconds))
    with client_for(lambda _: Reply(body=bytes(200_000))) as (client, seen, _):
        with client.open_blob("app", DIGEST) as stream, pytest.raises(TruncatedError, match="too slowly"):
            stream.read()
        assert len(seen) == 2


def test_headers_that_come_drop_by_drop_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=100)
    monkeypatch.setattr("migrate.distribution.measured.monotonic", lambda: next(seconds))
    with client_for(lambda _: Reply(headers={"Filler": "x" * 65_000, "More": "x" * 30_000})) as (client, seen, _):
        with pytest.raises(RegistryAnswerError, match="too slowly"):
            client.tags("app")
        assert len(seen) == 2


def test_a_reader_that_takes_its_time_makes_no_answer_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("migrate.distribution.measured.monotonic", lambda: now)
    with client_for(lambda _: Reply(body=BLOB)) as (client, seen, _):
        with client.open_blob("app", DIGEST) as stream:
            read = b""
            while block := stream.read(100_000):
                read += block
                now += 1000
        assert read == BLOB and len(seen) == 1


def test_a_blob_of_which_each_connection_brings_one_byte_is_given_up() -> None:
    with client_for(Breaking([1] * 100, knows_range=True).answer) as (client, seen, _):
        with client.open_blob("app", DIGEST) as stream, pytest.raises(TruncatedError, match="several times"):
            stream.read()
        assert len(seen) == 7


def test_a_blob_may_break_off_often_as_long_as_it_gets_on() -> None:
    content = bytes(range(256)) * 4096 * 12
    cuts = [1024 * 1024 + 100] * 10

    def answer(request: Request) -> Reply:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        return Reply(206 if start else 200, content[start:], cut=cuts.pop() if cuts else None)

    with client_for(answer) as (client, _, pauses):
        with client.open_blob("app", DIGEST) as stream:
            assert stream.read() == content
        assert pauses == [0.5] * 10


@pytest.mark.parametrize("read", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("length", ["9" * 5000, "9" * 20])
def test_a_length_that_no_answer_can_have(read: Callable[[RegistryClient], object], length: str) -> None:
    with client_for(lambda _: Reply(body=b"x", headers={"Content-Length": length}, cut=1)) as (client, _, _):
        with pytest.raises(RegistryAnswerError):
            read(client)


# --- answers that are none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [[], 5, None, {"tags": 5}, {"tags": "1.0"}, {"tags": {"1.0": 1}}, {"tags": [1]}])
def test_a_list_of_tags_that_is_none(document: object) -> None:
    with client_for(lambda _: Reply(body=json.dumps(document).encode())) as (client, _, _):
        with pytest.raises(RegistryAnswerError, match="holds no list of tags"):
            client.tags("app")


@pytest.mark.parametrize("document", [{"tags": None}, {}, {"tags": []}])
def test_a_repository_without_tags(document: object) -> None:
    with client_for(lambda _: Reply(body=json.dumps(document).encode())) as (client, _, _):
        assert client.tags("app") == []


@pytest.mark.parametrize("place", ["http://[x", "/v2/_catalog?x=\x01", "/v2/\x7f", "ftp://elsewhere/"])
def test_a_next_page_that_is_no_address(place: str) -> None:
    reply = Reply(body=b'{"repositories": ["app"]}', headers={"Link": f'<{place}>; rel="next"'})
    with client_for(lambda _: reply) as (client, seen, pauses):
        with pytest.raises(RegistryAnswerError):
            client.catalog()
        assert len(seen) == 1 and pauses == []


@pytest.mark.parametrize("name", ["a\x01", "\x00", "a" * 70_000])
def test_a_name_that_no_address_can_hold(name: str) -> None:
    with client_for(lambda _: Reply()) as (client, seen, pauses):
        with pytest.raises(RegistryAnswerError):
            client.tags(name)
        assert seen == [] and pauses == []


@pytest.mark.parametrize("size", [5, 50])
@pytest.mark.parametrize("place", ["ftp://elsewhere/", "/" + "a" * 65_530])
def test_an_upload_to_no_address(place: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.distribution.uploads.CHUNK_BYTES", 20)
    content = b"x" * size
    with client_for(lambda _: Reply(202, headers={"Location": place})) as (client, seen, pauses):
        with pytest.raises(RegistryAnswerError):
            client.upload_blob("app", Digest.of(content), size, lambda: io.BytesIO(content))
        assert len(seen) == 1 and pauses == []
