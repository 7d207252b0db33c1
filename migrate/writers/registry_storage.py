"""The storage directory of the distribution registry as a target: `registry serve` can serve the images from it.

Format: distribution 2.8.3, `registry/storage/paths.go`. Blobs are written first, then the links that let a repository
serve them, then the revisions, and tags last. In an existing tree, files are added and tags are moved, and nothing is
removed. docs/howto/serve.md describes its use.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final

from msgspec import Struct, field

from migrate.blobio.limits import JSON_BYTES, SMALL_FILE_BYTES
from migrate.distribution.layout import (
    ROOT,
    blob_data_path,
    layer_link,
    revision_link,
    tag_index_link,
    tag_link,
)
from migrate.distribution.repositories import iter_repositories
from migrate.documents.image_map import MappedImage, rename_rows
from migrate.documents.oci import IndexEntry, parse_config, parse_index, parse_manifest
from migrate.documents.schema1 import is_index
from migrate.errors import MigrateError, SourceError, TargetError
from migrate.layout.catalog import ExistingImage
from migrate.layout.names import MAP_NAME, REPORT_NAME
from migrate.model.digest import Digest
from migrate.model.image import ComposedImage, Platform
from migrate.model.options import ConvertOptions
from migrate.model.reference import Reference
from migrate.model.rename import repository_reference
from migrate.rehash.ports import BlobWriter
from migrate.storage.bucket import open_tree
from migrate.storage.named_files import NamedFiles
from migrate.storage.store import NOT_OURS, STATE_DIRECTORY, Store
from migrate.storage.syscalls import SYSTEM_CALLS, SystemCalls
from migrate.writers.base import ImageTarget, index_entries
from migrate.writers.blob_store import BlobStore
from migrate.writers.proofs import Proofs
from migrate.writers.registry_names import UNTAGGED, RegistryNames
from migrate.writers.target_map import TargetMap
from migrate.writers.target_memory import RecordedMemory
from migrate.writers.target_store import open_store

_ALLOWED: Final = NOT_OURS | {STATE_DIRECTORY, MAP_NAME, REPORT_NAME}


class _Content(Struct):
    """The digests in a manifest: blobs, which need a link in the repository, or the manifests of a list."""

    blobs: tuple[Digest, ...] = ()
    children: tuple[Digest, ...] = ()


class _Links(Struct):
    """The files to write, by path, in groups that are written one after the other."""

    layers: dict[str, bytes] = field(default_factory=dict)
    revisions: dict[str, bytes] = field(default_factory=dict)
    tag_indexes: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, bytes] = field(default_factory=dict)


class RegistryStorage(ImageTarget):
    """The storage of a registry in a directory or a bucket (`s3://…`), which is created if it does not exist.

    Raises TargetError for a directory with other files.
    """

    takes_files = True
    names_have_hosts = False

    def __init__(
        self,
        location: str,
        options: ConvertOptions,
        *,
        files: SystemCalls = SYSTEM_CALLS,
        store: Store | None = None,
    ) -> None:
        self.location = location
        self._link = options.link
        self._lock = threading.Lock()
        self._contents: dict[Digest, _Content] = {}
        self._names = RegistryNames("--rename can give them different names")
        self.store = store or open_store(location, "a registry's storage", files)
        try:
            names = self.store.names()
            self._is_new = set(names) <= NOT_OURS
            foreign = [name for name in names if name not in _ALLOWED]
            # a run that was killed right after its start leaves its state and the first folder of the tree
            started = STATE_DIRECTORY in names and foreign == [ROOT.partition("/")[0]]
            if foreign and not started and not self.store.names(ROOT):
                raise TargetError(
                    f"{self.location}: neither empty nor a registry's storage: it holds {foreign[0]!r} and no {ROOT}/"
                    " (name a new directory, or empty this one)"
                )
            with self.store.lock():
                for folder in ("blobs/sha256", "repositories"):
                    self.store.make_folder(f"{ROOT}/{folder}")
                self.store.flush()
            proofs = Proofs(self.store, use_existing=not options.check_existing)
            self._blobs = BlobStore(self.store, lambda digest: f"{ROOT}/{blob_data_path(digest)}", proofs=proofs)
            self.memory = RecordedMemory(self._blobs, options)
            self._map = TargetMap(self.store, options.temporary_directory)
        except BaseException:
            self.store.close()
            raise

    # --- ImageTarget ---------------------------------------------------------------------------------------------

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return self._blobs.has(digest, size)

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return self._blobs.open()

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        return self._blobs.link(path, digest, size, self._link)

    def flush(self) -> None:
        self.store.flush()

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        config, manifest = image.image_id, image.manifest_digest
        self._blobs.put(image.config, config)
        self._blobs.put(image.manifest, manifest)
        content = _Content(blobs=(config, *(layer.digest for layer in image.layers)))
        self._name(manifest, content, references or [Reference(UNTAGGED, image.image_id.hex)])

    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        del media_type  # it is in the content
        digest = Digest.of(content)
        children = tuple(entry.descriptor.digest for entry in index_entries(content))
        self._blobs.put(content, digest)
        self._name(digest, _Content(children=children), references or [Reference(UNTAGGED, digest.hex)])

    def finish(self, report: bytes, /) -> None:
        """Writes links, revisions, tags and the report. Each group is durable before the next one is begun, so that a
        registry never finds a tag without its blobs, also after a power cut."""
        links = _Links()
        for reference, digest in self._names:
            repository = reference.name
            pending, seen = [digest], {digest}  # no recursion: lists may be nested deeper than Python's stack
            while pending:
                current = pending.pop()
                named = self._contents.get(current, _Content())
                for blob in named.blobs:
                    links.layers[layer_link(repository, blob)] = str(blob).encode("ascii")
                links.revisions[revision_link(repository, current)] = str(current).encode("ascii")
                pending += [child for child in named.children if child not in seen]
                seen.update(named.children)
            if not reference.is_digest:
                content = str(digest).encode("ascii")
                links.tag_indexes[tag_index_link(repository, reference.tag, digest)] = content
                links.tags[tag_link(repository, reference.tag)] = content
        self.flush()
        for group in (links.layers, links.revisions, links.tag_indexes, links.tags):
            self.store.update({f"{ROOT}/{path}": content for path, content in group.items()})
            self.flush()
        with self.store.lock():
            granted = self._granted()
            self._map.write(lambda rows: rename_rows(rows, granted))
            self.store.replace(REPORT_NAME, report)

    def abandon(self) -> None:
        if self._is_new:
            self.memory.close()
            self.store.abandon(lambda: not self.store.names(f"{ROOT}/repositories"))

    def close(self) -> None:
        self.memory.close()
        self.store.close()

    def free_bytes(self) -> int | None:
        return self.store.free_bytes()

    def _name(self, digest: Digest, content: _Content, references: Iterable[Reference]) -> None:
        with self._lock:
            self._contents[digest] = content
            for reference in references:
                self._names.claim(repository_reference(reference), digest, reference)

    def mapped_images(self) -> Sequence[MappedImage]:
        return self._map.rows()

    def add_to_map(self, rows: Iterable[MappedImage], /) -> None:
        self._map.add(rows)

    def _granted(self) -> dict[str, set[Digest]]:
        """The manifests that each name of this run leads to, directly or through lists."""
        granted: dict[str, set[Digest]] = {}
        for reference, digest in self._names:
            if reference.name == UNTAGGED:
                continue
            found = granted.setdefault(str(reference), set())
            pending = [digest]
            while pending:
                if (current := pending.pop()) not in found:
                    found.add(current)
                    pending += self._contents.get(current, _Content()).children
        return granted

    # --- what is there already -----------------------------------------------------------------------------------

    def existing_images(self) -> Sequence[ExistingImage]:
        """All tags in the storage. Images that cannot be read have no platform and no time."""
        try:
            return sorted(self._existing(NamedFiles(open_tree(self.location))), key=lambda image: str(image.reference))
        except SourceError as exc:
            raise TargetError(f"{self.location}: its existing images cannot be read: {exc.message}") from exc

    def _existing(self, tree: NamedFiles) -> Iterator[ExistingImage]:
        for repository in iter_repositories(tree, ROOT):
            folder = f"{ROOT}/repositories/{repository}/_manifests/tags"
            tags = [entry.name for entry in tree.entries(folder) if entry.is_folder]
            paths = {tag: f"{ROOT}/{tag_link(repository, tag)}" for tag in tags}
            links = tree.read_many(list(paths.values()), SMALL_FILE_BYTES)
            for tag in tags:
                link = links.get(paths[tag])
                if isinstance(link, bytes):
                    image = _existing_image(tree, Reference(repository, tag), link)
                    if image is not None:
                        yield image


def _existing_image(tree: NamedFiles, reference: Reference, link: bytes) -> ExistingImage | None:
    try:
        digest = Digest.parse(link.decode("ascii", "replace").strip())
    except ValueError:
        return None
    content = _read_blob(tree, digest)
    # An image that cannot be read keeps its name in conflicts, so that no run replaces it unnoticed.
    try:
        if not is_index(content):
            return _read_single(tree, reference, digest, content, None)
        index = parse_index(content)
    except MigrateError:
        return _unknown(reference, digest, content)
    children = (
        _read_single(tree, reference, entry.descriptor.digest, found, entry.platform)
        for entry, found in _leaves(tree, index.manifests)
    )
    return ExistingImage(
        reference=reference,
        manifest_digest=digest,
        media_type=index.media_type,
        platform=None,
        created=None,
        size=len(content),
        children=tuple(children),
    )


def _leaves(tree: NamedFiles, entries: Sequence[IndexEntry]) -> Iterator[tuple[IndexEntry, bytes]]:
    """The images that the entries of an index lead to, with the bytes of their manifests. Indexes may be nested to any
    depth."""
    # A stack instead of recursion, because indexes may be nested deeper than Python's stack. It is filled in reverse,
    # so that images come in the order of their index.
    pending, seen = list(reversed(entries)), set()
    while pending:
        entry = pending.pop()
        if entry.descriptor.digest in seen:
            continue
        seen.add(entry.descriptor.digest)
        content = _read_blob(tree, entry.descriptor.digest)
        nested: Sequence[IndexEntry] | None = None
        with suppress(MigrateError):
            nested = parse_index(content).manifests
        if nested is None:
            yield entry, content
        else:
            pending += reversed(nested)


def _read_single(
    tree: NamedFiles, reference: Reference, digest: Digest, content: bytes, platform: Platform | None
) -> ExistingImage:
    try:
        manifest = parse_manifest(content)
        config = parse_config(_read_blob(tree, manifest.config.digest))
    except MigrateError:  # the image cannot be described, but it still has its name
        return _unknown(reference, digest, content)
    return ExistingImage(
        reference=reference,
        manifest_digest=digest,
        media_type=manifest.media_type,
        platform=platform or config.platform,
        created=config.created,
        image_id=manifest.config.digest,
        size=len(content),
        diff_ids=config.diff_ids,
    )


def _unknown(reference: Reference, digest: Digest, content: bytes) -> ExistingImage:
    """An image of which only the name and digest are known: schema 1, or damaged."""
    return ExistingImage(
        reference=reference, manifest_digest=digest, media_type="", platform=None, created=None, size=len(content)
    )


def _read_blob(tree: NamedFiles, digest: Digest) -> bytes:
    return tree.read(f"{ROOT}/{blob_data_path(digest)}", JSON_BYTES) or b""
