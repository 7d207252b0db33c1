"""Real docker-registry servers: what migrate stores is served, what it pushes arrives, each byte once."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.distribution.client import RegistryClient, open_client
from migrate.distribution.credentials import encode_config
from migrate.errors import TargetError
from migrate.layout.view import open_layout
from migrate.model.digest import Digest
from migrate.model.options import ConvertOptions
from migrate.writers.push import PushedBlob, Pusher
from migrate.writers.push_layout import read_layout
from migrate.writers.registry import RegistryTarget
from tests.archives import V1Archive, layer_json, legacy_id
from tests.cases import Case, case
from tests.command import migrate
from tests.peers import DockerEngine, need, run
from tests.registries import (
    Registry,
    docker_registry,
    every_third,
    extract_tree,
    make_certificate,
    proxy,
    should_convert,
    token_server,
)

pytestmark = pytest.mark.peer

MIXED = case("registry-v2-mixed-2.8")
WIDE = case("registry-v2-schema1-2.1.1-wide")
V1 = case("registry-v1-tree-wide")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixed case, converted once: schema 1, schema 2, OCI and lists, in four repositories."""
    folder = tmp_path_factory.mktemp("layout")
    assert migrate("convert", "-q", extract_tree(MIXED, folder), folder / "out").code == 0
    return folder / "out"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    (tmp_path / "storage").mkdir()
    with docker_registry(tmp_path / "storage") as started:
        yield started


def references(layout: Path) -> list[str]:
    report = json.loads((layout / "migration-report.json").read_bytes())
    return sorted(reference for image in report["images"] for reference in image["references"])


def blob_bytes(layout: Path) -> int:
    """Bytes of all configs and layers, each once."""
    names = {blob.digest.hex for blob in layout_blobs(layout)}
    return sum((layout / "blobs" / "sha256" / name).stat().st_size for name in names)


def layout_blobs(layout: Path) -> list[PushedBlob]:
    images = read_layout(open_layout(str(layout)), lambda reference: reference, untagged=True)
    return [blob for manifest in images.manifests.values() for blob in manifest.blobs]


def config_of(host: str, reference: str, *options: str) -> str:
    raw = run("skopeo", "inspect", "--raw", "--config", "--tls-verify=false", *options, f"docker://{host}/{reference}")
    return f"sha256:{hashlib.sha256(raw.stdout).hexdigest()}"


def push(layout: Path, host: str, slept: list[float] | None = None, *, jobs: int = 4) -> RegistryClient:
    """As the command does it, but without waiting."""
    pauses = [] if slept is None else slept
    client = open_client(host, sleep=pauses.append)
    target = RegistryTarget(host, ConvertOptions(), client=client)
    images = read_layout(open_layout(str(layout)), target.place)
    try:
        Pusher(client, jobs=jobs).push(images.manifests, images.names)
    finally:
        target.close()
    return client


# --- registry-storage: -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [V1, MIXED], ids=lambda case: case.name)
def test_a_registry_serves_the_storage_and_skopeo_copies_every_image_out(source: Case, tmp_path: Path) -> None:
    need("skopeo")
    tree = extract_tree(source, tmp_path)
    storage = tmp_path / "storage"
    assert migrate("convert", "-q", "--empty-layers", "keep", tree, f"registry-storage:{storage}").code == 0
    with docker_registry(storage) as registry:
        for reference, expected in source.expected["images"].items():
            options = ("--override-arch", "amd64")
            assert config_of(registry.host, reference, *options) == expected["image_id"], reference
            copied = f"oci:{tmp_path / 'copied'}:x"
            run(
                "skopeo",
                "copy",
                "-q",
                *options,
                "--src-tls-verify=false",
                f"docker://{registry.host}/{reference}",
                copied,
            )


def test_the_docker_engine_pulls_the_file_system_of_the_sources_layers(engine: DockerEngine, tmp_path: Path) -> None:
    """Beside it, the engine's own legacy load of a save made of the same jsons and the unpacked layers."""
    references = ["team/twins:1.6.2-a", "alpine-like-hand:by-1.9.1", "team/upgraded:six"]
    engine.remove_all()
    tree = extract_tree(V1, tmp_path)
    storage = tmp_path / "storage"
    assert migrate("convert", "-q", tree, f"registry-storage:{storage}").code == 0
    pulled = {}
    with docker_registry(storage) as registry:
        for reference in references:
            engine.docker("pull", "-q", f"{registry.host}/{reference}")
            pulled[reference] = engine.export(f"{registry.host}/{reference}")
    engine.remove_all()
    engine.load(legacy_save(tree, {reference: V1.expected["images"][reference] for reference in references}))
    for reference in references:
        assert pulled[reference] == engine.export(reference), reference
    engine.remove_all()


