"""Archives without some of their layers, converted into a registry that has those: its storage, or one pushed to."""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate import api
from migrate.model.digest import Digest
from migrate.model.options import Compression, ConvertOptions, EmptyLayers, Format
from migrate.report.document import Report
from tests.archives import V1Archive, build_tar, layer_tar, legacy_id
from tests.buckets import memory_bucket
from tests.cli.test_partial_archives import NAMES, images, modern, v1
from tests.peers import run
from tests.registries import Registry, docker_registry, proxy
from tests.registry_content import DOCKER_MANIFEST, RegistryContent
from tests.scripted import Reply, scripted_server

Build = Callable[..., Path]
PLAIN = ConvertOptions()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry") / "storage") as running:
        yield running


@pytest.fixture(params=["directory", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with memory_bucket():
        yield f"registry-storage:{tmp_path / 't' if request.param == 'directory' else 'memory://bucket/t'}"


def files_of(target: str, copy: Path) -> str:
    """A place that `verify` reads: the directory, or the bucket's objects in files."""
    place = target.removeprefix("registry-storage:")
    if not place.startswith("memory://"):
        return place
    filesystem = importlib.import_module("fsspec").filesystem("memory")
    filesystem.get("/bucket/t", str(copy), recursive=True)
    return str(copy)


def pair(build: Build, place: Path) -> tuple[Path, Path, dict[str, str]]:
    """Base images, an archive without their layers, and the IDs that it has with them."""
    whole = images(api.plan(build(place / "whole.tar", *NAMES)).report)
    return (
        build(place / "base.tar", "base", "middle"),
        build(place / "part.tar", *NAMES, without=("base", "middle")),
        whole,
    )


def facts(report: Report) -> list[object]:
    return [
        (image.references, image.image_id, image.exact, image.warnings, [layer.diff_id for layer in image.layers])
        for image in report.images
    ]


@pytest.mark.parametrize("build", [v1, modern])
def test_storage_gives_layers(build: Build, storage: str, tmp_path: Path) -> None:
    base, part, whole = pair(build, tmp_path)
    assert api.convert(base, storage, PLAIN).exit_code == 0
    tried = api.convert(part, storage, ConvertOptions(dry_run=True))
    done = api.convert(part, storage, PLAIN)
    assert (tried.exit_code, done.exit_code, images(done.report)) == (0, 0, whole)
    assert facts(tried.report) == facts(done.report)
    assert done.report.images[0].exact == (build is modern)
    assert api.verify(files_of(storage, tmp_path / "copy")) == []


def test_a_layout_gives_v1_layers_to_a_dry_run_too(tmp_path: Path) -> None:
    base, part, whole = pair(v1, tmp_path)
    assert api.convert(base, tmp_path / "t", PLAIN).exit_code == 0
    tried = api.convert(part, tmp_path / "t", ConvertOptions(dry_run=True))
    assert (tried.exit_code, images(tried.report)) == (0, whole)


def test_a_registry_gives_layers(registry: Registry, tmp_path: Path) -> None:
    """Of the repository that the run names; blobs that it has are not sent again."""
    base, part, whole = pair(modern, tmp_path)
    with proxy(registry) as (host, passage):
        target = f"docker://{host}/one"
        assert api.convert(base, target, PLAIN).exit_code == 0
        sent = passage.count("PUT", "/blobs/uploads/")
        tried = api.convert(part, target, ConvertOptions(dry_run=True))
        done = api.convert(part, target, PLAIN)
        assert (tried.exit_code, done.exit_code, images(done.report)) == (0, 0, whole)
        assert facts(tried.report) == facts(done.report)
        assert done.report.images[0].exact
        assert passage.count("PUT", "/blobs/uploads/") == sent + 2  # the config and the layer of the archive
        assert not any("_catalog" in path for _, path in passage.requests)


def test_a_blob_of_another_repository_is_mounted(registry: Registry, tmp_path: Path) -> None:
    """The run names both: one of its archives is whole, and of the other image the registry has the rest."""
    _, part, whole = pair(modern, tmp_path)
    seed = modern(tmp_path / "seed.tar", "base", "middle", "other")
    named = ConvertOptions(renames=(("^app$", "lender"),))
    with proxy(registry) as (host, passage):
        target = f"docker://{host}/two"
        assert api.convert(seed, target, named).exit_code == 0
        archive = V1Archive()
        archive.tag("lender", "own", archive.layer("own"))
        (tmp_path / "own.tar").write_bytes(archive.build())
        before = passage.count("PUT", "/blobs/uploads/")
        done = api.convert([tmp_path / "own.tar", part], target, PLAIN)
        assert (done.exit_code, images(done.report)["app:top"]) == (0, whole["app:top"])
        assert sum("mount=" in path and "from=two%2Flender" in path for _, path in passage.requests) >= 2
        assert passage.count("PUT", "/blobs/uploads/") == before + 4  # two configs, and the layers of the archives


def test_a_registry_has_no_map_of_v1_ids(registry: Registry, tmp_path: Path) -> None:
    base, part, _ = pair(v1, tmp_path)
    target = f"docker://{registry.host}/three"
    assert api.convert(base, target, PLAIN).exit_code == 0
    outcome = api.convert(part, target, PLAIN)
    assert (outcome.exit_code, [failure.error for failure in outcome.report.failures]) == (4, ["missing-parent"])


def test_images_without_a_name_take_from_their_repository(registry: Registry, tmp_path: Path) -> None:
    def nameless(path: Path) -> Path:
        with tarfile.open(path) as archive:
            members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
        entry = json.loads(members[-1][1])
        entry[0]["RepoTags"] = None
        path.write_bytes(build_tar([*members[:-1], ("manifest.json", json.dumps(entry).encode())]))
        return path

    base, part, whole = pair(modern, tmp_path)
    target = f"docker://{registry.host}/four"
    assert api.convert(nameless(base), target, PLAIN).exit_code == 0
    done = api.convert(nameless(part), target, PLAIN)
    assert [str(image.image_id) for image in done.report.images] == [whole["app:top"]]


def test_a_registry_that_cannot_be_searched_is_the_reason(tmp_path: Path) -> None:
    _, part, _ = pair(modern, tmp_path)

    with scripted_server(lambda _: Reply(403)) as (host, _):
        outcome = api.convert(part, f"docker://{host}", ConvertOptions(dry_run=True))
    (failure,) = outcome.report.failures
    assert failure.error == "missing-layer" and "the target could not be searched for it: " in failure.message


# --- what a registry claims, and is not so --------------------------------------------------------------------------


def put(content: RegistryContent, tag: str, diff_ids: list[Digest], *blobs: bytes) -> None:
    """An image of schema 2 with these diffIDs, true or not, and layers."""
    rootfs = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs, "name": tag}).encode()
    layers = [
        {"mediaType": f"{TYPES}.image.rootfs.diff.tar.gzip", "size": len(blob), "digest": content.blob(blob)}
        for blob in blobs
    ]
    named = {"mediaType": f"{TYPES}.container.image.v1+json", "size": len(config), "digest": content.blob(config)}
    document = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": named, "layers": layers}
    content.add("lender", tag, json.dumps(document).encode())


