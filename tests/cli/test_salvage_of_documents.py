"""Documents that contradict sound bytes or hide images, and blobs whose content follows from their digest."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.model.digest import Digest
from migrate.model.options import ConvertOptions
from migrate.report.document import Report, ReportImage
from tests.archives import V1Archive, build_tar, layer_tar, legacy_id
from tests.registry_content import RegistryContent
from tests.roots import RootBuilder, identity, write

EMPTY = bytes(1024)
GO = bytes.fromhex("1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000")
GO_NOW = GO[:4] + bytes(4) + GO[8:]


def plan(source: Path, **options: Any) -> tuple[int, Report]:
    outcome = api.plan(source, ConvertOptions(**options))
    return outcome.exit_code, outcome.report


def by_name(report: Report) -> dict[str, ReportImage]:
    return {name: image for image in report.images for name in image.references}


# --- blobs that follow from their digest -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "blob", [GO, GO_NOW, gzip.compress(EMPTY, mtime=0), EMPTY], ids=["distribution", "go", "python", "plain"]
)
@pytest.mark.parametrize("place", ["registry", "layout"])
def test_the_blob_of_the_empty_tar_is_made(blob: bytes, place: str, tmp_path: Path) -> None:
    content = RegistryContent()
    manifest = json.loads(content.schema2("base"))
    config = json.loads(content.blobs[manifest["config"]["digest"]])
    config["rootfs"]["diff_ids"].append(str(Digest.of(EMPTY)))
    config["history"].append({"created_by": "CMD"})
    raw = json.dumps(config).encode()
    manifest["config"].update(digest=content.blob(raw), size=len(raw))
    manifest["layers"].append({**manifest["layers"][0], "digest": content.blob(blob), "size": len(blob)})
    content.add("app", "1", json.dumps(manifest).encode())
    for lost in (False, True):
        if lost:
            del content.blobs[str(Digest.of(blob))]
        where = tmp_path / str(lost)
        source = content.write_tree(where) if place == "registry" else layout(content, where)
        code, report = plan(source)
        assert (code, len(report.images[0].layers), report.images[0].layers[1].empty) == (0, 2, True)


def layout(content: RegistryContent, root: Path) -> Path:
    blobs = {**content.blobs, **content.manifests}
    members = [(f"blobs/sha256/{digest[7:]}", raw) for digest, raw in blobs.items()]
    entries = [
        {"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": digest, "size": len(raw)}
        for digest, raw in content.manifests.items()
    ]
    members.append(("index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode()))
    root.mkdir()
    path = root / "a.tar"
    path.write_bytes(build_tar([*members, ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]))
    return path


@pytest.mark.parametrize("kept", [0, 12])
def test_it_is_made_too_where_a_power_cut_has_emptied_it(kept: int, tmp_path: Path) -> None:
    content = RegistryContent()
    manifest = json.loads(content.schema1("base", "top"))
    manifest["fsLayers"][0]["blobSum"] = digest = content.blob(GO)
    content.add("app", "1", json.dumps(manifest).encode())
    content.blobs[digest] = GO[:kept]
    code, report = plan(content.write_tree(tmp_path / "r"))
    assert (code, [layer.empty for layer in report.images[0].layers]) == (0, [False, True])


def test_another_blob_that_is_lost_stays_lost(tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1", content.schema2("base"))
    content.blobs = {d: raw for d, raw in content.blobs.items() if raw[:1] == b"{"}
    assert plan(content.write_tree(tmp_path / "r"))[0] == 4


# --- documents that contradict sound bytes ---------------------------------------------------------------------------


def test_wrong_parents_in_schema_1(tmp_path: Path) -> None:
    content = RegistryContent()
    right = content.schema1("base", "middle", "top")
    content.add("right", "1", right)
    manifest = json.loads(right)
    for step in manifest["history"][:-1]:
        step["v1Compatibility"] = json.dumps({**json.loads(step["v1Compatibility"]), "parent": "e" * 64})
    content.add("wrong", "1", json.dumps({**manifest, "name": "wrong"}).encode())
    source = content.write_tree(tmp_path / "r")
    assert plan(source)[0] == 3
    code, report = plan(source, salvage=True)
    images = by_name(report)
    one, other = images["right:1"], images["wrong:1"]
    assert code == 0
    assert (one.image_id, one.exact, other.exact) == (other.image_id, True, False)
    assert any("salvaged in the order of fsLayers" in warning for warning in other.warnings)
    assert {failure.error for failure in plan(source, salvage=True, strict=True)[1].failures} == {"not-exact"}


@pytest.mark.parametrize("place", ["registry", "layout"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_diff_ids_of_another_number_than_layers(count: int, place: str, tmp_path: Path) -> None:
    content = RegistryContent()
    manifest = json.loads(content.schema2("base", "top"))
    config = json.loads(content.blobs[manifest["config"]["digest"]])
    true_ids = config["rootfs"]["diff_ids"]
    config["rootfs"]["diff_ids"] = [*true_ids, true_ids[0]][:count]
    for history in (config.pop("history"), [{"created_by": "x"}] * 3):
        raw = json.dumps({**config, "history": history}).encode()
        manifest["config"].update(digest=content.blob(raw), size=len(raw))
        content.add("app", str(len(history)), json.dumps(manifest).encode())
    source = content.write_tree(tmp_path / "r") if place == "registry" else layout(content, tmp_path / "r")
    assert plan(source)[0] == 4
    code, report = plan(source, salvage=True)
    (image,) = report.images  # that whose history has as many steps: of the other nothing is proven
    assert (code, image.exact, [str(layer.diff_id) for layer in image.layers]) == (3, False, true_ids)


def test_wrong_diff_ids_in_a_config(tmp_path: Path) -> None:
    content = RegistryContent()
    right = content.schema2("base", "top")
    content.add("right", "1", right)
    manifest = json.loads(right)
    config = json.loads(content.blobs[manifest["config"]["digest"]])
    true_ids = config["rootfs"]["diff_ids"]
    config["rootfs"]["diff_ids"] = [true_ids[0], "sha256:" + "0" * 64]
    raw = json.dumps(config).encode()
    manifest["config"].update(digest=content.blob(raw), size=len(raw))
    content.add("wrong", "1", json.dumps(manifest).encode())
    source = content.write_tree(tmp_path / "r")
    assert plan(source)[0] == 3
    code, report = plan(source, salvage=True)
    image = by_name(report)["wrong:1"]
    assert (code, image.exact, by_name(report)["right:1"].exact) == (0, False, True)
    assert [str(layer.diff_id) for layer in image.layers] == true_ids
    assert any("diffIDs that its layers have" in warning for warning in image.warnings)


def test_bytes_that_no_digest_proves_are_not_salvaged_so(tmp_path: Path) -> None:
    """In an archive of Docker 1.10 the config's diffID is all that says what a layer is."""
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    entry = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}
    members = [("c.json", json.dumps(config).encode()), ("l/layer.tar", layer_tar("f"))]
    (tmp_path / "a.tar").write_bytes(build_tar([*members, ("manifest.json", json.dumps([entry]).encode())]))
    assert plan(tmp_path / "a.tar", salvage=True)[0] == 4


