"""Blob sizes from samples."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from migrate import api
from migrate.model.legacy import LegacyID, LegacyLayer, PayloadRef
from migrate.model.options import Compression, ConvertOptions, Format
from migrate.rehash.ports import LayerJob, OncePayload
from migrate.rehash.size_estimate import SizeEstimate
from tests.archives import V1Archive, layer_tar
from tests.cases import FIXTURES

MIB = 1 << 20


def job() -> LayerJob:
    layer = LegacyLayer(legacy_id=LegacyID("a" * 64), json=b"", parent=None, payload=PayloadRef(key="k"))
    return LayerJob(0, OncePayload.__new__(OncePayload), layer)


def estimated(content: bytes, block: int = MIB, compression: Compression = Compression.GZIP) -> int:
    estimate = SizeEstimate(compression)
    observer = estimate.observe(job())
    for start in range(0, len(content), block):
        observer.feed(memoryview(content)[start : start + block])
    observer.finish()
    return estimate.size_of((0, "k"), len(content))


def text(size: int) -> bytes:
    words = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    return " ".join(words[(n * n) % 200] for n in range(size // 60)).encode()[:size]


def test_what_does_not_compress_is_not_larger_than_it_is() -> None:
    content = hashlib.shake_256(b"x").digest(5 * MIB)
    assert 0.9 * len(content) < estimated(content) <= len(content) + 30


def test_zeros_are_nothing() -> None:
    assert estimated(bytes(9 * MIB)) < 100_000 < estimated(text(9 * MIB))


def test_half_of_each_is_half() -> None:
    content = b"".join(hashlib.shake_256(n.to_bytes(2, "big")).digest(3000) + bytes(3000) for n in range(2000))
    assert 0.4 < estimated(content) / len(content) < 0.6


@pytest.mark.parametrize("compression", [Compression.NONE])
def test_without_compression_it_is_the_tar(compression: Compression) -> None:
    assert estimated(text(MIB), compression=compression) == MIB


def test_layers_without_a_sample_count_whole() -> None:
    assert SizeEstimate(Compression.GZIP).size_of((0, "k"), 7) == 7
    assert estimated(b"") == 0


def test_a_plan_is_near_the_truth_and_says_that_it_is_an_estimate(tmp_path: Path) -> None:
    archive = V1Archive()
    for number in range(5):
        grains = [hashlib.shake_256(bytes([number, n])).digest(500 + 7 * n) + bytes(900 + 11 * n) for n in range(250)]
        content = b"".join(grains) * 8
        archive.tag("app", str(number), archive.layer(f"l{number}", tar=layer_tar("f", content=content)))
    (tmp_path / "a.tar").write_bytes(archive.build())
    for compression in (Compression.GZIP, Compression.ZSTD):
        options = ConvertOptions(compression=compression, format=Format.OCI)
        planned = api.plan(tmp_path / "a.tar", options).report
        real = api.convert(tmp_path / "a.tar", tmp_path / compression, options).report
        assert planned.totals.blob_bytes_estimated
        assert not real.totals.blob_bytes_estimated
        assert planned.totals.blob_bytes is not None
        assert real.totals.blob_bytes is not None
        assert 0.7 < planned.totals.blob_bytes / real.totals.blob_bytes < 1.4
        assert all(layer.blob_size and layer.blob_digest is None for image in planned.images for layer in image.layers)


def test_gzip_layers_that_are_taken_over_are_exact(tmp_path: Path) -> None:
    import gzip

    archive = V1Archive()
    packed = gzip.compress(layer_tar("f", content=text(MIB)), mtime=0)
    archive.tag("app", "1", archive.layer("l", tar=packed))
    (tmp_path / "a.tar").write_bytes(archive.build())
    (image,) = api.plan(tmp_path / "a.tar").report.images
    assert image.layers[0].blob_size == len(packed)


def test_the_same_estimate_comes_out_however_the_blocks_come() -> None:
    content = text(7 * MIB)
    assert estimated(content, MIB) == estimated(content, 4 * MIB) == estimated(content, 8 * MIB)


def test_every_shipped_save_gives_an_estimate() -> None:
    paths = sorted(FIXTURES.glob("save-1.9.1-*/save.tar.xz"))
    assert paths
    for path in paths:
        totals = api.plan(path).report.totals
        assert totals.blob_bytes is not None
        assert totals.blob_bytes_estimated
