"""Folders and trees that hold registry manifests and blobs without a registry's storage around them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import UnfitSourceError
from migrate.model.digest import Digest
from migrate.model.legacy import SourceType
from migrate.model.options import ConvertOptions, ReadOptions
from migrate.readers.detect import detect, open_source
from migrate.report.document import Report
from migrate.storage.bucket import open_filesystem
from migrate.storage.directory_tree import DirectoryTree
from migrate.tar.tarsum import tarsums
from migrate.writers.discard import Discard
from tests.archives import layer_json, layer_tar, legacy_id
from tests.registry_content import DOCKER_MANIFEST, RegistryContent, in_envelope

LISTS = "application/vnd.docker.distribution.manifest.list.v2+json"
SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def plan(location: Path | str, source_type: SourceType | None = None, *, salvage: bool = False) -> Report:
    source = open_source(str(location), ReadOptions(dry_run=True, source_type=source_type, salvage=salvage))
    report = Conversion([OpenedSource(source.location, source)], ConvertOptions(dry_run=True), Discard()).run().report
    source.close()
    return report


def names(report: Report) -> dict[str, str]:
    """Image IDs by name."""
    return {name: str(image.image_id) for image in report.images for name in image.references}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def expected(content: RegistryContent, manifest: bytes, tmp_path: Path) -> str:
    """The image ID that the storage of a registry gives."""
    other = RegistryContent(dict(content.blobs))
    other.add("x", "1", manifest)
    return names(plan(other.write_tree(tmp_path / "expected")))["x:1"]


KINDS = ["schema 1", "signed schema 1", "schema 2"]


def manifest_of(content: RegistryContent, kind: str) -> bytes:
    if kind == "schema 2":
        return content.schema2("a", "b")
    return in_envelope(content.schema1("a", "b")) if kind.startswith("signed") else content.schema1("a", "b")


def payload_of(content: RegistryContent, kind: str) -> bytes:
    return content.schema2("a", "b") if kind == "schema 2" else content.schema1("a", "b")


@pytest.mark.parametrize("prefix", ["", "sha256__"], ids=["skopeo", "Artifactory"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_folder(kind: str, prefix: str, tmp_path: Path) -> None:
    content = RegistryContent()
    folder = tmp_path / "dir"
    put(folder / "manifest.json", manifest_of(content, kind))
    for digest, blob in content.blobs.items():
        put(folder / f"{prefix}{digest[7:]}", blob)
    if not prefix:
        put(folder / "version", b"Directory Transport Version: 1.1\n")
    assert detect(DirectoryTree(str(folder))) == [SourceType.DIR]
    report = plan(folder)
    (image,) = report.images
    assert str(image.image_id) == expected(content, payload_of(content, kind), tmp_path)
    assert image.references == (() if kind == "schema 2" else ("app:1.0",))
    assert not report.failures and report.sources[0].type == "dir"


def test_a_list_and_its_images(tmp_path: Path) -> None:
    content = RegistryContent()
    children = [content.schema2("a"), content.schema2("a", "b")]
    entries = [
        {
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "digest": str(Digest.of(child)),
            "size": len(child),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for child, architecture in zip(children, ("amd64", "arm64"), strict=True)
    ]
    listed = json.dumps({"schemaVersion": 2, "mediaType": LISTS, "manifests": entries}).encode()
    skopeo, artifactory = tmp_path / "skopeo", tmp_path / "artifactory"
    put(skopeo / "manifest.json", listed)
    put(artifactory / "team/app/1.0/list.manifest.json", listed)
    for child in children:
        put(skopeo / f"{Digest.of(child).hex}.manifest.json", child)
        put(artifactory / f"team/app/sha256__{Digest.of(child).hex}" / "manifest.json", child)
    for digest, blob in content.blobs.items():
        put(skopeo / digest[7:], blob)
        put(artifactory / f"team/app/sha256__{Digest.of(children[1]).hex}/sha256__{digest[7:]}", blob)
    for folder, references in ((skopeo, ()), (artifactory, ("team/app:1.0",))):
        report = plan(folder)
        assert not report.failures and len(report.images) == 2
        assert {image.references for image in report.images} == {references}


def artifactory_tree(tmp_path: Path) -> tuple[RegistryContent, Path]:
    """`app` with two tags of schema 1 and one of schema 2, each with its own copies of the blobs."""
    content = RegistryContent()
    root = tmp_path / "docker-local"
    for place, manifest in {
        "app/1.0": content.schema1("a", "b"),
        "app/retagged": content.schema1("a", "b"),
        "team/other/2.0": content.schema2("c"),
    }.items():
        put(root / place / "manifest.json", manifest)
        for digest, blob in content.blobs.items():
            put(root / place / f"sha256__{digest[7:]}", blob)
    return content, root


def test_a_tree_of_folders(tmp_path: Path) -> None:
    _, root = artifactory_tree(tmp_path)
    report = plan(root)
    assert sorted(names(report)) == ["app:1.0", "app:retagged", "team/other:2.0"] and not report.failures
    assert sorted(names(plan(root / "team/other"))) == ["other:2.0"]


def test_the_name_of_the_repository_in_artifactory_is_left_out_where_the_manifest_shows_it(tmp_path: Path) -> None:
    _, root = artifactory_tree(tmp_path)
    shutil.rmtree(root / "team")
    export = tmp_path / "export"
    export.mkdir()
    root.rename(export / "docker-local")
    assert sorted(names(plan(export))) == ["app:1.0", "app:retagged"]


def test_a_tree_costs_what_is_damaged(tmp_path: Path) -> None:
    content, root = artifactory_tree(tmp_path)
    (root / "app/retagged/manifest.json").write_bytes(b"<html>")
    put(root / "app/empty/manifest.json", b'{"schemaVersion": 2, "layers": 5}')
    (root / "team/other/2.0/manifest.json").write_bytes(content.schema2("d"))  # the blobs are still those of "c"
    report = plan(root, SourceType.DIR)
    assert "app:1.0" in names(report)
    failed = {name for failure in report.failures for name in failure.references}
    assert failed == {"app/retagged", "app:empty", "team/other:2.0"}
    assert any("is missing" in failure.message for failure in report.failures)


@pytest.mark.parametrize("extra", ["notes.txt", "app/README", "deep/er/archive.tar"])
def test_a_shelf_with_other_files_is_no_tree_of_folders(extra: str, tmp_path: Path) -> None:
    _, root = artifactory_tree(tmp_path)
    put(root / extra, b"x")
    assert detect(DirectoryTree(str(root))) == []


def test_a_tree_with_the_properties_that_artifactory_exports_beside_it(tmp_path: Path) -> None:
    _, root = artifactory_tree(tmp_path)
    wanted = names(plan(root))
    for place in ("app", "app/1.0", "app/1.0/manifest.json", "team/other/2.0"):
        put(root / f"{place}.artifactory-metadata" / "properties.xml", b"<properties/>")
    put(root / ".jfrog/repository.catalog", b"{}")
    put(root / "_uploads/half", b"x")
    put(root / "app/1.0/.DS_Store", b"x")
    report = plan(root)
    assert names(report) == wanted and not report.failures


def test_blobs_in_a_folder_of_their_own(tmp_path: Path) -> None:
    content, root = artifactory_tree(tmp_path)
    wanted = names(plan(root))
    for folder in ("app/1.0", "app/retagged", "team/other/2.0"):
        for digest in content.blobs:
            (root / folder / f"sha256__{digest[7:]}").unlink(missing_ok=True)
    for digest, blob in content.blobs.items():
        put(root / "shared/blobs" / f"sha256__{digest[7:]}", blob)
    report = plan(root)
    assert names(report) == wanted and not report.failures


@pytest.mark.parametrize("shares_blobs", [False, True])
def test_a_folder_of_blobs_without_a_manifest_is_a_loss(shares_blobs: bool, tmp_path: Path) -> None:
    _, root = artifactory_tree(tmp_path)
    (root / "app/1.0/manifest.json").unlink()
    if not shares_blobs:
        shutil.rmtree(root / "app/retagged")
    report = plan(root)
    assert "app:1.0" not in names(report) and "team/other:2.0" in names(report)
    (failure,) = report.failures
    assert failure.references == ("app/1.0",) and "blobs and no manifest.json" in failure.message
    for place in (root / "app", root / "team"):
        shutil.rmtree(place)
    put(root / "app/1.0" / f"sha256__{'0' * 64}", b"x")
    assert "no folder with a manifest.json of a registry in it, only 1 blobs" in plan(root).failures[0].message


def test_a_blob_that_artifactory_has_not_fetched(tmp_path: Path) -> None:
    content, root = artifactory_tree(tmp_path)
    layer = json.loads(content.schema2("c"))["layers"][0]["digest"][7:]
    for path in root.rglob(f"sha256__{layer}"):
        path.rename(path.with_name(f"{path.name}.marker"))
    (failure,) = plan(root).failures
    assert failure.references == ("team/other:2.0",)
    assert f"sha256__{layer}.marker, since Artifactory has not fetched it" in failure.message


def test_the_folders_of_skopeo_sync(tmp_path: Path) -> None:
    content = RegistryContent()
    manifest = content.schema2("c")
    places = ["app:1.0", "team/app:1.0", "registry.example.com/team/app:2", f"app@{Digest.of(manifest)}"]
    for place in places:
        put(tmp_path / "dir" / place / "manifest.json", manifest)
        put(tmp_path / "dir" / place / "version", b"Directory Transport Version: 1.1\n")
        for digest, blob in content.blobs.items():
            put(tmp_path / "dir" / place / digest[7:], blob)
    report = plan(tmp_path / "dir")
    assert sorted(names(report)) == sorted(places[:3]) and len(report.images) == 1 and not report.failures


# --- dogestry ----------------------------------------------------------------------------------------------------


def dogestry_images(root: Path, file: str = "layer.tar", pack: Callable[[bytes], bytes] = lambda tar: tar) -> None:
    for below, name in zip((None, "a", "b"), ("a", "b", "c"), strict=False):
        folder = root / "images" / legacy_id(name)
        put(folder / "json", layer_json(legacy_id(name), legacy_id(below) if below else None))
        put(folder / "VERSION", b"1.0")
        put(folder / file, pack(layer_tar(name)))


def test_the_tree_that_dogestry_wrote(tmp_path: Path) -> None:
    root = tmp_path / "dogestry"
    dogestry_images(root)
    put(root / "repositories/app/latest", legacy_id("c").encode())
    put(root / "repositories/team/deep/app/1.0", legacy_id("b").encode())
    put(root / "repositories/app/gone", b"0" * 64)
    report = plan(root)
    assert sorted(names(report)) == ["app:latest", "team/deep/app:1.0"]
    assert [failure.references for failure in report.failures] == [("app:gone",)]
    assert [len(image.layers) for image in report.images if image.references] == [3, 2]


@pytest.mark.parametrize("which", ["all", "one", "in the place of a registry's"])
def test_layers_that_were_packed_where_they_are(which: str, tmp_path: Path) -> None:
    root, packed = tmp_path / "plain", tmp_path / "packed"
    dogestry_images(root)
    put(root / "repositories/app/latest", legacy_id("c").encode())
    shutil.copytree(root, packed)
    for name in ("b",) if which == "one" else ("a", "b", "c"):
        layer = packed / "images" / legacy_id(name) / "layer.tar"
        put(layer.with_name("layer.gz" if which.startswith("in") else "layer.tar.gz"), gzip.compress(layer_tar(name)))
        layer.unlink()
    if which.startswith("in"):
        shutil.rmtree(packed / "repositories")
        put(packed / "repositories/library/app/tag_latest", legacy_id("c").encode())
    report = plan(packed)
    assert names(report) == names(plan(root)) and not report.failures


def test_layers_in_lz4_are_named(tmp_path: Path) -> None:
    dogestry_images(tmp_path, "layer.tar.lz4", lambda tar: b"\x04\x22\x4d\x18" + tar)
    put(tmp_path / "repositories/app/latest", legacy_id("c").encode())
    (failure,) = plan(tmp_path).failures
    assert failure.references == ("app:latest",) and "layer.tar.lz4, and lz4 is not read: `lz4 -d" in failure.message


def test_images_without_repositories(tmp_path: Path) -> None:
    dogestry_images(tmp_path)
    report = plan(tmp_path)
    assert [len(image.layers) for image in report.images] == [3] and not report.failures
    assert any("no repositories/: names and tags are not in this tree" in warning for warning in report.warnings)


# --- a registry's storage of which a part is lost ----------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "docker/registry/v2"])
def test_a_storage_without_repositories(below: str, tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("a", "b"))
    content.add("app", "2.0", content.schema2("c"))
    root = content.write_tree(tmp_path / "tree")
    whole = names(plan(root))
    shutil.rmtree(root / "docker/registry/v2/repositories")
    report = plan(root / below)
    assert names(report) == {"app:1.0": whole["app:1.0"]}
    assert {str(image.image_id) for image in report.images} == set(whole.values()) and not report.failures
    assert any("no repositories/" in warning for warning in report.warnings)
    assert all(any("found among the blobs" in text for text in image.warnings) for image in report.images)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "has only names: the layers are in docker/registry/v2/blobs/ (v2)"),
        ("docker/registry/v2", "has only names: the layers are in blobs/ (v2) or images/ (v1)"),
        ("docker/registry/v2/repositories", "a part of a registry's storage without its blobs"),
        ("docker/registry/v2/repositories/app", "a part of a registry's storage without its blobs"),
    ],
)
def test_names_without_blobs_are_named_for_what_they_are(place: str, said: str, tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("a", "b"))
    root = content.write_tree(tmp_path / "tree")
    shutil.rmtree(root / "docker/registry/v2/blobs")
    with pytest.raises(UnfitSourceError, match=re.escape(said)):
        open_source(str(root / place))


def test_blobs_named_without_the_directory_above_them(tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("a", "b"))
    root = content.write_tree(tmp_path / "tree")
    with pytest.raises(UnfitSourceError, match="name the directory above it"):
        open_source(str(root / "docker/registry/v2/blobs"))


def test_a_repository_without_its_tags(tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("a", "b"))
    root = content.write_tree(tmp_path / "tree")
    shutil.rmtree(root / "docker/registry/v2/repositories/app/_manifests/tags")
    report = plan(root)
    assert len(report.images) == 1 and not names(report)
    assert any("app: no _manifests/tags/: its tags are not in this tree" in warning for warning in report.warnings)


def test_tags_whose_revisions_are_lost(tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("a", "b"))
    root = content.write_tree(tmp_path / "tree")
    wanted = names(plan(root))
    revisions = root / "docker/registry/v2/repositories/app/_manifests/revisions"
    next(revisions.rglob("link")).unlink()
    assert not plan(root).images and not plan(root, salvage=True).images
    shutil.rmtree(revisions)
    assert "--salvage" in plan(root).failures[0].message and not plan(root).images
    assert names(plan(root, salvage=True)) == wanted


def test_a_repository_without_its_manifests(tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema2("a", "b"))
    content.add("whole", "2.0", content.schema2("c"))
    root = content.write_tree(tmp_path / "tree")
    ids = names(plan(root))
    repository = root / "docker/registry/v2/repositories/app"
    shutil.rmtree(repository / "_manifests")
    put(repository / "_layers/sha256" / ("0" * 64) / "link", b"sha256:" + b"0" * 64)
    report = plan(root)
    assert names(report) == {"whole:2.0": ids["whole:2.0"]}
    assert {str(image.image_id) for image in report.images} == set(ids.values())
    assert any("app: no _manifests/" in warning for warning in report.warnings)


def test_a_manifest_without_a_link_in_a_whole_storage_stays_deleted(tmp_path: Path) -> None:
    content = RegistryContent()
    digest = content.add("app", "1.0", content.schema2("a"))
    content.add("app", "2.0", content.schema2("b"))
    root = content.write_tree(tmp_path / "tree")
    manifests = root / "docker/registry/v2/repositories/app/_manifests"
    shutil.rmtree(manifests / "tags/1.0")
    shutil.rmtree(manifests / "revisions/sha256" / digest[7:])
    assert list(names(plan(root))) == ["app:2.0"] and len(plan(root).images) == 1


# --- what registries 2.0 and 2.1.0 wrote -------------------------------------------------------------------------


def move_links(root: Path, *, every: int = 1) -> None:
    """The links of manifests to where registry 2.1.0 wrote them."""
    links = sorted(root.glob("docker/registry/v2/repositories/**/_manifests/revisions/sha256/*/link"))
    assert links
    for link in links[::every]:
        place = link.parents[4] / "_layers/sha256" / link.parent.name / "link"
        put(place, link.read_bytes())
        shutil.rmtree(link.parent)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("wrapping", ["", "docker", "docker/registry", "docker/registry/v2", "tar", "bucket"])
def test_links_of_manifests_among_those_of_layers(every: int, wrapping: str, tmp_path: Path) -> None:
    content = RegistryContent()
    root = tmp_path / "tree"
    for name in ("app", "team/app", "team/app/deeper/one"):
        for tag in ("1.0", "2.0"):
            content.add(name, tag, content.schema1(name.replace("/", "-"), tag))
    content.write_tree(root)
    wanted = names(plan(root))
    assert len(wanted) == 6
    move_links(root, every=every)
    location: Path | str = root / wrapping
    if wrapping == "tar":
        location = shutil.make_archive(str(tmp_path / "tree"), "gztar", tmp_path, "tree")
    elif wrapping == "bucket":
        location = f"memory://{tmp_path.name}/registry"
        filesystem, prefix = open_filesystem(location)
        filesystem.put(str(root), prefix, recursive=True)
    report = plan(location)
    assert names(report) == wanted and not report.failures


def test_what_registry_2_1_0_had_under_a_tag_before(tmp_path: Path) -> None:
    """Where it is linked in `_layers/` alone, only the tag's history leads to it; a link that is gone was deleted."""
    content = RegistryContent()
    digests = [content.add("app", "1.0", content.schema1(name)) for name in ("first", "second", "deleted", "last")]
    root = content.write_tree(tmp_path / "tree")
    repository = root / "docker/registry/v2/repositories/app"
    for digest in digests:
        put(repository / f"_manifests/tags/1.0/index/sha256/{digest[7:]}/link", digest.encode())
        if digest != digests[2]:
            put(repository / f"_layers/sha256/{digest[7:]}/link", digest.encode())
    shutil.rmtree(repository / "_manifests/revisions")
    report = plan(root)
    assert len(report.images) == 3 and list(names(report)) == ["app:1.0"] and not report.failures


