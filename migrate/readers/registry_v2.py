"""The storage tree of the distribution registry (2.x): `docker/registry/v2/{blobs,repositories}`.

Source of the format: distribution 2.8.3, `registry/storage/paths.go`; how it is read here is in
docs/formats/registry-v2-schema1.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.blobio.limits import JSON_BYTES, SMALL_FILE_BYTES
from migrate.blobio.payload import Payload
from migrate.distribution.layout import ROOTS, alias_link, blob_data_path, layer_link, repository_path, revision_link
from migrate.distribution.repositories import iter_repositories
from migrate.documents.json_text import load_json_lenient
from migrate.documents.jws import signature_problem
from migrate.documents.schema1 import OpenedManifest, is_index, is_manifest, is_schema1, parse_schema1, parse_signature
from migrate.errors import (
    DamagedError,
    MigrateError,
    SourceError,
    SourceUnreadableError,
)
from migrate.model.digest import Digest
from migrate.model.legacy import LegacyLayer, SourceType
from migrate.model.options import ReadOptions
from migrate.model.reference import Reference
from migrate.readers.manifest_source import StoredManifestSource
from migrate.readers.registry_images import RegistryImages, open_checked
from migrate.storage.named_files import Entry, NamedFiles, require_readable
from migrate.tar.tarsum import VERSIONS, tarsums

_BLOCK: Final = 1024 * 1024
_HASHES: Final = ("sha384", "sha512")
_BLOB_FOLDER: Final = re.compile(r"[0-9a-f]{2}")
_MANIFEST_BYTES: Final = 4 * 1024 * 1024
"""Blobs up to this size may be manifests whose links are lost. Registries accept no larger manifests."""


def is_registry_v2(files: NamedFiles) -> bool:
    """True for a registry's root directory, or one of the directories from there down to `v2/`."""
    for root in ROOTS:
        parts = files.entries(root)
        if Entry("blobs", True) in parts and (
            Entry("repositories", True) in parts
            or any(_BLOB_FOLDER.fullmatch(entry.name) for entry in files.entries(f"{root}/blobs/sha256".lstrip("/")))
        ):
            return True
    return False


class DeletedManifestError(SourceError):
    """A tag has a revision that was deleted, or none at all."""

    code = "missing-manifest"


