"""Workers share layers through the target: what one has stored, another does not compress again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from migrate.batch import layers
from migrate.batch import task as batch_task
from migrate.batch.layers import KnownLayer, KnownLayers
from migrate.batch.plan import Candidate, SourceIdentity, SourceOutcome
from migrate.batch.records import Role
from migrate.batch.search import look_at
from migrate.batch.task import Worker, WorkOrder
from migrate.errors import DamagedError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.options import Compression, ConvertOptions
from migrate.rehash.ports import BlobWriter
from migrate.storage.bucket_store import BucketStore
from migrate.storage.directory_store import DirectoryStore
from migrate.writers.oci_layout import OciLayout
from tests.archives import V1Archive, layer_tar, legacy_id
from tests.buckets import memory_bucket

OPTIONS = ConvertOptions(exact_sizes=True)


class CountingLayout(OciLayout):
    """A layout that counts the blobs that somebody begins to write."""

    begun = 0

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        CountingLayout.begun += 1
        return super().open_blob()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[CountingLayout]:
    monkeypatch.setattr(CountingLayout, "begun", 0)
    monkeypatch.setattr(batch_task, "open_worker_target", CountingLayout)
    return CountingLayout


def archive(directory: Path, name: str, size: int = 400_000) -> Candidate:
    """A base of `size` bytes that all archives have, and a layer of its own."""
    made = V1Archive()
    made.layer("base", tar=layer_tar("base.txt", content=b"base" * (size // 4)))
    made.tag("app", name, made.layer(name, "base"))
    path = directory / f"{name}.tar"
    path.write_bytes(made.build())
    return Candidate(str(path), look_at(str(path))[0], 0)


def order(target: Path, run: str = "a" * 16) -> WorkOrder:
    return WorkOrder(run=run, recipe="r", target=str(target), state=str(target / ".migrate"), options=OPTIONS)


def deal(order: WorkOrder, *candidates: Candidate) -> list[SourceOutcome]:
    """One worker with these sources."""
    worker = Worker(order)
    try:
        outcomes = [worker.convert(*opened).outcome for opened in worker.iter_openings(candidates)]
        worker.blobs.publish()
        return outcomes
    finally:
        worker.close()


@pytest.mark.parametrize("size", [400, 400_000])
def test_one_worker_compresses_a_layer_once(tmp_path: Path, counted: type[CountingLayout], size: int) -> None:
    candidates = [archive(tmp_path, name, size) for name in ("one", "two", "three")]
    assert deal(order(tmp_path / "out"), *candidates) == [SourceOutcome.CONVERTED] * 3
    assert counted.begun == 4


@pytest.mark.parametrize("size", [400, 400_000])
def test_another_worker_of_the_run_finds_it(tmp_path: Path, counted: type[CountingLayout], size: int) -> None:
    deal(order(tmp_path / "out"), archive(tmp_path, "one", size))
    assert counted.begun == 2
    deal(order(tmp_path / "out"), archive(tmp_path, "two", size))
    assert counted.begun == 3


@pytest.mark.parametrize("size", [400, 400_000])
def test_a_later_run_proves_it_and_uses_it(tmp_path: Path, counted: type[CountingLayout], size: int) -> None:
    deal(order(tmp_path / "out"), archive(tmp_path, "one", size))
    deal(order(tmp_path / "out", "b" * 16), archive(tmp_path, "two", size))
    assert counted.begun == 3


def test_a_blob_that_was_damaged_meanwhile_is_made_anew(tmp_path: Path, counted: type[CountingLayout]) -> None:
    deal(order(tmp_path / "out"), archive(tmp_path, "one"))
    for blob in (tmp_path / "out" / "blobs" / "sha256").iterdir():
        blob.write_bytes(b"damaged")
    deal(order(tmp_path / "out", "b" * 16), archive(tmp_path, "two"))
    assert counted.begun == 4
    contents = [path.read_bytes() for path in (tmp_path / "out" / "blobs" / "sha256").iterdir()]
    assert contents.count(b"damaged") == 1  # the layer that only the first archive has


def test_without_its_state_a_run_only_takes_longer(tmp_path: Path, counted: type[CountingLayout]) -> None:
    deal(order(tmp_path / "out"), archive(tmp_path, "one"))
    for path in sorted((tmp_path / "out" / ".migrate").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    deal(order(tmp_path / "out", "b" * 16), archive(tmp_path, "two"))
    assert counted.begun == 4


@pytest.mark.parametrize("content", [b"", b"made", b"king 00 1 gzip 00\n", b"\xff" * 200, b"made " + b"0" * 64])
def test_index_files_that_are_none_count_as_absent(tmp_path: Path, content: bytes) -> None:
    diff_id = DiffID(Digest.of(b"tar"))
    known = KnownLayers(DirectoryStore(tmp_path), OPTIONS)
    layer = KnownLayer(StoredBlob(digest=Digest.of(b"blob"), size=4, compression="gzip"), Role.MADE, "a" * 16)
    known.add(diff_id, layer)
    assert known.find(diff_id) == layer
    (path,) = [path for path in (tmp_path / ".migrate/known").rglob("*") if path.is_file()]
    path.write_bytes(content)
    assert known.find(diff_id) is None


def test_other_compression_is_another_index(tmp_path: Path) -> None:
    diff_id = DiffID(Digest.of(b"tar"))
    layer = KnownLayer(StoredBlob(digest=Digest.of(b"blob"), size=4, compression="gzip"), Role.MADE, "a" * 16)
    KnownLayers(DirectoryStore(tmp_path), OPTIONS).add(diff_id, layer)
    for options in (ConvertOptions(compression=Compression.NONE), ConvertOptions(compression_level=6)):
        assert KnownLayers(DirectoryStore(tmp_path), options).find(diff_id) is None


def test_a_large_layer_is_known_before_its_source_is_done(
    tmp_path: Path, counted: type[CountingLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_LARGE_BYTES", 100)
    first = Worker(order(tmp_path / "out"))
    for opened in first.iter_openings([archive(tmp_path, "one")]):
        first.convert(*opened)
    deal(order(tmp_path / "out"), archive(tmp_path, "two"))
    first.blobs.publish()
    first.close()
    assert counted.begun == 3


# --- in buckets --------------------------------------------------------------------------------------------------


def test_a_small_new_layer_costs_a_bucket_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_bucket() as bucket:
        requests: Counter[str] = Counter()
        for name in ("open", "read", "version", "put_now", "put_new"):
            monkeypatch.setattr(BucketStore, name, counting(requests, name, getattr(BucketStore, name)))
        names = [f"n{number}" for number in range(20)]
        for name in names:
            made = V1Archive()
            for layer in range(4):
                made.layer(f"{name}-{layer}", f"{name}-{layer - 1}" if layer else None, tar=layer_tar(f"{name}{layer}"))
            made.tag("app", name, legacy_id(f"{name}-3"))
            bucket.pipe(f"/shelf/{name}.tar", made.build())
        candidates = [Candidate(f"memory://shelf/{name}.tar", SourceIdentity(1, "mark"), 0) for name in names]
        given = replace(order(Path("/out")), target="memory://out")
        requests.clear()
        assert set(deal(given, *candidates)) == {SourceOutcome.CONVERTED}
    assert requests.pop("put_new") == 4 * len(names) + 2  # oci-layout, index.json
    assert requests.total() < 20, requests


def counting(requests: Counter[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*words: Any, **options: Any) -> Any:
        requests[name] += 1
        return call(*words, **options)

    return counted


@pytest.mark.parametrize("end", [20, 3], ids=["all", "given up"])
def test_objects_are_opened_ahead_in_their_order_and_closed(end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Source:
        def __init__(self, location: str) -> None:
            self.location = location

        def close(self) -> None:
            closed.append(self.location)

    def open_source(location: str, options: object) -> Source:
        opened.append(location)
        if location.endswith("7.tar"):
            raise DamagedError("no archive")
        return Source(location)

    monkeypatch.setattr(batch_task, "open_source", open_source)
    names = [f"{'s3://' if number % 3 else '/'}in/{number}.tar" for number in range(20)]
    with memory_bucket():
        worker = Worker(replace(order(Path("/out")), target="memory://out"))
        openings = worker.iter_openings([Candidate(name, SourceIdentity(1, "mark"), 0) for name in names])
        for number, (candidate, opening) in enumerate(openings):
            assert candidate.location == names[number]
            if number == end:
                break
            assert len(opened) <= number + 6
            if number in (7, 17):
                with pytest.raises(DamagedError):
                    opening()
            else:
                opening().close()
        openings.close()
        assert worker._openers is not None
        worker._openers.shutdown()  # and waits for what is under way
        worker.close()
    assert sorted(closed) == sorted(name for name in opened if not name.endswith("7.tar"))