def legacy_save(tree: Path, images: dict[str, dict[str, Any]]) -> bytes:
    """A v1-only `docker save` of a v1 registry's images."""
    archive = V1Archive()
    for reference, row in images.items():
        name, _, tag = reference.rpartition(":")
        archive.tag(name, tag, row["v1_id"])
    for identity in sorted({identity for row in images.values() for identity in row["v1_chain"]}):
        folder = tree / "images" / identity
        raw = (folder / "layer").read_bytes()
        layer = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        content = (("VERSION", b"1.0"), ("json", (folder / "json").read_bytes()), ("layer.tar", layer))
        archive.members += [(f"{identity}/{name}", file) for name, file in content]
    return archive.build()


def test_an_existing_tree_is_only_added_to(tmp_path: Path) -> None:
    storage = extract_tree(MIXED, tmp_path)
    before = {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}
    assert migrate("convert", "-q", extract_tree(V1, tmp_path), f"registry-storage:{storage}").code == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    with docker_registry(storage) as registry:
        client = open_client(registry.host)
        assert "team/deep/er/twins" in client.catalog() and "team/nested/name/x" in client.catalog()
        assert client.tags("team/app") == sorted(
            reference.removeprefix("team/app:")
            for source in (MIXED, V1)
            for reference in source.expected["images"]
            if reference.startswith("team/app:")
        )
        client.close()


def test_a_second_run_writes_nothing_again(tmp_path: Path) -> None:
    tree = extract_tree(V1, tmp_path)
    storage = tmp_path / "storage"

    def state() -> dict[Path, tuple[int, int]]:
        files = (path for path in (storage / "docker").rglob("*") if path.is_file())
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    assert migrate("convert", "-q", tree, f"registry-storage:{storage}").code == 0
    first = state()
    assert migrate("convert", "-q", tree, f"registry-storage:{storage}").code == 0
    assert state() == first


# --- push --------------------------------------------------------------------------------------------------------


def test_every_byte_goes_once_into_an_empty_registry(layout: Path, registry: Registry) -> None:
    with proxy(registry) as (host, passage):
        client = push(layout, host)
    assert client.traffic.blob_bytes == blob_bytes(layout)
    assert client.traffic.repeated_bytes == 0
    assert client.traffic.mounts > 0
    assert passage.body_bytes == client.traffic.blob_bytes + client.traffic.manifest_bytes
    for reference in references(layout):
        config_of(registry.host, reference, "--override-arch", "amd64")


def test_a_registry_that_has_all_gets_nothing(layout: Path, registry: Registry) -> None:
    push(layout, registry.host)
    with proxy(registry) as (host, passage):
        client = push(layout, host)
    assert (client.traffic.blob_bytes, client.traffic.manifest_bytes, passage.body_bytes) == (0, 0, 0)
    assert passage.count("PUT") == passage.count("POST") == passage.count("PATCH") == 0


def test_a_half_full_registry_gets_the_other_half(layout: Path, registry: Registry) -> None:
    first = migrate("push", layout, f"docker://{registry.host}", "--image", "team/deep/er/*")
    assert first.code == 0, first.err
    already = registry.blob_bytes()
    client = push(layout, registry.host)
    whole = client.traffic.blob_bytes + client.traffic.manifest_bytes
    # manifests go by digest and by tag; what is stored grew by less than what was sent, blobs by exactly that
    assert 0 < client.traffic.blob_bytes < blob_bytes(layout)
    assert registry.blob_bytes() - already <= whole


def test_a_registry_that_fails_every_third_request_gets_all(layout: Path, registry: Registry) -> None:
    slept: list[float] = []
    with proxy(registry, every_third) as (host, passage):
        # One upload at a time: several that take turns without a pause can meet every third request for ever.
        client = push(layout, host, slept, jobs=1)
    assert passage.failed > 10 and len(slept) >= passage.failed // 2
    assert client.traffic.blob_bytes == blob_bytes(layout)
    for reference in references(layout):
        config_of(registry.host, reference, "--override-arch", "amd64")


def test_retry_after_is_obeyed(layout: Path, registry: Registry) -> None:
    slept: list[float] = []
    with proxy(registry, lambda number, *_: "429" if number == 5 else None) as (host, _):
        push(layout, host, slept)
    assert slept == [7.0]


def test_a_broken_connection_is_tried_again(layout: Path, registry: Registry) -> None:
    with proxy(registry, lambda number, *_: "cut" if number % 7 == 0 else None) as (host, passage):
        client = push(layout, host)
    assert passage.failed > 5
    assert client.traffic.blob_bytes == blob_bytes(layout)


