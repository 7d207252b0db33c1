"""Composes an image from a chain and its hashed layers, or from a config or manifest that is carried over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from migrate.compose.config import HistoryStep, config_frame, encode_diff_id, encode_step, fill_platform
from migrate.compose.manifest import CONFIG_TYPE_OF, MANIFEST_TYPE_OF, config_descriptor, layer_descriptor
from migrate.documents.go_json import carried_values, encode_object, fold_key, read_document
from migrate.documents.json_text import check_limits
from migrate.documents.oci import ConfigFacts, encode_layer, manifest_frame, parse_config, parse_manifest
from migrate.documents.v1_json import LayerDocument
from migrate.errors import ComposeError, DocumentError, IntegrityError, LimitError, UnsupportedError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import (
    CONFIG_TYPES,
    LAYER_COMPRESSIONS,
    ComposedImage,
    Descriptor,
    HashedLayer,
    Pieces,
    Platform,
    media_type_warning,
)
from migrate.model.legacy import LegacyImage, LegacyLayer
from migrate.model.options import ConvertOptions, EmptyLayers, Format

HashedChain = Sequence[tuple[LegacyLayer, HashedLayer | None]]
"""(layer, its hashed form), base first. The second is None for a history step without a layer."""

DOCKER_MAX_LAYERS: Final = 125
"""moby layer/layer_store.go, maxLayerDepth."""

_ARCHITECTURES: Final = {"x86_64": "amd64"}
"""Name that Docker 0.6 and 0.7 wrote → Go's name (moby 0.6.7 graph.go)."""


_KEPT_PARTS: Final = 12_000
"""More than the layers of the longest chain (CHAIN_LENGTH)."""


DescribedLayer = tuple[HashedLayer, bytes, Descriptor | None, bytes]
"""(the layer, its encoded diffID, its descriptor, the encoded descriptor); None and b"" if it has no blob."""


class SharedParts:
    """The parts of documents that the images of one run share: steps of histories, diffIDs and descriptors of layers.
    Each is encoded once, also for images that are built on one another. In a run with very many layers, older parts are
    dropped."""

    def __init__(self) -> None:
        # By id() of a layer. The layer is kept as well, so that no other object gets the same id().
        self._steps: dict[tuple[int, bool], tuple[LegacyLayer, bytes]] = {}
        self._layers: dict[int, DescribedLayer] = {}
        self._lists: dict[tuple[bytes, bytes], list[bytes]] = {}

    def limit(self) -> None:
        """Drops all parts if there are too many. Called between two images, which may use the parts."""
        if max(len(self._steps), len(self._layers)) > _KEPT_PARTS:
            for parts in (self._steps, self._layers, self._lists):
                parts.clear()

    def step(self, layer: LegacyLayer, *, empty_layer: bool) -> bytes:
        """The encoded history step of a layer. Raises DocumentError for JSON that Docker refuses."""
        known = self._steps.get((id(layer), empty_layer))
        if known is None:
            document = LayerDocument.of(layer.json)
            known = layer, _compact_copy(encode_step(HistoryStep.of(document.facts(), empty_layer=empty_layer)))
            document.forget()
            self._steps[id(layer), empty_layer] = known
        return known[1]

    def describe(self, layers: Iterable[HashedLayer], format: Format) -> list[DescribedLayer]:
        return [self._layer(layer, format) for layer in layers]

    def _layer(self, layer: HashedLayer, format: Format) -> DescribedLayer:
        known = self._layers.get(id(layer))
        if known is None:
            descriptor = None if layer.blob is None else layer_descriptor(layer.blob, format)
            row = b"" if descriptor is None else _compact_copy(encode_layer(descriptor, MANIFEST_TYPE_OF[format]))
            known = self._layers[id(layer)] = layer, _compact_copy(encode_diff_id(layer.diff_id)), descriptor, row
        return known

    def joined(self, pieces: list[bytes], between: bytes) -> tuple[list[bytes], int, bytes]:
        """`pieces` as a part of `Pieces`: the first items of a list that is shared with other images. An image that is
        built on another one has the same first items, and extends the list."""
        key = (between, pieces[0] if pieces else b"")
        known = self._lists.setdefault(key, pieces)
        if known[: len(pieces)] != pieces[: len(known)]:
            known = self._lists[key] = pieces
        known += pieces[len(known) :]
        return known, len(pieces), between


def _compact_copy(encoded: bytes) -> bytes:
    """A copy to keep in memory: the bytes that orjson returns occupy 4 KiB, even if they are short."""
    return bytes(memoryview(encoded))


