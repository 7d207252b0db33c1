"""What an earlier run read is not read again where nothing changed, and never believed where anything did."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.blobio.payload import Extent, Payload
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.model.digest import DiffID, Digest
from migrate.model.options import Compression, ConvertOptions, Format
from migrate.model.progress import SilentProgress
from migrate.readers.detect import open_source
from migrate.rehash.payload_memory import encode_facts, parse_facts, place_of
from migrate.rehash.reading import LayerFacts
from migrate.tar.inspector import TarFacts
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from migrate.writers.target_memory import PAYLOADS
from tests.archives import V1Archive, layer_tar

LAYER = 8 * 1024 * 1024
OPTIONS = ConvertOptions()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A minute after the sources were written."""
    real = time.time_ns
    monkeypatch.setattr("migrate.blobio.source_files.time.time_ns", lambda: real() + 60 * 10**9)
    yield


def archive(path: Path, letter: bytes = b"a") -> Path:
    """Two tagged images whose layers compress well, so that reading blobs is nothing beside reading layers."""
    made = V1Archive()
    made.layer("base", tar=layer_tar("base.txt", content=letter * LAYER))
    made.tag("app", "1", made.layer("top", "base", tar=layer_tar("top.txt", content=b"t" * LAYER)))
    path.write_bytes(made.build())
    return path


def convert(source: Path, target: Path, options: ConvertOptions = OPTIONS) -> int:
    """Bytes that the process read from files."""
    before = bytes_read()
    opened = OpenedSource(str(source), open_source(str(source)))
    layout = OciLayout(target, options)
    try:
        outcome = Conversion(sources=[opened], options=options, target=layout).run()
    finally:
        layout.close()
        opened.close()
    assert outcome.exit_code == 0
    return bytes_read() - before


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def blobs(target: Path) -> dict[str, bytes]:
    assert verify(str(target), 1, SilentProgress()) == []
    return {path.name: path.read_bytes() for path in (target / "blobs/sha256").iterdir()}


@pytest.mark.usefixtures("later")
def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "layout"
    assert convert(source, target) > 2 * LAYER
    written = blobs(target)
    assert convert(source, target) < LAYER / 4
    assert blobs(target) == written
    assert (target / PAYLOADS).read_bytes().count(b"\n") == 3  # an empty line first, and nothing new the second time


@pytest.mark.usefixtures("later")
def test_an_interrupted_run_is_resumed_without_reading_its_layers(tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "layout"
    convert(source, target)
    whole = blobs(target)
    (target / "index.json").write_bytes(b'{"schemaVersion":2,"manifests":[]}')
    (target / "manifest.json").unlink()
    assert convert(source, target) < LAYER / 4
    assert blobs(target) == whole


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "layout"
    changed = source.stat().st_ctime_ns
    monkeypatch.setattr("migrate.blobio.source_files.time.time_ns", lambda: changed + 1)
    assert convert(source, target) > 2 * LAYER
    assert not (target / PAYLOADS).exists()
    assert convert(source, target) > 2 * LAYER


@pytest.mark.usefixtures("later")
def test_other_bytes_at_the_same_place_are_read(tmp_path: Path) -> None:
    """Same path, inode, size and mtime: the ctime, which nobody sets, tells."""
    source, target = archive(tmp_path / "a.tar"), tmp_path / "layout"
    convert(source, target)
    status = source.stat()
    other = archive(tmp_path / "b.tar", b"b")
    with source.open("r+b") as stream:
        stream.write(other.read_bytes())
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (source.stat().st_ino, source.stat().st_size, source.stat().st_mtime_ns) == (
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
    )
    assert convert(source, target) > LAYER
    convert(other, tmp_path / "fresh")
    assert blobs(tmp_path / "fresh").items() <= blobs(target).items()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_a_blob_that_is_no_longer_right_is_made_again(change: str, tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "layout"
    convert(source, target)
    written = blobs(target)
    largest = max((target / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    if change == "remove":
        largest.unlink()
    else:
        largest.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if change == "flip" else b""))
    assert convert(source, target) > LAYER
    assert blobs(target) == written


@pytest.mark.usefixtures("later")
def test_no_damage_of_the_record_gives_another_result(tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "layout"
    convert(source, target)
    written, record = blobs(target), (target / PAYLOADS).read_bytes()
    for at in range(0, len(record), 97):
        for damaged in (record[:at] + bytes([record[at] ^ 0x13]) + record[at + 1 :], record[:at], record[at:]):
            (target / PAYLOADS).write_bytes(damaged)
            convert(source, target)
            assert blobs(target) == written


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    "options",
    [
        ConvertOptions(compression_level=6),
        ConvertOptions(compression=Compression.NONE),
        ConvertOptions(format=Format.OCI, compression=Compression.ZSTD),
    ],
)
def test_other_options_make_what_they_make_alone(options: ConvertOptions, tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "layout"
    convert(source, target)
    convert(source, target, options)
    convert(source, tmp_path / "alone", options)
    assert blobs(tmp_path / "alone").items() <= blobs(target).items()


@pytest.mark.usefixtures("later")
def test_compressed_archives_have_no_place(tmp_path: Path) -> None:
    source, target = archive(tmp_path / "a.tar"), tmp_path / "layout"
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(source.read_bytes(), 1))
    convert(packed, target)
    assert not (target / PAYLOADS).exists()


@pytest.mark.usefixtures("later")
def test_a_place_is_a_piece_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb") as stream:

        def place(offset: int, size: int) -> str | None:
            extent = Extent(fd=stream.fileno(), offset=offset, size=size)
            return place_of(Payload(stream=stream, origin="blob", extent=extent))

        assert place(0, 3) is not None
        assert len({place(0, 3), place(0, 4), place(1, 3)}) == 3
        assert place_of(Payload(stream=stream, origin="blob", path=str(path))) is not None
        assert place_of(Payload(stream=stream, origin="blob")) is None
        path.unlink()
        assert place(0, 3) is None
        assert place_of(Payload(stream=stream, origin="blob", path=str(path))) is None


def facts(**changes: object) -> LayerFacts:
    values: dict[str, object] = {
        "kind": "gzip",
        "stored_digest": Digest("a" * 64),
        "stored_size": 5,
        "diff_id": DiffID(Digest("b" * 64)),
        "tar": TarFacts(size=1024, empty=False, flags=()),
        "origin": "archive",
        "exact": True,
        "note": None,
    }
    return LayerFacts(**(values | changes))  # type: ignore[arg-type]


def test_facts_are_read_as_they_were_written() -> None:
    for each in (facts(), facts(stored_digest=None, kind="none", tar=TarFacts(size=0, empty=True, flags=()))):
        text = encode_facts(each)
        assert text is not None
        assert parse_facts(text) == each
        assert parse_facts(text + b" ") is None
        assert parse_facts(text[1:]) is None
    assert encode_facts(facts(exact=False)) is None
    assert encode_facts(facts(damaged=True)) is None
    assert encode_facts(facts(tar=TarFacts(size=1024, empty=False, flags=("path-forms",)))) is None
    assert encode_facts(facts(note="tar-split does not fit")) is None
