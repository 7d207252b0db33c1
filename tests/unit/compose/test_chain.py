"""Parents to one ancestry."""

from __future__ import annotations

import pytest

from migrate.compose.chain import check_chain, find_heads, walk_chain
from migrate.errors import ChainError, ConflictingLayerError, MissingLayerError, MissingParentError, ParentCycleError
from migrate.model.legacy import LegacyID, LegacyLayer


def layer(legacy_id: str, parent: str | None = None, json: bytes = b"{}") -> LegacyLayer:
    return LegacyLayer(
        legacy_id=LegacyID(legacy_id), json=json, parent=LegacyID(parent) if parent else None, payload=None
    )


class Store:
    def __init__(self, **parents: str | None) -> None:
        self.layers = {name: layer(name, parent) for name, parent in parents.items()}
        self.reads = 0

    def read(self, legacy_id: LegacyID) -> LegacyLayer:
        self.reads += 1
        if legacy_id not in self.layers:
            raise MissingLayerError(f"no {legacy_id}", layer=legacy_id)
        return self.layers[legacy_id]


def test_a_chain_is_base_first() -> None:
    chain = walk_chain(LegacyID("c"), Store(a=None, b="a", c="b").read)
    assert [one.legacy_id for one in chain] == ["a", "b", "c"]


def test_a_cycle_names_the_layer_where_it_closes() -> None:
    store = Store(a="c", b="a", c="b")
    with pytest.raises(ParentCycleError, match="layer b is its own ancestor") as caught:
        walk_chain(LegacyID("b"), store.read)
    assert caught.value.layer == "b"
    assert store.reads == 3


def test_a_layer_that_is_its_own_parent_is_a_cycle() -> None:
    with pytest.raises(ParentCycleError):
        walk_chain(LegacyID("a"), Store(a="a").read)


def test_a_missing_parent_names_child_and_parent() -> None:
    with pytest.raises(MissingParentError, match="layer b names the parent gone") as caught:
        walk_chain(LegacyID("b"), Store(b="gone").read)
    assert caught.value.layer == "gone"


def test_a_missing_head_is_no_missing_parent() -> None:
    with pytest.raises(MissingLayerError):
        walk_chain(LegacyID("gone"), Store().read)


def test_a_chain_may_have_ten_thousand_layers_and_no_more() -> None:
    longest = Store(**{f"n{i}": f"n{i - 1}" if i else None for i in range(10_000)})
    assert len(walk_chain(LegacyID("n9999"), longest.read)) == 10_000
    longer = Store(**{f"n{i}": f"n{i - 1}" if i else None for i in range(10_001)})
    with pytest.raises(ChainError, match=r"more than 10000 layers"):
        walk_chain(LegacyID("n10000"), longer.read)


def test_one_id_with_two_jsons_is_a_conflict() -> None:
    check_chain([layer("a", json=b"1"), layer("b", json=b"2"), layer("a", json=b"1")])
    with pytest.raises(ConflictingLayerError, match="layer a has two different JSONs"):
        check_chain([layer("a", json=b"1"), layer("a", json=b"2")])


def _heads(parents: dict[str, str | None]) -> list[str]:
    ids = sorted(parents)
    places = [-1 if (parent := parents[one]) is None else ids.index(parent) for one in ids]
    return [ids[head] for head in find_heads(places)]


def test_heads_are_nobody_s_parent() -> None:
    parents: dict[str, str | None] = {"a": None, "b": "a", "c": "a", "d": "c"}
    assert _heads(parents) == ["b", "d"]


def test_a_pure_cycle_has_its_lowest_id_as_head_so_that_somebody_reports_it() -> None:
    parents: dict[str, str | None] = {"x": "z", "y": "x", "z": "y", "a": None}
    assert _heads(parents) == ["a", "x"]


def test_a_cycle_with_a_way_in_is_reported_by_that_way() -> None:
    parents: dict[str, str | None] = {"x": "y", "y": "x", "top": "x"}
    assert _heads(parents) == ["top"]
