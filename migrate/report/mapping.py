"""From old IDs to new ones: finds the images and layers of a report or map by any of their IDs and names."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from migrate.documents.image_map import MappedImage, merge_rows, uris_by_location
from migrate.documents.json_text import safe_text, uri_of_no_text
from migrate.model.digest import ImageID
from migrate.model.reference import Reference
from migrate.report.document import Report, ReportImage, ReportLayer


class MappedLayer(Struct, frozen=True, kw_only=True):
    """A legacy layer that is not an image itself; `images` are those that contain it."""

    layer: ReportLayer
    images: tuple[MappedImage, ...]


def map_images(report: Report) -> tuple[MappedImage, ...]:
    """The map rows of a report, sorted by legacy ID. Equal images of several sources are one row."""
    uris = uris_by_location((source.location, source.uri) for source in report.sources)
    return merge_rows(mapped_image(image, uris.get(image.source)) for image in report.images)


def mapped_image(image: ReportImage, uri: str | None = None) -> MappedImage:
    """The map row of an image. All texts are made safe for JSON, so that a row is the same after it is written and
    read. `uri` is that of the source, whose exact name is not in the location if it is not UTF-8."""
    return MappedImage(
        legacy_id=safe_text(image.legacy_id),
        image_id=image.image_id,
        manifest_digest=image.manifest_digest,
        references=tuple(sorted(map(safe_text, image.references))),
        names=tuple(sorted(map(safe_text, image.names))),
        containers=tuple(sorted(image.containers)),
        legacy_digests=tuple(sorted(image.legacy_digests)),
        platform=str(image.platform),
        sources=(uri or uri_of_no_text(image.source) or image.source,),
        created=image.created,
    )


def find_images(images: Iterable[MappedImage], text: str) -> tuple[MappedImage, ...]:
    """Images with the name `text`, or for which `text` is the legacy ID, the image ID, an old or new digest or the ID
    of a container, or else a prefix of one.

    Of `name@sha256:…` only the digest is used. A prefix is used only if nothing matches in full.
    """
    images = tuple(images)
    wanted = text.rpartition("@")[2].removeprefix("sha256:")
    name = Reference.parse(text).full()
    whole = [
        image
        for image in images
        if wanted in _ids(image)
        or any(Reference.parse(one).full() == name for one in (*image.references, *image.names))
    ]
    if whole:
        return tuple(whole)
    return tuple(image for image in images if wanted and any(one.startswith(wanted) for one in _ids(image)))


def _ids(image: MappedImage) -> tuple[str, ...]:
    manifest = () if image.manifest_digest is None else (image.manifest_digest.hex,)
    digests = (digest.hex for digest in image.legacy_digests)
    return (image.legacy_id, image.image_id.hex, *manifest, *image.containers, *digests)


def find_layers(report: Report, images: Iterable[MappedImage], prefix: str) -> tuple[MappedLayer, ...]:
    """Layers of images whose legacy ID begins with `prefix`, sorted by it."""
    rows = {(image.legacy_id, image.image_id): image for image in images}
    found: dict[ReportLayer, dict[tuple[str, ImageID], MappedImage]] = {}
    for image in report.images:
        key = (image.legacy_id, image.image_id)
        if key not in rows:
            continue
        for layer in image.layers:
            if layer.legacy_id.startswith(prefix):
                found.setdefault(layer, {})[key] = rows[key]
    return tuple(
        MappedLayer(layer=layer, images=tuple(users[key] for key in sorted(users)))
        for layer, users in sorted(found.items(), key=lambda item: (item[0].legacy_id, str(item[0].diff_id)))
    )
