"""Makes images of a registry's manifests: schema 1, schema 2, OCI, and lists of them.

Used by all sources of manifests (`manifest_source`), and for OCI layouts with schema 1.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, Final, Protocol, cast

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.blobio.limits import JSON_BYTES
from migrate.blobio.payload import Payload
from migrate.documents.json_text import load_json_lenient
from migrate.documents.jws import signature_problem
from migrate.documents.oci import IndexEntry, parse_config, parse_index, parse_manifest, parse_ready_config
from migrate.documents.schema1 import (
    OpenedManifest,
    is_index,
    is_schema1,
    open_manifest,
    parse_schema1,
)
from migrate.errors import IntegrityError, MigrateError, MissingLayerError, UnsupportedError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import MediaType, Platform
from migrate.model.legacy import (
    Failure,
    LegacyID,
    LegacyImage,
    LegacyLayer,
    Origin,
    PayloadRef,
    ReadyIndex,
    ReadyManifest,
    SourceListing,
)
from migrate.model.reference import Reference
from migrate.tar.known_blobs import known_blob

_CONFIG_TYPES: Final = frozenset({MediaType.DOCKER_CONFIG, MediaType.OCI_CONFIG, "", "application/octet-stream"})
"""Docker 1.10 pushed configs as octet-stream for a while (moby 1.10.0-rc1)."""


class ManifestStore(Protocol):
    """The source of the manifests. Every method raises SourceError or IntegrityError, of scope image."""

    @property
    def location(self) -> str: ...

    def read_blob(self, repository: str, digest: Digest, limit: int, /) -> bytes:
        """The blob's bytes, checked against its digest."""

    def read_manifest(self, repository: str, digest: Digest, /) -> OpenedManifest:
        """A manifest that a list names, checked against its digest."""

    def blob_size(self, repository: str, digest: Digest, /) -> int | None:
        """Bytes of the blob as stored. MissingLayerError if it is missing; None if the store does not look that up."""

    def find_blob(self, repository: str, name: str, /) -> Digest | None:
        """The sha256 of a blob that the repository has under another name, such as a tarsum; None if there is none. The
        name is compared with the blob's bytes when they are read."""

    def signature_warnings(self, repository: str, digest: Digest, manifest: OpenedManifest, /) -> tuple[str, ...]:
        """Warnings about the signatures of a schema-1 manifest; none if all of them verify."""


class _Blob(Struct, frozen=True):
    """A layer's blob. Its PayloadRef is made after all manifests were read, which may all contribute to it."""

    digest: Digest
    size: int | None


class _Claims(Struct):
    size: int | None
    keep: bool = False
    media_type: str | None = None
    legacy: bool = False
    diff_ids: set[DiffID] = field(default_factory=set)


class _Draft(Struct, frozen=True):
    """One image without its payloads, which are filled in at the end. Equal keys are equal images."""

    key: tuple[object, ...]
    image: LegacyImage
    blobs: tuple[_Blob | None, ...]


