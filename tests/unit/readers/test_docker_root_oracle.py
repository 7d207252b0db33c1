"""Every shipped Docker root against what Docker 1.10.3 made of the same root."""

from __future__ import annotations

import hashlib

import pytest

from migrate.errors import MigrateError
from migrate.model.legacy import LegacyID
from migrate.model.options import ReadOptions
from migrate.readers.docker_root import DockerRootSource, is_docker_root
from migrate.storage.directory_tree import DirectoryTree
from tests.cases import store_cases
from tests.roots import open_docker_root
from tests.stores import ReadLayer, StoreCase, StoreShelf, read_payload, tar_entries, without_whiteout_times
from tests.trees import BareTree

STORES = [store.name for store in store_cases()]


def _open(stores: StoreShelf, name: str) -> DockerRootSource:
    return open_docker_root(stores.path(name))


def _read_all(source: DockerRootSource, store: StoreCase) -> dict[str, ReadLayer | MigrateError]:
    found: dict[str, ReadLayer | MigrateError] = {}
    for legacy_id in sorted(store.layers):
        try:
            found[legacy_id] = read_payload(source, source.read_layer(LegacyID(legacy_id)))
        except MigrateError as error:
            found[legacy_id] = error
    return found


@pytest.mark.parametrize("name", STORES)
def test_each_layer_has_dockers_diff_id_or_fails_where_docker_failed(stores: StoreShelf, name: str) -> None:
    store = StoreCase(name)
    found = _read_all(_open(stores, name), store)
    stable = {key: facts["diff_id"] for key, facts in store.layers.items() if not facts.get("unstable")}
    got = {key: layer.diff_id if isinstance(layer, ReadLayer) else None for key, layer in found.items()}
    assert {key: got[key] for key in stable} == stable


@pytest.mark.parametrize("name", STORES)
def test_a_root_is_the_same_in_any_wrapping(stores: StoreShelf, name: str) -> None:
    """What a directory can do better than another Tree saves time and changes nothing."""
    store, path = StoreCase(name), str(stores.path(name))
    here = DockerRootSource(path, DirectoryTree(path), ReadOptions())
    bare = DockerRootSource(path, BareTree(DirectoryTree(path)), ReadOptions())
    assert bare.listing() == here.listing()
    ours, theirs = _read_all(bare, store), _read_all(here, store)
    assert {key: str(layer) for key, layer in ours.items()} == {key: str(layer) for key, layer in theirs.items()}


@pytest.mark.parametrize("name", STORES)
def test_a_layer_is_exact_if_and_only_if_docker_makes_the_same_bytes_every_time(stores: StoreShelf, name: str) -> None:
    store = StoreCase(name)
    for legacy_id, layer in _read_all(_open(stores, name), store).items():
        if isinstance(layer, ReadLayer) and not layer.restarts:
            assert layer.exact == (not store.layers[legacy_id].get("unstable")), legacy_id
            assert (layer.note is None) == layer.exact, legacy_id


@pytest.mark.parametrize("name", [name for name in STORES if StoreCase(name).case.expected["unstable_layers"]])
def test_unstable_layers_have_dockers_entries_and_are_the_same_twice(stores: StoreShelf, name: str) -> None:
    store = StoreCase(name)
    source = _open(stores, name)
    for legacy_id in store.case.expected["unstable_layers"]:
        layer = source.read_layer(LegacyID(legacy_id))
        with source.open_payload(layer) as payload:
            entries = tar_entries(payload.stream)
        expected = store.listings[store.layers[legacy_id]["diff_id"]]
        assert without_whiteout_times(entries) == without_whiteout_times(expected), legacy_id
        again = _open(stores, name)
        assert read_payload(source, layer).diff_id == read_payload(again, again.read_layer(layer.legacy_id)).diff_id


@pytest.mark.parametrize("name", STORES)
def test_the_listing_names_what_docker_migrated(stores: StoreShelf, name: str) -> None:
    store = StoreCase(name)
    assert is_docker_root(DirectoryTree(str(stores.path(name))))
    listing = _open(stores, name).listing()
    heads = {str(reference): image.head for image in listing.images for reference in image.references}
    lost = {reference for failure in listing.failures for reference in failure.references}
    for reference, facts in store.case.expected["images"].items():
        if reference in heads:
            assert facts.get("v1_id") in (None, heads[reference])
        else:
            assert "error" in facts and reference in lost, reference
    assert set(heads) | lost == set(store.case.expected["images"])
    assert set(store.case.expected["all_images"]) <= set(listing.layers)


@pytest.mark.parametrize("name", STORES)
def test_parents_are_those_that_docker_follows(stores: StoreShelf, name: str) -> None:
    source = _open(stores, name)
    for facts in StoreCase(name).case.expected["all_images"].values():
        chain = facts["v1_chain"]
        for parent, legacy_id in zip([None, *chain], chain, strict=False):
            assert source.read_layer(LegacyID(legacy_id)).parent == parent


def test_blocks_of_any_size_give_the_same_bytes(stores: StoreShelf) -> None:
    source = _open(stores, "store-1.6.2-overlay")
    layer = source.read_layer(source.listing().images[0].head)
    digests = set()
    for size in (1, 700, 1 << 20):
        with source.open_payload(layer) as payload:
            whole = b"".join(iter(lambda size=size, stream=payload.stream: stream.read(size), b""))  # type: ignore[misc]
        digests.add(hashlib.sha256(whole).hexdigest())
    assert len(digests) == 1
