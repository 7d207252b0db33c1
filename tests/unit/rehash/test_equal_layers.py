"""Layers whose bytes equal those of one that was read are known without a hash, and nothing else is."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from msgspec.structs import replace

from migrate.blobio import extents
from migrate.blobio.extents import same_bytes
from migrate.blobio.payload import Extent, Payload
from migrate.errors import IntegrityError, SourceError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import HashedLayer
from migrate.model.legacy import LegacyLayer
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.rehash.pipeline import rehash
from migrate.rehash.ports import LayerJob, TarObserver
from migrate.rehash.reading import OpenLayer
from tests.unit.rehash.sources import MemorySource, MemoryStore, job, make_tar

TAR = make_tar(1, (700_000, 3, 150_001))
OTHER = make_tar(2, (700_000, 3, 150_001))
LATE = TAR[:-2000] + b"x" + TAR[-1999:]
assert len(TAR) == len(OTHER) == len(LATE)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the layers that are read from end to end."""
    keys: list[str] = []
    whole = OpenLayer.read

    def counted(self: OpenLayer, *arguments: Any, **options: Any) -> Any:
        keys.append(self._job.payload.key)
        return whole(self, *arguments, **options)

    monkeypatch.setattr(OpenLayer, "read", counted)
    return keys


def jobs_of(source: MemorySource) -> list[LayerJob]:
    return [job(source, key, size=len(content)) for key, content in source.payloads.items()]


def run(jobs: list[LayerJob], *, stores: bool, jobs_count: int = 1, observer: Any = None) -> dict[str, Any]:
    store = MemoryStore() if stores else None
    try:
        results = rehash(jobs, store, ConvertOptions(jobs=jobs_count), SilentProgress(), observer)
    finally:
        for one in jobs:
            cast(MemorySource, one.source).close()
    return {key: result for (_, key), result in results.items()}


def diff_ids(results: dict[str, Any]) -> dict[str, str]:
    return {key: result.diff_id.hex for key, result in results.items()}


@pytest.mark.parametrize("stores", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_equal_layers_are_read_once(read: list[str], stores: bool, threads: int) -> None:
    payloads = {"a": TAR, "b": OTHER, "c": TAR, "d": LATE, "e": LATE, "f": OTHER, "g": TAR}
    source = MemorySource(payloads, as_extents=True)
    results = run(jobs_of(source), stores=stores, jobs_count=threads)
    assert diff_ids(results) == {key: Digest.of(content).hex for key, content in payloads.items()}
    if threads == 1:
        assert set(read) == {"a", "b", "d"}, "one of each; again where its blob is made"
    results["c"] = replace(results["c"], diff_id=results["a"].diff_id)
    assert results["c"] == results["a"] == results["g"]


def test_equal_gzip_layers_are_unpacked_once(read: list[str]) -> None:
    chance = make_tar(5, tuple(range(9_000, 10_000, 7)))
    packed = gzip.compress(chance * 2, 1, mtime=0)
    assert len(packed) > 256 * 1024
    source = MemorySource({"a": packed, "b": packed}, as_extents=True)
    results = run(jobs_of(source), stores=True)
    assert read == ["a"]
    assert results["a"] == results["b"]
    assert results["a"].blob.digest == Digest.of(packed)


@pytest.mark.parametrize("stores", [False, True])
def test_streams_and_small_layers_are_hashed(read: list[str], stores: bool) -> None:
    run(jobs_of(MemorySource({"a": TAR, "b": TAR})), stores=stores)
    assert read == ["a", "b"]
    small = make_tar(3, (100_000,))
    run(jobs_of(MemorySource({"c": small, "d": small}, as_extents=True)), stores=stores)
    assert read == ["a", "b", "c", "d"]


def test_what_would_come_from_the_disk_again_is_hashed(read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extents, "_NOT_FROM_DISK", 0)
    results = run(jobs_of(MemorySource({"a": TAR, "b": TAR}, as_extents=True)), stores=False)
    assert read == ["a", "b"]
    assert results["a"] == results["b"]


def test_a_claim_is_held_against_what_was_compared(read: list[str]) -> None:
    source = MemorySource({"a": TAR, "b": TAR, "c": TAR, "d": TAR}, as_extents=True)
    wrong = Digest.of(b"another")
    jobs = [
        job(source, "a", size=len(TAR)),
        job(source, "b", size=len(TAR), diff_id=DiffID(wrong)),
        job(source, "c", size=len(TAR), digest=wrong),
        job(source, "d", size=len(TAR), diff_id=DiffID(Digest.of(TAR))),
    ]
    results = run(jobs, stores=False)
    assert read == ["a"]
    assert isinstance(results["b"], IntegrityError)
    assert isinstance(results["c"], IntegrityError)
    assert results["d"] == results["a"]


def test_an_observer_sees_every_layer(read: list[str]) -> None:
    class Counter:
        def __init__(self) -> None:
            self.size = 0

        def feed(self, block: memoryview, /) -> None:
            self.size += len(block)

        def finish(self) -> None:
            pass

    counters: dict[str, Counter] = {}

    def observe(layer_job: LayerJob) -> TarObserver:
        return counters.setdefault(layer_job.payload.key, Counter())

    run(jobs_of(MemorySource({"a": TAR, "b": TAR}, as_extents=True)), stores=False, observer=observe)
    assert {key: counter.size for key, counter in counters.items()} == {"a": len(TAR), "b": len(TAR)}


class Changing(MemorySource):
    """Says that its file has changed whenever a payload was read for the second time."""

    @contextmanager
    def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
        with super().open_payload(layer) as payload:
            yield payload
        if self.opened.count("a") > 1:
            raise SourceError("a: the archive was changed while it was read")


def test_a_file_that_changed_fails_the_layer_that_was_compared_with_it() -> None:
    results = run(jobs_of(Changing({"a": TAR, "b": TAR}, as_extents=True)), stores=False)
    assert isinstance(results["a"], HashedLayer)
    assert isinstance(results["b"], SourceError)


# --- extents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 600_000])
def test_extents_are_compared_to_their_last_byte(size: int) -> None:
    content = make_tar(4, (size,))[:size]
    with tempfile.TemporaryFile() as file:
        file.write(content + content + content[:-1] + b"!")
        file.flush()
        one, same, other = (Extent(fd=file.fileno(), offset=place * size, size=size) for place in range(3))
        assert same_bytes(same, one, lambda: None) is True
        if size:
            assert same_bytes(other, one, lambda: None) is False


def test_an_extent_beyond_the_end_of_its_file_is_not_told() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(300_000))
        file.flush()
        whole = Extent(fd=file.fileno(), offset=0, size=300_000)
        beyond = replace(whole, offset=1)
        assert same_bytes(beyond, whole, lambda: None) is None
        assert same_bytes(whole, beyond, lambda: None) is None


def test_extents_that_cannot_be_read_or_differ_in_size_are_not_told() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(1000))
        file.flush()
        here = Extent(fd=file.fileno(), offset=0, size=500)
        assert same_bytes(here, replace(here, size=400), lambda: None) is None
        assert same_bytes(here, replace(here, fd=-1), lambda: None) is None
        assert same_bytes(replace(here, fd=-1), here, lambda: None) is None
