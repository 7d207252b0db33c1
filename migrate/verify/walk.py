"""Checks manifests, configs and layers of a content-addressed target, from the entries of an index on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from migrate.blobio.limits import JSON_BYTES
from migrate.compose.image import DOCKER_MAX_LAYERS
from migrate.documents.oci import ConfigFacts, parse_config, parse_index, parse_manifest
from migrate.errors import MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import (
    CONFIG_TYPES,
    INDEX_TYPES,
    LAYER_COMPRESSIONS,
    Descriptor,
    MediaType,
    Platform,
    media_type_warning,
)
from migrate.verify.files import Files, read_small
from migrate.verify.findings import Findings
from migrate.verify.hashing import HashedFile

MANIFEST_TYPES: Final = frozenset({MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST})
_Named = tuple[Descriptor, Platform | None, str]
"""An entry of an index: descriptor, platform, and the place of the entry for findings."""
_ELSEWHERE: Final = ("foreign", "nondistributable")
"""Words in the media types of layers that only their publisher distributes, as of Windows base images."""


class ImageShape(Struct, frozen=True):
    """An image whose documents could be read; `layers` base first. `loadable`: Docker can load it if it is complete."""

    config: Digest
    layers: tuple[Digest, ...]
    platform: Platform | None
    loadable: bool = True


class LayerUse(Struct, frozen=True):
    where: str
    diff_id: DiffID
    compression: str | None


class Walk(Struct):
    """Checks documents. What is expected of layers is kept in `uses` until the layers are hashed.

    `path_of` gives the file of a blob. `images` and `children` are by manifest digest; `reached` are the blobs that
    some document names.
    """

    files: Files
    findings: Findings
    path_of: Callable[[Digest], str]
    images: dict[Digest, ImageShape] = field(default_factory=dict)
    children: dict[Digest, tuple[Digest, ...]] = field(default_factory=dict)
    configs: dict[Digest, ConfigFacts | None] = field(default_factory=dict)
    uses: dict[Digest, list[LayerUse]] = field(default_factory=dict)
    reached: set[Digest] = field(default_factory=set)
    other_platforms: list[tuple[Digest, Platform, str, str]] = field(default_factory=list)
    """Entries of index.json with another platform than their config: manifest, platform, place and message."""

    def enter(self, descriptor: Descriptor, platform: Platform | None, where: str) -> None:
        """Checks a manifest or index that an index names, and everything that it leads to."""
        pending = [(descriptor, platform, where)]  # no recursion: indexes may be nested deeper than Python's stack
        while pending:
            descriptor, platform, where = pending.pop()
            self.check_descriptor(descriptor, where)
            digest = descriptor.digest
            if descriptor.media_type not in INDEX_TYPES | MANIFEST_TYPES:
                self.findings.add(
                    where, f"has the media type {descriptor.media_type!r}, which is not that of a manifest"
                )
            elif digest not in self.images and digest not in self.children:
                pending += reversed(self._read(descriptor))
            shape = self.images.get(digest)
            if shape is not None:
                self._check_platform(digest, shape, platform, where)

    def check_descriptor(self, descriptor: Descriptor, where: str, *, optional: bool = False) -> bool:
        """Checks that a blob exists and has the stated size."""
        size = self.files.names().get(self.path_of(descriptor.digest))
        if size is None:
            report = self.findings.note if optional else self.findings.add
            report(where, f"names the blob {descriptor.digest}, which is not there")
            return False
        self.reached.add(descriptor.digest)
        if size != descriptor.size:
            self.findings.add(where, f"{descriptor.digest}: the size should be {descriptor.size:,} and is {size:,}")
            return False
        return True

    def content(self, digest: Digest) -> bytes | None:
        """The content of a document, checked against its digest; None, after a finding, if it is missing or damaged."""
        name = self.path_of(digest)
        if name not in self.files.names():
            return None
        try:
            content = read_small(self.files, name, JSON_BYTES)
        except (MigrateError, OSError) as exc:
            self.findings.add(name, f"cannot be read as a document: {exc}")
            return None
        found = Digest.of(content)
        if found != digest:
            self.findings.add(name, f"the bytes have the digest {found}")
            return None
        return content

    # --- documents -----------------------------------------------------------------------------------------------

    def _read(self, descriptor: Descriptor) -> Sequence[_Named]:
        content = self.content(descriptor.digest)
        if content is None:
            return ()
        where = self.path_of(descriptor.digest)
        try:
            if descriptor.media_type in INDEX_TYPES:
                # set first, so that a damaged index counts as read and has one finding only
                self.children[descriptor.digest] = ()
                index = parse_index(content)
                self._check_media_type(descriptor, index.media_type, where)
                self.children[descriptor.digest] = tuple(entry.descriptor.digest for entry in index.manifests)
                return [
                    (entry.descriptor, entry.platform, f"{where} manifests[{position}]")
                    for position, entry in enumerate(index.manifests)
                ]
            self._read_manifest(descriptor, content, where)
        except MigrateError as exc:
            self.findings.add(where, exc.message)
        return ()

    def _read_manifest(self, descriptor: Descriptor, content: bytes, where: str) -> None:
        manifest = parse_manifest(content)
        self._check_media_type(descriptor, manifest.media_type, where)
        self.check_descriptor(manifest.config, f"{where} config")
        present = [
            self.check_descriptor(layer, f"{where} layers[{position}]", optional=is_elsewhere(layer))
            for position, layer in enumerate(manifest.layers)
        ]
        if manifest.config.media_type not in CONFIG_TYPES:  # an artifact, which has no diffIDs to check
            return
        config = self.config(manifest.config.digest)
        if config is None:
            return
        digests = tuple(layer.digest for layer in manifest.layers)
        loadable = len(digests) <= DOCKER_MAX_LAYERS and not any(map(is_elsewhere, manifest.layers))
        self.images[descriptor.digest] = ImageShape(manifest.config.digest, digests, config.platform, loadable)
        if self.check_counts(config, len(digests), where):
            for position, (layer, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True)):
                if present[position]:
                    compression = LAYER_COMPRESSIONS.get(layer.media_type)
                    use = LayerUse(f"{where} layers[{position}]", diff_id, compression)
                    self.uses.setdefault(layer.digest, []).append(use)

    def config(self, digest: Digest) -> ConfigFacts | None:
        """The config, read once; None, after a finding, if it is not valid."""
        if digest not in self.configs:
            self.configs[digest] = None
            content = self.content(digest)
            if content is not None:
                try:
                    self.configs[digest] = parse_config(content)
                except MigrateError as exc:
                    self.findings.add(self.path_of(digest), exc.message)
        return self.configs[digest]

    def check_counts(self, config: ConfigFacts, layers: int, where: str) -> bool:
        """Compares diff_ids and history with the number of layers."""
        if config.steps_with_layer != len(config.diff_ids) and config.history_empty:
            # Docker refuses a history with more steps than layers, and accepts fewer (moby image/store.go, Create).
            report = self.findings.add if config.steps_with_layer > len(config.diff_ids) else self.findings.note
            report(
                where,
                f"{config.steps_with_layer} steps of the history have a layer, but rootfs has "
                f"{len(config.diff_ids)} diff_ids",
            )
        if len(config.diff_ids) != layers:
            self.findings.add(where, f"the config has {len(config.diff_ids)} diff_ids for {layers} layers")
            return False
        return True

    def _check_media_type(self, descriptor: Descriptor, stated: str, where: str) -> None:
        if stated != descriptor.media_type:
            self.findings.add(where, f"is called {descriptor.media_type} but calls itself {stated}")

    def _check_platform(self, digest: Digest, shape: ImageShape, platform: Platform | None, where: str) -> None:
        own = shape.platform
        if own is None or platform is None:  # v1 JSON may have no platform: the index then has that of `--platform`
            return
        if (own.os.lower(), _go_name(own.architecture)) != (platform.os.lower(), _go_name(platform.architecture)):
            message = f"the platform should be {own}, as in the config, and is {platform}"
            if where.startswith("index.json"):
                self.other_platforms.append((digest, platform, where, message))
            else:  # an index of a source, which is copied unchanged
                self.findings.note(where, message)

    # --- layers --------------------------------------------------------------------------------------------------

    def check_layers(self, hashed: Mapping[str, HashedFile]) -> None:
        """Compares the uncompressed layers with every config that uses them."""
        for digest, uses in self.uses.items():
            result = hashed.get(self.path_of(digest))
            if result is None or result.digest != digest:  # the blob itself has a finding already
                continue
            for use in uses:
                check_unpacked(self.findings, use, result)


def check_unpacked(findings: Findings, use: LayerUse, result: HashedFile) -> None:
    if result.diff_id is None:
        findings.add(use.where, result.error or "does not unpack")
        return
    if use.compression is not None and result.compression != use.compression:
        findings.add(use.where, media_type_warning(use.compression, result.compression))
    if result.diff_id != use.diff_id:
        findings.add(use.where, f"unpacks to diffID {result.diff_id}, but the config has {use.diff_id}")


def check_names(findings: Findings, expected: Mapping[str, Digest], hashed: Mapping[str, HashedFile]) -> None:
    """Compares each file with the digest in its name."""
    for name, digest in expected.items():
        result = hashed.get(name)
        if result is None:
            continue
        if result.digest is None:
            findings.add(name, result.error or "cannot be read")
        elif result.digest != digest:
            findings.add(name, f"the bytes have the digest {result.digest}")


def is_elsewhere(layer: Descriptor) -> bool:
    return any(word in layer.media_type for word in _ELSEWHERE)


def _go_name(architecture: str) -> str:
    """The architecture as Go names it. Docker 0.6 and 0.7 wrote the name of the kernel."""
    return {"x86_64": "amd64"}.get(architecture, architecture.lower())
