"""The catalog of a target: the entries of index.json, and the manifest.json for `docker load` made from them.

Results are sorted, so that equal content gives equal bytes. Blobs are read only by functions that the caller passes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from migrate.blobio.limits import JSON_BYTES
from migrate.blobio.records import decoder_of
from migrate.blobio.sorted_runs import SortedRuns
from migrate.compose.names import newest_first
from migrate.documents.docker_archive import ArchiveManifestEntry
from migrate.documents.oci import IMAGE_NAME, REF_NAME, IndexEntry, parse_config
from migrate.errors import SourceError
from migrate.layout.archive_rows import archive_entries, leaves
from migrate.layout.image_facts import ImageFacts, ImageTable, NamesOfImages, iter_names
from migrate.layout.walk import ReadBlobs, read_documents
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Descriptor, Platform
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.packed import DIGEST_BYTES, PackedTable, packed_digest
from migrate.model.reference import Reference


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


def entry_for(descriptor: Descriptor, platform: Platform | None, reference: Reference | None) -> IndexEntry:
    """An index.json entry: one reference, or none."""
    annotations: dict[str, str] = {}
    if reference is not None:
        if reference.is_valid and not reference.is_digest:  # containerd fails on a name that it cannot parse
            annotations[IMAGE_NAME] = reference.full()
        annotations[REF_NAME] = str(reference)
    return IndexEntry(descriptor=descriptor, platform=platform, annotations=annotations)


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
        image_id=None if facts is None else facts.config_digest,
        size=entry.descriptor.size,
        diff_ids=config.diff_ids,
        children=tuple(children),
    )


def without_reference(entry: IndexEntry) -> IndexEntry:
    kept = {key: value for key, value in entry.annotations.items() if key not in (REF_NAME, IMAGE_NAME)}
    return replace(entry, annotations=kept)


class Entries:
    """Entries of index.json, sorted: those without a name last. Of several with one name and digest, the last one that
    was added counts. `directory` is for a temporary file, as in `SortedRuns`."""

    def __init__(self, directory: str | None) -> None:
        self._runs: SortedRuns[IndexEntry] = SortedRuns(
            "the index of the target", directory, key=_entry_order, encode=_encode_entries, decode=_decode_entries
        )
        self.has_unnamed = False

    def add(self, entry: IndexEntry) -> None:
        self._runs.add(entry)
        self.has_unnamed = self.has_unnamed or entry.name is None

    def __iter__(self) -> Iterator[IndexEntry]:
        last = None
        for entry in self._runs:
            if last is not None and (entry.descriptor.digest != last.descriptor.digest or entry.name != last.name):
                yield last
            last = entry
        if last is not None:
            yield last


def _entry_order(entry: IndexEntry) -> tuple[bool, str, str]:
    name = entry.name
    return (name is None, name or "", entry.descriptor.digest.hex)


def _encode_entries(entries: list[IndexEntry]) -> bytes | None:
    # members that are not read may be of any type
    return None if any(entry.other for entry in entries) else msgspec.msgpack.encode(entries)


_decode_entries = decoder_of(list[IndexEntry])


class ReachableEntries:
    """`entries` without those that have no name and are not needed, because another entry leads to their image: one
    with a name or an index."""

    def __init__(self, entries: Entries, children: Mapping[Digest, Sequence[Digest]]) -> None:
        self._entries = entries
        self._named = PackedTable(key=DIGEST_BYTES)
        self._in_indexes: set[Digest] = set()
        if entries.has_unnamed:
            for entry in entries:
                digest = entry.descriptor.digest
                if entry.name is not None:
                    self._named.add(packed_digest(digest))
                self._in_indexes.update(children.get(digest, ()))

    def __iter__(self) -> Iterator[IndexEntry]:
        return filter(self._is_kept, self._entries) if self._entries.has_unnamed else iter(self._entries)

    def _is_kept(self, entry: IndexEntry) -> bool:
        digest = entry.descriptor.digest
        return entry.name is not None or not (digest in self._in_indexes or packed_digest(digest) in self._named)


_READ_AT_ONCE: Final = 256


class Catalog:
    """The images and indexes of a target: those that this run commits, and those that were there before.

    `commit` and `commit_index` may be called from several threads at once.
    """

    def __init__(self, options: ConvertOptions) -> None:
        self._on_conflict = options.on_conflict
        self._platform = options.platform
        self._directory = options.temporary_directory
        self._lock = threading.Lock()
        self._entries = Entries(self._directory)
        self.found: Sequence[IndexEntry] = ()
        self.images = ImageTable(self._directory)
        self._children: dict[Digest, Sequence[IndexEntry]] = {}

    def commit(
        self,
        manifest: Descriptor,
        config: Descriptor,
        layers: Sequence[Descriptor],
        platform: Platform,
        references: Sequence[Reference],
    ) -> None:
        with self._lock:
            self.images.add(manifest.digest, ImageFacts.of(config, layers, platform))
            self._add_entries(manifest, platform, references)

    def commit_index(self, index: Descriptor, children: Sequence[IndexEntry], references: Sequence[Reference]) -> None:
        with self._lock:
            self._children[index.digest] = children
            self._add_entries(index, None, references)

    def _add_entries(self, descriptor: Descriptor, platform: Platform | None, references: Sequence[Reference]) -> None:
        for reference in references or (None,):
            self._entries.add(entry_for(descriptor, platform, reference))

    # --- what the target holds -----------------------------------------------------------------------------------

    def begin(self, found: Sequence[IndexEntry]) -> None:
        """Sets the entries of the target's index at the beginning of this run."""
        self.found = found

    def existing_images(self, read: ReadBlobs) -> list[ExistingImage]:
        """The entries that were there before this run, each index with all images that it leads to. Damaged blobs are
        ignored here: `verify` reports them."""
        self.learn(self.found, read)
        named = {child.descriptor.digest: child for children in self._children.values() for child in children}
        leads = self._child_digests()
        tops = [entry.descriptor.digest for entry in self.found]
        below = {top: [named[leaf] for leaf in leaves(top, leads)] for top in tops}
        # one call for all configs: a bucket is asked for many blobs at once
        listed = [entry.descriptor.digest for children in below.values() for entry in children]
        configs = self._read_configs([*below, *listed], read)

        def existing(entry: IndexEntry, name: str | None, children: Sequence[IndexEntry] = ()) -> ExistingImage:
            digest = entry.descriptor.digest
            inner = [existing(child, name) for child in children]
            return existing_image(entry, name, self.images.get(digest), configs.get(digest, ConfigSummary()), inner)

        return [existing(entry, entry.name, below[entry.descriptor.digest]) for entry in self.found]

    def named_layers(self, read: ReadBlobs) -> set[Digest]:
        """Layer blobs of all images, including those that were there before this run."""
        self.learn(self.found, read)
        return {layer for facts in self.images for layer, _ in facts.sized_layers}

    def without_layers(self, blobs: Iterable[Digest]) -> set[Digest]:
        """Those of `blobs` that are layers of no image."""
        left = set(blobs)
        for facts in self.images:
            left.difference_update(layer for layer, _ in facts.sized_layers)
        return left

    def learn(self, entries: Iterable[IndexEntry], read: ReadBlobs) -> None:
        """Reads the manifests that `entries` lead to and that were not read before. A manifest that cannot be read is
        skipped, so its image is not in manifest.json."""
        for document in read_documents(entries, read, self.has_manifest):
            if document.manifest is not None:
                self.images.add(document.digest, ImageFacts.of_document(document))
            elif document.error is None:
                self._children[document.digest] = document.children

    def has_manifest(self, manifest: Digest) -> bool:
        return manifest in self.images or manifest in self._children

    def _read_configs(self, manifests: Iterable[Digest], read: ReadBlobs) -> dict[Digest, ConfigSummary]:
        """Configs by manifest digest. Equal diffIDs are one object, since images share most of their layers."""
        configs = {
            manifest: facts.config_digest
            for manifest in manifests
            if (facts := self.images.get(manifest)) is not None and facts.config_size <= JSON_BYTES
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
    ) -> ReachableEntries:
        """The entries of this run and those that the target has now, sorted. `superseded` are manifests that an earlier
        run made of the same legacy images: the images of this run get their names, whatever `--on-conflict` is."""
        self.learn(theirs, read)
        lost = self._losers(theirs, read, superseded)
        merged = self._entries
        if theirs:
            merged = Entries(self._directory)
            # Ours come second, and replace entries with the same name and digest.
            for entry in chain(theirs, self._entries):
                is_lost = bool(lost) and (entry.name, entry.descriptor.digest) in lost
                merged.add(without_reference(entry) if is_lost else entry)
        # An image that has lost its name keeps an entry only if nothing else leads to it.
        return ReachableEntries(merged, self._child_digests())

    def names(self, entries: Iterable[IndexEntry]) -> NamesOfImages:
        """The names in `entries` that lead to each manifest and index."""
        return NamesOfImages(iter_names(entries, self._children), self._directory)

    def archive_manifest(self, entries: Iterable[IndexEntry], *, deep: bool = False) -> Iterator[ArchiveManifestEntry]:
        """The rows of manifest.json for `entries` (`archive_entries`)."""
        return archive_entries(entries, self.images, self._child_digests(), self._platform, self._directory, deep=deep)

    def _child_digests(self) -> dict[Digest, list[Digest]]:
        return {index: [child.descriptor.digest for child in found] for index, found in self._children.items()}

    def _losers(
        self, theirs: Iterable[IndexEntry], read: ReadBlobs, superseded: Collection[Digest]
    ) -> set[tuple[str | None, Digest]]:
        """The (name, digest) pairs that lose their name.

        Images that were there when this run began took part in its conflicts already, so they lose every name that this
        run has given to another image. Against images that another run has added meanwhile, `--on-conflict` decides;
        with `keep-all`, both keep the name.
        """
        names = {entry.name for entry in theirs}
        # several digests have one name with `keep-all`
        ours: dict[str | None, list[Digest]] = {}
        for mine in self._entries if names else ():
            if mine.name is not None and mine.name in names:
                ours.setdefault(mine.name, []).append(mine.descriptor.digest)
        rivals = [
            (entry.name, entry.descriptor.digest)
            for entry in theirs
            if entry.name in ours and entry.descriptor.digest not in ours[entry.name]
        ]
        known = {(entry.name, entry.descriptor.digest) for entry in self.found} if rivals else set()
        lost: set[tuple[str | None, Digest]] = set()
        for name, digest in rivals:
            if digest not in superseded and self._on_conflict is OnConflict.KEEP_ALL:
                continue
            if digest in superseded or (name, digest) in known or self._is_newer(ours[name][0], digest, read):
                lost.add((name, digest))
            else:
                lost.update((name, mine) for mine in ours[name])
        return lost

    def _is_newer(self, ours: Digest, theirs: Digest, read: ReadBlobs) -> bool:
        if self._on_conflict is OnConflict.FIRST:
            return False
        configs = self._read_configs([ours, theirs], read)
        return self._rank(ours, configs) < self._rank(theirs, configs)

    def _rank(self, manifest: Digest, configs: Mapping[Digest, ConfigSummary]) -> tuple[object, ...]:
        facts = self.images.get(manifest)
        created = configs.get(manifest, ConfigSummary()).created
        return newest_first(created, "" if facts is None else facts.config.hex(), manifest)
