"""v1 registry storage in every form that servers and clients left behind gives the image IDs of the archive."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.model.options import ConvertOptions, EmptyLayers
from migrate.readers.registry_v1 import RegistryV1Source
from migrate.report.document import Report
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.named_files import NamedFiles
from tests.cases import Case, case, save_cases
from tests.v1_registry import CHECKSUMS, COMPRESSIONS, V1Tree

KEEP = ConvertOptions(empty_layers=EmptyLayers.KEEP, dry_run=True)
MULTI = case("save-1.6.2-multi")
ARCHIVES = [found for found in save_cases() if found.name != "save-1.10.3-hybrid"]
"""All but the one whose jsons are synthetic, because manifest.json counts there."""


def archive_of(found: Case) -> bytes:
    return lzma.decompress((found.path / "save.tar.xz").read_bytes())


def open_registry(path: Path) -> RegistryV1Source:
    return RegistryV1Source(str(path), NamedFiles(DirectoryTree(str(path))))


def convert(root: Path) -> Report:
    source = open_registry(root)
    return Conversion([OpenedSource(str(root), source)], KEEP).run().report


def image_ids(report: Report) -> dict[str, str]:
    return {reference: str(image.image_id) for image in report.images for reference in image.references}


def expected_ids(found: Case) -> dict[str, str]:
    return {reference: row["image_id"] for reference, row in found.expected["images"].items() if "image_id" in row}


def build(root: Path, found: Case, **variant: object) -> V1Tree:
    tree = V1Tree(root, **variant)  # type: ignore[arg-type]
    tree.add_archive(archive_of(found))
    return tree


def notes(report: Report) -> list[str]:
    return [row.note for image in report.images for row in image.layers if row.note]


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
@pytest.mark.parametrize("checksum", sorted(CHECKSUMS))
def test_every_form_of_layer_and_checksum(compression: str, checksum: str, tmp_path: Path) -> None:
    build(tmp_path, MULTI, compression=compression, checksum=checksum)
    report = convert(tmp_path)
    assert image_ids(report) == expected_ids(MULTI)
    assert not notes(report) and not report.failures


@pytest.mark.parametrize("found", ARCHIVES, ids=lambda found: found.name)
def test_every_archive_s_images_have_the_same_ids_in_a_registry(found: Case, tmp_path: Path) -> None:
    tree = build(tmp_path, found)
    report = convert(tree.root)
    expected = expected_ids(found)
    got = image_ids(report)
    for reference, image_id in expected.items():
        assert got[reference] == image_id
    heads = {str(image.image_id) for image in report.images}
    assert heads <= set(found.expected["all_images"])


def test_ids_of_16_digits(tmp_path: Path) -> None:
    build(tmp_path, MULTI, short_ids=True)
    assert image_ids(convert(tmp_path)) == expected_ids(MULTI)


def test_names_that_need_quoting_and_the_implied_library(tmp_path: Path) -> None:
    tree = build(tmp_path, MULTI)
    (identity,) = {image.head for image in open_registry(tmp_path).listing().images if image.references[:1]} & {
        path.read_text() for path in tmp_path.glob("repositories/team/web/tag_latest")
    }
    for name in ["library/plain", "we ird/na+me", "ns/a/b", "ns/..", "UPPER/Case"]:
        tree.add_tag(name, "t", identity)
    found = image_ids(convert(tmp_path))
    assert {"plain:t", "we ird/na+me:t", "ns/a/b:t", "ns/..:t", "UPPER/Case:t"} <= found.keys()


def test_a_wrong_checksum_is_a_note_and_the_image_converts(tmp_path: Path) -> None:
    tree = build(tmp_path, MULTI)
    victim = sorted((tree.root / "images").iterdir())[0]
    (victim / "_checksum").write_text(json.dumps(["sha256:" + "1" * 64, "tarsum+sha256:" + "2" * 64]))
    report = convert(tmp_path)
    assert image_ids(report) == expected_ids(MULTI)
    assert all("recorded checksum" in note and "2" * 64 in note for note in notes(report)) and notes(report)


def test_a_plain_tar_cut_short_is_known_by_its_checksum(tmp_path: Path) -> None:
    tree = build(tmp_path, MULTI, compression="none")
    victim = max((tree.root / "images").iterdir(), key=lambda folder: (folder / "layer").stat().st_size)
    layer = (victim / "layer").read_bytes()
    (victim / "layer").write_bytes(layer[: len(layer) // 3])
    report = convert(tmp_path)
    assert report.failures and all(failure.layer == victim.name for failure in report.failures)
    assert {failure.error for failure in report.failures} == {"truncated"}


def test_half_uploads_are_named_and_take_only_their_images_with_them(tmp_path: Path) -> None:
    tree = build(tmp_path, MULTI)
    report = convert(tmp_path)
    whole = image_ids(report)
    victim = max(report.images, key=lambda image: len(image.layers)).legacy_id
    (tree.root / "images" / victim / "_inprogress").write_text("true")
    lonely = tree.root / "images" / ("ab" * 32)
    lonely.mkdir()
    (lonely / "json").write_text(json.dumps({"id": "ab" * 32, "parent": victim}))
    (lonely / "_inprogress").write_text("true")
    source = open_registry(tmp_path)
    assert any("ab" * 32 in warning and "never finished" in warning for warning in source.listing().warnings)
    after = convert(tmp_path)
    failed = {reference for failure in after.failures for reference in failure.references}
    assert failed and image_ids(after) == {ref: image for ref, image in whole.items() if ref not in failed}
    assert all("never finished" in failure.message for failure in after.failures)
