"""The catalog of a target: the entries of index.json, and the manifest.json for `docker load` made from them.

Results are sorted, so that equal content gives equal bytes. Blobs are read only by functions that the caller passes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.blobio.limits import JSON_BYTES
from migrate.compose.image import DOCKER_MAX_LAYERS
from migrate.compose.names import newest_first
from migrate.documents.docker_archive import ArchiveManifestEntry
from migrate.documents.oci import IMAGE_NAME, REF_NAME, IndexEntry, parse_config
from migrate.errors import SourceError
from migrate.layout.names import blob_path
from migrate.layout.walk import Document, ReadBlobs, read_documents
from migrate.model.digest import DiffID, Digest
from migrate.model.image import CONFIG_TYPES, ComposedImage, Descriptor, MediaType, Platform
from migrate.model.options import OnConflict
from migrate.model.reference import Reference, is_loadable_name

_PLAIN_OR_GZIP: Final = (
    MediaType.DOCKER_LAYER,
    MediaType.DOCKER_LAYER_GZIP,
    MediaType.OCI_LAYER,
    MediaType.OCI_LAYER_GZIP,
)


class ExistingImage(Struct, frozen=True, kw_only=True):
    """An image or index that was in the target before this run.

    `created` and `diff_ids` are those of the config, and `image_id` is its digest; they are None, () and None for an
    index. `size` is that of the manifest. An index has `children`, each with its own platform and the reference of the
    index.
    """

    reference: Reference | None
    manifest_digest: Digest
    media_type: str
    platform: Platform | None
    created: str | None
    image_id: Digest | None = None
    size: int = 0
    diff_ids: tuple[DiffID, ...] = ()
    children: tuple[ExistingImage, ...] = ()


class ConfigSummary(NamedTuple):
    created: str | None = None
    diff_ids: tuple[DiffID, ...] = ()


class ImageFacts(Struct, frozen=True, kw_only=True):
    """The parts of an image that manifest.json needs: the blobs of its config and of its layers, base first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    platform: Platform | None = None

    @classmethod
    def of(cls, document: Document) -> ImageFacts:
        """The facts of a manifest."""
        assert document.manifest is not None
        manifest = document.manifest
        return cls(config=manifest.config, layers=manifest.layers, platform=document.entry.platform)


class CatalogFacts(Struct, frozen=True, kw_only=True):
    """By manifest digest: images, and the children of manifest lists and indexes in their order."""

    images: Mapping[Digest, ImageFacts] = field(default_factory=dict)
    children: Mapping[Digest, Sequence[Digest]] = field(default_factory=dict)


def entry_for(descriptor: Descriptor, platform: Platform | None, reference: Reference | None) -> IndexEntry:
    """An index.json entry: one reference, or none."""
    annotations: dict[str, str] = {}
    if reference is not None:
        if reference.is_valid and not reference.is_digest:  # containerd fails on a name that it cannot parse
            annotations[IMAGE_NAME] = reference.full()
        annotations[REF_NAME] = str(reference)
    return IndexEntry(descriptor=descriptor, platform=platform, annotations=annotations)


def entries_for(
    descriptor: Descriptor, platform: Platform | None, references: Sequence[Reference]
) -> dict[tuple[str, Digest], IndexEntry]:
    """The index.json entries of an image or index, by name and digest: one for each reference, or one without."""
    entries = (entry_for(descriptor, platform, reference) for reference in references or (None,))
    return {(entry.annotations.get(REF_NAME, ""), descriptor.digest): entry for entry in entries}


def existing_image(
    entry: IndexEntry,
    name: str | None,
    facts: ImageFacts | None,
    config: ConfigSummary,
    children: Iterable[ExistingImage],
) -> ExistingImage:
    """An entry of a target's index.json; `facts` are None if its manifest could not be read."""
    return ExistingImage(
        reference=None if name is None else Reference.parse(name),
        manifest_digest=entry.descriptor.digest,
        media_type=entry.descriptor.media_type,
        platform=entry.platform or (facts.platform if facts else None),
        created=config.created,
        image_id=None if facts is None else facts.config.digest,
        size=entry.descriptor.size,
        diff_ids=config.diff_ids,
        children=tuple(children),
    )


