"""Finds the chain of an image's layers, from its top layer along the parents to the base. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from migrate.errors import ChainError, ConflictingLayerError, MissingLayerError, MissingParentError, ParentCycleError
from migrate.model.legacy import LegacyID, LegacyLayer

MAX_CHAIN_LENGTH = 10_000
"""Longer chains are refused; Docker itself never made more than 127."""

ReadLayer = Callable[[LegacyID], LegacyLayer]


def walk_chain(head: LegacyID, read_layer: ReadLayer) -> tuple[LegacyLayer, ...]:
    """The layers of the image `head`, base first.

    Raises ParentCycleError, MissingParentError (a parent that is not in the source), ChainError (too long), and the
    errors of `read_layer` for a damaged layer.
    """
    chain: list[LegacyLayer] = []
    seen: set[LegacyID] = set()
    current: LegacyID | None = head
    while current is not None:
        if current in seen:
            raise ParentCycleError(f"layer {current} is its own ancestor", layer=current)
        if len(chain) == MAX_CHAIN_LENGTH:
            raise ChainError(f"more than {MAX_CHAIN_LENGTH} layers above {current}", layer=current)
        seen.add(current)
        try:
            layer = read_layer(current)
        except MissingLayerError as error:
            if not chain:
                raise
            child = chain[-1].legacy_id
            raise MissingParentError(
                f"layer {child} names the parent {current}, which the source does not have", layer=current
            ) from error
        chain.append(layer)
        current = layer.parent
    chain.reverse()
    return tuple(chain)


def check_chain(chain: Iterable[LegacyLayer]) -> None:
    """Raises ConflictingLayerError if one legacy ID occurs with two different JSONs."""
    seen: dict[LegacyID, bytes] = {}
    for layer in chain:
        if seen.setdefault(layer.legacy_id, layer.json) != layer.json:
            raise ConflictingLayerError(f"layer {layer.legacy_id} has two different JSONs", layer=layer.legacy_id)


def find_heads(parents: Sequence[int]) -> list[int]:
    """The layers that are no parent, in order; also the first of each cycle that no other layer leads to.

    Layers are numbered. `parents` has the number of each layer's parent, or a negative one if it has none.
    """
    is_parent = bytearray(len(parents))
    for parent in parents:
        if parent >= 0:
            is_parent[parent] = True
    heads = [layer for layer, named in enumerate(is_parent) if not named]
    covered = bytearray(len(parents))
    _cover(heads, parents, covered)
    for layer in range(len(parents)):
        # Every layer of a cycle has a child, so none of them is a head. One must be listed, so that the cycle is
        # reported.
        if not covered[layer]:
            heads.append(layer)
            _cover([layer], parents, covered)
    return sorted(heads)


def _cover(heads: Iterable[int], parents: Sequence[int], covered: bytearray) -> None:
    """Marks the layers in the chains of these heads."""
    for head in heads:
        current = head
        while current >= 0 and not covered[current]:
            covered[current] = True
            current = parents[current]
