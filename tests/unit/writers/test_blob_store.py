"""Which blobs count as there: those of this run at once, older ones when their bytes are proven."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.model.digest import Digest
from migrate.storage.directory_store import DirectoryStore
from migrate.writers import blob_store
from migrate.writers.blob_store import BlobStore

OLD, NEW = b"from an earlier run", b"from this run"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def store(root: Path) -> Iterator[BlobStore]:
    blobs = BlobStore(DirectoryStore(root))
    yield blobs
    blobs.store.close()


def place(root: Path, content: bytes, name: bytes | None = None) -> Digest:
    digest = Digest.of(content if name is None else name)
    (root / "blobs" / "sha256" / digest.hex).write_bytes(content)
    return digest


@pytest.mark.parametrize("most", [0, 100_000])
def test_an_older_blob_counts_when_its_bytes_are_right(
    root: Path, store: BlobStore, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more blobs than are listed at once, each is looked for by itself."""
    monkeypatch.setattr(blob_store, "_MOST_FOUND", most)
    good, bent = place(root, OLD), place(root, b"x" * len(NEW), NEW)
    assert store.has(good, len(OLD))
    assert not store.has(good, len(OLD) + 1)
    assert not store.has(bent, len(NEW))
    assert not store.has(Digest.of(b"none"), 4)


def test_what_is_put_is_there_and_a_bent_blob_is_written_anew(root: Path, store: BlobStore) -> None:
    bent = place(root, b"x" * len(NEW), NEW)
    store.put(NEW, bent)
    assert store.has(bent, len(NEW))
    store.store.flush()
    assert (root / "blobs" / "sha256" / bent.hex).read_bytes() == NEW


def test_what_another_run_writes_meanwhile_may_be_written_once_more(root: Path, store: BlobStore) -> None:
    assert not store.has(Digest.of(b"first question"), 1)
    digest = place(root, NEW)
    store.put(NEW, digest)
    store.store.flush()
    assert [path.read_bytes() for path in (root / "blobs" / "sha256").iterdir()] == [NEW]
    assert [name for name in os.listdir(root) if name not in ("blobs", ".migrate")] == []


def test_a_removed_blob_is_gone(root: Path, store: BlobStore) -> None:
    digest = place(root, OLD)
    assert store.has(digest, len(OLD))
    store.remove([digest])
    assert not store.has(digest, len(OLD))