class RegistryImages:
    """Collects manifests one by one and makes a listing of all of them."""

    def __init__(self, store: ManifestStore, *, salvage: bool = False) -> None:
        self._store = store
        self._salvage = salvage
        self._drafts: dict[tuple[object, ...], _Draft] = {}
        self._claims: dict[Digest, _Claims] = {}
        self._indexes: dict[tuple[bytes, str], tuple[list[Reference], list[_Draft]]] = {}
        self._failures: list[Failure] = []
        self._warnings: list[str] = []
        self.children: set[tuple[str, Digest]] = set()

    def fail(self, reference: Reference | str, error: MigrateError) -> None:
        self._failures.append(Failure.of(error, self._store.location, references=[reference]))

    def warn(self, message: str) -> None:
        self._warnings.append(message)

    def add(
        self,
        repository: str,
        references: Sequence[Reference],
        digest: Digest,
        manifest: OpenedManifest,
        warnings: Sequence[str] = (),
    ) -> None:
        """Adds one manifest of any kind. An error in it becomes a failure of its references, and is not raised."""
        try:
            if is_index(manifest.payload):
                self._add_index(repository, references, digest, manifest.payload, warnings)
            else:
                self._merge(self._draft(repository, digest, manifest), references, warnings)
        except MigrateError as error:
            for reference in references or (_untagged(repository, digest),):
                self.fail(reference, error)

    def listing(self) -> SourceListing:
        # One PayloadRef for each blob, for all manifests that name it. The diffID of a config is used only if all
        # configs have the same one, and if no schema-1 image, which has no diffIDs, would fail because of a wrong one.
        # The composer compares each config with the real diffID in any case.
        payloads = {
            digest: PayloadRef(
                key=digest.hex,
                size=claims.size,
                digest=digest,
                diff_id=next(iter(claims.diff_ids)) if len(claims.diff_ids) == 1 and not claims.legacy else None,
                keep=claims.keep,
                media_type=claims.media_type,
            )
            for digest, claims in self._claims.items()
        }
        images = [_finished(draft, payloads) for draft in self._drafts.values()]
        # Sorted by names, so that the result does not depend on the order in which the registry lists its repositories.
        images.sort(key=lambda image: (not image.references, [str(r) for r in image.references], image.head))
        indexes = [
            ReadyIndex(
                content=content,
                media_type=media_type,
                references=tuple(sorted(references)),
                children=tuple(_finished(child, payloads) for child in children),
            )
            for (content, media_type), (references, children) in self._indexes.items()
        ]
        indexes.sort(key=lambda index: ([str(reference) for reference in index.references], index.content))
        layers = {layer.legacy_id for image in images if image.config is None for layer in image.chain or ()}
        return SourceListing(
            images=images,
            indexes=indexes,
            layers=sorted(layers),
            failures=sorted(self._failures, key=lambda failure: (failure.references, failure.message)),
            warnings=tuple(sorted(self._warnings)),
        )

    # --- one manifest --------------------------------------------------------------------------------------------

    def _draft(
        self, repository: str, digest: Digest, manifest: OpenedManifest, platform: Platform | None = None
    ) -> _Draft:
        if is_schema1(load_json_lenient(manifest.payload, "manifest")):
            return self._schema1(repository, digest, manifest, platform)
        return self._carried_over(repository, manifest.payload, platform)

    def _schema1(self, repository: str, digest: Digest, opened: OpenedManifest, platform: Platform | None) -> _Draft:
        manifest = parse_schema1(
            opened.payload, salvage=self._salvage, find_blob=lambda name: self._store.find_blob(repository, name)
        )
        blobs: list[_Blob | None] = []
        for entry in manifest.entries:
            # A throwaway step is a history entry without a layer. Its blob is the empty tar, which may be missing.
            if entry.throwaway:
                blobs.append(None)
                continue
            blobs.append(self._blob(repository, entry.blob_sum, layer=entry.legacy_id))
            self._claims[entry.blob_sum].legacy = True
        chain = tuple(
            LegacyLayer(legacy_id=entry.legacy_id, json=entry.json, parent=entry.parent, payload=None)
            for entry in manifest.entries
        )
        image = LegacyImage(
            head=chain[-1].legacy_id,
            chain=chain,
            platform=platform,
            legacy_digests=(digest,),
            warnings=(
                *self._store.signature_warnings(repository, digest, opened),
                *(f"manifest {digest}: salvaged in the order of fsLayers: {text}" for text in manifest.wrong_parents),
            ),
            certain=not manifest.wrong_parents,
        )
        # Tags of several repositories may have the same image, with other names and signatures in their manifests.
        key = ("schema 1", tuple((layer.legacy_id, layer.json) for layer in chain), tuple(blobs), platform)
        return _Draft(key, image, tuple(blobs))

    def _carried_over(self, repository: str, content: bytes, platform: Platform | None) -> _Draft:
        manifest = parse_manifest(content)
        if manifest.config.media_type not in _CONFIG_TYPES:
            raise UnsupportedError(f"manifest: not an image: its config is of type {manifest.config.media_type!r}")
        config = self._store.read_blob(repository, manifest.config.digest, JSON_BYTES)
        facts, warnings = parse_ready_config(config, salvage=self._salvage)
        is_right = len(facts.diff_ids) == len(manifest.layers)
        if not (is_right or self._salvage):
            raise IntegrityError(
                f"manifest names {len(manifest.layers)} layers, its config {len(facts.diff_ids)} diffIDs"
            )
        blobs: list[_Blob] = []
        for layer in manifest.layers:
            blob = self._blob(repository, layer.digest, layer=layer.digest.hex)
            if blob.size is None:
                self._claims[layer.digest].size = layer.size
            elif blob.size != layer.size:
                raise IntegrityError(
                    f"blob {layer.digest} does not match its digest: {blob.size:,} bytes instead of {layer.size:,}",
                    layer=layer.digest.hex,
                )
            blobs.append(_Blob(layer.digest, layer.size))
        for number, layer in enumerate(manifest.layers):
            claims = self._claims[layer.digest]
            # The manifest names its blobs by digest, so they must be kept byte for byte.
            claims.keep = True
            claims.media_type = claims.media_type or layer.media_type
            if is_right:
                claims.diff_ids.add(facts.diff_ids[number])
        chain = tuple(
            LegacyLayer(legacy_id=LegacyID(layer.digest.hex), json=b"", parent=None, payload=None)
            for layer in manifest.layers
        )
        image = LegacyImage(
            head=LegacyID(manifest.config.digest.hex),
            chain=chain,
            config=config,
            manifest=ReadyManifest(content=content, media_type=manifest.media_type),
            platform=platform,
            warnings=warnings,
        )
        return _Draft(("carried over", content, platform), image, tuple(blobs))

    def _blob(self, repository: str, digest: Digest, layer: str) -> _Blob:
        claims = self._claims.get(digest)
        if claims is not None:
            return _Blob(digest, claims.size)
        try:
            size = self._store.blob_size(repository, digest)
        except MigrateError as error:
            raise error.at_layer(layer) from error
        self._claims[digest] = _Claims(size)
        return _Blob(digest, size)

    # --- lists ---------------------------------------------------------------------------------------------------

    def _add_index(
        self,
        repository: str,
        references: Sequence[Reference],
        digest: Digest,
        content: bytes,
        warnings: Sequence[str],
    ) -> None:
        """Adds a list. It is carried over whole if possible; otherwise each of its sound images gets its name."""
        index = parse_index(content)
        if not index.manifests:
            raise UnsupportedError("index: it names no manifest")
        drafts: list[_Draft] = []
        lost: list[tuple[IndexEntry, MigrateError]] = []
        nested = self._add_children(repository, index.manifests, drafts, lost)
        # If all images of a list are lost, the list fails, with the error of the first one.
        if not drafts:
            raise lost[0][1]
        # Schema-1 images get new manifests, with other digests: a list with one cannot be kept byte for byte.
        if not lost and not nested and all(draft.image.manifest is not None for draft in drafts):
            known, _ = self._indexes.setdefault((content, index.media_type), ([], drafts))
            known += [reference for reference in references if reference not in known]
            self._warnings += warnings
            return
        names = ", ".join(map(str, references)) or _untagged(repository, digest)
        notes = [*warnings]
        for entry, error in lost:
            child = f"{entry.descriptor.digest} ({entry.platform or 'no platform'})"
            notes.append(f"{names}: the list's image {child} is left out: {error.message}")
            self.fail(_untagged(repository, entry.descriptor.digest), error)
        if nested:
            notes.append(f"{names}: an index with {nested} indexes in it: each of its images has the name")
        for draft in drafts:
            self._merge(draft, references, notes, digest)

    def _add_children(
        self,
        repository: str,
        entries: Iterable[IndexEntry],
        drafts: list[_Draft],
        lost: list[tuple[IndexEntry, MigrateError]],
    ) -> int:
        """Adds the images of `entries` to `drafts`, and entries that cannot be read to `lost`. Returns the number of
        nested indexes."""
        nested: set[Digest] = set()
        for entry, manifest in self._iter_children(repository, entries, nested):
            try:
                if isinstance(manifest, MigrateError):
                    raise manifest
                drafts.append(self._draft(repository, entry.descriptor.digest, manifest, entry.platform))
            except MigrateError as error:
                lost.append((entry, error))
        return len(nested)

    def _iter_children(
        self, repository: str, entries: Iterable[IndexEntry], nested: set[Digest]
    ) -> Iterator[tuple[IndexEntry, OpenedManifest | MigrateError]]:
        """The manifests of `entries` in their order, with those of the indexes among them, whose digests are added to
        `nested`. An entry that cannot be read comes with its error."""
        pending = [*entries][::-1]
        while pending:
            entry = pending.pop()
            digest = entry.descriptor.digest
            self.children.add((repository, digest))
            # Two indexes may name each other.
            if digest in nested:
                continue
            try:
                manifest = self._store.read_manifest(repository, digest)
                if is_index(manifest.payload):
                    nested.add(digest)
                    pending += parse_index(manifest.payload).manifests[::-1]
                    continue
            except MigrateError as error:
                yield entry, error
            else:
                yield entry, manifest

    def _merge(
        self, draft: _Draft, references: Sequence[Reference], warnings: Sequence[str], split_list: Digest | None = None
    ) -> None:
        known = self._drafts.get(draft.key, draft)
        digests = {*known.image.legacy_digests, *draft.image.legacy_digests, *([split_list] if split_list else [])}
        image = replace(
            known.image,
            references=tuple(sorted({*known.image.references, *references})),
            legacy_digests=tuple(sorted(digests)),
            warnings=tuple(dict.fromkeys((*known.image.warnings, *draft.image.warnings, *warnings))),
        )
        self._drafts[draft.key] = replace(known, image=image)


