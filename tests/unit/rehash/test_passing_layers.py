"""Layers that can be read only once, such as those of a pipe."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from migrate.blobio.payload import Payload
from migrate.errors import TargetError
from migrate.model.legacy import LegacyLayer
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.rehash import pipeline
from migrate.rehash.pipeline import PassingLayers
from tests.unit.rehash.sources import FailingStore, MemoryStore, job, make_tar

_TAR = make_tar(1, sizes=(3_500_000,))
_OTHER = make_tar(2, sizes=(3_500_000,))


_BLOCK = 1 << 20


class _AfterFirstBlock(io.BytesIO):
    """Gives its second block only when `started` is set: nobody but another thread can have begun with the first."""

    def __init__(self, content: bytes, started: threading.Event) -> None:
        super().__init__(content)
        self._started = started

    def readinto(self, buffer: object, /) -> int:
        if self.tell() >= _BLOCK:
            assert self._started.wait(60), "no thread compresses what was read"
        return super().readinto(buffer)  # type: ignore[arg-type]


class _Source:
    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    @contextmanager
    def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
        del layer
        yield Payload(stream=self._stream, origin="archive", size=len(_TAR))


@pytest.mark.parametrize("jobs", [2, 3])
def test_other_threads_compress_while_the_stream_is_read(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, started = threading.current_thread(), threading.Event()

    def compress(block: memoryview) -> bytes:
        if threading.current_thread() is not reader:
            started.set()
        return bytes(block)

    monkeypatch.setattr(pipeline, "block_compressor", lambda *_: compress)
    store = MemoryStore()
    with PassingLayers(store, ConvertOptions(jobs=jobs), SilentProgress()) as passing:
        passing.take(job(_Source(_AfterFirstBlock(_TAR, started)), "layer"))
    assert list(store.blobs.values()) == [_TAR]


def test_one_job_starts_no_thread() -> None:
    before = threading.active_count()
    with PassingLayers(MemoryStore(), ConvertOptions(jobs=1), SilentProgress()) as passing:
        passing.take(job(_Source(io.BytesIO(_TAR)), "layer"))
        assert threading.active_count() == before


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_thread_that_reads_is_one_of_the_jobs(jobs: int) -> None:
    before = threading.active_count()

    with PassingLayers(MemoryStore(), ConvertOptions(jobs=jobs), SilentProgress()):
        assert threading.active_count() - before == jobs - 1


@pytest.mark.parametrize("jobs", [2, 3])
def test_a_layer_is_read_while_others_compress_the_last_blocks_of_the_one_before(
    jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, begun, next_is_read = threading.current_thread(), threading.Event(), threading.Event()

    class Second(io.BytesIO):
        def readinto(self, buffer: object, /) -> int:
            next_is_read.set()
            return super().readinto(buffer)  # type: ignore[arg-type]

    def compress(block: memoryview) -> bytes:
        if threading.current_thread() is not reader:
            begun.set()
            assert next_is_read.wait(60), "the next layer is not read before this block is done"
        return bytes(block)

    monkeypatch.setattr(pipeline, "block_compressor", lambda *_: compress)
    store = MemoryStore()
    with PassingLayers(store, ConvertOptions(jobs=jobs), SilentProgress()) as passing:
        passing.take(job(_Source(_AfterFirstBlock(_TAR, begun)), "first"))
        passing.take(job(_Source(Second(_OTHER)), "second"))
    assert list(store.blobs.values()) == [_TAR, _OTHER]
    assert store.open == 0


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_blobs_that_are_incomplete_after_an_interruption_are_removed(jobs: int) -> None:
    store = MemoryStore()
    with (
        pytest.raises(KeyboardInterrupt),
        PassingLayers(store, ConvertOptions(jobs=jobs), SilentProgress()) as passing,
    ):
        passing.take(job(_Source(io.BytesIO(_TAR)), "layer"))
        raise KeyboardInterrupt
    assert store.open == store.committed == 0


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_an_error_of_the_target_in_the_last_block_ends_the_run(
    jobs: int, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "block_compressor", lambda *_: bytes)
    store = FailingStore(len(_TAR) - 1)
    with (
        pytest.raises(TargetError, match="no space left"),
        PassingLayers(store, ConvertOptions(jobs=jobs), SilentProgress()) as passing,
    ):
        for number in range(layers):
            passing.take(job(_Source(io.BytesIO(_TAR)), f"layer {number}"))
    assert store.open == store.committed == 0
