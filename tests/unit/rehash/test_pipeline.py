"""One blob for every distinct tar, the same whatever the order, the threads and the kind of source."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import io
import itertools
import lzma
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from migrate.blobio.compression import zstd_module
from migrate.blobio.payload import Payload
from migrate.errors import (
    DamagedError,
    IntegrityError,
    MigrateError,
    PayloadRestartError,
    SourceError,
    TargetError,
    TruncatedError,
)
from migrate.model.digest import Digest
from migrate.model.image import HashedLayer, StoredBlob
from migrate.model.legacy import LegacyLayer
from migrate.model.options import Compression, ConvertOptions, EmptyLayers, Format
from migrate.model.progress import Event, SilentProgress
from migrate.rehash.pipeline import rehash
from migrate.rehash.ports import LayerJob
from tests.unit.rehash.sources import (
    FailingStore,
    LinkingStore,
    MemorySource,
    MemoryStore,
    RememberingStore,
    job,
    jobs_of,
    make_tar,
)

EMPTY = bytes(1024)
EMPTY_BLOB = "a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
LARGE = make_tar(1, (3_000_000, 17, 2_500_001))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def run(
    jobs: list[LayerJob], store: MemoryStore | None = None, options: ConvertOptions | None = None
) -> dict[str, HashedLayer | MigrateError]:
    results = rehash(jobs, store, options or ConvertOptions(), SilentProgress())
    assert store is None or store.open == 0
    return {key: result for (_, key), result in results.items()}


def layer(results: dict[str, HashedLayer | MigrateError], key: str) -> HashedLayer:
    result = results[key]
    assert isinstance(result, HashedLayer), result
    return result


def error(results: dict[str, HashedLayer | MigrateError], key: str) -> MigrateError:
    result = results[key]
    assert isinstance(result, MigrateError), result
    return result


def blob(hashed: HashedLayer) -> StoredBlob:
    assert hashed.blob is not None
    return hashed.blob


def mixed_payloads() -> dict[str, bytes]:
    """Twins and triplets of every kind, small and large, and some that fail."""
    small, other = make_tar(2), make_tar(3)
    return {
        "large": LARGE,
        "large-again": LARGE,
        "small": small,
        "small-gzip": gzip.compress(small, mtime=7),
        "small-xz": lzma.compress(small),
        "same-size": other,
        "other-bz2": bz2.compress(other),
        "large-zstd": zstd_module().compress(LARGE),
        "medium": make_tar(4, (700_000,)),
        "medium-twin": make_tar(5, (700_000,)),
        "empty": EMPTY,
        "nothing": b"",
        "zeros": bytes(10_240),
        "truncated": LARGE[:2_000_000],
        "no-tar": b"#!/bin/sh\n" * 200,
    }


# --- the same results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD, Compression.NONE])
def test_results_depend_neither_on_threads_nor_order_nor_kind_of_source(compression: Compression) -> None:
    options = ConvertOptions(format=Format.OCI, compression=compression, empty_layers=EmptyLayers.KEEP)
    seen = set()
    for jobs, as_extents, backwards in itertools.product((1, 2, 7), (False, True), (False, True)):
        source = MemorySource(mixed_payloads(), as_extents)
        store = MemoryStore()
        todo = jobs_of(source)
        results = run(todo[::-1] if backwards else todo, store, dataclasses.replace(options, jobs=jobs))
        source.close()
        told = [(key, str(result)) for key, result in sorted(results.items())]
        seen.add((str(told), tuple(sorted(blob_digest.hex for blob_digest in store.blobs))))
    assert len(seen) == 1


def test_each_distinct_tar_has_one_blob_that_unpacks_to_it() -> None:
    store = MemoryStore()
    payloads = mixed_payloads()
    results = run(jobs_of(MemorySource(payloads)), store, ConvertOptions(jobs=2, empty_layers=EmptyLayers.KEEP))
    tars = {key: hashed for key, hashed in results.items() if isinstance(hashed, HashedLayer)}
    assert len({hashed.diff_id for hashed in tars.values()}) == len(store.blobs) == store.committed
    for key, hashed in tars.items():
        content = gzip.decompress(store.blobs[blob(hashed).digest])
        assert sha256(content) == hashed.diff_id.hex, key
        assert len(content) == hashed.tar_size
    assert layer(results, "large").diff_id.hex == sha256(LARGE)
    assert layer(results, "large") == layer(results, "large-again") == layer(results, "large-zstd")


def test_gzip_is_a_row_of_members_of_one_mebibyte() -> None:
    store = MemoryStore()
    run(jobs_of(MemorySource({"large": LARGE})), store)
    (content,) = store.blobs.values()
    assert content.count(bytes.fromhex("1f8b08000000000000ff")) >= 6
    assert gzip.decompress(content) == LARGE


def test_zstd_is_a_row_of_frames() -> None:
    store = MemoryStore()
    options = ConvertOptions(format=Format.OCI, compression=Compression.ZSTD)
    results = run(jobs_of(MemorySource({"large": LARGE})), store, options)
    (content,) = store.blobs.values()
    assert zstd_module().decompress(content) == LARGE
    assert blob(layer(results, "large")).compression == "zstd"


# --- which bytes stand for a tar -------------------------------------------------------------------------------------


def test_good_gzip_is_taken_over_and_the_smallest_wins() -> None:
    tar = make_tar(6)
    fast, small = gzip.compress(tar, 1, mtime=0), gzip.compress(tar, 9, mtime=0)
    store = MemoryStore()
    results = run(jobs_of(MemorySource({"a": tar, "b": fast, "c": small})), store)
    assert {blob(layer(results, key)).digest.hex for key in "abc"} == {sha256(small)}
    assert list(store.blobs.values()) == [small]


def test_gzip_is_recompressed_for_zstd() -> None:
    tar = make_tar(6)
    store = MemoryStore()
    run(
        jobs_of(MemorySource({"b": gzip.compress(tar)})),
        store,
        ConvertOptions(format=Format.OCI, compression=Compression.ZSTD),
    )
    assert [zstd_module().decompress(content) for content in store.blobs.values()] == [tar]


def test_kept_blobs_stand_unchanged_and_serve_their_twins() -> None:
    tar = make_tar(7, (900_000,))
    kept, other = lzma.compress(tar), gzip.compress(tar)  # no manifest of ours can name the smaller one, xz
    assert len(kept) < len(other)
    source = MemorySource({"kept": kept, "kept-too": other, "plain": tar})
    store = MemoryStore()
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    todo = [job(source, "kept", keep=True), job(source, "kept-too", keep=True, media_type=media_type)]
    results = run([*todo, job(source, "plain")], store)
    assert sorted(store.blobs.values()) == sorted([kept, other])
    assert blob(layer(results, "kept")).digest == Digest.of(kept)
    assert blob(layer(results, "kept-too")).digest == Digest.of(other)
    assert blob(layer(results, "plain")).digest == Digest.of(other)


def test_what_is_no_layer_tar_is_checked_and_copied() -> None:
    statement = b'{"_type": "https://in-toto.io/Statement/v0.1"}'
    store = MemoryStore()
    claim: dict[str, Any] = {"keep": True, "media_type": "application/vnd.in-toto+json", "digest": Digest.of(statement)}
    source = MemorySource({"attestation": statement})
    results = run([job(source, "attestation", **claim)], store)
    assert layer(results, "attestation").diff_id == Digest.of(statement)
    assert list(store.blobs.values()) == [statement]
    bad = [job(source, "attestation", **{**claim, "digest": Digest.of(b"other")})]
    assert isinstance(error(run(bad, MemoryStore()), "attestation"), IntegrityError)


def test_a_blob_of_an_earlier_run_is_used_again() -> None:
    store = RememberingStore()
    source = MemorySource({"large": LARGE})
    first = run(jobs_of(source), store)
    committed = store.committed
    assert run(jobs_of(source), store) == first
    assert store.committed == committed
    store.blobs.clear()  # what is remembered no longer stands there
    assert run(jobs_of(source), store) == first
    assert len(store.blobs) == 1


def test_stored_bytes_in_a_file_are_linked(tmp_path: Path) -> None:
    packed = gzip.compress(make_tar(8, (300_000,)))
    path = tmp_path / "layer"
    path.write_bytes(packed)

    class Files(MemorySource):
        @contextmanager
        def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
            with path.open("rb") as stream:
                yield Payload(stream=stream, origin="blob", size=len(packed), path=str(path))

    source = Files({"one": packed})
    for keep in (False, True):
        store = LinkingStore()
        results = run([job(source, "one", keep=keep)], store)
        assert store.linked == [str(path)]
        assert blob(layer(results, "one")).digest == Digest.of(packed)
    other = MemoryStore()
    assert run([job(source, "one")], other) == run([job(source, "one")], LinkingStore())
    assert list(other.blobs.values()) == [packed]


def test_the_empty_tar_is_the_blob_that_every_registry_holds() -> None:
    store = MemoryStore()
    source = MemorySource({"empty": EMPTY, "gzip": gzip.compress(EMPTY), "nothing": b""})
    results = run(jobs_of(source), store, ConvertOptions(empty_layers=EmptyLayers.KEEP))
    assert blob(layer(results, "empty")) == blob(layer(results, "gzip"))
    assert blob(layer(results, "empty")).digest.hex == EMPTY_BLOB
    assert gzip.decompress(store.blobs[Digest(EMPTY_BLOB)]) == EMPTY
    assert gzip.decompress(store.blobs[blob(layer(results, "nothing")).digest]) == b""


def test_empty_layers_are_dropped_unless_a_manifest_names_them() -> None:
    source = MemorySource({"empty": EMPTY, "zeros": bytes(10_240), "nothing": b"", "kept": EMPTY})
    store = MemoryStore()
    results = run([*jobs_of(source)[:3], job(source, "kept", keep=True)], store)
    for key in ("empty", "zeros", "nothing"):
        assert layer(results, key).empty
        assert layer(results, key).blob is None
    assert blob(layer(results, "kept")).digest == Digest.of(EMPTY)
    assert list(store.blobs.values()) == [EMPTY]


def test_plan_stores_nothing_and_measures_on_request() -> None:
    source = MemorySource(mixed_payloads())
    plain = run(jobs_of(source), None, ConvertOptions(jobs=2))
    assert layer(plain, "large").diff_id.hex == sha256(LARGE)
    assert all(hashed.blob is None for hashed in plain.values() if isinstance(hashed, HashedLayer))
    measured = run(jobs_of(source), None, ConvertOptions(jobs=2, exact_sizes=True))
    real = run(jobs_of(source), MemoryStore(), ConvertOptions(jobs=2))
    assert {key: str(result) for key, result in measured.items()} == {key: str(r) for key, r in real.items()}


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_bad_layer_is_a_result_and_the_others_go_on(jobs: int) -> None:
    good = make_tar(9)
    payloads = {
        "good": good,
        "truncated": LARGE[:-1_000_000],
        "cut-gzip": gzip.compress(good)[:-20],
        "tail": gzip.compress(good) + b"garbage",
        "flipped": bytes(byte ^ 0xFF if place == 300 else byte for place, byte in enumerate(gzip.compress(good))),
        "no-tar": b"\x7fELF" + bytes(4000),
    }
    store = MemoryStore()
    results = run(jobs_of(MemorySource(payloads)), store, ConvertOptions(jobs=jobs))
    assert isinstance(results["good"], HashedLayer)
    tail = results["tail"]
    assert isinstance(tail, HashedLayer) and tail.flags == ("bytes-after-compressed",)
    assert len(store.blobs) == 1
    for key, kind in {
        "truncated": TruncatedError,
        "cut-gzip": TruncatedError,
        "flipped": SourceError,
        "no-tar": DamagedError,
    }.items():
        failed = error(results, key)
        assert isinstance(failed, kind), key
        assert failed.layer == key
        assert key in failed.message


@pytest.mark.parametrize("claim", ["size", "digest", "diff_id"])
@pytest.mark.parametrize("packed", [False, True])
def test_claims_are_checked(claim: str, packed: bool) -> None:
    tar = make_tar(10)
    content = gzip.compress(tar) if packed else tar
    source = MemorySource({"one": content, "two": content})
    true: dict[str, Any] = {"size": len(content), "digest": Digest.of(content), "diff_id": Digest.of(tar)}
    false: dict[str, Any] = {"size": len(content) + 1, "digest": Digest.of(b"x"), "diff_id": Digest.of(b"y")}
    store = MemoryStore()
    results = run([job(source, "one", **true), job(source, "two", **{claim: false[claim]})], store)
    assert isinstance(results["one"], HashedLayer)
    failed = error(results, "two")
    assert isinstance(failed, IntegrityError)
    for word in ("two", str(true[claim]), str(false[claim])):
        assert word in failed.message
    assert len(store.blobs) == 1


def test_a_twin_takes_over_where_the_first_fails() -> None:
    tar = make_tar(11, (800_000,))
    source = MemorySource({"a": tar, "b": tar})
    todo = [job(source, "a", digest=Digest.of(b"something else")), job(source, "b")]
    store = MemoryStore()
    results = run(todo, store, ConvertOptions(jobs=2))
    assert isinstance(results["a"], IntegrityError)
    assert blob(layer(results, "b")).digest in store.blobs


def test_a_payload_that_restarts_is_opened_again() -> None:
    tars = {"first": make_tar(12, (2_000_000,)), "second": make_tar(13, (1_500_000,))}

    class Restarting(MemorySource):
        @contextmanager
        def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
            self.opened.append(str(layer.legacy_id))
            if len(self.opened) == 1 or "hopeless" in self.opened:
                yield Payload(stream=io.BufferedReader(_Breaking(tars["first"])), origin="tar-split")
            else:
                yield Payload(stream=io.BytesIO(tars["second"]), origin="diff", exact=False, note="made anew")

    store = MemoryStore()
    results = run([job(Restarting({}), "one")], store)
    hashed = layer(results, "one")
    assert (hashed.origin, hashed.exact, hashed.note) == ("diff", False, "made anew")
    assert hashed.diff_id.hex == sha256(tars["second"])
    assert len(store.blobs) == 1
    hopeless = Restarting({})
    assert isinstance(run([job(hopeless, "hopeless")], store)["hopeless"], PayloadRestartError)
    assert len(hopeless.opened) < 10


class _Breaking(io.RawIOBase):
    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        if self._stream.tell() > 1_200_000:
            raise PayloadRestartError("the CRC does not match")
        return self._stream.readinto(buffer)  # type: ignore[arg-type]


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_a_failing_target_ends_the_run_and_its_threads(jobs: int) -> None:
    tar = make_tar(14, tuple(1_000_000 + n for n in range(12)))
    source = MemorySource({"a": tar, "b": tar + bytes(512), "c": tar + bytes(1024)})
    store = FailingStore(2_000)
    with pytest.raises(TargetError, match="no space left"):
        rehash(jobs_of(source), store, ConvertOptions(jobs=jobs), SilentProgress())
    assert store.open == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rehash")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_leaves_no_blob_and_no_thread(jobs: int) -> None:
    class Interrupting(MemorySource):
        @contextmanager
        def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
            if layer.legacy_id == "b":
                raise KeyboardInterrupt
            with super().open_payload(layer) as payload:
                yield payload

    source = Interrupting({"a": LARGE, "b": LARGE + bytes(512), "c": LARGE + bytes(1024)})
    store = MemoryStore()
    with pytest.raises(KeyboardInterrupt):
        rehash(jobs_of(source), store, ConvertOptions(jobs=jobs), SilentProgress())
    assert store.open == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rehash")]


# --- observers and progress ------------------------------------------------------------------------------------------


class _Recorder:
    def __init__(self) -> None:
        self.content = b""
        self.finished = 0

    def feed(self, block: memoryview, /) -> None:
        self.content += bytes(block)

    def finish(self) -> None:
        self.finished += 1


def test_observers_see_every_whole_tar_once() -> None:
    recorders: dict[str, list[_Recorder]] = {}

    def observe(job: LayerJob) -> _Recorder:
        recorders.setdefault(job.payload.key, []).append(_Recorder())
        return recorders[job.payload.key][-1]

    tar = make_tar(15, (1_700_000,))
    source = MemorySource({"a": tar, "b": tar, "c": gzip.compress(tar), "d": EMPTY, "bad": tar[:-600_000]})
    rehash(jobs_of(source), MemoryStore(), ConvertOptions(jobs=2), SilentProgress(), observe)
    assert {key: [(r.content, r.finished) for r in seen] for key, seen in recorders.items()} == {
        "a": [(tar, 1)],
        "b": [(tar, 1)],
        "c": [(tar, 1)],
        "d": [(EMPTY, 1)],
        "bad": [(tar[:-600_000], 0)],
    }


def test_progress_adds_up() -> None:
    events: list[Event] = []

    class Collecting:
        def emit(self, event: Event, /) -> None:
            events.append(event)

    source = MemorySource(mixed_payloads())
    todo = [job(source, key, size=len(content)) for key, content in source.payloads.items()]
    rehash(todo, MemoryStore(), ConvertOptions(jobs=3), Collecting())
    total = sum(map(len, source.payloads.values()))
    assert [(event.stage, event.total_bytes, event.total_items) for event in events if event.kind == "stage"] == [
        ("compress", total, len(todo))
    ]
    assert sum(event.bytes for event in events if event.kind == "advance") == total
    assert sorted(event.name for event in events if event.kind == "layer") == sorted(source.payloads)