def other_name(kind: str, blob: bytes) -> str:
    if kind.startswith("tarsum"):
        return tarsums(io.BytesIO(gzip.decompress(blob)), b"", [kind], "test")[kind][0]
    return f"{kind}:{hashlib.new(kind, blob).hexdigest()}"


@pytest.mark.parametrize("outcome", ["right", "wrong link", "no link"])
@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("tarsum.v1+sha256", "tarsum/v1/sha256"),
        ("tarsum+sha256", "tarsum/v0/sha256"),
        ("tarsum.dev+sha256", "tarsum/dev/sha256"),
        ("sha512", "sha512"),
        ("sha384", "sha384"),
    ],
)
def test_layers_that_registry_2_0_links_by_another_name(kind: str, folder: str, outcome: str, tmp_path: Path) -> None:
    content = RegistryContent()
    plain = content.schema1("a", "b")
    wanted = expected(content, plain, tmp_path)
    document = json.loads(plain)
    digest = document["fsLayers"][0]["blobSum"]
    name = other_name(kind, content.blobs[digest])
    document["fsLayers"][0]["blobSum"] = name
    content.add("app", "1.0", json.dumps(document).encode())
    root = content.write_tree(tmp_path / "tree")
    linked = document["fsLayers"][1]["blobSum"] if outcome == "wrong link" else digest
    if outcome != "no link":
        place = root / "docker/registry/v2/repositories/app/_layers" / folder / name.partition(":")[2]
        put(place / "link", linked.encode())
    report = plan(root)
    if outcome == "no link":
        assert not report.images and [failure.references for failure in report.failures] == [("app:1.0",)]
        return
    (image,) = report.images
    damaged = [row for row in image.layers if row.damaged]
    if outcome == "right":
        assert str(image.image_id) == wanted and image.exact and not damaged
    else:
        assert not image.exact and damaged and f"is linked as {name}" in str(damaged[0].note)