def compose_image(
    image: LegacyImage, chain: HashedChain, options: ConvertOptions, shared: SharedParts | None = None
) -> ComposedImage:
    """Composes one image. Raises DocumentError (with the layer) for JSON that Docker refuses, IntegrityError if a
    carried-over config or manifest does not have the chain's layers, ComposeError if the image cannot be expressed in
    the format.

    In a dry run that makes no blobs, `manifest` is empty and `layers` is ().
    """
    shared = shared or SharedParts()
    shared.limit()
    # The digest of a config is the image ID. So a config that the source has is kept byte for byte, and not written
    # anew.
    if image.config is not None:
        return _carry_over(image, image.config, chain, options, shared)
    if not chain:
        raise ComposeError(f"image {image.head}: no layer and no history")
    drops = options.empty_layers is EmptyLayers.DROP
    steps: list[bytes] = []
    layers: list[HashedLayer] = []
    top_layer = chain[-1][0]
    document = LayerDocument.of(top_layer.json)
    layer = top_layer
    try:
        for layer, hashed in chain:
            if layer is top_layer:  # parsed once for the config and for its history step
                carried = document.carried_members()
                top = document.facts()
            dropped = hashed is None or (drops and hashed.empty)
            steps.append(shared.step(layer, empty_layer=dropped))
            if hashed is not None and not dropped:
                layers.append(hashed)
    except (DocumentError, LimitError) as exc:
        raise exc.at_layer(layer.legacy_id, f"layer {layer.legacy_id}: ") from exc
    platform = image.platform or _platform(top.os, top.architecture, None, options.platform)
    filled = platform if options.fill_platform else None
    head, middle, tail = config_frame(carried, has_layers=bool(layers), platform=filled)
    described = shared.describe(layers, options.format)
    diff_ids = [diff_id for _, diff_id, _, _ in described]
    config = Pieces(head, shared.joined(steps, b","), middle, shared.joined(diff_ids, b","), tail)
    return _finish(config, described, platform, top.created, options, shared)


def _platform(os: str | None, architecture: str | None, variant: str | None, default: Platform) -> Platform:
    """The platform for index descriptors: the values of the JSON, and defaults for missing ones."""
    if not architecture:
        return Platform(os=os or default.os, architecture=default.architecture, variant=variant or default.variant)
    return Platform(os=os or default.os, architecture=_ARCHITECTURES.get(architecture, architecture), variant=variant)


def _finish(
    document: bytes | Pieces,
    described: Sequence[DescribedLayer],
    platform: Platform,
    created: str | None,
    options: ConvertOptions,
    shared: SharedParts,
) -> ComposedImage:
    config = bytes(document)
    check_limits(config, "the image's config")  # a config over the limits could be written, but not read again
    unstored = next((layer for layer, _, descriptor, _ in described if descriptor is None), None)
    if unstored is not None and not options.dry_run:
        raise ComposeError(f"layer with diffID {unstored.diff_id} was not stored as a blob")
    manifest: bytes | Pieces = b""
    descriptors: tuple[Descriptor, ...] = ()
    if unstored is None:  # a dry run makes no blobs, and so no manifest
        descriptors = tuple(descriptor for _, _, descriptor, _ in described if descriptor is not None)
        frame = manifest_frame(
            config_descriptor(config, options.format), MANIFEST_TYPE_OF[options.format], has_layers=bool(described)
        )
        manifest = Pieces(frame[0], shared.joined([row for _, _, _, row in described], frame[1]), frame[2])
        check_limits(bytes(manifest), "the image's manifest")
    return ComposedImage(
        config_document=document,
        config_media_type=CONFIG_TYPE_OF[options.format],
        manifest_document=manifest,
        manifest_media_type=MANIFEST_TYPE_OF[options.format],
        diff_ids=tuple(layer.diff_id for layer, _, _, _ in described),
        layers=descriptors,
        platform=platform,
        created=created,
        warnings=_warnings(config, len(described)),
    )


def _warnings(config: bytes, layers: int) -> tuple[str, ...]:
    warnings = []
    if layers > DOCKER_MAX_LAYERS:
        warnings.append(f"{layers} layers: Docker refuses images with more than {DOCKER_MAX_LAYERS}")
    try:
        config.decode()
    except UnicodeDecodeError:
        warnings.append("the config is not valid UTF-8, as Docker itself would write it; strict JSON parsers refuse it")
    return tuple(warnings)


# --- configs and manifests that the source holds --------------------------------------------------------------