TYPES = "application/vnd.docker"
BASE, OTHER = layer_tar("base"), layer_tar("other")
WANTED = Digest.of(BASE)
PACKED = gzip.compress(BASE, mtime=0)


def right(content: RegistryContent) -> None:
    put(content, "right", [Digest.of(OTHER), WANTED], gzip.compress(OTHER, mtime=0), PACKED)


def beside_a_wrong_one(content: RegistryContent) -> None:
    for tag in ("a", "z"):
        put(content, tag, [WANTED], gzip.compress(layer_tar(f"lie-{tag}")))
    right(content)


def beside_a_damaged_one(content: RegistryContent) -> None:
    """Other bytes of the same tar, first by its tag."""
    other = gzip.compress(BASE, 1, mtime=1)
    put(content, "a", [WANTED], other)
    content.blobs[str(Digest.of(other))] = other[:-1] + b"?"
    right(content)


def claimed_twice(content: RegistryContent) -> None:
    """One blob that two configs give different diffIDs."""
    put(content, "a", [Digest.of(OTHER)], PACKED)
    right(content)


def beside_schema_1(content: RegistryContent) -> None:
    content.add("lender", "old", content.schema1("base"))
    right(content)


def in_a_list(content: RegistryContent) -> None:
    right(content)
    (digest,) = content.tags["lender"].values()
    entry = {"mediaType": DOCKER_MANIFEST, "digest": digest, "size": len(content.manifests[digest])}
    entry["platform"] = {"os": "linux", "architecture": "amd64"}
    document = {"schemaVersion": 2, "mediaType": f"{TYPES}.distribution.manifest.list.v2+json", "manifests": [entry]}
    del content.tags["lender"]
    content.add("lender", "list", json.dumps(document).encode())
    content.tags["other"] = {"x": digest}


def as_zstd(content: RegistryContent) -> None:
    put(content, "zstd", [WANTED], run("zstd", "-qc", stdin=BASE).stdout)


def as_bzip2(content: RegistryContent) -> None:
    put(content, "bzip2", [WANTED], bz2.compress(BASE))


def with_more_behind(content: RegistryContent) -> None:
    put(content, "more", [WANTED], PACKED + bytes(100))


