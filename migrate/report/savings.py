"""Figures about the bytes that merging equal layers saves, per layer, image and repository."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from migrate.model.digest import DiffID
from migrate.model.reference import Reference
from migrate.report.document import Report, ReportImage


class Share(Struct, frozen=True, kw_only=True):
    """Uncompressed bytes of the layers of one image, each content once, in three parts.

    `merged`: layers that were in the sources several times and are stored once now. `shared`: layers of several images
    that were in the sources once. `own`: layers of this image only.
    """

    own: int
    shared: int
    merged: int

    @property
    def total(self) -> int:
        return self.own + self.shared + self.merged


class RepositorySavings(Struct, frozen=True, kw_only=True):
    """One repository: bytes of its layers as the sources store them, and of their distinct contents.

    `elsewhere_bytes` is the part of `after_bytes` that images of other repositories need, too.
    """

    name: str
    images: int
    before_bytes: int
    after_bytes: int
    elsewhere_bytes: int

    @property
    def saved_bytes(self) -> int:
        return self.before_bytes - self.after_bytes


class LayerUsers:
    """The images that use each layer of a report."""

    def __init__(self, report: Report) -> None:
        self.images: dict[DiffID, list[int]] = defaultdict(list)
        self.sizes: dict[DiffID, int] = {}
        for index, image in enumerate(report.images):
            for diff_id, size in contents(image).items():
                self.images[diff_id].append(index)
                self.sizes[diff_id] = size
        self.copies: Mapping[DiffID, int] = {row.diff_id: row.copies for row in report.duplicates}

    def share(self, image: ReportImage) -> Share:
        own = shared = merged = 0
        for diff_id, size in contents(image).items():
            if diff_id in self.copies:
                merged += size
            elif len(self.images[diff_id]) > 1:
                shared += size
            else:
                own += size
        return Share(own=own, shared=shared, merged=merged)


def titles_of_users(images: Iterable[ReportImage], layers: Collection[DiffID]) -> dict[DiffID, Collection[str]]:
    """The titles of the images that use each of `layers`, once each, in the order of the images."""
    found: defaultdict[DiffID, dict[str, None]] = defaultdict(dict)
    for image in images:
        for diff_id in contents(image).keys() & layers:
            found[diff_id][image.title] = None
    return {diff_id: titles.keys() for diff_id, titles in found.items()}


def contents(image: ReportImage) -> dict[DiffID, int]:
    """The image's distinct layers with content, base first, and their sizes."""
    return {layer.diff_id: layer.tar_size for layer in image.layers if layer.diff_id is not None and not layer.empty}


def repository_names(image: ReportImage) -> set[str]:
    return {Reference.parse(text).name for text in image.references}


def rank_repositories(report: Report) -> tuple[RepositorySavings, ...]:
    """Every repository, the largest saving first."""
    members: dict[str, list[ReportImage]] = defaultdict(list)
    users: dict[DiffID, set[str]] = defaultdict(set)
    for image in report.images:
        names = repository_names(image)
        for name in names:
            members[name].append(image)
        for diff_id in contents(image):
            # an image without a name counts as a repository of its own: its layers are shared with others
            users[diff_id] |= names or {f"\0{image.legacy_id}"}
    rows = []
    for name, images in members.items():
        stored = {
            (image.source, layer.legacy_id): layer.tar_size
            for image in images
            for layer in image.layers
            if layer.diff_id is not None
        }
        distinct: dict[DiffID, int] = {}
        for image in images:
            distinct.update(contents(image))
        rows.append(
            RepositorySavings(
                name=name,
                images=len(images),
                before_bytes=sum(stored.values()),
                after_bytes=sum(distinct.values()),
                elsewhere_bytes=sum(size for diff_id, size in distinct.items() if len(users[diff_id]) > 1),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.saved_bytes, -row.after_bytes, row.name)))
