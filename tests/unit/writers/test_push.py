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
