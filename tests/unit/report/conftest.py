"""Small runs, made by hand, whose figures can be counted by eye."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pytest

from migrate.model.digest import EMPTY_TAR_DIFF_ID, DiffID, Digest
from migrate.model.image import ComposedImage, Descriptor, HashedLayer, MediaType, Platform, StoredBlob
from migrate.model.legacy import Failure, LegacyID, LegacyLayer
from migrate.report.document import Conflict, Report
from migrate.report.model import ImageInput, SourceInput
from migrate.report.tally import SourceLayers
from tests.reports import build_report

LINUX = Platform(os="linux", architecture="amd64")


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


def legacy_id(name: str) -> str:
    return hashlib.sha256(b"id " + name.encode()).hexdigest()


def hashed(content: str, size: int, *, exact: bool = True, note: str | None = None) -> HashedLayer:
    return HashedLayer(
        diff_id=DiffID(digest(content)),
        tar_size=size,
        empty=False,
        blob=StoredBlob(digest=digest(f"gzip {content}"), size=size // 2, compression="gzip"),
        origin="archive" if exact else "diff",
        exact=exact,
        note=note,
    )


EMPTY = HashedLayer(diff_id=EMPTY_TAR_DIFF_ID, tar_size=1024, empty=True, blob=None, origin="archive")


def legacy_layer(name: str) -> LegacyLayer:
    return LegacyLayer(legacy_id=LegacyID(legacy_id(name)), json=b"{}", parent=None, payload=None)


def image_input(
    source: str,
    layers: Sequence[tuple[str, HashedLayer | None]],
    references: Sequence[str] = (),
    *,
    containers: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> ImageInput:
    names = [name for name, _ in layers]
    stored = [layer for _, layer in layers if layer is not None and layer.blob is not None]
    return ImageInput(
        source=source,
        legacy_id=legacy_id(layers[-1][0]),
        image=ComposedImage(
            config_document=f"config {names} {references}".encode(),
            config_media_type=MediaType.DOCKER_CONFIG,
            manifest_document=f"manifest {names} {references}".encode(),
            manifest_media_type=MediaType.DOCKER_MANIFEST,
            diff_ids=[layer.diff_id for layer in stored],
            layers=[
                Descriptor(media_type=MediaType.DOCKER_LAYER_GZIP, digest=layer.blob.digest, size=layer.blob.size)
                for layer in stored
                if layer.blob is not None
            ],
            platform=LINUX,
            created="2015-03-01T12:00:00Z",
        ),
        chain=[(legacy_layer(name), layer) for name, layer in layers],
        references=references,
        names=references,
        containers=containers,
        warnings=warnings,
    )


def by_content(layers: Mapping[str, HashedLayer]) -> SourceLayers:
    return {(legacy_id, layer.diff_id): layer for legacy_id, layer in layers.items()}


def sample_report(*, hostile: str = "") -> Report:
    """Two archives: `base` is in both, `app` twice in the first under two IDs; one empty layer; one failure."""
    base, app, web = (
        hashed("base", 4_000_000),
        hashed("app", 10_000),
        hashed("web", 300_000, exact=False, note="re-made"),
    )
    return build_report(
        tool_version="0.1.0",
        dry_run=False,
        started="2026-01-02T03:04:05Z",
        finished="2026-01-02T03:04:09Z",
        options={"format": "docker", "image": ["a*"]},
        sources=[
            SourceInput(
                location="two.tar",
                type="docker-archive",
                layers=by_content({legacy_id("base"): base, legacy_id("web"): web, legacy_id("empty"): EMPTY}),
            ),
            SourceInput(
                location="one.tar",
                type="docker-archive",
                layers=by_content({legacy_id("base"): base, legacy_id("app"): app, legacy_id("app-again"): app}),
            ),
        ],
        images=[
            image_input("two.tar", [("base", base), ("web", web), ("empty", EMPTY)], [f"acme/web:1{hostile}"]),
            image_input(
                "one.tar",
                [("base", base), ("app", app)],
                ["acme/app:2", "acme/app:1"],
                containers=["c0ffee"],
                warnings=[f"odd tar {hostile}"],
            ),
            image_input("one.tar", [("base", base), ("app-again", app), ("step", None)]),
        ],
        failures=[
            Failure(
                source="two.tar",
                references=(f"acme/broken:1{hostile}",),
                legacy_id=legacy_id("broken"),
                layer=legacy_id("gone"),
                error="missing-layer",
                message=f"the layer's bytes are not in the source{hostile}",
            )
        ],
        conflicts=[
            Conflict(reference="acme/app:2", platform=LINUX, kept=digest("kept"), others=(digest("z"), digest("a")))
        ],
        warnings=["second", "first", "first"],
    )


@pytest.fixture
def report() -> Report:
    return sample_report()
