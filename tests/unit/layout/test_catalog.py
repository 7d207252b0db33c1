"""The catalog of a target gives what a plain one with dicts gives, also if most of it is in temporary files."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from msgspec import Struct, field

from migrate.blobio import records, sorted_runs
from migrate.documents.docker_archive import ArchiveManifestEntry
from migrate.documents.oci import IMAGE_NAME, REF_NAME, IndexEntry
from migrate.layout.catalog import Catalog, entry_for
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, MediaType, Platform
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.reference import Reference, is_loadable_name

AMD64 = Platform(os="linux", architecture="amd64")
PLATFORMS = (AMD64, Platform(os="linux", architecture="arm", variant="v7"))
LAYER_TYPES = (MediaType.OCI_LAYER_GZIP,) * 20 + (MediaType.OCI_LAYER_ZSTD, MediaType.DOCKER_FOREIGN_GZIP, "other")
CONFIG_TYPES = (MediaType.OCI_CONFIG,) * 9 + ("application/an.artifact",)
NAMES = ("app:1", "app:2", "b/app:1", "docker.io/library/app:1", "UPPER:1", "\u00e9:1", f"app@sha256:{'1' * 64}")


@pytest.fixture(params=[3, 1_000_000], ids=["in files", "in memory"], autouse=True)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ROWS_IN_MEMORY", "_ROWS_A_RUN", "_ROWS_A_BLOCK"):
        monkeypatch.setattr(sorted_runs, name, request.param)
    monkeypatch.setattr(records, "_BYTES_IN_MEMORY", request.param)


class Image(Struct, frozen=True):
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    platform: Platform


class Index(Struct, frozen=True):
    descriptor: Descriptor
    children: tuple[IndexEntry, ...]


class Plain(Struct):
    """What a target has: images, indexes, the entries of this run, and those that were there before it."""

    images: dict[Digest, Image] = field(default_factory=dict)
    indexes: dict[Digest, Sequence[IndexEntry]] = field(default_factory=dict)
    ours: list[IndexEntry] = field(default_factory=list)
    theirs: list[IndexEntry] = field(default_factory=list)

    def merged(self, lost: Iterable[tuple[str | None, Digest]]) -> list[IndexEntry]:
        found: dict[tuple[str, Digest], IndexEntry] = {}
        for entry in (*self.theirs, *self.ours):
            if (entry.name, entry.descriptor.digest) in lost:
                rest = {key: text for key, text in entry.annotations.items() if key not in (REF_NAME, IMAGE_NAME)}
                entry = IndexEntry(
                    descriptor=entry.descriptor, platform=entry.platform, annotations=rest, other=entry.other
                )
            found[entry.name or "", entry.descriptor.digest] = entry
        reached = {digest for name, digest in found if name}
        for _, digest in found:
            reached |= {child.descriptor.digest for child in self.indexes.get(digest, ())}
        order = sorted(found, key=lambda key: (not key[0], key))
        return [found[name, digest] for name, digest in order if name or digest not in reached]

    def lost(self, mode: OnConflict, superseded: set[Digest]) -> set[tuple[str | None, Digest]]:
        """Without images of other runs, whose age counts."""
        ours = {(entry.name, entry.descriptor.digest) for entry in self.ours if entry.name is not None}
        names = {name for name, _ in ours}
        theirs = {(entry.name, entry.descriptor.digest) for entry in self.theirs if entry.name in names} - ours
        return {pair for pair in theirs if mode is not OnConflict.KEEP_ALL or pair[1] in superseded}

    def leaves(self, digest: Digest) -> list[Digest]:
        found: list[Digest] = []
        for child in self.indexes.get(digest, ()):
            below = child.descriptor.digest
            found += [below] if below not in self.indexes else self.leaves(below)
        return list(dict.fromkeys(found))

    def names(self, entries: Iterable[IndexEntry]) -> dict[Digest, set[str]]:
        found: dict[Digest, set[str]] = {}

        def lead(entry: IndexEntry, name: str) -> None:
            found.setdefault(entry.descriptor.digest, set()).add(name)
            for child in self.indexes.get(entry.descriptor.digest, ()):
                lead(child, child.name or name)

        for entry in entries:
            if entry.name is not None:
                lead(entry, entry.name)
        return found

    def archive_manifest(self, entries: Iterable[IndexEntry], deep: bool) -> list[ArchiveManifestEntry]:
        tags: dict[Digest, set[str]] = {}
        for entry in entries:
            digest = entry.descriptor.digest
            leaves = [leaf for leaf in self.leaves(digest) if leaf in self.images] or [digest]
            for leaf in leaves:
                tags.setdefault(leaf, set())
            if entry.name is not None and is_loadable_name(entry.name):
                right = [leaf for leaf in leaves if leaf in self.images and self.images[leaf].platform == AMD64]
                tags[(right or leaves)[0]].add(entry.name)
        rows: dict[tuple[bool, str, tuple[str, ...]], set[str]] = {}
        for digest, names in tags.items():
            image = self.images.get(digest)
            if image is None or not self.is_loadable(image, deep):
                continue
            late = len(image.layers) > 127 or any(one.media_type != MediaType.OCI_LAYER_GZIP for one in image.layers)
            layers = tuple(f"blobs/sha256/{layer.digest.hex}" for layer in image.layers)
            rows.setdefault((late, f"blobs/sha256/{image.config.digest.hex}", layers), set()).update(names)
        order = sorted((late, not names, sorted(names), one, two) for (late, one, two), names in rows.items())
        return [ArchiveManifestEntry(config=one, repo_tags=tuple(tags), layers=two) for _, _, tags, one, two in order]

    def is_loadable(self, image: Image, deep: bool) -> bool:
        is_foreign = any(layer.media_type == MediaType.DOCKER_FOREIGN_GZIP for layer in image.layers)
        return image.config.media_type == MediaType.OCI_CONFIG and not is_foreign and (deep or len(image.layers) < 128)


class Maker:
    """Makes the same random target for the same number."""

    def __init__(self, number: int) -> None:
        self.choose = random.Random(number)
        self.layers = [self.descriptor(self.choose.choice(LAYER_TYPES)) for _ in range(6)]
        self.configs = [self.descriptor(self.choose.choice(CONFIG_TYPES)) for _ in range(12)]

    def descriptor(self, media_type: str) -> Descriptor:
        digest = Digest(self.choose.randbytes(32).hex())
        return Descriptor(media_type=media_type, digest=digest, size=self.choose.randrange(1 << 40))

    def image(self) -> Image:
        number = self.choose.choice([0, 1, 1, 2, 2, 3, 128])
        return Image(
            self.descriptor(MediaType.OCI_MANIFEST),
            self.choose.choice(self.configs),
            tuple(self.choose.choices(self.layers, k=number)),
            self.choose.choice(PLATFORMS),
        )

    def index(self, below: Sequence[Descriptor]) -> Index:
        chosen = self.choose.sample(below, self.choose.randrange(min(4, len(below) + 1)))
        children = tuple(
            IndexEntry(descriptor=one, annotations={REF_NAME: "own:name"} if self.choose.random() < 0.2 else {})
            for one in chosen
        )
        return Index(self.descriptor(MediaType.OCI_INDEX), children)

    def references(self) -> list[Reference]:
        return [Reference.parse(name) for name in self.choose.sample(NAMES, self.choose.choice([0, 0, 1, 1, 2]))]

    def their_entry(self, descriptor: Descriptor) -> IndexEntry:
        references = self.references()
        entry = entry_for(descriptor, self.choose.choice(PLATFORMS), references[0] if references else None)
        annotations, other = dict(entry.annotations), dict[str, Any]()
        if self.choose.random() < 0.3:
            annotations["another"] = "annotation"
        if self.choose.random() < 0.3:
            other["urls"] = ["x", {"y": None}]
        return IndexEntry(descriptor=descriptor, platform=entry.platform, annotations=annotations, other=other)


def no_blobs(digests: Sequence[Digest]) -> Mapping[Digest, bytes]:
    del digests
    return {}


@pytest.mark.parametrize("number", range(60))
def test_random_targets(number: int) -> None:
    make = Maker(number)
    mode = make.choose.choice([OnConflict.NEWEST, OnConflict.KEEP_ALL])
    plain, catalog = Plain(), Catalog(ConvertOptions(on_conflict=mode, platform=AMD64))
    known: list[Descriptor] = []
    has_theirs = number % 3 > 0
    for _ in range(make.choose.choice([0, 1, 4, 25])):
        image = make.image()
        known.append(image.manifest)
        plain.images[image.manifest.digest] = image
        if has_theirs and make.choose.random() < 0.5:
            plain.theirs.append(make.their_entry(image.manifest))
        references = make.references()
        for _ in range(make.choose.choice([1, 1, 2])):  # the same image again
            catalog.commit(image.manifest, image.config, image.layers, image.platform, references)
            plain.ours += [entry_for(image.manifest, image.platform, one) for one in references or (None,)]
    for _ in range(make.choose.choice([0, 1, 5])):
        index = make.index(known)
        known.append(index.descriptor)
        plain.indexes[index.descriptor.digest] = index.children
        references = make.references()
        catalog.commit_index(index.descriptor, index.children, references)
        plain.ours += [entry_for(index.descriptor, None, one) for one in references or (None,)]
        if has_theirs and make.choose.random() < 0.5:
            plain.theirs.append(make.their_entry(index.descriptor))
    catalog.begin(plain.theirs)
    superseded = {one.digest for one in known if make.choose.random() < 0.3}

    entries = catalog.merge(plain.theirs, no_blobs, superseded)
    expected = plain.merged(plain.lost(mode, superseded))
    assert list(entries) == expected == list(entries)
    for deep in (False, True):
        assert list(catalog.archive_manifest(entries, deep=deep)) == plain.archive_manifest(expected, deep)
    names, expected_names = catalog.names(entries), plain.names(expected)
    assert all(names.of(one.digest) == expected_names.get(one.digest, set()) for one in known)
    layers = {layer for image in plain.images.values() for layer in image.layers}
    assert catalog.named_layers(no_blobs) == {layer.digest for layer in layers}
    asked = [layer.digest for layer in make.layers]
    assert catalog.without_layers(asked) == set(asked) - {layer.digest for layer in layers}
    sized = {pair for facts in catalog.images for pair in facts.sized_layers}
    assert sized == {(layer.digest, layer.size) for layer in layers}
    configs = {image.config.digest for image in plain.images.values()}
    assert {facts.config_digest for facts in catalog.images} == configs


def test_indexes_that_contain_each_other() -> None:
    """Of an untrusted layout."""
    first, second = (Descriptor(media_type=MediaType.OCI_INDEX, digest=Digest(one * 64), size=1) for one in "ab")
    catalog = Catalog(ConvertOptions())
    catalog.commit_index(first, [IndexEntry(descriptor=second)], [Reference.parse("app:1")])
    catalog.commit_index(second, [IndexEntry(descriptor=first)], [])
    entries = catalog.merge((), no_blobs)
    assert [entry.name for entry in entries] == ["app:1"]
    assert list(catalog.archive_manifest(entries)) == []
    assert [catalog.names(entries).of(one.digest) for one in (first, second)] == [{"app:1"}] * 2
