"""Objects of a bucket by ranges: the same bytes in any way of reading, few requests, and errors of the store's own."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from migrate.errors import MissingLayerError, SourceError, SourceUnreadableError
from migrate.model.legacy import SourceType
from migrate.model.options import ReadOptions
from migrate.readers.detect import open_source
from migrate.storage import bucket, ranges
from migrate.storage.bucket import BucketTree, bring_object
from migrate.storage.ranges import UNDER_WAY, RangeStream
from tests.shelves import archive

CONTENT = Random(23).randbytes(50_000)


class Store:
    """Counts what is under way."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.most = 0
        self._under_way = 0
        self._lock = threading.Lock()

    def fetch(self, start: int, end: int) -> bytes:
        with self._lock:
            self.asked.append((start, end))
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        block = CONTENT[start:end]
        with self._lock:
            self._under_way -= 1
        return block


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1_000)
    monkeypatch.setattr(bucket, "RANGE_BYTES", 1_000)
    monkeypatch.setattr(bucket, "_FIRST_BYTES", 100)


@pytest.mark.parametrize("limit", [1, 7, 999, 1_000, 1_001, 60_000])
def test_any_way_of_reading_gives_the_bytes(limit: int) -> None:
    random, store = Random(limit), Store()
    with RangeStream(store.fetch, len(CONTENT)) as stream:
        assert b"".join(iter(lambda: stream.read(limit), b"")) == CONTENT
        assert sorted(store.asked) == [(start, start + 1_000) for start in range(0, 50_000, 1_000)]
        assert store.most <= UNDER_WAY
        for _ in range(200):
            place = random.randrange(len(CONTENT) + 10)
            whence = random.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
            base = {io.SEEK_SET: 0, io.SEEK_CUR: stream.tell(), io.SEEK_END: len(CONTENT)}[whence]
            assert stream.seek(place - base, whence) == place == stream.tell()
            wanted = stream.read(limit)
            assert wanted == CONTENT[place : place + len(wanted)]
            assert wanted or place >= len(CONTENT)


def test_a_look_at_the_beginning_takes_one_request_and_reading_on_several_at_once() -> None:
    store = Store()
    with RangeStream(store.fetch, len(CONTENT)) as stream:
        stream.read(10)
        stream.seek(0)
        stream.read(10)
        assert len(store.asked) == 1
        for place in range(0, 5_000, 500):
            stream.seek(place)  # where it is
            stream.read(500)
        stream.read(1)
        assert len(stream._ranges) == UNDER_WAY


@pytest.mark.parametrize("length", [0, 999, 1_001, 50_000])
def test_a_range_of_another_length_is_an_error(length: int) -> None:
    with RangeStream(lambda start, end: bytes(length), len(CONTENT)) as stream, pytest.raises(OSError, match="bytes"):
        stream.read(10)


# --- through a driver --------------------------------------------------------------------------------------------


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket in memory whose driver sends requests at once."""
    import fsspec
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    filesystem = AsyncFileSystemWrapper(memory, asynchronous=False)
    monkeypatch.setattr(bucket, "open_filesystem", lambda location: (filesystem, location.partition("://")[2]))
    filesystem.memory = memory
    yield filesystem
    memory.store.clear()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1_000, 1_001, 3_000, 3_001, 50_000])
def test_an_object_of_any_size_comes_whole(size: int, remote: Any, tmp_path: Path) -> None:
    remote.memory.pipe({"/in/object": CONTENT[:size], "/in/other": b"x"})
    with open(tmp_path / "spool", "xb", buffering=0) as spool:
        assert bring_object("s3://in/object", spool)
    assert (tmp_path / "spool").read_bytes() == CONTENT[:size]
    with BucketTree(remote, "/in", "s3://in") as tree:
        with tree.open(b"object") as stream:
            assert stream.read() == CONTENT[:size]
        assert tree.read_many([b"object", b"other"], 60_000) == {b"object": CONTENT[:size], b"other": b"x"}


@pytest.mark.parametrize("location", ["s3://in", "s3://in/folder", "s3://in/gone", "s3://gone"])
def test_what_is_no_object_is_none(location: str, remote: Any, tmp_path: Path) -> None:
    remote.memory.pipe({"/in/folder/object": b"x"})
    with open(tmp_path / "spool", "xb", buffering=0) as spool:
        assert not bring_object(location, spool)


@pytest.mark.parametrize("size", [2_500, 2_501])
def test_an_object_that_is_replaced_while_it_is_read_fails(
    size: int, remote: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.memory.pipe({"/in/object": CONTENT[:2_500]})
    fetched = bucket._cat

    def fetch(filesystem: Any, key: str, start: int, end: int) -> bytes:
        block = fetched(filesystem, key, start, end)
        if start == 2_000:
            remote.memory.pipe({"/in/object": CONTENT[-size:]})
            monkeypatch.setattr(bucket, "_version", lambda facts: (object(),))  # memory's files have no ETag
        return block

    monkeypatch.setattr(bucket, "_cat", fetch)
    with open(tmp_path / "spool", "xb", buffering=0) as spool, pytest.raises(SourceUnreadableError, match="replaced"):
        bring_object("s3://in/object", spool)


def test_an_archive_is_read_from_ranges(remote: Any) -> None:
    remote.memory.pipe({"/in/a.tar": archive("app")})
    with closing(open_source("s3://in/a.tar", ReadOptions())) as source:
        assert source.source_type is SourceType.DOCKER_ARCHIVE


def test_a_full_disk_is_the_target_s_error(remote: Any) -> None:
    class Full(io.BytesIO):
        def write(self, block: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    remote.memory.pipe({"/in/object": CONTENT})
    with pytest.raises(OSError, match="No space left"):
        bring_object("s3://in/object", Full())


def test_errors_of_the_store_are_ours(remote: Any) -> None:
    remote.memory.pipe({"/in/object": CONTENT})
    with BucketTree(remote, "/in", "s3://in") as tree:
        tree.stat(b"object")
        remote.memory.store.clear()
        with pytest.raises(MissingLayerError, match="no such object"), tree.open(b"object") as stream:
            stream.read(10)
        remote.memory.pipe({"/in/object": CONTENT[:40_500]})
        with pytest.raises(SourceError, match=r"got .* bytes from byte"), tree.open(b"object") as stream:
            stream.read()
