"""The content of a source, found without hashing a layer: images with their chains, and the tree of all layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from migrate.compose.chain import walk_chain
from migrate.documents.oci import parse_config
from migrate.documents.v1_json import LayerDocument
from migrate.errors import MigrateError, MissingContentError
from migrate.model.container import Container, RunCommand, Volume
from migrate.model.legacy import Failure, LegacyID, LegacyImage, LegacyLayer, SourceListing
from migrate.model.rename import map_reference
from migrate.readers.base import LegacySource


class LayerRow(Struct, frozen=True, kw_only=True):
    """One layer. `size`: its bytes as stored, or in a Docker root the bytes of its files as Docker counted them; None
    if the layer would have to be read for it.
    """

    legacy_id: LegacyID
    parent: LegacyID | None
    size: int | None
    created: str | None
    created_by: str | None


class ImageRow(Struct, frozen=True, kw_only=True):
    """One image with its chain, base first. `kind` is `legacy`, or `ready` if the source has a config."""

    legacy_id: LegacyID
    references: tuple[str, ...]
    kind: str
    platform: str | None
    created: str | None
    containers: tuple[str, ...]
    layers: tuple[LayerRow, ...]

    @property
    def size(self) -> int | None:
        sizes = [layer.size for layer in self.layers]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class ContainerEntry(Struct, frozen=True, kw_only=True):
    """A container. `reference` is the name of the image that `convert --containers` makes of it."""

    container: Container
    reference: str
    run: RunCommand


class Inventory(Struct, frozen=True, kw_only=True):
    """The content of a source. `images` are tagged images and untagged heads, each with its chain, base first. `layers`
    has every layer of an image, and every layer that could be an image, by legacy ID. `failures` are images that cannot
    be converted; `warnings` are about what does no harm. `wrapping` describes a disk image around the source."""

    location: str
    source_type: str
    images: tuple[ImageRow, ...]
    layers: dict[LegacyID, LayerRow]
    containers: tuple[ContainerEntry, ...]
    orphaned_volumes: tuple[Volume, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    wrapping: tuple[str, ...] = ()


def take_inventory(source: LegacySource, containers: Sequence[LegacyImage] = ()) -> Inventory:
    """Reads every document of `source` and no layer. Errors go into `failures`.

    `containers`: those containers of the listing that are shown as images, too.
    """
    listing = source.listing()
    images: list[ImageRow] = []
    failures = list(listing.failures)
    layers: dict[LegacyID, LayerRow] = {}
    # An image of a list has the list's names, as in the other commands.
    of_lists = [
        replace(child, references=tuple(sorted({*child.references, *index.references})))
        for index in listing.indexes
        for child in index.children
    ]
    listed = [*listing.images, *of_lists, *containers]
    payloads = [layer.payload for image in listed for layer in image.chain or () if layer.payload is not None]
    contents = {payload.diff_id for payload in payloads if payload.absent is None}
    for image in listed:
        try:
            chain = image.chain if image.chain is not None else walk_chain(image.head, source.read_layer)
            for layer in chain:
                # A layer without content is no loss if another one has the same diffID.
                claim = layer.payload
                if claim is not None and claim.absent is not None and claim.diff_id not in contents:
                    raise MissingContentError(claim.absent, layer=layer.legacy_id)
            row = _image_row(image, chain)
        except MigrateError as error:
            failure = Failure.of(error, source.location, references=image.references, legacy_id=image.head)
            failures.append(failure)
            continue
        images.append(row)
        layers.update((layer.legacy_id, layer) for layer in row.layers)
    for legacy_id in listing.layers:
        if legacy_id not in layers:
            try:
                layers[legacy_id] = _layer_row(source.read_layer(legacy_id), None)
            except MigrateError:
                continue  # the image that needs it has failed above, with the reason
    return Inventory(
        location=source.location,
        source_type=source.source_type.value,
        images=tuple(images),
        layers=layers,
        containers=tuple(_iter_containers(source, listing)),
        orphaned_volumes=tuple(source.orphaned_volumes()),
        failures=tuple(failures),
        warnings=tuple(listing.warnings),
        wrapping=tuple(listing.wrapping),
    )


def _iter_containers(source: LegacySource, listing: SourceListing) -> Iterator[ContainerEntry]:
    for image in sorted(listing.containers, key=lambda image: (image.references, image.head)):
        if image.container is not None:
            container = source.measure_container(image.container)
            reference = str(map_reference(image.references[0]))
            yield ContainerEntry(
                container=container, reference=reference, run=source.run_container(container, reference)
            )


def inventory_document(inventory: Inventory) -> dict[str, Any]:
    """For `inspect --json` (docs/reference/inspect.md)."""
    return {
        "location": inventory.location,
        "type": inventory.source_type,
        "images": [
            {
                "references": list(image.references),
                "legacy_id": image.legacy_id,
                "kind": image.kind,
                "platform": image.platform,
                "created": image.created,
                "size": image.size,
                "containers": list(image.containers),
                "layers": [layer.legacy_id for layer in image.layers],
            }
            for image in inventory.images
        ],
        "layers": [
            {
                "legacy_id": layer.legacy_id,
                "parent": layer.parent,
                "size": layer.size,
                "created": layer.created,
                "created_by": layer.created_by,
            }
            for _, layer in sorted(inventory.layers.items())
        ],
        "containers": [
            {
                **{name: value for name, value in to_builtins(row.container).items() if name != "unseen"},
                "reference": row.reference,
                "run": list(row.run.words),
            }
            for row in inventory.containers
        ],
        "orphaned_volumes": [{"path": one.source, "bytes": one.bytes} for one in inventory.orphaned_volumes],
        "failures": [failure.without_source() for failure in inventory.failures],
        "warnings": list(inventory.warnings),
        "wrapping": list(inventory.wrapping),
    }


def _image_row(image: LegacyImage, chain: tuple[LegacyLayer, ...]) -> ImageRow:
    parents = [None, *(layer.legacy_id for layer in chain)]
    rows = tuple(_layer_row(layer, parent) for layer, parent in zip(chain, parents, strict=False))
    created = rows[-1].created if rows else None
    platform = str(image.platform) if image.platform else None
    if image.config is not None:
        facts = parse_config(image.config)
        created = facts.created
        platform = str(facts.platform) if facts.platform else platform
    elif rows:
        document = LayerDocument.of(chain[-1].json).facts()
        if document.os or document.architecture:
            platform = f"{document.os or 'linux'}/{document.architecture or 'unknown'}"
    return ImageRow(
        legacy_id=image.head,
        references=tuple(str(reference) for reference in image.references),
        kind="legacy" if image.config is None else "ready",
        platform=platform,
        created=created,
        containers=image.containers,
        layers=rows,
    )


def _layer_row(layer: LegacyLayer, parent: LegacyID | None) -> LayerRow:
    """`parent`: the layer below in the chain, for layers without a json, which names none."""
    document = LayerDocument.of(layer.json).facts() if layer.json else None
    size: int | None = 0
    if layer.payload is not None:
        size = layer.payload.estimate if layer.payload.size is None else layer.payload.size
    return LayerRow(
        legacy_id=layer.legacy_id,
        parent=layer.parent or parent,
        size=size,
        created=document.created if document else None,
        created_by=document.created_by if document else None,
    )