# --- a manifest.json that hides images -------------------------------------------------------------------------------


def stale(tmp_path: Path, manifest: object, change: Callable[[V1Archive], None] = lambda archive: None) -> Path:
    archive = V1Archive()
    archive.layer("base")
    archive.tag("new", "1", archive.layer("top", "base"))
    change(archive)
    tar = layer_tar("base.txt", content=b"base")
    config = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))]}}
    extra = [("c.json", json.dumps(config).encode()), ("manifest.json", json.dumps(manifest).encode())]
    path = tmp_path / "a.tar"
    path.write_bytes(archive.build(extra))
    return path


BASE = {"Config": "c.json", "RepoTags": ["old:1"], "Layers": [f"{legacy_id('base')}/layer.tar"]}


def test_what_a_stale_manifest_hides_is_named_and_can_be_converted(tmp_path: Path) -> None:
    source = stale(tmp_path, [BASE])
    code, report = plan(source)
    assert (code, list(by_name(report))) == (0, ["old:1"])
    assert any("--salvage converts new:1" in warning for warning in report.warnings)
    code, report = plan(source, salvage=True)
    assert (code, sorted(by_name(report))) == (0, ["new:1", "old:1"])
    assert len(by_name(report)["new:1"].layers) == 2


def test_an_archive_of_both_forms_hides_nothing(tmp_path: Path) -> None:
    both = {**BASE, "RepoTags": ["new:1"]}

    def only_base(archive: V1Archive) -> None:
        archive.members = [one for one in archive.members if legacy_id("base") in one[0]]
        archive.tags = {"new": {"1": legacy_id("base")}}

    code, report = plan(stale(tmp_path, [both], only_base))
    assert (code, list(by_name(report)), report.warnings) == (0, ["new:1"], ())


