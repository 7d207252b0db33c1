"""Blobs whose files are unchanged since they were proven are believed; all others are read, and rightly judged."""

from __future__ import annotations

import dataclasses
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from msgspec.structs import replace

from migrate.convert.run import Conversion
from migrate.model.digest import DiffID, Digest
from migrate.model.image import StoredBlob
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.storage.bucket_store import BucketStore
from migrate.storage.directory_store import DirectoryStore
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from migrate.writers.proofs import PROOFS
from migrate.writers.registry_storage import RegistryStorage
from tests.archives import V1Archive, layer_tar
from tests.buckets import memory_bucket

OPTIONS = ConvertOptions()
TAR = layer_tar("etc/name", content=b"x" * 5_000)
CONTENT = gzip.compress(TAR)
BLOB = StoredBlob(digest=Digest.of(CONTENT), size=len(CONTENT), compression="gzip")
DIFF_ID = DiffID(Digest.of(TAR))
Target = OciLayout | RegistryStorage


class CountingStore(DirectoryStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: list[str] = []

    def open(self, name: str, /) -> BinaryIO | None:
        self.opened.append(name)
        return super().open(name)


@pytest.fixture(params=[OciLayout, RegistryStorage])
def kind(request: pytest.FixtureRequest) -> Callable[..., Target]:
    made: Callable[..., Target] = request.param
    return made


def store_blob(kind: Callable[..., Target], root: Path) -> Path:
    """A target with the blob, as a run leaves it. Returns the blob's file."""
    root.mkdir(exist_ok=True)
    target = kind(str(root), OPTIONS)
    with target.open_blob() as writer:
        writer.write(CONTENT)
        writer.commit(BLOB.digest)
    target.memory.remember_blob(DIFF_ID, BLOB)
    target.flush()
    target.close()
    found = [path for path in root.rglob("*") if path.is_file() and path.read_bytes() == CONTENT]
    assert len(found) == 1
    return found[0]


def believes(kind: Callable[..., Target], root: Path, options: ConvertOptions = OPTIONS) -> tuple[bool, int]:
    """Whether the blob is taken for right, and how often a blob was opened for that."""
    store = CountingStore(root)
    target = kind(str(root), options, store=store)
    right = target.memory.known_blob(DIFF_ID, "gzip") == BLOB
    assert target.has_blob(BLOB.digest, BLOB.size) is right
    target.close()
    return right, sum("sha256" in name for name in store.opened)


def test_an_unchanged_blob_is_not_read(kind: Callable[..., Target], tmp_path: Path) -> None:
    store_blob(kind, tmp_path)
    assert believes(kind, tmp_path) == (True, 0)
    right, opened = believes(kind, tmp_path, dataclasses.replace(OPTIONS, check_existing=True))
    assert right and opened > 0
    (tmp_path / PROOFS).unlink()
    right, opened = believes(kind, tmp_path)  # which proves it again
    assert right and opened > 0
    assert believes(kind, tmp_path) == (True, 0)


def _times(path: Path, change: Callable[[Path], object]) -> None:
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    other.rename(path)


BENT = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
CHANGES: dict[str, Callable[[Path], object]] = {
    "other bytes": lambda path: path.write_bytes(BENT),
    "other bytes, mtime put back": lambda path: _times(path, lambda path: path.write_bytes(BENT)),
    "another file": lambda path: _replaced(path, BENT),
    "another file of the same time": lambda path: _times(path, lambda path: _replaced(path, BENT)),
    "longer": lambda path: path.write_bytes(CONTENT + b"x"),
    "cut": lambda path: path.write_bytes(CONTENT[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "sparse hole": lambda path: os.truncate(path, 0) or os.truncate(path, len(CONTENT)),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_blob_is_read_and_refused(change: str, kind: Callable[..., Target], tmp_path: Path) -> None:
    path = store_blob(kind, tmp_path)
    CHANGES[change](path)
    assert believes(kind, tmp_path)[0] is False
    assert believes(kind, tmp_path)[0] is False


@pytest.mark.parametrize("change", ["touched", "copied"])
def test_an_unharmed_blob_with_other_times_is_proven_again(
    change: str, kind: Callable[..., Target], tmp_path: Path
) -> None:
    path = store_blob(kind, tmp_path)
    os.utime(path) if change == "touched" else _replaced(path, CONTENT)
    right, opened = believes(kind, tmp_path)
    assert right and opened > 0
    assert believes(kind, tmp_path) == (True, 0)


def test_what_is_proven_of_one_layer_proves_no_other(tmp_path: Path) -> None:
    store_blob(OciLayout, tmp_path)
    target = OciLayout(tmp_path, OPTIONS)
    assert target.memory.is_right(DIFF_ID, BLOB)
    assert not target.memory.is_right(DiffID(Digest.of(b"another tar")), BLOB)
    assert not target.memory.is_right(DIFF_ID, replace(BLOB, size=BLOB.size + 1))
    target.close()


def test_no_part_of_a_record_proves_anything_else(tmp_path: Path) -> None:
    """A record that was cut at any byte, or in which any digit is another one, costs reading alone."""
    path = store_blob(OciLayout, tmp_path)
    record = tmp_path / PROOFS
    whole = record.read_bytes()
    path.write_bytes(BENT)
    for at in range(0, len(whole), 5):
        for content in (whole[:at], whole[:at] + b"0" + whole[at + 1 :], whole[at:]):
            record.write_bytes(content)
            assert believes(OciLayout, tmp_path)[0] is False


def test_a_record_that_came_with_a_copied_target_is_not_believed(tmp_path: Path) -> None:
    """Whoever made the copy may have put any line into its records: the layer is unpacked again, not looked up."""
    other = layer_tar("etc/name", content=b"y" * 5_000)
    store_blob(OciLayout, tmp_path / "theirs")
    target = OciLayout(tmp_path / "theirs", OPTIONS)
    target.memory.remember_blob(DiffID(Digest.of(other)), BLOB)  # a lie
    target.close()
    shutil.copytree(tmp_path / "theirs", tmp_path / "ours")
    for _ in range(3):  # nor once the copy's blobs are proven themselves
        target = OciLayout(tmp_path / "ours", OPTIONS)
        assert target.has_blob(BLOB.digest, BLOB.size)
        assert target.memory.known_blob(DiffID(Digest.of(other)), "gzip") is None
        assert target.memory.known_blob(DIFF_ID, "gzip") == BLOB
        target.close()


@pytest.mark.parametrize("what", ["record", "folder"])
def test_a_record_of_another_user_is_not_believed(what: str, tmp_path: Path) -> None:
    store_blob(OciLayout, tmp_path)
    os.chown(tmp_path / (PROOFS if what == "record" else ".migrate"), 12345, -1)
    right, opened = believes(OciLayout, tmp_path)
    assert right and opened > 0


def test_a_run_repairs_what_was_changed_behind_its_back(tmp_path: Path) -> None:
    """Every blob of a layout, the configs and manifests too, whichever is bent between two runs."""
    made = V1Archive()
    made.layer("base", tar=layer_tar("base", content=b"b" * 100_000))
    made.tag("app", "1", made.layer("top", "base", tar=layer_tar("top")))
    source, target = tmp_path / "save.tar", tmp_path / "layout"
    source.write_bytes(made.build())
    convert(source, target)
    blobs = sorted((target / "blobs" / "sha256").iterdir())
    assert len(blobs) == 4
    for blob in blobs:
        content = blob.read_bytes()
        _times(blob, lambda path: path.write_bytes(bytes(reversed(path.read_bytes()))))
        convert(source, target)
        assert blob.read_bytes() == content
        assert verify(str(target), 1, SilentProgress()) == []


def convert(source: Path, target: Path | str) -> None:
    with Conversion.opened([str(source)], OPTIONS, str(target)) as conversion:
        assert conversion.run().exit_code == 0


# --- buckets ---------------------------------------------------------------------------------------------------


class CountingBucket(BucketStore):
    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.opened: list[str] = []

    def open(self, name: str, /) -> BinaryIO | None:
        self.opened.append(name)
        return super().open(name)

    def versions(self, folder: str, /) -> dict[str, tuple[int, str]]:
        """The file system in memory has no ETags."""
        top = self._key(folder)
        found = {key: self._fs.cat_file(key) for key in self._fs.find(top)}
        return {
            key.removeprefix(f"{self._fs._strip_protocol(self._prefix)}/"): (len(content), Digest.of(content).hex)
            for key, content in found.items()
        }


@pytest.mark.parametrize("kind", [OciLayout, RegistryStorage])
def test_in_a_bucket_an_object_with_the_same_etag_is_believed(kind: Callable[..., Target]) -> None:
    place = "memory://bucket/root"

    def known(options: ConvertOptions = OPTIONS) -> tuple[bool, int]:
        store = CountingBucket(place)
        target = kind(place, options, store=store)
        right = target.memory.known_blob(DIFF_ID, "gzip") == BLOB
        target.close()
        return right, sum("sha256" in name for name in store.opened)

    with memory_bucket() as filesystem:
        target = kind(place, OPTIONS, store=CountingBucket(place))
        with target.open_blob() as writer:
            writer.write(CONTENT)
            writer.commit(BLOB.digest)
        target.memory.remember_blob(DIFF_ID, BLOB)
        target.flush()
        target.close()
        assert known() == (True, 0)
        right, opened = known(dataclasses.replace(OPTIONS, check_existing=True))
        assert right and opened > 0
        (key,) = (key for key in filesystem.find("/") if filesystem.cat_file(key) == CONTENT)
        filesystem.pipe_file(key, BENT)
        assert known()[0] is False
