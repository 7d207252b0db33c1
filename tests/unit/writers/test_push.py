from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from migrate.model.digest import Digest
from migrate.writers.push import PushedManifest, PushedName, Pusher


def test_an_interruption_waits_for_no_upload() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    class Client:
        def manifest_digest(self, repository: str, reference: str, access: str) -> Digest | None:
            if repository == "slow":
                begun.set()
                may_end.wait(5)
                ended.set()
                return None
            assert begun.wait(5)
            raise KeyboardInterrupt

    manifest = PushedManifest(b"{}", "application/json")
    names = [PushedName(repository, "1", manifest.digest) for repository in ("slow", "stopped")]
    with pytest.raises(KeyboardInterrupt):
        Pusher(cast(Any, Client()), 2).push({manifest.digest: manifest}, names)
    assert not ended.is_set()
    may_end.set()
    assert ended.wait(5)


def test_the_registry_is_asked_once_for_each_image_that_it_lacks() -> None:
    lacking, there, moved = (PushedManifest(b'{"n":%d}' % number, "application/json") for number in range(3))
    asked: list[tuple[str, str]] = []
    sent: list[tuple[str, str]] = []

    class Client:
        """Has `there` with its tag, and `moved` while its tag leads to another image."""

        def manifest_digest(self, repository: str, reference: str, access: str) -> Digest | None:
            asked.append((repository, reference))
            if repository == "there":
                return there.digest
            return moved.digest if reference == str(moved.digest) else None

        def put_manifest(self, repository: str, reference: str, content: bytes, media_type: str) -> None:
            sent.append((repository, reference))

    places = {"lacking": lacking, "moved": moved, "there": there}
    names = [PushedName(repository, "1", manifest.digest) for repository, manifest in places.items()]
    Pusher(cast(Any, Client())).push({manifest.digest: manifest for manifest in places.values()}, names)

    digests = [(repository, str(manifest.digest)) for repository, manifest in places.items()]
    assert asked == [*digests, ("moved", "1"), ("there", "1")]
    assert sent == [("lacking", str(lacking.digest)), ("lacking", "1"), ("moved", "1")]
