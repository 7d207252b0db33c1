"""A thread that reads for long asks whether it has to end: here it always has to."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.blobio.compression import open_decompressed
from migrate.blobio.stopping import check_stop, stoppable, stopped_by
from migrate.errors import InterruptedRunError
from migrate.storage.blocks import open_device
from migrate.storage.directory_tree import DirectoryTree
from migrate.tar.tarsum import VERSIONS, tarsums


def stop() -> None:
    raise InterruptedRunError("the run was stopped")


def test_a_thread_that_nobody_ends_goes_on() -> None:
    check_stop()


def test_the_innermost_is_asked_and_the_outer_one_again_behind_it() -> None:
    asked: list[str] = []
    with stopped_by(lambda: asked.append("outer")):
        with stopped_by(lambda: asked.append("inner")):
            check_stop()
        check_stop()
    check_stop()
    assert asked == ["inner", "outer"]


def walk_a_directory(place: Path) -> None:
    DirectoryTree(str(place)).entries(b"")


def read_an_image(place: Path) -> None:
    open_device(place / "file").read_at(0, 1)


def fill_from_an_image(place: Path) -> None:
    open_device(place / "file").read_into(memoryview(bytearray(1)), 0)


def decompress_members_without_content(place: Path) -> None:
    open_decompressed(io.BytesIO(gzip.compress(b"") * 3), "gzip", "stream").read(1)


def compute_a_tarsum(place: Path) -> None:
    tarsums(io.BytesIO(bytes(1024)), b"{}", VERSIONS, "layer")


def read_a_stoppable_stream(place: Path) -> None:
    stoppable(io.BytesIO(b"x")).read(1)


@pytest.mark.parametrize(
    "read",
    [
        walk_a_directory,
        read_an_image,
        fill_from_an_image,
        decompress_members_without_content,
        compute_a_tarsum,
        read_a_stoppable_stream,
    ],
    ids=lambda function: function.__name__,
)
def test_what_reads_for_long_asks(read: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    read(tmp_path)
    with pytest.raises(InterruptedRunError), stopped_by(stop):
        read(tmp_path)
