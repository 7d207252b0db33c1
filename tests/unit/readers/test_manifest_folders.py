"""Folders and trees that hold registry manifests and blobs without a registry's storage around them."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.convert.run import Conversion, OpenedSource
from migrate.model.digest import Digest
from migrate.model.legacy import SourceType
from migrate.model.options import ConvertOptions, ReadOptions
from migrate.readers.detect import detect, open_source
from migrate.report.document import Report
from migrate.storage.bucket import open_filesystem
from migrate.storage.directory_tree import DirectoryTree
from migrate.writers.discard import Discard
from tests.archives import layer_json, layer_tar, legacy_id
from tests.registry_content import RegistryContent, in_envelope

LISTS = "application/vnd.docker.distribution.manifest.list.v2+json"
SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def plan(location: Path | str, source_type: SourceType | None = None) -> Report:
    source = open_source(str(location), ReadOptions(dry_run=True, source_type=source_type))
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


# --- dogestry ----------------------------------------------------------------------------------------------------


def test_the_tree_that_dogestry_wrote(tmp_path: Path) -> None:
    root = tmp_path / "dogestry"
    for below, name in zip((None, "a", "b"), ("a", "b", "c"), strict=False):
        folder = root / "images" / legacy_id(name)
        put(folder / "json", layer_json(legacy_id(name), legacy_id(below) if below else None))
        put(folder / "VERSION", b"1.0")
        put(folder / "layer.tar", layer_tar(name))
    put(root / "repositories/app/latest", legacy_id("c").encode())
    put(root / "repositories/team/deep/app/1.0", legacy_id("b").encode())
    put(root / "repositories/app/gone", b"0" * 64)
    report = plan(root)
    assert sorted(names(report)) == ["app:latest", "team/deep/app:1.0"]
    assert [failure.references for failure in report.failures] == [("app:gone",)]
    assert [len(image.layers) for image in report.images if image.references] == [3, 2]


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
        put(folder / digest[7:], blob)


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