def test_a_further_name_of_an_image_is_a_name_of_that_image(tmp_path: Path) -> None:
    """`repositories` has another tag for the folder of its top layer: no second image is made of the v1 form."""

    def rename(archive: V1Archive) -> None:
        archive.members = [one for one in archive.members if legacy_id("base") in one[0]]
        archive.tags = {"store/renamed": {"1": legacy_id("base")}}

    source = stale(tmp_path, [BASE], rename)
    _, report = plan(source)
    assert any("--salvage converts store/renamed:1" in warning for warning in report.warnings)
    code, report = plan(source, salvage=True)
    (image,) = report.images
    assert (code, image.references) == (0, ("old:1", "store/renamed:1"))


@pytest.mark.parametrize("salvage", [False, True])
def test_a_name_for_what_is_not_here_is_named(salvage: bool, tmp_path: Path) -> None:
    def name_nothing(archive: V1Archive) -> None:
        archive.members = [one for one in archive.members if legacy_id("base") in one[0]]
        archive.tags = {"old": {"1": "b" * 64}, "new": {"1": "c" * 64}}  # `old` is in manifest.json, too

    code, report = plan(stale(tmp_path, [BASE], name_nothing), salvage=salvage)
    assert (code, list(by_name(report))) == (3 if salvage else 0, ["old:1"])
    texts = [failure.message for failure in report.failures] if salvage else report.warnings
    assert [text for text in texts if "which the archive does not hold" in text and "new:1 names" in text]
    assert not any("old:1 names" in text for text in texts)