def without_reference(entry: IndexEntry) -> IndexEntry:
    kept = {key: value for key, value in entry.annotations.items() if key not in (REF_NAME, IMAGE_NAME)}
    return replace(entry, annotations=kept)


def merge_entries(
    ours: Sequence[IndexEntry],
    theirs: Sequence[IndexEntry],
    lost: Iterable[tuple[str, Digest]],
    children: Mapping[Digest, Sequence[Digest]],
) -> list[IndexEntry]:
    """The entries of both sides, sorted. `lost` are the (reference, digest) pairs that lose their name.

    An image gets an entry without a name only if no other entry leads to it: neither one with a name nor an index.
    """
    lost_pairs = set(lost)
    merged: dict[tuple[str, Digest], IndexEntry] = {}
    # Ours come second, and replace entries with the same name and digest.
    for entry in (*theirs, *ours):
        name = entry.name
        if name is not None and (name, entry.descriptor.digest) in lost_pairs:
            entry, name = without_reference(entry), None
        merged[(name or "", entry.descriptor.digest)] = entry
    # The entry of an image that has lost its name is kept only to make it reachable.
    reachable = {digest for name, digest in merged if name}
    for _, digest in merged:
        reachable.update(children.get(digest, ()))
    return [
        entry
        for (name, digest), entry in sorted(merged.items(), key=lambda item: (not item[0][0], *item[0]))
        if name or digest not in reachable
    ]


def archive_entries(
    entries: Sequence[IndexEntry], facts: CatalogFacts, platform: Platform, *, deep: bool = False
) -> Iterator[ArchiveManifestEntry]:
    """The manifest.json of a layout: every image that a Docker engine can load, with all its tags.

    The tag of an index goes to its child for `platform`, or else to its first child. Images with zstd layers, which
    engines before 23 refuse, are listed last: such an engine stops there, after it has loaded all others. Images with
    more layers than any engine accepts are left out, or with `deep` listed last, too.
    """
    tags: dict[Digest, tuple[str, ...]] = {}
    for entry in entries:
        digest = entry.descriptor.digest
        named = [entry.name] if entry.name is not None and is_loadable_name(entry.name) else []
        children = [leaf for leaf in _leaves(digest, facts.children) if leaf in facts.images]
        # Children without a tag are listed, too: `docker load` loads the images of all platforms.
        for child in children:
            tags.setdefault(child, ())
        holder = (
            next((child for child in children if facts.images[child].platform == platform), children[0])
            if children
            else digest
        )
        if holder in facts.images:
            tags[holder] = (*tags.get(holder, ()), *named)
    # Manifests may differ in media types only. Images with equal config and layers are one row with all their tags.
    merged: dict[tuple[bool, Digest, tuple[Digest, ...]], tuple[str, ...]] = {}
    for digest, names in tags.items():
        image = facts.images[digest]
        if _is_image(image) and (deep or not _is_deep(image)):
            key = (
                _is_deep(image) or any(layer.media_type not in _PLAIN_OR_GZIP for layer in image.layers),
                image.config.digest,
                tuple(layer.digest for layer in image.layers),
            )
            merged[key] = (*merged.get(key, ()), *names)
    # images that some engines refuse come last; before that, images with tags come first
    rows = sorted(
        (late, not names, sorted(set(names)), config, layers) for (late, config, layers), names in merged.items()
    )
    for _, _, sorted_names, config, layers in rows:
        yield ArchiveManifestEntry(
            config=blob_path(config), repo_tags=tuple(sorted_names), layers=tuple(map(blob_path, layers))
        )


def _leaves(digest: Digest, children: Mapping[Digest, Sequence[Digest]]) -> list[Digest]:
    """The manifests that an index leads to, in its order; empty for a manifest. Indexes may be nested to any depth."""
    leaves: list[Digest] = []
    pending, seen = list(reversed(children.get(digest, ()))), {digest}
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in children:
            pending += reversed(children[current])
        else:
            leaves.append(current)
    return leaves


def _is_image(image: ImageFacts) -> bool:
    """False for artifacts, and for images with layers that are not in the layout (foreign layers, as of Windows)."""
    elsewhere = ("foreign", "nondistributable")
    return image.config.media_type in CONFIG_TYPES and not any(
        word in layer.media_type for layer in image.layers for word in elsewhere
    )


