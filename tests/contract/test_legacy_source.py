"""Every reader gives the same of a source in any wrapping, any number of times, and from several threads."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from migrate.errors import MissingLayerError, PayloadRestartError, SourceError
from migrate.model.legacy import LegacyID, LegacyLayer
from migrate.model.options import ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.detect import detect, open_in_tree
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import Tree
from tests.archives import unpack
from tests.cases import case
from tests.trees import BareTree

CASES = {
    "save-1.6.2-multi": "save.tar.xz",
    "save-1.10.3-hybrid": "save.tar.xz",
    "made-oci-layout": "save.tar.xz",
    "store-1.9.1-overlay": "store.tar.xz",
    "store-1.3.3-aufs": "store.tar.xz",
    "store-1.0.1-btrfs": "store.tar.xz",
    "registry-v1-pushed": "registry.tar.xz",
    "registry-v2-mixed-2.8": "registry.tar.xz",
}


@pytest.fixture(scope="module", params=CASES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    path = tmp_path_factory.mktemp("source")
    content = lzma.decompress((case(name).path / CASES[name]).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        unpack(archive, path)
    return next(found for found in (path, *sorted(path.iterdir())) if detect(DirectoryTree(str(found))))


@pytest.fixture(params=["directory", "bare", "below"])
def source(place: Path, request: pytest.FixtureRequest) -> Iterator[LegacySource]:
    here = DirectoryTree(str(place))
    tree: Tree = BareTree(here) if request.param == "bare" else here
    if request.param == "below":
        tree = BareTree(DirectoryTree(str(place.parent))).subtree(place.name.encode())
    opened = open_in_tree("the source", tree, ReadOptions())
    yield opened
    opened.close()
    opened.close()


def layers_of(source: LegacySource) -> list[LegacyLayer]:
    """Those of the chains of all images, where a reader has them; else by the IDs that it lists."""
    listing = source.listing()
    chains = [layer for image in listing.images for layer in image.chain or ()]
    return chains or [source.read_layer(legacy_id) for legacy_id in listing.layers]


def digest_of(source: LegacySource, layer: LegacyLayer) -> str:
    for _ in range(3):
        try:
            with source.open_payload(layer) as payload:
                return hashlib.sha256(payload.stream.read()).hexdigest()
        except PayloadRestartError:
            continue
        except SourceError as error:
            return error.code
    raise AssertionError(f"{layer.legacy_id}: no form of it can be read")


def test_the_same_again_and_in_any_wrapping(source: LegacySource, place: Path) -> None:
    with_paths = open_in_tree("the source", DirectoryTree(str(place)), ReadOptions())
    assert source.listing() == source.listing() == with_paths.listing()
    assert source.location == "the source" and source.source_type == with_paths.source_type
    layers = [layer for layer in layers_of(source) if layer.payload is not None]
    assert layers
    once = [digest_of(source, layer) for layer in layers]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda layer: digest_of(source, layer), layers)) == once
    assert [digest_of(with_paths, layer) for layer in layers_of(with_paths) if layer.payload is not None] == once
    with_paths.close()


def test_a_layer_that_is_not_there_is_missing(source: LegacySource) -> None:
    with pytest.raises(MissingLayerError):
        source.read_layer(LegacyID("0" * 63 + "7"))


def test_what_only_some_can_do_has_defaults(source: LegacySource) -> None:
    source.check_access()
    assert not source.is_read_once
    if not source.holds_rootfs:
        assert source.open_rootfs(LegacyID("0" * 64)) is None
