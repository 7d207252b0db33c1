"""Old to new: which image ID and digest a legacy ID became. Pure, over a report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from migrate.model.digest import Digest, ImageID
from migrate.model.reference import Reference
from migrate.report.document import Report, ReportImage, ReportLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedImage:
    """One image. `names` are its references in the target, `containers` the old containers that were made from it,
    `legacy_digests` those of old manifests that named it."""

    legacy_id: str
    image_id: ImageID
    manifest_digest: Digest | None
    references: tuple[str, ...]
    names: tuple[str, ...]
    containers: tuple[str, ...]
    legacy_digests: tuple[Digest, ...]
    platform: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedLayer:
    """A legacy layer that is part of images but none itself; `images` are those that stand on it."""

    layer: ReportLayer
    images: tuple[MappedImage, ...]


def map_images(report: Report) -> tuple[MappedImage, ...]:
    """Every image once, sorted by legacy ID: equal images of several sources are one row."""
    groups: dict[tuple[str, ImageID], list[ReportImage]] = {}
    for image in report.images:
        groups.setdefault((image.legacy_id, image.image_id), []).append(image)
    return tuple(_merge(groups[key]) for key in sorted(groups))


def _merge(images: list[ReportImage]) -> MappedImage:
    def together(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(sorted({text for texts in lists for text in texts}))

    first = images[0]
    return MappedImage(
        legacy_id=first.legacy_id,
        image_id=first.image_id,
        manifest_digest=first.manifest_digest,
        references=together(image.references for image in images),
        names=together(image.names for image in images),
        containers=together(image.containers for image in images),
        legacy_digests=tuple(sorted({digest for image in images for digest in image.legacy_digests})),
        platform=str(first.platform),
        sources=tuple(sorted({image.source for image in images})),
    )


def find_images(images: Iterable[MappedImage], text: str) -> tuple[MappedImage, ...]:
    """Images whose legacy ID, image ID, digest, old or new, or a container's ID is or begins with `text`, or whose name
    it is.

    Of `name@sha256:…` the digest alone counts. A whole match goes before prefixes. Several are returned only if they
    differ.
    """
    images = tuple(images)
    wanted = text.rpartition("@")[2].removeprefix("sha256:")
    whole = [image for image in images if wanted in _ids(image) or _is_named(image, text)]
    if whole:
        return tuple(whole)
    return tuple(image for image in images if wanted and any(one.startswith(wanted) for one in _ids(image)))


def _ids(image: MappedImage) -> tuple[str, ...]:
    manifest = () if image.manifest_digest is None else (image.manifest_digest.hex,)
    digests = (digest.hex for digest in image.legacy_digests)
    return (image.legacy_id, image.image_id.hex, *manifest, *image.containers, *digests)


def _is_named(image: MappedImage, text: str) -> bool:
    wanted = Reference.parse(text).full()
    return any(Reference.parse(name).full() == wanted for name in (*image.references, *image.names))


def find_layers(report: Report, images: Iterable[MappedImage], prefix: str) -> tuple[MappedLayer, ...]:
    """Layers inside chains whose legacy ID begins with `prefix`, sorted by it."""
    rows = {(image.legacy_id, image.image_id): image for image in images}
    found: dict[ReportLayer, dict[tuple[str, ImageID], MappedImage]] = {}
    for image in report.images:
        key = (image.legacy_id, image.image_id)
        for layer in image.layers:
            if layer.legacy_id.startswith(prefix):
                found.setdefault(layer, {})[key] = rows[key]
    return tuple(
        MappedLayer(layer=layer, images=tuple(users[key] for key in sorted(users)))
        for layer, users in sorted(found.items(), key=lambda item: (item[0].legacy_id, str(item[0].diff_id)))
    )