class RegistryV2Source(StoredManifestSource):
    """A v2 registry's storage, in a directory or a bucket (`s3://bucket/prefix`)."""

    source_type = SourceType.REGISTRY_V2

    def __init__(self, location: str, files: NamedFiles, options: ReadOptions | None = None) -> None:
        super().__init__(location, files, options)
        self._root: str | None = None
        self._of_2_1_0: set[str] = set()
        self._other_names: dict[Digest, set[str]] = {}
        self._mismatches: dict[Digest, str | None] = {}

    def blob_path(self, digest: Digest, /) -> str:
        return self._rooted(blob_data_path(digest))

    def read_manifest(self, repository: str, digest: Digest, /) -> OpenedManifest:
        if not self._is_linked(repository, digest):
            # A registry deletes a manifest by its link. The blob stays until the next garbage collection.
            message = f"manifest {digest} was deleted: no link in _manifests/revisions/ or _layers/"
            if Entry("revisions", True) in self._files.entries(self._manifests(repository)):
                raise DeletedManifestError(message)
            if not self._salvage:
                raise DeletedManifestError(f"{message}; there is no revisions/ at all: --salvage reads what tags name")
        content = self._files.read(self.blob_path(digest), JSON_BYTES)
        if content is None:
            raise DeletedManifestError(f"manifest {digest}: its blob is missing")
        return open_checked(content, digest, f"manifest blob {digest}")

    def find_blob(self, repository: str, name: str, /) -> Digest | None:
        path = alias_link(repository, name)
        content = None if path is None else self._files.read(self._rooted(path), SMALL_FILE_BYTES)
        try:
            digest = Digest.parse((content or b"").decode("utf-8", "replace").strip())
        except ValueError:
            return None
        self._other_names.setdefault(digest, set()).add(name)
        return digest

    @contextmanager
    def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
        with super().open_payload(layer) as payload:
            if layer.payload is not None and (digest := layer.payload.digest) is not None:
                # Anybody can write a link, so the blob's other names are checked, once, before it is used.
                names = self._other_names.pop(digest, None)
                if names is not None:
                    wrong = [name for name in sorted(names) if name not in self._sums(digest, name)]
                    linked = f"is linked as {' and as '.join(wrong)}, but has another sum"
                    self._mismatches[digest] = linked if wrong else None
                payload.note = self._mismatches.get(digest)
                payload.damaged = payload.note is not None
            yield payload

    def _sums(self, digest: Digest, name: str) -> Collection[str]:
        """The blob's sums of the kind of `name` (sha512, tarsum and so on); empty for an unknown kind."""
        kind = name.partition(":")[0]
        what = f"blob {digest}"
        with self._files.open(self.blob_path(digest)) as opened:
            if kind in _HASHES:
                found = hashlib.new(kind)
                while block := opened.stream.read(_BLOCK):
                    found.update(block)
                return (f"{kind}:{found.hexdigest()}",)
            # A tarsum is computed over the entries of the uncompressed tar, any other sum over the bytes of the blob.
            head = opened.stream.read(HEAD_BYTES)
        if kind not in VERSIONS:
            return ()
        with self._files.open(self.blob_path(digest)) as opened, suppress(DamagedError):  # reading the layer reports it
            tar = open_decompressed(opened.stream, detect_compression(head), what)
            return tarsums(tar, b"", [kind], what)[kind]  # without the image's json (moby 1.5, graph/manifest.go)
        return ()

    def signature_warnings(self, repository: str, digest: Digest, manifest: OpenedManifest, /) -> tuple[str, ...]:
        if manifest.signatures:
            return super().signature_warnings(repository, digest, manifest)
        where = f"manifest {digest}"
        folder = f"{self._manifests(repository)}/revisions/sha256/{digest.hex}/signatures/sha256"
        try:
            names = [entry.name for entry in self._files.entries(folder)]
        except SourceError as error:
            return (f"{where}: its signatures cannot be read: {error.message}",)
        if not names:
            return (f"{where}: no signature is stored (registries keep none since 2.5)",)
        problems = ((name, self._signature_problem(name, manifest.payload)) for name in names)
        return tuple(f"{where}: signature {name} {problem}" for name, problem in problems if problem is not None)

    def _signature_problem(self, name: str, payload: bytes) -> str | None:
        try:
            digest = Digest(name)
        except ValueError:
            return "has no valid name"
        try:
            content = self._files.read(self.blob_path(digest), SMALL_FILE_BYTES)
            if content is None:
                return "is missing"
            if Digest.of(content) != digest:
                return "does not match its digest"
            return signature_problem(payload, parse_signature(content))
        except MigrateError as exc:
            return f"cannot be read: {exc.message}"

    # --- listing -------------------------------------------------------------------------------------------------

    def list_manifests(self, images: RegistryImages, /) -> None:
        require_readable(self._files)
        self._root = self._find_root()
        untagged: list[tuple[str, Digest]] = []
        linked: set[tuple[str, Digest]] = set()
        repositories = list(iter_repositories(self._files, self._root, images.fail))
        without: list[str] = []
        for repository in repositories:
            with suppress(SourceError):  # reported when the tags are read
                if not self._files.entries(self._manifests(repository)):
                    lost = "its tags, and which manifests are its own, are not in this tree"
                    images.warn(f"{repository}: no _manifests/: {lost}")
                    without.append(repository)
        if not repositories:
            images.warn(f"{self.location}: no repositories/: names and tags are not in this tree")
        for repository in repositories:
            try:
                tagged = self._read_tags(repository, images)
                linked |= {(repository, digest) for digest in tagged}
                own = [(repository, digest) for digest in self._untagged(repository, tagged, images)]
                untagged += own
                if own and Entry("tags", True) not in self._files.entries(self._manifests(repository)):
                    images.warn(f"{repository}: no _manifests/tags/: its tags are not in this tree")
            except SourceError as error:
                images.fail(repository, error)
            try:
                uploads = self._files.entries(self._rooted(f"{repository_path(repository)}/_uploads"))
                if uploads:
                    images.warn(f"{repository}: {len(uploads)} unfinished uploads are ignored")
            except SourceError as error:
                images.warn(f"{repository}: unfinished uploads were not counted: {error.message}")
        linked |= set(untagged)
        # After all tags: the images of a tagged list are not listed again as untagged ones.
        self._add_untagged(untagged, images)
        # If links are lost, manifests are searched among the blobs. Otherwise a manifest without a link was deleted.
        if not repositories or without:
            self._add_unlinked({digest for _, digest in linked}, images)

    def _find_root(self) -> str:
        for root in ROOTS:
            prefix = f"{root}/" if root else ""
            if self._files.entries(f"{prefix}blobs") and (
                self._files.entries(f"{prefix}repositories") or self._files.entries(f"{prefix}blobs/sha256")
            ):
                return root
        raise SourceUnreadableError(f"{self.location}: no docker/registry/v2/ with blobs/ and repositories/")

    def _add_unlinked(self, linked: set[Digest], images: RegistryImages) -> None:
        """Adds manifests whose links are lost. Lists come first, since the images that they name are no others."""
        found: list[tuple[Digest, OpenedManifest]] = []
        base = self._rooted("blobs/sha256")
        for folder in self._files.entries(base):
            for entry in self._files.entries(f"{base}/{folder.name}") if folder.is_folder else ():
                digest = _digest_or_none(entry.name)
                if digest is None or digest in linked:
                    continue
                size = self._files.size(self.blob_path(digest))
                if size is None or size > _MANIFEST_BYTES:
                    continue
                with suppress(MigrateError):  # no manifest, or a damaged one that no name leads to
                    content = self._files.read(self.blob_path(digest), _MANIFEST_BYTES) or b""
                    # Configs are JSON objects, too, and most blobs are layers. The first byte excludes these without
                    # parsing.
                    if content[:1] == b"{" and is_manifest(content):
                        found.append((digest, open_checked(content, digest, f"manifest blob {digest}")))
        found.sort(key=lambda one: (not is_index(one[1].payload), str(one[0])))
        for digest, manifest in found:
            if any(child == digest for _, child in images.children):
                continue
            references: list[Reference] = []
            warning = f"manifest {digest}: found among the blobs, linked to no repository"
            if is_schema1(load_json_lenient(manifest.payload, "manifest")):
                with suppress(MigrateError):
                    stated = parse_schema1(manifest.payload)
                    name = Reference(stated.name, stated.tag)
                    if name.is_valid:
                        references.append(name)
                        warning += f"; {name} is the name that it states, and may not be its last"
            images.add("", references, digest, manifest, [warning])

    def _read_tags(self, repository: str, images: RegistryImages) -> set[Digest]:
        folder = f"{self._manifests(repository)}/tags"
        tags = [entry.name for entry in self._files.entries(folder) if entry.is_folder]
        links = self._files.read_many([f"{folder}/{tag}/current/link" for tag in tags], SMALL_FILE_BYTES)
        # Tags of the same manifest become one image with several names, which is read once.
        named: dict[Digest, tuple[list[Reference], list[str]]] = {}
        for tag in tags:
            reference = Reference(repository, tag)
            try:
                digest, warning = _parse_link(links.get(f"{folder}/{tag}/current/link"), reference)
            except MigrateError as error:
                only: Digest | None = None
                if self._salvage and isinstance(error, DeletedManifestError):
                    # The digest that the tag ever had, where that was only one: a full disk leaves the link empty.
                    with suppress(SourceError):
                        names = [entry.name for entry in self._files.entries(f"{folder}/{tag}/index/sha256")]
                        only = _digest_or_none(names[0]) if len(names) == 1 else None
                if only is None:
                    images.fail(reference, error)
                    continue
                digest, warning = only, [f"{error.message}; the one digest in its index/ is taken"]
            references, warnings = named.setdefault(digest, ([], []))
            references.append(reference)
            warnings += warning
        for digest, (references, warnings) in named.items():
            manifest = self._read_revision(repository, references, digest, images)
            if manifest is not None:
                images.add(repository, references, digest, manifest, warnings)
        return set(named)

    def _untagged(self, repository: str, tagged: set[Digest], images: RegistryImages) -> Iterator[Digest]:
        """Revisions that no tag names and that were not deleted."""
        folders = [f"{self._manifests(repository)}/revisions/sha256"]
        if repository in self._of_2_1_0:  # registry 2.1.0 made no folder there for unsigned manifests
            tags = f"{self._manifests(repository)}/tags"
            folders += [f"{tags}/{entry.name}/index/sha256" for entry in self._files.entries(tags) if entry.is_folder]
        names = [entry.name for folder in folders for entry in self._files.entries(folder)]
        for digest in map(_digest_or_none, dict.fromkeys(names)):
            if digest is None or digest in tagged:
                continue
            try:
                if self._is_linked(repository, digest):
                    yield digest
            except SourceError as error:
                images.fail(f"{repository}@{digest}", error)

    def _add_untagged(self, untagged: Sequence[tuple[str, Digest]], images: RegistryImages) -> None:
        """Adds revisions that no tag names. Lists come first: an image of a list is not added again."""
        single = []
        for repository, digest in untagged:
            manifest = self._read_revision(repository, [], digest, images)
            if manifest is not None and is_index(manifest.payload):
                images.add(repository, [], digest, manifest)
            elif manifest is not None:
                single.append((repository, digest, manifest))
        for repository, digest, manifest in single:
            if (repository, digest) not in images.children:
                images.add(repository, [], digest, manifest)

    def _read_revision(
        self, repository: str, references: Sequence[Reference], digest: Digest, images: RegistryImages
    ) -> OpenedManifest | None:
        try:
            return self.read_manifest(repository, digest)
        except MigrateError as error:
            for reference in references or (f"{repository}@{digest}",):
                images.fail(reference, error)
            return None

    def _is_linked(self, repository: str, digest: Digest) -> bool:
        """Registry 2.1.0 wrote the links of manifests into `_layers/`; versions 2.1.1 to 2.8 look in both places."""
        if self._files.size(self._rooted(revision_link(repository, digest))) is not None:
            return True
        if self._files.size(self._rooted(layer_link(repository, digest))) is None:
            return False
        self._of_2_1_0.add(repository)
        return True

    def _manifests(self, repository: str) -> str:
        return self._rooted(f"{repository_path(repository)}/_manifests")

    def _rooted(self, path: str) -> str:
        if self._root is None:
            self._root = self._find_root()
        return f"{self._root}/{path}" if self._root else path


def _parse_link(content: bytes | SourceError | None, reference: Reference) -> tuple[Digest, list[str]]:
    """The digest in a tag's `current/link`, and warnings about its form."""
    if isinstance(content, SourceError):
        raise content
    text = (content or b"").decode("utf-8", "replace")
    if not text.strip():
        raise DeletedManifestError(f"tag {reference}: current/link is missing or empty")
    try:
        digest = Digest.parse(text.strip())
    except ValueError as exc:
        raise DeletedManifestError(f"tag {reference}: current/link holds {text[:100]!r}, not a digest") from exc
    if text.strip() != text:
        return digest, [f"tag {reference}: white space around the digest in current/link was ignored"]
    return digest, []


def _digest_or_none(name: str) -> Digest | None:
    try:
        return Digest(name)
    except ValueError:
        return None
