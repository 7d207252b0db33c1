"""The content-addressed part of an archive, `index.json` and `blobs/sha256/…`. It is carried over unchanged.

Source of the format: OCI image layout specification; Docker 25 and later save images in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from migrate.blobio.limits import CATALOG_BYTES
from migrate.documents.json_text import load_json_lenient
from migrate.documents.oci import IndexEntry, ManifestFacts, parse_index, parse_ready_config
from migrate.documents.schema1 import OpenedManifest, is_schema1, open_manifest
from migrate.errors import DocumentError, IntegrityError, MigrateError, MissingLayerError, SourceError
from migrate.layout.names import INDEX, blob_path
from migrate.layout.walk import Document, one_by_one, read_documents
from migrate.model.digest import DiffID, Digest
from migrate.model.image import CONFIG_TYPES, Descriptor, MediaType, Platform
from migrate.model.legacy import (
    Failure,
    LegacyID,
    LegacyImage,
    LegacyLayer,
    PayloadRef,
    ReadyIndex,
    ReadyManifest,
    SourceListing,
)
from migrate.model.reference import Reference
from migrate.readers.members import Members
from migrate.readers.registry_images import RegistryImages, check_signatures, open_checked
from migrate.tar.known_blobs import known_blob

_SCHEMA1_TYPES = frozenset({MediaType.SCHEMA1, MediaType.SCHEMA1_SIGNED})


class ReadManifest(Struct, frozen=True):
    """A manifest of the archive, parsed, with its exact bytes."""

    content: bytes
    facts: ManifestFacts
    platform: Platform | None

    @property
    def digest(self) -> Digest:
        return Digest.of(self.content)


class OciContent:
    def __init__(self, location: str, members: Members, *, salvage: bool = False) -> None:
        self._salvage = salvage
        self.location = location
        self._members = members
        self._by_config: dict[Digest, list[ReadManifest]] | None = None

    # --- manifest.json beside index.json -----------------------------------------------------------------------

    def find_manifest(self, config: Digest, layers: Sequence[str]) -> ReadManifest | None:
        """The manifest of the index with exactly this config and these layers, in this order; None if there is none.

        Docker 25.0.0 wrote the layers of such manifests in random order (fixed in 25.0.1). They cannot be carried over.
        """
        if self._by_config is None:
            self._by_config = {}
            entries: Sequence[IndexEntry] = ()
            with suppress(SourceError):  # without the index, manifest.json and the configs are enough for the images
                entries = self._entries()
            for document in read_documents(entries, one_by_one(self._read_if_there)):
                if document.manifest is not None:
                    manifest = ReadManifest(document.content, document.manifest, document.entry.platform)
                    self._by_config.setdefault(manifest.facts.config.digest, []).append(manifest)
        wanted = [name.rpartition("/")[2] for name in layers]
        for manifest in self._by_config.get(config, ()):
            if [layer.digest.hex for layer in manifest.facts.layers] == wanted:
                return manifest
        return None

    def _entries(self) -> Sequence[IndexEntry]:
        return parse_index(self._members.read(INDEX, CATALOG_BYTES), CATALOG_BYTES).manifests

    # --- index.json alone --------------------------------------------------------------------------------------

    def listing(self) -> SourceListing:
        try:
            entries = self._entries()
        except SourceError as error:
            message = f"{self.location}: {INDEX}: {error.message}"
            failure = Failure.of(error, self.location, message=message)
            return SourceListing(images=[], failures=[failure])
        # First all manifests and indexes, each once: several entries may name the same one, and indexes contain others.
        documents = {found.digest: found for found in read_documents(entries, one_by_one(self._read_if_there))}
        schema1 = [entry for entry in entries if self._leads_to_schema1(entry, documents)]
        older = self._list_schema1(schema1)
        entries = [entry for entry in entries if entry not in schema1]
        names: dict[Digest, set[Reference]] = {}
        for entry in entries:
            name = entry.name
            names.setdefault(entry.descriptor.digest, set()).update([] if name is None else [Reference.parse(name)])
        images: list[LegacyImage] = []
        indexes: list[ReadyIndex] = []
        failures: list[Failure] = []
        for digest, found in names.items():
            references = tuple(sorted(found))
            try:
                if documents[digest].manifest is None:
                    indexes.append(self._read_index(digest, documents, references))
                else:
                    images.append(replace(self._image(documents[digest]), references=references))
            except MigrateError as error:
                failures.append(Failure.of(error, self.location, references=references, legacy_id=digest.hex))
        return SourceListing(
            images=sorted([*images, *older.images], key=lambda image: (image.head, image.references)),
            indexes=sorted(indexes, key=lambda index: Digest.of(index.content)),
            failures=[*failures, *older.failures],
        )

    def _leads_to_schema1(self, entry: IndexEntry, documents: Mapping[Digest, Document]) -> bool:
        """True if the entry, or an entry of an index in it, is a manifest of schema 1. The content decides, because
        tools write schema 1 with several media types, or with none."""
        pending, seen = [entry], set[Digest]()
        while pending:
            one = pending.pop()
            digest = one.descriptor.digest
            if digest in seen or digest not in documents:
                continue
            seen.add(digest)
            found = documents[digest]
            # A manifest of schema 1 does not parse as OCI, so that it has an error here.
            if found.error is not None:
                if one.descriptor.media_type in _SCHEMA1_TYPES:
                    return True
                with suppress(MigrateError):
                    payload = open_manifest(self._read_if_there(digest) or b"").payload
                    if is_schema1(load_json_lenient(payload, "manifest")):
                        return True
            pending += found.children
        return False

    def _list_schema1(self, entries: Sequence[IndexEntry]) -> SourceListing:
        """The images of schema-1 manifests, which regctl copies into layouts unchanged, and of indexes with such a
        manifest."""
        images = RegistryImages(_Schema1Blobs(self.location, self._members), salvage=self._salvage)
        for entry in entries:
            name, digest = entry.name, entry.descriptor.digest
            try:
                content = self._members.read(blob_path(digest))
                opened = open_checked(content, digest, f"{self.location}: manifest {digest}")
            except MigrateError as error:
                images.fail(name or str(digest), error)
            else:
                images.add("", [] if name is None else [Reference.parse(name)], digest, opened)
        listing = images.listing()

        # RegistryImages uses the digest as key. Here a payload is opened by its member's name.
        def with_key(layer: LegacyLayer) -> LegacyLayer:
            claim = layer.payload
            if claim is None or claim.digest is None:
                return layer
            return replace(layer, payload=replace(claim, key=_blob_key(self._members, claim.digest)))

        return replace(
            listing,
            images=[replace(image, chain=tuple(map(with_key, image.chain or ()))) for image in listing.images],
        )

    def _read_index(
        self, top: Digest, documents: Mapping[Digest, Document], references: tuple[Reference, ...]
    ) -> ReadyIndex:
        """The index with all images and indexes in it. Raises the first error of any of them."""
        images: dict[Digest, LegacyImage] = {}
        nested: dict[Digest, ReadyManifest] = {}
        pending = [top]
        while pending:
            digest = pending.pop()
            if digest in images:
                continue
            document = _read(documents[digest])
            if document.manifest is not None:
                images[digest] = self._image(document)
            elif digest not in nested:
                nested[digest] = ReadyManifest(
                    content=document.content, media_type=document.entry.descriptor.media_type
                )
                # The last one of `pending` is read next, so the order of the index is kept.
                pending += [child.descriptor.digest for child in reversed(document.children)]
        index = nested.pop(top)
        return ReadyIndex(
            content=index.content,
            media_type=index.media_type,
            references=references,
            children=tuple(images.values()),
            nested=_innermost_first(nested, documents),
        )

    def _image(self, document: Document) -> LegacyImage:
        manifest = _read(document).manifest
        assert manifest is not None
        return self.read_image(ReadManifest(document.content, manifest, document.entry.platform))

    # --- one manifest ------------------------------------------------------------------------------------------

    def read_image(self, manifest: ReadManifest) -> LegacyImage:
        """The image of `manifest`. Its config and manifest are carried over byte for byte."""
        facts = manifest.facts
        config = self._members.read(blob_path(facts.config.digest))
        actual = Digest.of(config)
        if actual != facts.config.digest:
            raise IntegrityError(f"{self.location}: blob {facts.config.digest} has the digest {actual}")
        # Other artifacts, such as Helm charts, have a config of another type, without diffIDs.
        is_image = facts.config.media_type in CONFIG_TYPES
        config_facts, warnings = parse_ready_config(config, salvage=self._salvage) if is_image else (None, ())
        diff_ids: Sequence[DiffID | None] = [None] * len(facts.layers)
        if config_facts is not None and any("tar" in layer.media_type for layer in facts.layers):
            is_right = len(config_facts.diff_ids) == len(facts.layers)
            if not (is_right or self._salvage):
                raise DocumentError(
                    f"{self.location}: manifest {manifest.digest} names {len(facts.layers)} layers, "
                    f"its config {len(config_facts.diff_ids)}"
                )
            diff_ids = config_facts.diff_ids if is_right else diff_ids
        chain = tuple(self._ready_layer(layer, diff_id) for layer, diff_id in zip(facts.layers, diff_ids, strict=True))
        return LegacyImage(
            head=chain[-1].legacy_id if chain else LegacyID(facts.config.digest.hex),
            chain=chain,
            config=config,
            manifest=ReadyManifest(content=manifest.content, media_type=facts.media_type),
            platform=manifest.platform or (config_facts.platform if config_facts else None),
            warnings=warnings,
        )

    def _ready_layer(self, layer: Descriptor, diff_id: DiffID | None) -> LegacyLayer:
        name = blob_path(layer.digest)
        if name not in self._members and known_blob(layer.digest) is None:
            raise MissingLayerError(f"{self.location}: there is no blob {layer.digest}", layer=layer.digest.hex)
        return LegacyLayer(
            legacy_id=LegacyID(layer.digest.hex),
            json=b"",
            parent=None,
            payload=PayloadRef(
                key=_blob_key(self._members, layer.digest),
                size=layer.size,
                digest=layer.digest,
                diff_id=diff_id,
                keep=True,
                media_type=layer.media_type,
            ),
        )

    def _read_if_there(self, digest: Digest) -> bytes | None:
        name = blob_path(digest)
        return self._members.read(name) if name in self._members else None


class _Schema1Blobs(Struct, frozen=True):
    """A layout's blobs for manifests of schema 1, which name no config. See `ManifestStore`."""

    location: str
    members: Members

    def read_blob(self, repository: str, digest: Digest, limit: int, /) -> bytes:
        del repository
        content = self.members.read(blob_path(digest), limit)
        if Digest.of(content) != digest:
            raise IntegrityError(f"{self.location}: blob {digest} has the digest {Digest.of(content)}")
        return content

    def read_manifest(self, repository: str, digest: Digest, /) -> OpenedManifest:
        del repository
        return open_checked(self.members.read(blob_path(digest)), digest, f"{self.location}: manifest {digest}")

    def blob_size(self, repository: str, digest: Digest, /) -> int | None:
        del repository
        if blob_path(digest) not in self.members:
            made = known_blob(digest)
            if made is None:
                raise MissingLayerError(f"{self.location}: there is no blob {digest}", layer=digest.hex)
            return len(made)
        return self.members.resolve(blob_path(digest)).size

    def find_blob(self, repository: str, name: str, /) -> Digest | None:
        return None

    def signature_warnings(self, repository: str, digest: Digest, manifest: OpenedManifest, /) -> tuple[str, ...]:
        del repository
        return check_signatures(manifest, f"manifest {digest}")


def _blob_key(members: Members, digest: Digest) -> str:
    """The member's name of the blob, with links resolved; its own name if it is missing and has to be made."""
    name = blob_path(digest)
    return members.resolve(name).name if name in members else name


def _read(document: Document) -> Document:
    if document.error is not None:
        raise document.error
    return document


def _innermost_first(
    nested: Mapping[Digest, ReadyManifest], documents: Mapping[Digest, Document]
) -> tuple[ReadyManifest, ...]:
    """The indexes, each after those inside it. A cycle is impossible, since an index names others by their digest."""
    done: dict[Digest, ReadyManifest] = {}
    pending = list(nested)[::-1]
    while pending:
        below = {child.descriptor.digest for child in documents[pending[-1]].children} & nested.keys() - done.keys()
        if below:
            pending += sorted(below)
        else:
            digest = pending.pop()
            done[digest] = nested[digest]
    return tuple(done.values())
