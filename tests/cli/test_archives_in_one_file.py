"""Two outputs of `docker save` in one file, each with its end marker: both are converted, and a warning says so."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate import api
from migrate.model.digest import Digest
from migrate.report.document import Report
from tests.archives import V1Archive, build_tar, layer_tar, legacy_id

Builder = Callable[..., bytes]
LARGE = 2 * 1024 * 1024


def v1(name: str, *layers: str, content: bytes = b"v1") -> bytes:
    archive = V1Archive()
    for layer, below in zip(layers, (None, *layers), strict=False):
        archive.layer(layer, below, tar=layer_tar(layer, content=content))
    archive.tag("app", name, legacy_id(layers[-1]))
    return archive.build()


def modern(name: str, *layers: str, content: bytes = b"") -> bytes:
    """All names but the image's are the same in every such archive, as some builders write them."""
    tars = [layer_tar(f"{name}-{layer}", content=content or name.encode()) for layer in layers]
    config = {
        "os": "linux",
        "config": {"Env": [f"A={name}"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
    }
    paths = [f"{number:064x}.tar" for number in range(len(tars))]
    entry = {"Config": f"{'c' * 64}.json", "RepoTags": [f"app:{name}"], "Layers": paths}
    return build_tar(
        [
            *zip(paths, tars, strict=True),
            (f"{'c' * 64}.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps([entry]).encode()),
        ]
    )


def names(report: Report) -> dict[str, str]:
    return {name: str(image.image_id) for image in report.images for name in image.references}


def shortest(archive: bytes) -> bytes:
    """With the two blocks of zeros that Go writes, not a record of them."""
    return archive.rstrip(b"\0").ljust((len(archive.rstrip(b"\0")) + 511) // 512 * 512, b"\0") + bytes(1024)


@pytest.mark.parametrize("cut", [bytes, shortest])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("builders", [(v1, v1), (modern, modern), (v1, modern), (modern, v1), (v1, modern, v1)])
def test_all_archives_of_a_file_are_converted(
    builders: tuple[Builder, ...], size: int, pack: Builder, cut: Builder, tmp_path: Path
) -> None:
    alone: dict[str, str] = {}
    whole = b""
    for number, build in enumerate(builders):
        content = bytes([number + 65]) * size
        archive = build(f"{number}", "base" if build is modern else f"base{number}", f"top{number}", content=content)
        (tmp_path / f"{number}.tar").write_bytes(archive)
        alone |= names(api.plan(tmp_path / f"{number}.tar").report)
        whole += cut(archive)
    (tmp_path / "all").write_bytes(pack(whole))
    outcome = api.convert(tmp_path / "all", tmp_path / "t")
    assert (outcome.exit_code, outcome.report.failures) == (0, ())
    assert names(outcome.report) == alone
    assert len(alone) == len(builders)
    assert sum("in the same file, which Docker does not read" in text for text in outcome.report.warnings) == 1
    assert api.verify(tmp_path / "t") == []


def test_an_image_of_both_has_the_names_of_both(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(v1("1", "base", "top") + v1("2", "base", "top") + v1("3", "base", "other"))
    report = api.plan(tmp_path / "a.tar").report
    assert sorted(image.references for image in report.images) == [("app:1", "app:2"), ("app:3",)]


def test_zeros_within_an_archive_are_damage_still(tmp_path: Path) -> None:
    archive = bytearray(v1("1", "base", "top"))
    archive[512 * 2 : 512 * 4] = bytes(1024)
    (tmp_path / "a.tar").write_bytes(archive)
    outcome = api.plan(tmp_path / "a.tar")
    assert outcome.exit_code in (3, 4)
    assert any("where the archive does not end" in failure.message for failure in outcome.report.failures)