def _is_deep(image: ImageFacts) -> bool:
    return len(image.layers) > DOCKER_MAX_LAYERS


def names_of_images(
    entries: Iterable[IndexEntry], children: Mapping[Digest, Sequence[IndexEntry]]
) -> dict[Digest, set[str]]:
    """The names that lead to each manifest and index: its own, and those of the indexes that contain it."""
    names: dict[Digest, set[str]] = {}
    pending = [(entry, entry.name) for entry in entries]
    while pending:
        entry, name = pending.pop()
        digest = entry.descriptor.digest
        if name is not None and name not in names.setdefault(digest, set()):
            names[digest].add(name)
            pending += [(child, child.name or name) for child in children.get(digest, ())]
    return names


_READ_AT_ONCE: Final = 256


class Catalog:
    """The images and indexes of a target: those that this run commits, and those that were there before.

    `commit` and `commit_index` may be called from several threads at once.
    """

    def __init__(self, on_conflict: OnConflict, platform: Platform) -> None:
        self._on_conflict = on_conflict
        self._platform = platform
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, Digest], IndexEntry] = {}
        self._found: Sequence[IndexEntry] = ()
        self.images: dict[Digest, ImageFacts] = {}
        self._children: dict[Digest, Sequence[IndexEntry]] = {}

    def commit(
        self, manifest: Descriptor, config: Descriptor, image: ComposedImage, references: Sequence[Reference]
    ) -> None:
        with self._lock:
            self.images[manifest.digest] = ImageFacts(
                config=config, layers=tuple(image.layers), platform=image.platform
            )
            self._entries.update(entries_for(manifest, image.platform, references))

    def commit_index(self, index: Descriptor, children: Sequence[IndexEntry], references: Sequence[Reference]) -> None:
        with self._lock:
            self._children[index.digest] = children
            self._entries.update(entries_for(index, None, references))

    # --- what the target holds -----------------------------------------------------------------------------------

    def begin(self, found: Sequence[IndexEntry]) -> None:
        """Sets the entries of the target's index at the beginning of this run."""
        self._found = found

    def existing_images(self, read: ReadBlobs) -> list[ExistingImage]:
        """The entries that were there before this run, each index with all images that it leads to. Damaged blobs are
        ignored here: `verify` reports them."""
        self.learn(self._found, read)
        named = {child.descriptor.digest: child for children in self._children.values() for child in children}
        leads = self._child_digests()
        tops = [entry.descriptor.digest for entry in self._found]
        below = {top: [named[leaf] for leaf in _leaves(top, leads)] for top in tops}
        # one call for all configs: a bucket is asked for many blobs at once
        listed = [entry.descriptor.digest for children in below.values() for entry in children]
        configs = self._read_configs([*below, *listed], read)

        def existing(entry: IndexEntry, name: str | None, children: Sequence[IndexEntry] = ()) -> ExistingImage:
            digest = entry.descriptor.digest
            inner = [existing(child, name) for child in children]
            return existing_image(entry, name, self.images.get(digest), configs.get(digest, ConfigSummary()), inner)

        return [existing(entry, entry.name, below[entry.descriptor.digest]) for entry in self._found]

    def named_layers(self, read: ReadBlobs) -> set[Digest]:
        """Layer blobs of all images, including those that were there before this run."""
        self.learn(self._found, read)
        return self.layers()

    def layers(self) -> set[Digest]:
        return {layer.digest for facts in self.images.values() for layer in facts.layers}

    def learn(self, entries: Iterable[IndexEntry], read: ReadBlobs) -> None:
        """Reads the manifests that `entries` lead to and that were not read before. A manifest that cannot be read is
        skipped, so its image is not in manifest.json."""
        for document in read_documents(entries, read, self.has_manifest):
            if document.manifest is not None:
                self.images[document.digest] = ImageFacts.of(document)
            elif document.error is None:
                self._children[document.digest] = document.children

    def has_manifest(self, manifest: Digest) -> bool:
        return manifest in self.images or manifest in self._children

    def _read_configs(self, manifests: Iterable[Digest], read: ReadBlobs) -> dict[Digest, ConfigSummary]:
        """Configs by manifest digest. Equal diffIDs are one object, since images share most of their layers."""
        configs = {
            manifest: facts.config.digest
            for manifest in manifests
            if (facts := self.images.get(manifest)) is not None and facts.config.size <= JSON_BYTES
        }
        found: dict[Digest, ConfigSummary] = {}
        shared: dict[DiffID, DiffID] = {}
        # Configs are parsed and dropped in groups: those of a hundred thousand images do not fit into memory.
        wanted = list(dict.fromkeys(configs.values()))
        for start in range(0, len(wanted), _READ_AT_ONCE):
            for config, content in read(wanted[start : start + _READ_AT_ONCE]).items():
                with contextlib.suppress(SourceError):
                    if isinstance(content, bytes):
                        parsed = parse_config(content)
                        diff_ids = tuple(shared.setdefault(one, one) for one in parsed.diff_ids)
                        found[config] = ConfigSummary(parsed.created, diff_ids)
        return {manifest: found[config] for manifest, config in configs.items() if config in found}

    # --- the new index -------------------------------------------------------------------------------------------

    def merge(
        self, theirs: Sequence[IndexEntry], read: ReadBlobs, superseded: Collection[Digest] = frozenset()
    ) -> list[IndexEntry]:
        """The entries of this run and those that the target has now, sorted. `superseded` are manifests that an earlier
        run made of the same legacy images: the images of this run get their names, whatever `--on-conflict` is."""
        self.learn(theirs, read)
        lost = self._losers(theirs, read, superseded)
        return merge_entries(list(self._entries.values()), theirs, lost, self._child_digests())

    def names(self, entries: Iterable[IndexEntry]) -> dict[str, set[Digest]]:
        """All manifests that each name of `entries` leads to."""
        found: dict[str, set[Digest]] = {}
        for digest, names in names_of_images(entries, self._children).items():
            for name in names:
                found.setdefault(name, set()).add(digest)
        return found

    def archive_manifest(self, entries: Sequence[IndexEntry], *, deep: bool = False) -> Iterator[ArchiveManifestEntry]:
        """The rows of manifest.json for `entries` (`archive_entries`)."""
        facts = CatalogFacts(images=self.images, children=self._child_digests())
        return archive_entries(entries, facts, self._platform, deep=deep)

    def _child_digests(self) -> dict[Digest, list[Digest]]:
        return {index: [child.descriptor.digest for child in found] for index, found in self._children.items()}

    def _losers(
        self, theirs: Iterable[IndexEntry], read: ReadBlobs, superseded: Collection[Digest]
    ) -> list[tuple[str, Digest]]:
        """The (name, digest) pairs that lose their name.

        Images that were there when this run began took part in its conflicts already, so they lose every name that this
        run has given to another image. Against images that another run has added meanwhile, `--on-conflict` decides;
        with `keep-all`, both keep the name.
        """
        # several digests have one name with `keep-all`
        ours: dict[str, list[Digest]] = {}
        for mine, digest in self._entries:
            if mine:
                ours.setdefault(mine, []).append(digest)
        known = {(entry.name, entry.descriptor.digest) for entry in self._found}
        lost: list[tuple[str, Digest]] = []
        for entry in theirs:
            name, digest = entry.name, entry.descriptor.digest
            if name is None or name not in ours or digest in ours[name]:
                continue
            if digest not in superseded and self._on_conflict is OnConflict.KEEP_ALL:
                continue
            if digest in superseded or (name, digest) in known or self._is_newer(ours[name][0], digest, read):
                lost.append((name, digest))
            else:
                lost.extend((name, mine) for mine in ours[name])
        return lost

    def _is_newer(self, ours: Digest, theirs: Digest, read: ReadBlobs) -> bool:
        if self._on_conflict is OnConflict.FIRST:
            return False
        configs = self._read_configs([ours, theirs], read)
        return self._rank(ours, configs) < self._rank(theirs, configs)

    def _rank(self, manifest: Digest, configs: Mapping[Digest, ConfigSummary]) -> tuple[object, ...]:
        facts = self.images.get(manifest)
        created = configs.get(manifest, ConfigSummary()).created
        return newest_first(created, "" if facts is None else facts.config.digest.hex, manifest)