@pytest.mark.parametrize(
    "fill",
    [
        right, beside_a_wrong_one, beside_a_damaged_one, claimed_twice, beside_schema_1, in_a_list, as_zstd, as_bzip2,
        with_more_behind,
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry_run", [False, True])
def test_bytes_are_read_before_they_are_believed(
    fill: Callable[[RegistryContent], None], dry_run: bool, tmp_path: Path
) -> None:
    content = RegistryContent()
    fill(content)
    target = f"registry-storage:{content.write_tree(tmp_path / 't')}"
    whole = images(api.plan(modern(tmp_path / "whole.tar", "base", "top")).report)
    part = modern(tmp_path / "part.tar", "base", "top", without=("base",))
    done = api.convert(part, target, ConvertOptions(dry_run=dry_run))
    assert (done.exit_code, images(done.report)) == (0, whole)
    if not dry_run:
        again = api.plan(target, ConvertOptions(images=("app:top",)))
        assert [layer.diff_id for layer in again.report.images[0].layers] == [WANTED, Digest.of(layer_tar("top"))]
        manifests = tmp_path / "t/docker/registry/v2/repositories/app/_manifests/revisions/sha256"
        (digest,) = (path.name for path in manifests.iterdir())
        manifest = (tmp_path / f"t/docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data").read_bytes()
        assert [layer["mediaType"] for layer in json.loads(manifest)["layers"]] == [
            f"{TYPES}.image.rootfs.diff.tar.gzip"
        ] * 2


def another_number(content: RegistryContent) -> str:
    put(content, "1", [WANTED], PACKED, gzip.compress(OTHER))
    return "layer.tar is missing"


def without_its_blob(content: RegistryContent) -> str:
    right(content)
    del content.blobs[str(Digest.of(PACKED))]
    return "layer.tar is missing"


def schema_1_alone(content: RegistryContent) -> str:
    content.add("lender", "old", content.schema1("base"))
    return "layer.tar is missing"


def of_other_bytes(content: RegistryContent) -> str:
    blob = gzip.compress(OTHER, mtime=0)
    put(content, "1", [WANTED], blob)
    return f"the target has {Digest.of(blob)} for it: "


def damaged(content: RegistryContent) -> str:
    right(content)
    content.blobs[str(Digest.of(PACKED))] = PACKED[:-1] + b"?"
    return f"the target has {Digest.of(PACKED)} for it: "


def cut_off(content: RegistryContent) -> str:
    right(content)
    content.blobs[str(Digest.of(PACKED))] = PACKED[:-10]
    return f"the target has {Digest.of(PACKED)} for it: "


@pytest.mark.parametrize("fill", [another_number, without_its_blob, schema_1_alone, of_other_bytes, damaged, cut_off])
def test_what_is_not_so_gives_nothing(fill: Callable[[RegistryContent], str], tmp_path: Path) -> None:
    content = RegistryContent()
    reason = fill(content)
    target = f"registry-storage:{content.write_tree(tmp_path / 't')}"
    part = modern(tmp_path / "part.tar", "base", "top", without=("base",))
    for dry_run in (True, False):
        (failure,) = api.convert(part, target, ConvertOptions(dry_run=dry_run)).report.failures
        assert failure.error == "missing-layer" and reason in failure.message


@pytest.mark.parametrize("build", [v1, modern])
@pytest.mark.parametrize("format_", [Format.DOCKER, Format.OCI])
@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.NONE])
def test_a_layout_of_zstd_gives_layers_in_the_form_of_the_run(
    build: Build, format_: Format, compression: Compression, tmp_path: Path
) -> None:
    base, part, whole = pair(build, tmp_path)
    zstd = ConvertOptions(format=Format.OCI, compression=Compression.ZSTD)
    assert api.convert(base, tmp_path / "t", zstd).exit_code == 0
    done = api.convert(part, tmp_path / "t", ConvertOptions(format=format_, compression=compression))
    assert (done.exit_code, images(done.report)) == (0, whole)
    assert api.verify(tmp_path / "t") == []


def test_empty_layers_that_an_earlier_run_kept_are_dropped_by_this_one(tmp_path: Path) -> None:
    def archive(path: Path, *names: str, without: str = "") -> Path:
        built = V1Archive()
        for name, below in zip(names, (None, *names), strict=False):
            if name != without:
                built.layer(name, below, tar=layer_tar() if name == "empty" else None)
        built.tag("app", names[-1], legacy_id(names[-1]))
        path.write_bytes(built.build())
        return path

    whole = images(api.plan(archive(tmp_path / "whole.tar", "base", "empty", "top")).report)
    base = archive(tmp_path / "base.tar", "base", "empty")
    assert api.convert(base, tmp_path / "t", ConvertOptions(empty_layers=EmptyLayers.KEEP)).exit_code == 0
    built = V1Archive()
    built.layer("top", "empty")
    built.tag("app", "top", legacy_id("top"))
    (tmp_path / "part.tar").write_bytes(built.build())
    done = api.convert(tmp_path / "part.tar", tmp_path / "t", PLAIN)
    assert images(done.report) == whole