# --- OCI layouts with schema 1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_a_layout_that_holds_schema_1(signed: bool, tmp_path: Path) -> None:
    content = RegistryContent()
    payload = content.schema1("a", "b")
    document = in_envelope(payload) if signed else payload
    root = tmp_path / "layout"
    digest = Digest.of(payload)
    put(root / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    for name, blob in {**content.blobs, str(digest): document}.items():
        put(root / "blobs/sha256" / name[7:], blob)
    entry = {
        "mediaType": SIGNED,
        "digest": str(digest),
        "size": len(document),
        "annotations": {"org.opencontainers.image.ref.name": "team/app:old"},
    }
    put(root / "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    assert names(plan(root)) == {"team/app:old": expected(content, payload, tmp_path)}
    (root / "blobs/sha256" / next(iter(content.blobs))[7:]).unlink()
    report = plan(root)
    assert not report.images and [failure.references for failure in report.failures] == [("team/app:old",)]


SCHEMA1_TYPES = [
    "application/vnd.docker.distribution.manifest.v1+json",
    SIGNED,
    "application/json",
    None,
    "application/vnd.oci.image.manifest.v1+json",
    LISTS,
]


@pytest.mark.parametrize("media_type", SCHEMA1_TYPES)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_schema_1_under_any_media_type_and_in_an_index(
    media_type: str | None, signed: bool, depth: int, tmp_path: Path
) -> None:
    content = RegistryContent()
    payload = content.schema1("a", "b")
    document = in_envelope(payload) if signed else payload
    wanted = expected(content, payload, tmp_path)
    other = content.schema2("c")
    content.blobs[str(Digest.of(other))] = other

    def entry(document: bytes, kind: str | None, architecture: str | None = None) -> dict[str, Any]:
        content.blobs[str(Digest.of(document))] = document
        found: dict[str, Any] = {"digest": str(Digest.of(document)), "size": len(document)}
        if kind is not None:
            found["mediaType"] = kind
        return found if architecture is None else found | {"platform": {"os": "linux", "architecture": architecture}}

    top = entry(document, media_type, "amd64")
    for _ in range(depth):
        beside = entry(other, DOCKER_MANIFEST, "arm64")
        below = {"schemaVersion": 2, "manifests": [top, beside]}
        top = entry(json.dumps(below).encode(), LISTS)
    top["annotations"] = {"org.opencontainers.image.ref.name": "app:old"}
    schema1_layout(content, tmp_path / "layout")
    put(tmp_path / "layout/index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode())
    report = plan(tmp_path / "layout")
    assert not report.failures
    assert {str(image.image_id) for image in report.images if image.references == ("app:old",)} >= {wanted}
    assert len(report.images) == 1 + bool(depth)


def test_an_archive_of_such_a_folder_is_named_for_what_it_is(tmp_path: Path) -> None:
    content = RegistryContent()
    put(tmp_path / "dir/manifest.json", content.schema2("a"))
    shutil.make_archive(str(tmp_path / "archive"), "tar", tmp_path / "dir")
    report = plan(tmp_path / "archive.tar")
    assert "is a registry's manifest" in report.failures[0].message


def schema1_dir(content: RegistryContent, folder: Path) -> None:
    put(folder / "manifest.json", in_envelope(content.schema1("a", "b")))
    put(folder / "version", b"Directory Transport Version: 1.1\n")
    for digest, blob in content.blobs.items():
        put(folder / f"{digest[7:]}.tar", blob)  # as skopeo called them at first


def schema1_layout(content: RegistryContent, folder: Path) -> None:
    manifest = in_envelope(content.schema1("a", "b"))
    content.blobs[str(Digest.of(manifest))] = manifest
    name = {"org.opencontainers.image.ref.name": "app:1.0"}
    entry = {"mediaType": SIGNED, "digest": str(Digest.of(manifest)), "size": len(manifest), "annotations": name}
    put(folder / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    put(folder / "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    for digest, blob in content.blobs.items():
        put(folder / "blobs/sha256" / digest[7:], blob)


@pytest.mark.parametrize("build", [schema1_dir, schema1_layout])
@pytest.mark.parametrize(
    "wrapping", ["tar of the folder", "tar of its content", "gzip of its content", "tar deep inside", "gzip", "bucket"]
)
def test_schema_1_in_any_wrapping(
    build: Callable[[RegistryContent, Path], None], wrapping: str, tmp_path: Path
) -> None:
    content = RegistryContent()
    folder = tmp_path / "backup" / "images" / "one"
    build(content, folder)
    wanted = names(plan(folder))
    assert list(wanted) == ["app:1.0"]
    location = str(tmp_path / "wrapped")
    if wrapping == "bucket":
        filesystem, prefix = open_filesystem(f"memory://{tmp_path.name}/one")
        filesystem.put(str(folder), prefix, recursive=True)
        location = f"memory://{tmp_path.name}/one"
    else:
        kind = "w:gz" if wrapping.startswith("gzip") else "w"
        name = "." if wrapping.endswith("content") else "backup/images/one" if wrapping == "tar deep inside" else "one"
        with tarfile.open(location, kind) as archive:  # type: ignore[call-overload]
            archive.add(folder, name)
    assert names(plan(location)) == wanted
