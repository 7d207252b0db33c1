"""Batches from and into buckets, on an S3 server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import TargetError
from migrate.storage.bucket_store import BucketStore
from tests.buckets import write_files
from tests.command import migrate
from tests.s3 import download, empty_server, s3_server
from tests.shelves import archive, files_of, write_shelf


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as host:
        yield host


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the emptied server, with one bucket called `shelf`."""
    return empty_server(server, "shelf", monkeypatch)


@pytest.mark.parametrize(("source", "target"), [("saves/", "saves/out"), ("out/saves/a.tar", "out"), ("out/**", "out")])
def test_a_bucket_that_is_read_is_not_written_to(bucket: Any, source: str, target: str) -> None:
    for name in ("saves/a.tar", "out/saves/a.tar"):
        bucket.put_object(Bucket="shelf", Key=name, Body=archive("app"))
    before = [download("shelf", folder) for folder in ("saves", "out")]
    done = migrate("batch", f"s3://shelf/{source}", f"s3://shelf/{target}")
    assert (done.code, len(done.errors)) == (2, 1), done.err
    assert "never written to" in done.err
    assert [download("shelf", folder) for folder in ("saves", "out")] == before


def test_a_bucket_gets_the_layout_that_a_directory_gets(bucket: Any, tmp_path: Path) -> None:
    shelf = write_shelf(tmp_path / "shelf", 2, 3)
    done = migrate("batch", "--jobs", "2", shelf, "s3://shelf/out")
    assert done.code == 3, done.err
    assert migrate("batch", "--jobs", "2", shelf, tmp_path / "local").code == 3
    remote = write_files(download("shelf", "out"), tmp_path / "remote")
    assert files_of(remote) == files_of(tmp_path / "local")
    assert migrate("verify", remote).code == 0

    again = migrate("batch", shelf, "s3://shelf/out")
    assert "9 of them done before" in again.out
    assert write_files(download("shelf", "out"), tmp_path / "again").is_dir()
    assert files_of(tmp_path / "again") == files_of(remote)
    status = migrate("batch", "--status", "s3://shelf/out")
    assert "merged, started" in status.out


def test_archives_in_a_bucket_are_sources(bucket: Any, tmp_path: Path) -> None:
    for number in range(3):
        bucket.put_object(Bucket="shelf", Key=f"in/{number}.tar", Body=archive("app", number))
    bucket.put_object(Bucket="shelf", Key="in/readme.txt", Body=b"text")
    done = migrate("batch", "s3://shelf/in/*.tar", tmp_path / "out")
    assert done.code == 0, done.err
    assert "3 sources" in done.out
    whole = migrate("batch", "s3://shelf/in/", tmp_path / "out")
    assert "3 of them done before" in whole.out
    bucket.put_object(Bucket="shelf", Key="in/1.tar", Body=archive("other", 1))
    assert "3 of them done before" in migrate("batch", "s3://shelf/in/", tmp_path / "out").out
    assert migrate("convert", "s3://shelf/in/2.tar", tmp_path / "one").code == 0
    assert migrate("verify", tmp_path / "out").code == 0


def test_shards_meet_in_a_bucket(bucket: Any, tmp_path: Path) -> None:
    shelf = write_shelf(tmp_path / "shelf", 2, 2)
    for part in ("1/2", "2/2"):
        assert migrate("batch", "--shard", part, shelf, "s3://shelf/out").code in (0, 3)
    assert migrate("batch", "--merge", "s3://shelf/out").code == 3
    assert migrate("batch", shelf, tmp_path / "local").code == 3
    assert files_of(write_files(download("shelf", "out"), tmp_path / "remote")) == files_of(tmp_path / "local")


def test_a_bucket_that_holds_something_else_is_refused(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Bucket="shelf", Key="out/mine.txt", Body=b"x")
    (tmp_path / "a.tar").write_bytes(archive("a"))
    refused = migrate("batch", tmp_path / "a.tar", "s3://shelf/out")
    assert refused.code == 5
    assert "neither empty nor an OCI layout" in refused.err
    absent = migrate("batch", tmp_path / "a.tar", "s3://nowhere/out")
    assert absent.code == 5, absent.err


def test_writes_are_conditional_where_the_store_can(bucket: Any) -> None:
    del bucket
    store = BucketStore("s3://shelf/below")
    for content in (b"new", b"newer"):
        with store.new_file() as file:
            file.write(content)
            file.publish("blob", replace=False)
        assert store.read("blob", 100) == content  # before it is sent
        store.flush()
        assert store.read("blob", 100) == b"new"

    store.replace("index.json", b"1")
    version = store.version("index.json")
    store.replace("index.json", b"2", version)
    with pytest.raises(TargetError, match="another run has changed it"):
        store.replace("index.json", b"3", version)
    assert store.read("index.json", 100) == b"2"
