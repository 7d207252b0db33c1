"""Progress of large layers: told while they are read, and in the end no byte more or less than they have."""

from __future__ import annotations

import gzip

import pytest

from migrate.model.options import ConvertOptions
from migrate.model.progress import Event
from migrate.rehash.pipeline import rehash

from .sources import MemorySource, MemoryStore, job, make_tar

MEGABYTE = 1_000_000


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("stored", ["plain", "gzip"])
@pytest.mark.parametrize("known", [True, False])
def test_a_large_layer_is_told_of_on_the_way(jobs: int, stored: str, known: bool) -> None:
    tar = make_tar(1, [40 * MEGABYTE])
    content = gzip.compress(tar, 0) if stored == "gzip" else tar
    source = MemorySource({"large": content, "small": make_tar(2)})
    events: list[Event] = []

    class Collecting:
        def emit(self, event: Event, /) -> None:
            events.append(event)

    todo = [job(source, key, size=len(one) if known else None) for key, one in source.payloads.items()]
    rehash(todo, MemoryStore(), ConvertOptions(jobs=jobs), Collecting())
    steps = [event.bytes for event in events if event.kind == "advance" and event.name == "large"]
    assert len(steps) >= 4
    assert sum(steps) == len(content)
    assert max(steps) < 20 * MEGABYTE
