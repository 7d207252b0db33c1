"""The content-addressed part of an archive: `index.json` and `blobs/sha256/…`, taken over as it stands.

Source of the format: OCI image layout specification; Docker 25 and later save images in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migrate.documents.oci import IndexEntry, ManifestFacts, parse_config, parse_index, parse_manifest
from migrate.errors import DocumentError, IntegrityError, MigrateError, MissingLayerError, SourceError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import CONFIG_TYPES, Descriptor, MediaType, Platform
from migrate.model.legacy import (
    LegacyID,
    LegacyImage,
    LegacyLayer,
    PayloadRef,
    ReadyIndex,
    ReadyManifest,
    SourceFailure,
    SourceListing,
)
from migrate.model.reference import Reference
from migrate.readers.members import Members

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
INDEX_TYPES = frozenset({MediaType.OCI_INDEX, MediaType.DOCKER_LIST})


@dataclass(frozen=True, slots=True)
class ReadManifest:
    """A manifest that stands in the archive, parsed, with its exact bytes."""

    content: bytes
    facts: ManifestFacts
    platform: Platform | None

    @property
    def digest(self) -> Digest:
        return Digest.of(self.content)


class OciContent:
    def __init__(self, location: str, members: Members) -> None:
        self.location = location
        self._members = members
        self._by_config: dict[Digest, list[ReadManifest]] | None = None

    # --- manifest.json beside index.json -----------------------------------------------------------------------

    def find_manifest(self, config: Digest, layers: Sequence[str]) -> ReadManifest | None:
        """The manifest of the index that names exactly this config and these layers, in this order.

        Docker 25.0.0 wrote layers in random order into it; such a manifest is none that can be taken over.
        """
        if self._by_config is None:
            self._by_config = self._collect()
        wanted = [name.rpartition("/")[2] for name in layers]
        for manifest in self._by_config.get(config, ()):
            if [layer.digest.hex for layer in manifest.facts.layers] == wanted:
                return manifest
        return None

    def _collect(self) -> dict[Digest, list[ReadManifest]]:
        found: dict[Digest, list[ReadManifest]] = {}
        seen: set[Digest] = set()
        try:
            pending = list(parse_index(self._members.read("index.json")).manifests)[::-1]
            while pending:
                entry = pending.pop()
                if entry.descriptor.digest in seen or self._blob_name(entry.descriptor.digest) not in self._members:
                    continue
                seen.add(entry.descriptor.digest)
                content = self._read_blob(entry.descriptor)
                if entry.descriptor.media_type in INDEX_TYPES:
                    pending += reversed(parse_index(content).manifests)
                else:
                    facts = parse_manifest(content)
                    found.setdefault(facts.config.digest, []).append(ReadManifest(content, facts, entry.platform))
        except SourceError:
            return {}  # manifest.json and the configs suffice; the index is only asked for manifests to keep
        return found

    # --- index.json alone --------------------------------------------------------------------------------------

    def listing(self) -> SourceListing:
        images: dict[Digest, LegacyImage] = {}
        indexes: list[ReadyIndex] = []
        failures: list[SourceFailure] = []
        try:
            entries = parse_index(self._members.read("index.json")).manifests
        except SourceError as error:
            message = f"{self.location}: index.json: {error.message}"
            failure = SourceFailure(references=(), legacy_id=None, error=error.code, message=message)
            return SourceListing(images=[], failures=[failure])
        for entry in entries:
            references = _references(entry)
            try:
                self._read_entry(entry, references, images, indexes)
            except MigrateError as error:
                failures.append(
                    SourceFailure(
                        references=tuple(map(str, references)),
                        legacy_id=LegacyID(entry.descriptor.digest.hex),
                        layer=LegacyID(error.layer) if error.layer else None,
                        error=error.code,
                        message=error.message,
                    )
                )
        return SourceListing(
            images=sorted(images.values(), key=lambda image: (image.head, image.references)),
            indexes=sorted(indexes, key=lambda index: Digest.of(index.content)),
            failures=failures,
        )

    def _read_entry(
        self,
        entry: IndexEntry,
        references: tuple[Reference, ...],
        images: dict[Digest, LegacyImage],
        indexes: list[ReadyIndex],
    ) -> None:
        content = self._read_blob(entry.descriptor)
        if entry.descriptor.media_type in INDEX_TYPES:
            indexes.append(self._read_index(content, entry.descriptor.media_type, references))
            return
        image = self.read_image(ReadManifest(content, parse_manifest(content), entry.platform))
        known = images.get(entry.descriptor.digest)
        if known is not None:
            references = tuple(sorted({*known.references, *references}))
        images[entry.descriptor.digest] = replace(image, references=references)

    def _read_index(self, content: bytes, media_type: str, references: tuple[Reference, ...]) -> ReadyIndex:
        children = []
        for child in parse_index(content).manifests:
            if child.descriptor.media_type in INDEX_TYPES:
                raise DocumentError(f"{self.location}: an index inside an index is not supported")
            blob = self._read_blob(child.descriptor)
            children.append(self.read_image(ReadManifest(blob, parse_manifest(blob), child.platform)))
        return ReadyIndex(content=content, media_type=media_type, references=references, children=tuple(children))

    # --- one manifest ------------------------------------------------------------------------------------------

    def read_image(self, manifest: ReadManifest) -> LegacyImage:
        """The image that `manifest` names, its config and manifest to be carried over byte for byte."""
        facts = manifest.facts
        config = self._read_blob(facts.config)
        is_image = facts.config.media_type in CONFIG_TYPES
        config_facts = parse_config(config) if is_image else None
        diff_ids: Sequence[DiffID | None] = [None] * len(facts.layers)
        if config_facts is not None and any("tar" in layer.media_type for layer in facts.layers):
            if len(config_facts.diff_ids) != len(facts.layers):
                raise DocumentError(
                    f"{self.location}: manifest {manifest.digest} names {len(facts.layers)} layers, "
                    f"its config {len(config_facts.diff_ids)}"
                )
            diff_ids = config_facts.diff_ids
        chain = tuple(self._ready_layer(layer, diff_id) for layer, diff_id in zip(facts.layers, diff_ids, strict=True))
        return LegacyImage(
            head=chain[-1].legacy_id if chain else LegacyID(facts.config.digest.hex),
            chain=chain,
            config=config,
            manifest=ReadyManifest(content=manifest.content, media_type=facts.media_type),
            platform=manifest.platform or (config_facts.platform if config_facts else None),
        )

    def _ready_layer(self, layer: Descriptor, diff_id: DiffID | None) -> LegacyLayer:
        name = self._blob_name(layer.digest)
        if name not in self._members:
            raise MissingLayerError(f"{self.location}: there is no blob {layer.digest}", layer=layer.digest.hex)
        return LegacyLayer(
            legacy_id=LegacyID(layer.digest.hex),
            json=b"",
            parent=None,
            payload=PayloadRef(
                key=self._members.resolve(name).name,
                size=layer.size,
                digest=layer.digest,
                diff_id=diff_id,
                keep=True,
                media_type=layer.media_type,
            ),
        )

    def _blob_name(self, digest: Digest) -> str:
        return f"blobs/sha256/{digest.hex}"

    def _read_blob(self, descriptor: Descriptor) -> bytes:
        content = self._members.read(self._blob_name(descriptor.digest))
        actual = Digest.of(content)
        if actual != descriptor.digest:
            raise IntegrityError(f"{self.location}: blob {descriptor.digest} has the digest {actual}")
        return content


def _references(entry: IndexEntry) -> tuple[Reference, ...]:
    """Docker and containerd write the whole name into one annotation and the tag alone into the other."""
    name = entry.annotations.get(IMAGE_NAME) or entry.annotations.get(REF_NAME)
    if not name:
        return ()
    reference = Reference.parse(name)
    return (reference.familiar() if IMAGE_NAME in entry.annotations else reference,)
