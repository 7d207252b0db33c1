"""Every config that real Docker engines made of the fixtures is made again, to the byte, by `compose_image`."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import pytest

from migrate.compose.image import compose_image
from migrate.documents.oci import parse_config, parse_index, parse_manifest
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, HashedLayer, Platform, StoredBlob
from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer
from migrate.model.options import ConvertOptions, EmptyLayers
from tests.cases import Case, registry_cases, save_cases, store_cases
from tests.layer_json import parse_identity, parse_v1_json

EMPTY_TAR = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
KEEP = ConvertOptions(empty_layers=EmptyLayers.KEEP)


NAME = attrgetter("name")


def members(case: Case, archive: str) -> dict[str, bytes]:
    """Name without a leading `./` → content, of each regular file in an archive of the case."""
    found = {}
    with tarfile.open(case.path / archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is not None:
                found[member.name.removeprefix("./")] = stream.read()
    return found


def hashed(diff_id: str) -> HashedLayer:
    digest = Digest.parse(diff_id)
    return HashedLayer(
        diff_id=DiffID(digest),
        tar_size=1024,
        empty=diff_id == EMPTY_TAR,
        blob=StoredBlob(digest=digest, size=1024, compression="none"),
        origin="archive",
    )


def compose(documents: Sequence[bytes], diff_ids: Sequence[str | None]) -> ComposedImage:
    """The image of a chain, base first; a layer without a diffID is a step without a layer."""
    chain = [
        (
            LegacyLayer(legacy_id=LegacyID(f"layer {number}"), json=document, parent=None, payload=None),
            None if diff_id is None else hashed(diff_id),
        )
        for number, (document, diff_id) in enumerate(zip(documents, diff_ids, strict=True))
    ]
    return compose_image(LegacyImage(head=LegacyID("image")), chain, KEEP)


def check(image: ComposedImage, wanted: Mapping[str, Any], config: bytes) -> None:
    """`image` is what the engine made: `config` and all that expected.json tells of it."""
    assert image.config == config
    assert [str(diff_id) for diff_id in image.diff_ids] == wanted["diff_ids"]
    assert str(image.image_id) == f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert str(image.image_id) == wanted.get("image_id", str(image.image_id))
    facts = parse_config(config)
    assert [str(diff_id) for diff_id in facts.diff_ids] == wanted["diff_ids"]
    assert facts.history_empty is not None
    assert facts.history_empty.count(False) == len(facts.diff_ids)
    assert facts.created == image.created


@pytest.mark.parametrize("case", [case for case in save_cases() if "hybrid" not in case.name], ids=NAME)
def test_saved_archive(case: Case) -> None:
    files = members(case, "save.tar.xz")
    documents = {name.rpartition("/")[0]: content for name, content in files.items() if name.endswith("/json")}
    diff_ids = {
        name.rpartition("/")[0]: f"sha256:{hashlib.sha256(content).hexdigest()}"
        for name, content in files.items()
        if name.endswith("/layer.tar")
    }
    wanted, bytes_of = case.expected["all_images"], case.configs
    made = set()
    for head in documents:
        chain: list[str] = []
        parent: str | None = head
        while parent is not None and parent in documents:
            chain.insert(0, parent)
            parent = parse_identity(documents[parent]).parent
        if parent is not None:  # Docker 1.3.3 could leave a parent out
            continue
        image = compose([documents[layer] for layer in chain], [diff_ids[layer] for layer in chain])
        made.add(str(image.image_id))
        check(image, wanted[str(image.image_id)], bytes_of[wanted[str(image.image_id)]["config"]])
    assert made == set(wanted)


def test_archive_with_configs_carries_them_over() -> None:
    case = next(case for case in save_cases() if "hybrid" in case.name)
    files, bytes_of = members(case, "save.tar.xz"), case.configs
    for entry in json.loads(files["manifest.json"]):
        config = files[entry["Config"]]
        image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
        wanted = case.expected["all_images"][image_id]
        chain = [
            (
                LegacyLayer(legacy_id=LegacyID(name), json=b"{}", parent=None, payload=None),
                hashed(f"sha256:{hashlib.sha256(files[name]).hexdigest()}"),
            )
            for name in entry["Layers"]
        ]
        image = compose_image(LegacyImage(head=LegacyID(image_id), config=config), chain, ConvertOptions())
        check(image, wanted, bytes_of[wanted["config"]])


def v1_trees() -> list[Case]:
    return [*store_cases(), *(case for case in registry_cases() if case.name.startswith("registry-v1-tree"))]


@pytest.mark.parametrize("case", v1_trees(), ids=NAME)
def test_store_and_v1_registry(case: Case) -> None:
    prefix, archive = ("graph/", "store.tar.xz") if case.name.startswith("store-") else ("images/", "registry.tar.xz")
    documents = {
        name.removeprefix(prefix).removesuffix("/json"): content
        for name, content in members(case, archive).items()
        if name.startswith(prefix) and name.endswith("/json")
    }
    bytes_of = case.configs
    checked = 0
    for wanted in case.expected["all_images"].values():
        if "image_id" not in wanted:
            continue
        image = compose([documents[layer] for layer in wanted["v1_chain"]], wanted["diff_ids"])
        check(image, wanted, bytes_of[wanted["config"]])
        checked += 1
    assert checked == sum("image_id" in wanted for wanted in case.expected["all_images"].values())


def test_pushed_v1_registry() -> None:
    case = next(case for case in registry_cases() if case.name == "registry-v1-pushed")
    files = members(case, "registry.tar.xz")
    bytes_of = case.configs
    for wanted in case.expected["images"].values():
        ancestry = json.loads(files[f"images/{wanted['v1_id']}/ancestry"])
        image = compose([files[f"images/{layer}/json"] for layer in reversed(ancestry)], wanted["diff_ids"])
        check(image, wanted, bytes_of[wanted["config"]])


@pytest.mark.parametrize("case", [case for case in registry_cases() if "-v2-" in case.name], ids=NAME)
def test_v2_registry(case: Case) -> None:
    blobs = {
        f"sha256:{name.split('/')[-2]}": content
        for name, content in members(case, "registry.tar.xz").items()
        if name.startswith("docker/registry/v2/blobs/") and name.endswith("/data")
    }
    bytes_of = case.configs
    for wanted in case.expected["images"].values():
        if "image_id" in wanted and wanted.get("should_convert", True):
            check_manifest(blobs[wanted["manifest_digest"]], blobs, wanted, bytes_of[wanted["config"]])


def check_manifest(manifest: bytes, blobs: Mapping[str, bytes], wanted: Mapping[str, Any], config: bytes) -> None:
    """What a pull for linux/amd64 makes of a manifest of any kind."""
    if b'"manifests"' in manifest:
        platform = Platform(os="linux", architecture="amd64")
        child = next(entry for entry in parse_index(manifest).manifests if entry.platform == platform)
        check_manifest(blobs[str(child.descriptor.digest)], blobs, wanted, config)
    elif json.loads(manifest)["schemaVersion"] == 1:
        documents = documents_of(manifest)
        remaining = iter(wanted["diff_ids"])
        diff_ids = [None if parse_v1_json(document).throwaway else next(remaining) for document in documents]
        check(compose(documents, diff_ids), wanted, config)
        assert next(remaining, None) is None
    else:
        facts = parse_manifest(manifest)
        assert blobs[str(facts.config.digest)] == config
        assert [str(diff_id) for diff_id in parse_config(config).diff_ids] == wanted["diff_ids"]


def documents_of(manifest: bytes) -> list[bytes]:
    """The v1Compatibility texts, base first. Docker before 1.8 could name a layer twice in a row; it counts once."""
    documents = [entry["v1Compatibility"].encode() for entry in reversed(json.loads(manifest)["history"])]
    ids = [parse_v1_json(document).id for document in documents]
    return [document for index, document in enumerate(documents) if index == 0 or ids[index] != ids[index - 1]]
