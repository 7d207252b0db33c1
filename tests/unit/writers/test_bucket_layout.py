"""The layout in a bucket, on fsspec's file system in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import TargetError
from migrate.model.image import Platform
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.progress import SilentProgress
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests.buckets import memory_bucket, objects, write_files
from tests.images import image, layer, put_image, put_layer

OPTIONS = ConvertOptions()
A, B = layer("a"), layer("b", b"b" * 300_000)
REPORT = b'{"images": []}'
ARM = Platform(os="linux", architecture="arm")


@pytest.fixture
def memory() -> Iterator[Any]:
    with memory_bucket() as filesystem:
        yield filesystem


def contents(filesystem: Any) -> dict[str, bytes]:
    return objects(filesystem, "shelf/out")


def opened(options: ConvertOptions = OPTIONS) -> OciLayout:
    return OciLayout("memory://shelf/out", options)


def test_it_holds_what_a_directory_holds(memory: Any, tmp_path: Path) -> None:
    local = OciLayout(tmp_path / "local", OPTIONS)
    for target in (opened(), local):
        put_image(target, [A, B], "app:1", "app:latest")
        put_image(target, [A], "other:1", platform=ARM)
        put_image(target, [B])
        target.finish(REPORT)
        target.close()
    remote = contents(memory)
    for name, content in remote.items():
        assert (tmp_path / "local" / name).read_bytes() == content
    write_files(remote, tmp_path / "copy")
    files = [path for path in (tmp_path / "local").rglob("*") if path.is_file() and ".migrate" not in path.parts]
    assert len(files) == len(remote)
    assert verify(str(tmp_path / "copy"), 1, SilentProgress()) == []


def test_a_new_layout_is_valid_at_once_and_continued_later(memory: Any) -> None:
    opened().close()
    assert set(contents(memory)) == {"oci-layout", "index.json"}
    first = opened()
    made = put_image(first, [A], "app:1", created="2014-01-01T00:00:00Z")
    first.finish(REPORT)
    second = opened()
    (existing,) = second.existing_images()
    assert (str(existing.reference), existing.created) == ("app:1", "2014-01-01T00:00:00Z")
    assert existing.manifest_digest == made.manifest_digest
    put_image(second, [B], "app:2")
    second.finish(REPORT)
    assert {str(row.reference) for row in opened().existing_images()} == {"app:1", "app:2"}


def test_a_name_goes_to_the_image_that_got_it(memory: Any) -> None:
    del memory
    for layers in ([A], [B]):
        target = opened()
        put_image(target, layers, "app:1")
        target.finish(REPORT)
    named = [row for row in opened().existing_images() if row.reference is not None]
    assert [row.manifest_digest for row in named] == [image([B]).manifest_digest]
    keeping = opened(ConvertOptions(on_conflict=OnConflict.KEEP_ALL))
    put_image(keeping, [A], "app:1")
    keeping.finish(REPORT)
    assert len([row for row in opened().existing_images() if row.reference is not None]) == 2


def test_blobs_that_an_image_needs_are_never_removed(memory: Any) -> None:
    target = opened()
    put_image(target, [A], "app:1")
    put_layer(target, B)
    target.finish(REPORT)
    target.remove_blobs([A.descriptor.digest, B.descriptor.digest])
    names = set(contents(memory))
    assert f"blobs/sha256/{A.descriptor.digest.hex}" in names
    assert f"blobs/sha256/{B.descriptor.digest.hex}" not in names
    assert not target.has_blob(B.descriptor.digest, B.descriptor.size)


def test_nothing_is_written_for_a_blob_that_is_given_up(memory: Any) -> None:
    target = opened()
    with target.open_blob() as blob:
        blob.write(b"x" * 1_000)
    assert set(contents(memory)) == {"oci-layout", "index.json"}


def test_a_bucket_with_other_objects_is_refused(memory: Any) -> None:
    memory.pipe_file("/shelf/out/mine.txt", b"x")
    with pytest.raises(TargetError, match="holds 'mine"):
        opened()


def test_a_damaged_index_is_a_target_error(memory: Any) -> None:
    opened().close()
    memory.pipe_file("/shelf/out/index.json", b"{")
    with pytest.raises(TargetError, match="damaged"):
        opened().existing_images()
