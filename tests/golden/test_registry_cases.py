"""Registry storage written by real engines and registries: every tag becomes what real Docker makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.model.options import ConvertOptions, EmptyLayers
from migrate.readers.detect import open_source
from migrate.report.document import Report, ReportImage
from migrate.writers.oci_layout import OciLayout
from tests.cases import Case, registry_cases
from tests.registries import extract_tree, should_convert, should_warn


def convert(case: Case, tmp_path: Path) -> Report:
    return convert_tree(extract_tree(case, tmp_path), tmp_path)


def convert_tree(tree: Path, tmp_path: Path) -> Report:
    options = ConvertOptions(empty_layers=EmptyLayers.KEEP)
    source = open_source(str(tree))
    target = OciLayout(tmp_path / "out", options)
    report = Conversion([OpenedSource(source.location, source)], options, target).run().report
    target.close()
    return report


def images_by_reference(report: Report) -> dict[str, ReportImage]:
    """Of a list the image for linux/amd64, which is what the oracle's engines took."""
    found: dict[str, ReportImage] = {}
    for image in report.images:
        for reference in image.references:
            if reference not in found or image.platform.architecture == "amd64":
                found[reference] = image
    return found


@pytest.mark.parametrize("case", registry_cases(), ids=lambda case: case.name)
def test_every_tag_is_what_docker_makes_of_it(case: Case, tmp_path: Path) -> None:
    report = convert(case, tmp_path)
    images = images_by_reference(report)
    failed = {reference for failure in report.failures for reference in failure.references}
    for reference, expected in case.expected["images"].items():
        if not should_convert(expected):
            assert reference in failed and reference not in images, reference
            continue
        assert reference not in failed, reference
        if "image_id" not in expected:
            assert reference in images  # the old registry could not serve it, the bytes are there
            continue
        image = images[reference]
        assert str(image.image_id) == expected["image_id"], reference
        assert [str(row.diff_id) for row in image.layers if row.diff_id] == expected["diff_ids"], reference
        config = (tmp_path / "out" / "blobs" / "sha256" / expected["image_id"].removeprefix("sha256:")).read_bytes()
        assert config == case.configs[expected["config"]], reference


@pytest.mark.parametrize("case", registry_cases(), ids=lambda case: case.name)
def test_what_is_not_named_a_failure_converts(case: Case, tmp_path: Path) -> None:
    report = convert(case, tmp_path)
    good = [reference for reference, expected in case.expected["images"].items() if should_convert(expected)]
    assert good
    if len(good) == len(case.expected["images"]):
        assert not report.failures


@pytest.mark.parametrize("moved", [1, 2], ids=["every link", "every other link"])
@pytest.mark.parametrize("name", ["registry-v2-schema1-2.1.1", "registry-v2-mixed-2.8"])
def test_links_of_manifests_where_registry_2_1_0_wrote_them(name: str, moved: int, tmp_path: Path) -> None:
    case = next(case for case in registry_cases() if case.name == name)
    tree = extract_tree(case, tmp_path)
    links = sorted(tree.glob("docker/registry/v2/repositories/**/_manifests/revisions/sha256/*/link"))
    for link in links[::moved]:
        place = link.parents[4] / "_layers" / "sha256" / link.parent.name / "link"
        place.parent.mkdir(parents=True, exist_ok=True)
        link.rename(place)
    report = convert_tree(tree, tmp_path)
    assert links and not report.failures
    images = images_by_reference(report)
    for reference, expected in case.expected["images"].items():
        assert str(images[reference].image_id) == expected.get("image_id", str(images[reference].image_id))


def test_warnings_stand_where_a_v1_registrys_image_needs_one(tmp_path: Path) -> None:
    case = next(case for case in registry_cases() if case.name == "registry-v1-tree-damaged")
    report = convert(case, tmp_path)
    shared: dict[str, bool] = {}
    for image in report.images:
        warned = bool(image.warnings) or any(row.note for row in image.layers)
        expected = [should_warn(case.expected["images"][reference]) for reference in image.references]
        if expected:
            shared[image.references[0]] = warned
            assert warned == any(expected), image.references
    assert any(shared.values()) and not all(shared.values())


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("team/app-1.6.2:1.0", "does not verify"),
        ("team/app-1.9.1:1.0", "is missing"),
        ("team/app-1.8.3:1.0", "does not match its digest"),
        ("team/twins:1.6.2-a", "no signature is stored"),
        ("alpine-like-base:v1.8.3", "white space"),
        ("team/app-1.10.3:1.0", None),
    ],
)
def test_signatures_are_checked_and_reported(reference: str, said: str | None, tmp_path: Path) -> None:
    case = next(case for case in registry_cases() if case.name == "registry-v2-schema1-2.1.1-damaged")
    report = convert(case, tmp_path)
    (image,) = (image for image in report.images if reference in image.references)
    if said is None:
        assert not image.warnings
    else:
        assert any(said in warning for warning in image.warnings), image.warnings
