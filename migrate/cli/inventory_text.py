"""An inventory as text: a table of images, or the layer tree as the old `docker images --tree` drew it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from migrate.model.container import Container
from migrate.model.legacy import LegacyID
from migrate.model.text import printable
from migrate.readers.inventory import Inventory, LayerRow
from migrate.report.tables import Column, Paint, render_table, shorten
from migrate.report.units import count, format_size

_SHORT = 12


def render_images(inventory: Inventory, *, width: int, exact_bytes: bool, full_ids: bool) -> str:
    """One row for each image and reference, base image or not; ends with a newline."""
    columns = [
        Column("REFERENCE", flexible=True),
        Column("ID"),
        Column("LAYERS", right=True),
        Column("SIZE", right=True),
        Column("CREATED"),
    ]
    rows = [
        (
            reference,
            _id(image.legacy_id, full_ids),
            str(len(image.layers)),
            _size(image.size, exact_bytes),
            image.created[:10] if image.created else "-",
        )
        for image in inventory.images
        for reference in image.references or ("<none>",)
    ]
    heading = f"{inventory.location}: {inventory.source_type}, {count(len(inventory.images), 'image')}, "
    heading += count(len(inventory.layers), "layer")
    lines = [printable(heading)]
    if inventory.wrapping:
        lines += ["", "On the disk:", *(f"  {printable(line)}" for line in inventory.wrapping)]
    if rows:
        lines += ["", render_table(columns, sorted(rows), width=width, paint=Paint(False))]
    if inventory.containers:
        lines += ["", f"Containers ({len(inventory.containers):,}):"]
        lines += [line for row in inventory.containers for line in _container(row.container, exact_bytes, full_ids)]
    if inventory.orphaned_volumes:
        lines += ["", f"Volumes that no container names ({len(inventory.orphaned_volumes):,}):"]
        lines += [
            printable(f"  {volume.source} ({_size(volume.bytes, exact_bytes)})")
            for volume in inventory.orphaned_volumes
        ]
    return "\n".join(lines) + "\n"


def _container(container: Container, exact: bool, full: bool) -> Iterator[str]:
    changed = "not known" if container.changed_bytes is None else _size(container.changed_bytes, exact)
    image = _id(container.image, full) or "none recorded"
    state = f"{container.state}, half removed" if container.half_removed else container.state
    facts = f"{_id(container.id, full)}  {container.name}, {state}, image {image}, changed {changed}"
    yield printable(f"  {facts}")
    for volume in container.volumes:
        size = "not here" if volume.bytes is None else _size(volume.bytes, exact)
        yield printable(f"    {volume.kind} {volume.path}: {volume.source} ({size})")


def render_tree(inventory: Inventory, *, width: int, exact_bytes: bool, full_ids: bool) -> str:
    """Every layer below its parent, with its size, tags, and the containers made from it; ends with a newline."""
    children: dict[LegacyID | None, list[LayerRow]] = defaultdict(list)
    for _, layer in sorted(inventory.layers.items()):
        parent = layer.parent if layer.parent in inventory.layers else None
        children[parent].append(layer)
    tags: dict[LegacyID, list[str]] = defaultdict(list)
    containers: dict[LegacyID, list[str]] = defaultdict(list)
    for image in inventory.images:
        tags[image.legacy_id] += image.references
        containers[image.legacy_id] += image.containers
    lines: list[str] = []
    # A loop, not a recursion: a chain of thousands of layers is longer than Python's stack allows.
    pending = [(root, "", "") for root in reversed(children[None])]
    seen: set[LegacyID] = set()
    while pending:
        layer, first, rest = pending.pop()
        if layer.legacy_id in seen:
            continue
        seen.add(layer.legacy_id)
        facts = [_id(layer.legacy_id, full_ids), _size(layer.size, exact_bytes)]
        if tags[layer.legacy_id]:
            facts.append(f"Tags: {', '.join(sorted(tags[layer.legacy_id]))}")
        if containers[layer.legacy_id]:
            facts.append(f"Containers: {', '.join(_id(one, full_ids) for one in containers[layer.legacy_id])}")
        lines.append(shorten(printable(first + "  ".join(facts)), max(width, 40)))
        below = children[layer.legacy_id]
        if len(below) == 1:  # no indentation without branches: a long chain would be wider than the screen
            pending.append((below[0], rest, rest))
        else:
            last = len(below) - 1
            arms = [("└─ ", "   ") if index == last else ("├─ ", "│  ") for index in range(len(below))]
            pending += [(child, rest + arm, rest + under) for child, (arm, under) in zip(below, arms, strict=True)][
                ::-1
            ]
    return "\n".join(lines) + "\n" if lines else ""


def _id(legacy_id: str, full: bool) -> str:
    return legacy_id if full else legacy_id[:_SHORT]


def _size(size: int | None, exact: bool) -> str:
    return "?" if size is None else format_size(size, exact=exact)