def test_an_index_that_cannot_be_read_hides_nothing(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base"))
    documents = [("index.json", b'{"schemaVersion":2}'), ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
    (tmp_path / "a.tar").write_bytes(archive.build(documents))
    code, report = plan(tmp_path / "a.tar")
    assert (code, any("--salvage converts app:1" in warning for warning in report.warnings)) == (4, True)
    code, report = plan(tmp_path / "a.tar", salvage=True)
    assert (code, list(by_name(report))) == (3, ["app:1"])


@pytest.mark.parametrize("salvage", [False, True])
def test_an_empty_manifest_hides_nothing(salvage: bool, tmp_path: Path) -> None:
    code, report = plan(stale(tmp_path, []), salvage=salvage)
    assert (code, list(by_name(report))) == (0, ["new:1"])


def test_an_empty_index_hides_nothing(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base"))
    index = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    (tmp_path / "a.tar").write_bytes(
        archive.build([("index.json", index), ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')])
    )
    code, report = plan(tmp_path / "a.tar")
    assert (code, list(by_name(report))) == (0, ["app:1"])


# --- a json that a power cut left empty ------------------------------------------------------------------------------


def root_of(tmp_path: Path, driver: str = "aufs") -> RootBuilder:
    root = RootBuilder(tmp_path / "root", driver)
    for name, below in (("base", None), ("middle", "base"), ("top", "middle")):
        write(root.add(name, below) / name, name.encode())
    root.tag({"app": {"1": "top"}, "below": {"1": "base"}})
    return root


def empty_json(root: RootBuilder, name: str) -> None:
    (root.path / "graph" / identity(name) / "json").write_bytes(b"")


def list_ancestors(root: RootBuilder) -> None:
    ancestors = {"base": "", "middle": identity("base"), "top": f"{identity('middle')}\n{identity('base')}"}
    for name, text in ancestors.items():
        write(root.path / "aufs/layers" / identity(name), text.encode() + b"\n" * bool(text))


@pytest.mark.parametrize(
    ("lost", "content"),
    [("base", b""), ("middle", bytes(512)), ("top", b'{"id":"ab","par'), ("middle", b"{" + bytes(99)), ("top", None)],
)
def test_aufs_has_the_chain_of_a_layer_without_json(lost: str, content: bytes | None, tmp_path: Path) -> None:
    root = root_of(tmp_path)
    _, whole = plan(root.path)
    list_ancestors(root)
    path = root.path / "graph" / identity(lost) / "json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    code, report = plan(root.path)
    assert code in (3, 4)
    assert any("--salvage makes it" in failure.message for failure in report.failures)
    code, report = plan(root.path, salvage=True)
    image, right = by_name(report)["app:1"], by_name(whole)["app:1"]
    assert (code, image.exact) == (0, False)
    assert [layer.diff_id for layer in image.layers] == [layer.diff_id for layer in right.layers]
    assert any("salvaged" in warning and identity(lost) in warning for warning in image.warnings)


@pytest.mark.parametrize("content", [b"", bytes(65), identity("base").encode()[:40]])
@pytest.mark.parametrize(("lost", "is_listed"), [("base", True), ("middle", True), ("top", False)])
def test_a_list_of_aufs_that_is_lost_as_well_proves_nothing(
    lost: str, is_listed: bool, content: bytes, tmp_path: Path
) -> None:
    """The lists of the layers above have the same, where there are such; no layer becomes a base for that."""
    root = root_of(tmp_path)
    list_ancestors(root)
    empty_json(root, lost)
    write(root.path / "aufs/layers" / identity(lost), content)
    code, report = plan(root.path, salvage=True)
    assert (code, "app:1" in by_name(report)) == ((0, True) if is_listed else (3, False))
    assert all(len(image.layers) == 3 for name, image in by_name(report).items() if name == "app:1")


@pytest.mark.parametrize("name", ["v1Compatibility", "parent"])
def test_zeros_in_place_of_what_else_is_recorded_are_nothing(name: str, tmp_path: Path) -> None:
    root = root_of(tmp_path)
    list_ancestors(root)
    (root.path / "graph" / identity("middle") / name).write_bytes(bytes(64))
    assert plan(root.path)[0] == 0
    empty_json(root, "middle")
    code, report = plan(root.path, salvage=True)
    assert (code, len(by_name(report)["app:1"].layers)) == (0, 3)


def test_overlay_may_have_the_parent(tmp_path: Path) -> None:
    root = root_of(tmp_path, "overlay")
    write(root.path / "overlay" / identity("top") / "lower-id", identity("middle").encode())
    empty_json(root, "top")
    code, report = plan(root.path, salvage=True)
    assert (code, len(by_name(report)["app:1"].layers)) == (0, 3)


def test_a_layer_that_nothing_else_records_stays_lost(tmp_path: Path) -> None:
    root = root_of(tmp_path, "vfs")
    empty_json(root, "middle")
    code, report = plan(root.path, salvage=True)
    assert (code, list(by_name(report))) == (3, ["below:1"])


def test_the_registrys_json_of_a_pulled_layer_gives_the_same_image(tmp_path: Path) -> None:
    root = root_of(tmp_path)
    for name, below in (("base", None), ("middle", "base"), ("top", "middle")):
        place = root.path / "graph" / identity(name)
        document = json.loads((place / "json").read_bytes())
        stated = {**document, "id": legacy_id(name)} | ({"parent": legacy_id(below)} if below else {})
        (place / "v1Compatibility").write_text(json.dumps(stated))
    _, whole = plan(root.path)
    empty_json(root, "middle")
    code, report = plan(root.path, salvage=True)
    image = by_name(report)["app:1"]
    assert (code, image.exact, image.image_id) == (0, True, by_name(whole)["app:1"].image_id)
    assert any("v1Compatibility" in warning for warning in image.warnings)


@pytest.mark.parametrize(("digests", "is_read"), [(0, False), (1, True), (2, False)])
@pytest.mark.parametrize("content", [b"", None, b"\n"])
def test_a_tag_without_its_link_has_the_one_digest_of_its_index(
    content: bytes | None, digests: int, is_read: bool, tmp_path: Path
) -> None:
    registry = RegistryContent()
    found = [registry.add("app", "1", registry.schema2(*names)) for names in (("other",), ("base", "top"))]
    registry.add("sound", "1", registry.schema2("sound"))
    root = registry.write_tree(tmp_path / "r")
    tag = root / "docker/registry/v2/repositories/app/_manifests/tags/1"
    for digest in found[2 - digests :]:
        write(tag / "index/sha256" / digest[7:] / "link", digest.encode())
    (tag / "current/link").unlink()
    if content is not None:
        write(tag / "current/link", content)
    assert plan(root)[0] == 3
    code, report = plan(root, salvage=True)
    assert (code, "app:1" in by_name(report)) == (0 if is_read else 3, is_read)
    if is_read:
        assert len(by_name(report)["app:1"].layers) == 2
        assert any("the one digest in its index/ is taken" in text for text in by_name(report)["app:1"].warnings)