class LayerSearch(RegistryImages):
    """Finds the layers with wanted diffIDs in the manifests that are added (`found`). Keeps nothing else of them.

    A config has the diffIDs of its manifest's layers, in the same order. A config with another number of diffIDs, or
    one that cannot be read, gives no layers. Schema 1 has no diffIDs. A layer without its blob is left out.
    """

    def __init__(self, store: ManifestStore, wanted: Collection[DiffID]) -> None:
        super().__init__(store)
        self._wanted = wanted
        self.found: dict[DiffID, dict[Digest, LegacyLayer]] = {}
        self._seen: defaultdict[str, set[Digest]] = defaultdict(set)

    def fail(self, reference: Reference | str, error: MigrateError) -> None:
        """Does nothing: a manifest that cannot be read gives no layers."""

    def warn(self, message: str) -> None:
        pass

    def add(
        self,
        repository: str,
        references: Sequence[Reference],
        digest: Digest,
        manifest: OpenedManifest,
        warnings: Sequence[str] = (),
    ) -> None:
        del references, warnings
        seen = self._seen[repository]
        if digest in seen:
            return
        seen.add(digest)
        with suppress(MigrateError):
            if not is_index(manifest.payload):
                self._note_diff_ids(repository, manifest.payload)
                return
            for entry, child in self._iter_children(repository, parse_index(manifest.payload).manifests, seen):
                if not isinstance(child, MigrateError):
                    self.add(repository, (), entry.descriptor.digest, child)

    def _note_diff_ids(self, repository: str, content: bytes) -> None:
        if is_schema1(load_json_lenient(content, "manifest")):
            return
        manifest = parse_manifest(content)
        diff_ids = parse_config(self._store.read_blob(repository, manifest.config.digest, JSON_BYTES)).diff_ids
        if len(diff_ids) != len(manifest.layers):
            return
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
            if diff_id not in self._wanted or layer.digest in self.found.get(diff_id, {}):
                continue
            with suppress(MigrateError):
                size = self._store.blob_size(repository, layer.digest)
                self.found.setdefault(diff_id, {})[layer.digest] = LegacyLayer(
                    legacy_id=LegacyID(layer.digest.hex),
                    json=b"",
                    parent=None,
                    payload=PayloadRef(
                        key=layer.digest.hex,
                        size=layer.size if size is None else size,
                        digest=layer.digest,
                        diff_id=diff_id,
                        keep=True,
                    ),
                )


