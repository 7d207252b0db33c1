"""Every value of every JSON document that a source holds may have any type: one image is lost at most, never the run.

Each family writes a small source with a healthy image and a victim; one value after another of the victim's documents
is replaced, before the digests over it are made, so that they fit.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.errors import MigrateError
from tests.archives import build_tar, layer_json, layer_tar, legacy_id
from tests.registry_content import base64url
from tests.roots import RootBuilder, identity, tar_split, write

OTHERS: list[Any] = [
    None, True, 0, -1, 1.5, 2**70, "", "x", "sha256:", "a" * 64, [], {}, [None], [[]], [{}], {"a": None},
    {"": {"": None}},
]  # fmt: skip
"""What is put in the place of a value; each has some type that the field does not take."""
Path_ = tuple[str | int, ...]


@dataclass
class Mutation:
    """Replaces the value at `path` of the document `name`; without a name it notes all documents that pass."""

    name: str = ""
    path: Path_ = ()
    value: Any = None
    seen: dict[str, Any] = field(default_factory=dict)

    def __call__(self, name: str, document: Any) -> Any:
        self.seen[name] = document
        if name != self.name:
            return document
        if not self.path:
            return self.value
        changed = json.loads(json.dumps(document))
        inner = changed
        for step in self.path[:-1]:
            inner = inner[step]
        inner[self.path[-1]] = self.value
        return changed

    def encoded(self, name: str, document: Any) -> bytes:
        return json.dumps(self(name, document)).encode()


def paths(document: Any, above: Path_ = ()) -> Iterator[Path_]:
    yield above
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from paths(value, (*above, key))


V1 = {
    "id": legacy_id("victim"),
    "parent": legacy_id("below"),
    "parent_id": "sha256:" + "0" * 64,
    "created": "2014-05-06T07:08:09Z",
    "container": "c" * 64,
    "container_config": {"Cmd": ["/bin/sh"], "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}, "Volumes": None},
    "config": {"Cmd": ["/bin/sh"], "Entrypoint": ["a"], "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "Memory": 5},
    "docker_version": "1.6.2",
    "author": "a",
    "comment": "c",
    "architecture": "amd64",
    "os": "linux",
    "Size": 5,
    "throwaway": False,
}


def v1_archive(place: Path, change: Mutation) -> Path:
    victim, below, sound = legacy_id("victim"), legacy_id("below"), legacy_id("sound")
    members = [
        (f"{victim}/json", change.encoded("json", V1)),
        (f"{victim}/layer.tar", layer_tar("victim")),
        (f"{below}/json", layer_json(below)),
        (f"{below}/layer.tar", layer_tar("below")),
        (f"{sound}/json", layer_json(sound)),
        (f"{sound}/layer.tar", layer_tar("sound")),
        ("repositories", change.encoded("repositories", {"victim": {"1": victim}, "sound": {"1": sound}})),
    ]
    return _file(place / "a.tar", build_tar(members))


def _config(change: Mutation, name: str) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2016-01-01T00:00:00Z",
        "config": {"Cmd": ["a"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer_tar(name)).hexdigest()]},
        "history": [{"created_by": "a", "empty_layer": False, "created": "2016-01-01T00:00:00Z"}],
    }
    return change.encoded("config", document) if name == "victim" else json.dumps(document).encode()


def archive_with_manifest(place: Path, change: Mutation) -> Path:
    members, entries = [], []
    for name in ("victim", "sound"):
        config = _config(change, name)
        hexadecimal = hashlib.sha256(config).hexdigest()
        members += [(f"{hexadecimal}.json", config), (f"{legacy_id(name)}/layer.tar", layer_tar(name))]
        layers = [f"{legacy_id(name)}/layer.tar"]
        entries.append({"Config": f"{hexadecimal}.json", "RepoTags": [f"{name}:1"], "Layers": layers})
    return _file(place / "a.tar", build_tar([*members, ("manifest.json", change.encoded("manifest.json", entries))]))


@dataclass
class Blobs:
    """A store of blobs that both kinds of content-addressed sources are written from."""

    change: Mutation
    content: dict[str, bytes] = field(default_factory=dict)

    def add(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        self.content[digest] = content
        return {"mediaType": media_type, "size": len(content), "digest": f"sha256:{digest}"}

    def image(self, name: str, kind: str, manifest_type: str) -> dict[str, Any]:
        docker = "docker" in manifest_type
        config_type = "application/vnd.docker.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
        layer_type = "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else f"{OCI}.layer.v1.tar+gzip"
        document = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": self.add(_config(self.change, name), config_type),
            "layers": [self.add(gzip.compress(layer_tar(name), mtime=0), layer_type)],
            "annotations": {"a": "b"},
        }
        raw = self.change.encoded(kind, document) if name == "victim" else json.dumps(document).encode()
        return self.add(raw, manifest_type)


OCI = "application/vnd.oci.image"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
SCHEMA2 = "application/vnd.docker.distribution.manifest.v2+json"


def _listed(entry: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**entry, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}, **more}


def oci_layout(place: Path, change: Mutation) -> Path:
    blobs = Blobs(change)
    name, full = "org.opencontainers.image.ref.name", "io.containerd.image.name"
    victim = blobs.image("victim", "manifest", f"{OCI}.manifest.v1+json")
    nested = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [_listed(victim)]}
    inner = blobs.add(change.encoded("nested index", nested), f"{OCI}.index.v1+json")
    sound = {**blobs.image("sound", "", f"{OCI}.manifest.v1+json"), "annotations": {name: "sound:1"}}
    index = {
        "schemaVersion": 2,
        "manifests": [
            {**victim, "annotations": {name: "1", full: "docker.io/library/victim:1"}},
            {**inner, "annotations": {name: "list:1"}},
            sound,
        ],
    }
    members = [(f"blobs/sha256/{digest}", content) for digest, content in blobs.content.items()]
    members.append(("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'))
    return _file(place / "a.tar", build_tar([*members, ("index.json", change.encoded("index.json", index))]))


def v2_registry(place: Path, change: Mutation) -> Path:
    blobs = Blobs(change)
    victim = blobs.image("victim", "schema 2", SCHEMA2)
    manifest_list = {"schemaVersion": 2, "mediaType": LIST, "manifests": [_listed(victim, features=["a"])]}
    text = change.encoded("v1Compatibility", {**V1, "parent": None}).decode()
    schema1 = {
        "schemaVersion": 1,
        "name": "victim",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": blobs.add(gzip.compress(layer_tar("old"), mtime=0), "")["digest"]}],
        "history": [{"v1Compatibility": text}],
    }
    tags = {
        "sound": blobs.image("sound", "", SCHEMA2),
        "victim": victim,
        "list": blobs.add(change.encoded("list", manifest_list), LIST),
        "schema1": blobs.add(change.encoded("schema 1", schema1), ""),
        "signed": blobs.add(_signed(change, schema1), ""),
    }
    top = place / "docker/registry/v2"
    for digest, content in blobs.content.items():
        _file(top / f"blobs/sha256/{digest[:2]}/{digest}/data", content)
    for tag, entry in tags.items():
        manifests = top / "repositories/app/_manifests"
        _file(manifests / "tags" / tag / "current/link", entry["digest"].encode())
        _file(manifests / "revisions/sha256" / entry["digest"][7:] / "link", entry["digest"].encode())
    return place


def _signed(change: Mutation, schema1: dict[str, Any]) -> bytes:
    payload = json.dumps({**schema1, "tag": "signed"}).encode()
    protected = {"formatLength": len(payload) - 1, "formatTail": base64url(b"}"), "time": "2016-01-01T00:00:00Z"}
    signature = {
        "header": {"jwk": {"crv": "P-256", "kid": "A", "kty": "EC", "x": "AA", "y": "AA"}, "alg": "ES256"},
        "signature": base64url(bytes(64)),
        "protected": base64url(change.encoded("protected", protected)),
    }
    return payload[:-1] + b',"signatures":' + change.encoded("signatures", [signature]) + b"}"


def v1_registry(place: Path, change: Mutation) -> Path:
    victim, below, sound = legacy_id("victim"), legacy_id("below"), legacy_id("sound")
    for name, raw in (
        ("victim", change.encoded("json", V1)),
        ("below", layer_json(below)),
        ("sound", layer_json(sound)),
    ):
        folder = place / "images" / legacy_id(name)
        layer = gzip.compress(layer_tar(name), mtime=0)
        _file(folder / "json", raw)
        _file(folder / "layer", layer)
        total = "sha256:" + hashlib.sha256(raw + b"\n" + layer).hexdigest()
        _file(folder / "_checksum", change.encoded("_checksum", [total]) if name == "victim" else b"")
    _file(place / "images" / victim / "ancestry", change.encoded("ancestry", [victim, below]))
    _file(place / "images" / sound / "ancestry", json.dumps([sound]).encode())
    for name, identity_ in (("victim", victim), ("sound", sound)):
        _file(place / "repositories/library" / name / "tag_1", identity_.encode())
        _file(place / "repositories/library" / name / "tag1_json", change.encoded("tag json", {"last_update": 5}))
    _file(place / "repositories/library/victim/_index_images", change.encoded("_index_images", [{"id": victim}]))
    return place


def docker_root(place: Path, change: Mutation) -> Path:
    root = RootBuilder(place, "vfs")
    for name in ("victim", "below", "sound"):
        write(root.add(name) / "f", name.encode())
    document = {**V1, "id": identity("victim"), "parent": identity("below")}
    graph = place / "graph" / identity("victim")
    _file(graph / "json", change.encoded("json", document))
    write(root.tree("victim") / "f", b"victim")
    tar = build_tar([("f", b"victim")])
    records = [json.loads(line) for line in tar_split(tar).splitlines()]
    lines = change("tar-split", records)
    lines = lines if isinstance(lines, list) else [lines]
    _file(graph / "tar-data.json.gz", gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))
    _file(graph / "layersize", change.encoded("layersize", 6))
    tags = {"Repositories": {"victim": {"1": identity("victim")}, "sound": {"1": identity("sound")}}}
    _file(place / "repositories-vfs", change.encoded("repositories", tags))
    _file(place / "repositories-aufs", change.encoded("repositories of another driver", tags))
    record = {
        "ID": "c" * 64,
        "Image": identity("victim"),
        "State": {"Running": False, "ExitCode": 0},
        "Name": "/c",
        "Path": "sh",
        "Args": ["a"],
        "Config": {"Image": "victim:1", "Cmd": ["sh"]},
        "Created": "2014-05-06T07:08:09Z",
        "Volumes": {"/data": f"/var/lib/docker/vfs/dir/{'d' * 64}"},
        "VolumesRW": {"/data": True},
        "MountPoints": {"/m": {"Name": "v", "Destination": "/m", "Driver": "local", "RW": True, "Source": ""}},
    }
    _file(place / "containers" / ("c" * 64) / "config.json", change.encoded("container", record))
    volume = {"ID": "d" * 64, "Path": f"/var/lib/docker/vfs/dir/{'d' * 64}", "IsBindMount": False, "Writable": True}
    _file(place / "volumes" / ("d" * 64) / "config.json", change.encoded("volume", volume))
    (place / "vfs/dir" / ("d" * 64)).mkdir()
    migrated = {identity("below"): "sha256:" + "1" * 64}
    _file(place / ".migration-v1-images.json", change.encoded("migration map", migrated))
    _file(place / "graph/checksums", change.encoded("checksums", {identity("victim"): "sha256:" + "2" * 64}))
    return place


def _file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


FAMILIES: dict[str, Callable[[Path, Mutation], Path]] = {
    function.__name__: function
    for function in (v1_archive, archive_with_manifest, oci_layout, v2_registry, v1_registry, docker_root)
}
NAMES_ALL = ("repositories", "manifest.json", "index.json")
"""Documents that name every image: where they are damaged, more than one name can be lost with them."""


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("part", range(4))
def test_one_image_is_lost_at_most(family: str, part: int, tmp_path: Path) -> None:
    noted = Mutation()
    whole = api.plan(FAMILIES[family](tmp_path / "whole", noted))
    assert (whole.exit_code, whole.report.failures) in ((0, ()), (3, ())), whole.report.failures
    cases = [
        (name, path, value)
        for name, document in noted.seen.items()
        for (path, value) in itertools.product(paths(document), OTHERS)
    ]
    for number, (name, path, value) in enumerate(cases):
        if number % 4 != part or number % 3 != part % 3:  # every value meets every kind of place in some family
            continue
        source = FAMILIES[family](tmp_path / str(number), Mutation(name, path, value))
        try:
            outcome = api.plan(source)
            api.inspect(source)
        except MigrateError as error:
            assert error.scope == "source", (name, path, value)
            continue
        except Exception as error:
            raise AssertionError(f"{family}: {name} with {value!r} at {path}") from error
        if name not in NAMES_ALL:
            references = {str(name) for image in outcome.report.images for name in image.references}
            assert any("sound" in reference for reference in references), (name, path, value, outcome.report.failures)
        if source.is_file():
            source.unlink()


def test_every_document_of_ours_is_tried(tmp_path: Path) -> None:
    """So that nobody takes a document out of a family unseen."""
    noted = Mutation()
    for family, write_source in FAMILIES.items():
        write_source(tmp_path / family, noted)
    assert len(noted.seen) >= 20