def _carry_over(
    image: LegacyImage, config: bytes, chain: HashedChain, options: ConvertOptions, shared: SharedParts
) -> ComposedImage:
    try:
        facts = parse_config(config)
    except DocumentError as error:
        # Helm charts, signatures and the like are in layouts, too, under configs of their own.
        named = None if image.manifest is None else parse_manifest(image.manifest.content).config.media_type
        if named is None or named in CONFIG_TYPES:
            raise
        raise UnsupportedError(f"manifest: not an image: its config is of type {named!r}") from error
    layers = [hashed for _, hashed in chain if hashed is not None]
    try:
        contents = [(layer, found.diff_id) for layer, found in chain if found is not None]
        if len(contents) != len(facts.diff_ids):
            raise IntegrityError(
                f"image {image.head}: its config names {len(facts.diff_ids)} layers, the source has {len(contents)}"
            )
        for number, ((layer, diff_id), expected) in enumerate(zip(contents, facts.diff_ids, strict=True), start=1):
            if diff_id != expected:
                raise IntegrityError(
                    f"image {image.head}: layer {number} has diffID {diff_id}, its config names {expected}",
                    layer=layer.legacy_id,
                )
    except IntegrityError as error:
        if not (options.salvage and image.manifest is not None and facts.steps_with_layer <= len(layers)):
            raise
        return _with_true_diff_ids(image, config, layers, options, error, shared)
    # moby image/store.go, Create: "too many non-empty layers in History section"
    if facts.steps_with_layer > len(facts.diff_ids):
        raise DocumentError(
            f"image {image.head}: {facts.steps_with_layer} steps of its config's history have a layer, for "
            f"{len(facts.diff_ids)} layers; Docker refuses such a config"
        )
    platform = image.platform or _platform(facts.os, facts.architecture, facts.variant, options.platform)
    if image.manifest is not None:
        return _carry_over_manifest(image, config, facts, layers, platform)
    if options.fill_platform and facts.platform is None:
        config = encode_object(fill_platform(carried_values(read_document(config, "config"), "config"), platform))
    described = shared.describe(layers, options.format)
    composed = _finish(config, described, platform, facts.created, options, shared)
    return replace(composed, warnings=(*composed.warnings, *_history_warnings(facts)))


def _with_true_diff_ids(
    image: LegacyImage,
    config: bytes,
    layers: Sequence[HashedLayer],
    options: ConvertOptions,
    error: IntegrityError,
    shared: SharedParts,
) -> ComposedImage:
    """For `--salvage`: the config with the real diffIDs of its layers, and a manifest for it.

    The layers are right, since the old manifest names them by digest. Docker 1.10.0 pushed configs with wrong diffIDs
    after its migration (distribution #1439).
    """
    members = carried_values(read_document(config, "config"), "config")
    key = next(name for name in reversed(members) if fold_key(name) == "rootfs")
    members[key] = {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]}
    corrected = encode_object(members)
    facts = parse_config(corrected)
    platform = image.platform or _platform(facts.os, facts.architecture, facts.variant, options.platform)
    described = shared.describe(layers, options.format)
    composed = _finish(corrected, described, platform, facts.created, options, shared)
    warning = f"salvaged: {error.message}; the new config names the diffIDs that its layers have"
    return replace(composed, warnings=(*composed.warnings, warning), certain=False)


def _history_warnings(facts: ConfigFacts) -> tuple[str, ...]:
    if not facts.history_empty or facts.steps_with_layer == len(facts.diff_ids):
        return ()
    return (
        f"{facts.steps_with_layer} steps of the config's history have a layer, for {len(facts.diff_ids)} layers: "
        "Docker accepts that, other programs may not",
    )


def _carry_over_manifest(
    image: LegacyImage, config: bytes, facts: ConfigFacts, layers: Sequence[HashedLayer], platform: Platform
) -> ComposedImage:
    assert image.manifest is not None
    # The manifest is kept byte for byte, since users pull it by its digest. It must belong to the config, which may
    # come from another file of the source.
    manifest = parse_manifest(image.manifest.content)
    if manifest.config.digest != Digest.of(config):
        raise IntegrityError(
            f"image {image.head}: its manifest names config {manifest.config.digest}, the config is {Digest.of(config)}"
        )
    if len(manifest.layers) != len(facts.diff_ids):
        raise IntegrityError(
            f"image {image.head}: its manifest names {len(manifest.layers)} layers, its config {len(facts.diff_ids)}"
        )
    diff_ids: tuple[DiffID, ...] = facts.diff_ids
    return ComposedImage(
        config_document=config,
        config_media_type=manifest.config.media_type,
        manifest_document=image.manifest.content,
        manifest_media_type=image.manifest.media_type,
        diff_ids=diff_ids,
        layers=manifest.layers,
        platform=platform,
        created=facts.created,
        warnings=(
            *_warnings(config, len(diff_ids)),
            *_history_warnings(facts),
            *_media_type_warnings(manifest.layers, layers),
        ),
    )


def _media_type_warnings(stated: Sequence[Descriptor], layers: Sequence[HashedLayer]) -> Iterator[str]:
    for number, (descriptor, layer) in enumerate(zip(stated, layers, strict=True), start=1):
        named = LAYER_COMPRESSIONS.get(descriptor.media_type)
        blob = layer.blob or layer.carried
        if named is None or blob is None or blob.digest != descriptor.digest:
            continue
        if named != blob.compression:
            yield f"layer {number}: {media_type_warning(named, blob.compression)}"
