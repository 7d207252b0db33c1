"""Old to new."""

from __future__ import annotations

import pytest

from migrate.report.document import Report
from migrate.report.mapping import find_images, find_layers, map_images

from .conftest import digest, legacy_id


def test_images_by_every_name_and_id(report: Report) -> None:
    images = map_images(report)
    assert [image.legacy_id for image in images] == sorted(image.legacy_id for image in images)
    app = next(image for image in images if "acme/app:1" in image.references)
    for text in (
        app.legacy_id,
        app.legacy_id[:8],
        str(app.image_id),
        app.image_id.hex[:10],
        str(app.manifest_digest),
        "acme/app:2",
        "docker.io/acme/app:1",
        "c0ffee",
    ):
        assert find_images(images, text) == (app,), text


@pytest.mark.parametrize("text", ["", "acme", "sha256:", "zzzz"])
def test_nothing_is_found(report: Report, text: str) -> None:
    assert find_images(map_images(report), text) == ()


def test_layers_inside_images(report: Report) -> None:
    images = map_images(report)
    (row,) = find_layers(report, images, legacy_id("base")[:12])
    assert row.layer.diff_id == digest("base")
    assert len(row.images) == 3
