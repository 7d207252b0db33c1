"""The archives that the benchmarks make are archives that migrate converts, in both forms alike."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.corpus import Layer, write_archive
from benchmarks.tiny import write_archives, write_one
from tests.command import migrate
from tests.unit.rehash.sources import make_tar


def image_of(archive: Path, target: Path) -> list[str]:
    assert migrate("convert", archive, target).code == 0
    report = json.loads((target / "migration-report.json").read_bytes())
    (image,) = report["images"]
    return [layer["blob_digest"] for layer in image["layers"]]


def test_both_forms_hold_the_same_layers(tmp_path: Path) -> None:
    layers = []
    for number in (0, 1, 1):
        tar = make_tar(number, (80_000, 5))
        path = tmp_path / f"{number}.tar"
        path.write_bytes(tar)
        layers.append(Layer(path, len(tar), hashlib.sha256(tar).hexdigest()))
    write_archive(tmp_path / "v1.tar", layers, "x", with_manifest=False)
    write_archive(tmp_path / "dual.tar", layers, "x", with_manifest=True)
    v1 = image_of(tmp_path / "v1.tar", tmp_path / "v1")
    assert v1 == image_of(tmp_path / "dual.tar", tmp_path / "dual")
    assert len(v1) == 3 and len(set(v1)) == 2


def test_tiny_images_are_as_many_as_asked_for(tmp_path: Path) -> None:
    write_one(tmp_path / "one", 5)
    write_archives(tmp_path / "each", 5)
    for sources in ([tmp_path / "one" / "all.tar"], sorted((tmp_path / "each").iterdir())):
        target = tmp_path / f"out-{len(sources)}"
        assert migrate("convert", *sources, target).code == 0
        totals = json.loads((target / "migration-report.json").read_bytes())["totals"]
        assert (totals["images"], totals["legacy_layers"], totals["unique_layers"]) == (5, 15, 11)


def test_the_limit_is_told_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(make_tar(1))
    for step in ("hash", "gzip", "zstd", "gunzip"):
        command = [sys.executable, "-m", "benchmarks.limit", step, "2", f"{path},{path}"]
        told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert set(told) == {"wall", "cpu"}