@pytest.mark.parametrize("fault", ["cut", "503", "half"])
def test_a_large_blob_goes_on_where_it_stopped(
    fault: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a chunk is lost whole. docker-registry drops an upload of which half a chunk came; that begins anew."""
    monkeypatch.setattr("migrate.distribution.uploads.CHUNK_BYTES", 64 * 1024)
    content = os.urandom(300_000)
    path = tmp_path / "blob"
    path.write_bytes(content)
    patches = 0

    def third_patch_breaks(number: int, method: str, path: str) -> str | None:
        nonlocal patches
        del number, path
        patches += method == "PATCH"
        return fault if method == "PATCH" and patches == 3 else None

    digest = Digest.of(content)
    with proxy(registry, third_patch_breaks) as (host, passage):
        client = open_client(host, sleep=lambda _: None)
        client.upload_blob("big", digest, len(content), lambda: path.open("rb"))
        assert client.blob_size("big", digest) == len(content)
        with client.open_blob("big", digest) as stream:
            assert stream.read() == content
        client.close()
    assert passage.failed == 1
    if fault != "half":
        assert passage.body_bytes == len(content) == client.traffic.blob_bytes


def test_an_interrupted_push_goes_on(layout: Path, registry: Registry) -> None:
    def refuse_after_half(number: int, method: str, path: str) -> str | None:
        return "403" if method in ("PUT", "PATCH") and "/blobs/" in path and number > 60 else None

    with proxy(registry, refuse_after_half) as (host, first), pytest.raises(TargetError, match="403"):
        push(layout, host)
    with proxy(registry) as (host, second):
        client = push(layout, host)
    sent = first.body_bytes + client.traffic.blob_bytes
    assert second.body_bytes > 0 and sent == blob_bytes(layout)


def test_a_registry_that_demands_a_token(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "docker").mkdir()
    with token_server(tmp_path, "ann", "secret") as tokens:
        with docker_registry(tmp_path / "storage", token=tokens) as registry:
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
            refused = migrate("push", layout, f"docker://{registry.host}")
            assert refused.code == 5 and "docker login" in refused.err
            (tmp_path / "docker" / "config.json").write_bytes(encode_config({registry.host: ("ann", "secret")}))
            done = migrate("push", layout, f"docker://{registry.host}")
            assert done.code == 0, done.err
            again = migrate("convert", "-q", f"docker://{registry.host}/team/app", tmp_path / "back")
            assert again.code == 0, again.err
    assert "repository:team/app:pull,push" in tokens.scopes and "repository:team/app:pull" in tokens.scopes
    assert "secret" not in refused.err + done.err + again.err


def test_a_credential_helper_is_asked(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "docker").mkdir()
    helper = tmp_path / "docker-credential-test"
    helper.write_text('#!/bin/sh\ncat > "$0.asked"\necho \'{"Username": "ann", "Secret": "secret"}\'\n')
    helper.chmod(0o755)
    with token_server(tmp_path, "ann", "secret") as tokens:
        with docker_registry(tmp_path / "storage", token=tokens) as registry:
            config = {"credHelpers": {registry.host: "test"}}
            (tmp_path / "docker" / "config.json").write_text(json.dumps(config))
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
            monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            done = migrate("push", layout, f"docker://{registry.host}")
            assert done.code == 0, done.err
            assert (tmp_path / "docker-credential-test.asked").read_text() == registry.host


def test_a_registry_behind_tls_with_a_private_ca(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "storage").mkdir()
    certificate = make_certificate(tmp_path)
    with docker_registry(tmp_path / "storage", tls=certificate) as registry:
        refused = migrate("push", layout, f"docker://{registry.host}")
        assert refused.code == 5 and "certificate" in refused.err.lower()
        assert migrate("push", "--insecure", layout, f"docker://{registry.host}/insecure").code == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
        done = migrate("push", layout, f"docker://{registry.host}/trusted")
        assert done.code == 0, done.err
    assert (tmp_path / "storage/docker/registry/v2/repositories/trusted/team/app").is_dir()


# --- docker:// ---------------------------------------------------------------------------------------------------


def test_a_registry_as_a_target_gets_what_a_layout_gets(registry: Registry, tmp_path: Path) -> None:
    tree = extract_tree(V1, tmp_path)
    done = migrate("convert", "-q", "--empty-layers", "keep", tree, f"docker://{registry.host}/old")
    assert done.code == 0, done.err
    for reference, expected in V1.expected["images"].items():
        assert config_of(registry.host, f"old/{reference}") == expected["image_id"]


@pytest.mark.parametrize("source", [MIXED, WIDE], ids=lambda case: case.name)
def test_a_registry_that_still_serves_schema_1_is_a_source(source: Case, tmp_path: Path) -> None:
    tree = extract_tree(source, tmp_path)
    with docker_registry(tree, schema1=True) as registry:
        done = migrate("convert", "-q", "--empty-layers", "keep", f"docker://{registry.host}", tmp_path / "out")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "migration-report.json").read_bytes())
    found = {reference: image["image_id"] for image in report["images"] for reference in image["references"]}
    expected = {ref: row["image_id"] for ref, row in source.expected["images"].items() if should_convert(row)}
    lists = {reference for reference, row in source.expected["images"].items() if "manifests" in row}
    assert {reference: found[reference] for reference in expected if reference not in lists} == {
        reference: image_id for reference, image_id in expected.items() if reference not in lists
    }
    assert not report.get("warnings")


def test_one_repository_and_one_tag_as_a_source(tmp_path: Path) -> None:
    with docker_registry(extract_tree(WIDE, tmp_path), schema1=True) as registry:
        one = migrate("inspect", "--json", f"docker://{registry.host}/team/twins:1.6.2-a").json()
        all_tags = migrate("inspect", "--json", f"docker://{registry.host}/team/twins").json()
    assert [image["references"] for image in one["images"]] == [["team/twins:1.6.2-a"]]
    assert len({ref for image in all_tags["images"] for ref in image["references"]}) == 7


def test_schema_1_that_skopeo_makes(tmp_path: Path) -> None:
    """More schema-1 input: generated by a client of today, with `throwaway` entries, pushed to a real registry."""
    need("skopeo")
    tree = extract_tree(MIXED, tmp_path)
    (tmp_path / "old").mkdir()
    with docker_registry(tree) as modern, docker_registry(tmp_path / "old", schema1=True) as old:
        for name in ["s2-20.10.24", "s2-1.10.3"]:
            run(
                *("skopeo", "copy", "-q", "--format", "v2s1", "--src-tls-verify=false", "--dest-tls-verify=false"),
                *(f"docker://{modern.host}/team/app:{name}", f"docker://{old.host}/team/app:{name}"),
            )
    for empty_layers in ("keep", "drop"):
        out = tmp_path / empty_layers
        assert migrate("convert", "-q", "--empty-layers", empty_layers, tmp_path / "old", out).code == 0
        report = json.loads((out / "migration-report.json").read_bytes())
        found = {reference: image for image in report["images"] for reference in image["references"]}
        assert sorted(found) == ["team/app:s2-1.10.3", "team/app:s2-20.10.24"]
        if empty_layers == "keep":
            for reference, image in found.items():
                assert image["image_id"] == MIXED.expected["images"][reference]["image_id"]


# --- several platforms, and names --------------------------------------------------------------------------------


def test_one_reference_for_two_platforms_becomes_one_index(registry: Registry, tmp_path: Path) -> None:
    """Two archives of two machines: skopeo picks by architecture from the registry, whichever way it was filled."""
    archives = []
    for architecture in ("amd64", "arm"):
        archive = V1Archive()
        raw = layer_json(legacy_id(architecture), architecture=architecture, os="linux")
        identity = archive.layer(architecture, raw=raw)
        archive.tag("Team/App", "1.0", identity)
        archives.append(tmp_path / f"{architecture}.tar")
        archives[-1].write_bytes(archive.build())
    storage = tmp_path / "other"
    for target in (f"docker://{registry.host}/p", f"registry-storage:{storage}"):
        done = migrate("convert", "-q", "--report", tmp_path / "report.json", *archives, target)
        assert done.code == 0, done.err
        report = json.loads((tmp_path / "report.json").read_bytes())
        assert {name for image in report["images"] for name in image["names"]} == {"team/app:1.0"}
        assert {name for image in report["images"] for name in image["references"]} == {"Team/App:1.0"}
    ids = {image["platform"]["architecture"]: image["image_id"] for image in report["images"]}
    with docker_registry(storage) as served:
        for architecture, image_id in ids.items():
            for name in (f"{registry.host}/p/team/app:1.0", f"{served.host}/team/app:1.0"):
                host, _, reference = name.partition("/")
                assert config_of(host, reference, f"--override-arch={architecture}") == image_id


def test_hosts_of_old_registries_go_and_conflicts_are_settled(tmp_path: Path) -> None:
    archive = V1Archive()
    for name in ("old.example.com:5000/team/app", "other.example.com:5000/team/app"):
        raw = layer_json(legacy_id(name), created=f"2014-0{len(name) % 9 + 1}-01T00:00:00Z")
        archive.tag(name, "1", archive.layer(name, raw=raw))
    source = tmp_path / "images.tar"
    source.write_bytes(archive.build())
    done = migrate("convert", "-q", source, f"registry-storage:{tmp_path / 'storage'}")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "storage" / "migration-report.json").read_bytes())
    assert [conflict["reference"] for conflict in report["conflicts"]] == ["team/app:1"]
    tags = tmp_path / "storage/docker/registry/v2/repositories/team/app/_manifests/tags"
    assert [path.name for path in tags.iterdir()] == ["1"]
    untagged = tmp_path / "storage/docker/registry/v2/repositories/untagged/_manifests/tags"
    assert len(list(untagged.iterdir())) == 1
