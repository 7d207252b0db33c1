"""Uploads to registries that lose what they were sent."""

from __future__ import annotations

import io

import pytest

from migrate.distribution.session import RegistryAnswerError, RegistrySession
from migrate.distribution.transport import open_http
from migrate.distribution.uploads import BlobUpload
from migrate.model.digest import Digest
from tests.scripted import Reply, Request, scripted_server

CONTENT = b"0123456789" * 5


def send(host: str, pauses: list[float] | None = None) -> None:
    """CONTENT, in chunks of 20 bytes where the test says so."""
    naps = [] if pauses is None else pauses
    with open_http("http", host, insecure=False) as http:
        session = RegistrySession(host, http, sleep=naps.append)
        BlobUpload(session, "app", Digest.of(CONTENT), len(CONTENT), lambda: False).send(io.BytesIO(CONTENT))


class Forgetful:
    """Takes chunks, but has lost an upload `losses` times when its second chunk comes."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.content = b""

    def answer(self, request: Request) -> Reply:
        upload = {"Location": "/v2/app/blobs/uploads/1"}
        if request.method == "POST":
            self.content = b""
            return Reply(202, headers=upload)
        if request.method == "PATCH":
            if self.content and self.losses:
                self.losses -= 1
                self.content = b"lost"
                return Reply(404)
            self.content += request.body
            return Reply(202, headers=upload)
        if request.method == "GET":
            return Reply(404)
        return Reply(201)


def test_an_upload_that_is_lost_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.distribution.uploads.CHUNK_BYTES", 20)
    registry = Forgetful(losses=6)
    with scripted_server(registry.answer) as (host, _):
        send(host)
    assert registry.content == CONTENT


def test_an_upload_that_is_lost_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.distribution.uploads.CHUNK_BYTES", 20)
    with scripted_server(Forgetful(losses=100).answer) as (host, seen):
        with pytest.raises(RegistryAnswerError, match="failed after 7 attempts: 404 Not Found"):
            send(host)
    assert sum(request.method == "PATCH" for request in seen) == 14
