"""Finds the chain of an image's layers, from its top layer along the parents to the base. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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


def find_heads(parents: dict[LegacyID, LegacyID | None]) -> list[LegacyID]:
    """The layers that are no parent, sorted; also the lowest ID of each cycle that no other layer leads to."""
    named = set(parents.values())
    heads = sorted(legacy_id for legacy_id in parents if legacy_id not in named)
    covered = _ancestors(heads, parents)
    for legacy_id in sorted(parents):
        # Every layer of a cycle has a child, so none of them is a head. One must be listed, so that the cycle is
        # reported.
        if legacy_id not in covered:
            heads.append(legacy_id)
            covered |= _ancestors([legacy_id], parents)
    return sorted(heads)


def _ancestors(heads: Iterable[LegacyID], parents: dict[LegacyID, LegacyID | None]) -> set[LegacyID]:
    covered: set[LegacyID] = set()
    for head in heads:
        current: LegacyID | None = head
        while current is not None and current in parents and current not in covered:
            covered.add(current)
            current = parents[current]
    return covered