def check_signatures(manifest: OpenedManifest, where: str) -> tuple[str, ...]:
    """Warnings about the signatures in a JWS."""
    if not manifest.signatures:
        return (f"{where}: the manifest is not signed",)
    problems = (signature_problem(manifest.payload, signature) for signature in manifest.signatures)
    return tuple(f"{where}: a signature {problem}" for problem in problems if problem is not None)


def open_checked(content: bytes, digest: Digest, what: str) -> OpenedManifest:
    """The manifest in `content` if its payload has the digest, or all of `content`; else IntegrityError."""
    whole = Digest.of(content)
    try:
        opened = open_manifest(content)
    except MigrateError:
        if whole == digest:
            raise
    else:
        if digest in (Digest.of(opened.payload), whole):
            return opened
    raise IntegrityError(f"{what} does not match its digest: expected {digest}, got {whole}")


def known_payload(digest: Digest) -> Payload | None:
    """The payload of a missing blob whose bytes follow from its digest (an empty tar); else None."""
    made = known_blob(digest)
    if made is None:
        return None
    return Payload(stream=cast(BinaryIO, io.BytesIO(made)), origin=Origin.BLOB.value, size=len(made))


def missing_blob(digest: Digest) -> MissingLayerError:
    return MissingLayerError(f"blob {digest} is missing", layer=digest.hex)


def _untagged(repository: str, digest: Digest) -> str:
    return f"{repository}@{digest}"


def _finished(draft: _Draft, payloads: dict[Digest, PayloadRef]) -> LegacyImage:
    assert draft.image.chain is not None
    chain = tuple(
        replace(layer, payload=None if blob is None else payloads[blob.digest])
        for layer, blob in zip(draft.image.chain, draft.blobs, strict=True)
    )
    return replace(draft.image, chain=chain)
