"""What a small registry holds, built by a test: images of schema 1 and 2, as a storage tree or over HTTP."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate.model.digest import Digest
from tests.archives import layer_json, layer_tar, legacy_id
from tests.scripted import Reply, Request

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def in_envelope(payload: bytes, *, more: Mapping[str, Any] | None = None) -> bytes:
    """`payload`, a JSON object, in a JWS whose signature is none. `more` are members that nobody signed."""
    length = len(payload) - 1
    protected = {"formatLength": length, "formatTail": base64url(payload[length:])}
    signature = {"header": {"alg": "none"}, "signature": "", "protected": base64url(json.dumps(protected).encode())}
    outside = json.dumps({"signatures": [signature], **(more or {})}).encode()
    return payload[:length] + b"," + outside[1:]


@dataclass
class RegistryContent:
    """Blobs and manifests by digest, tags by repository."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def blob(self, content: bytes) -> str:
        digest = str(Digest.of(content))
        self.blobs[digest] = content
        return digest

    def schema1(self, *names: str) -> bytes:
        """A manifest of layers called so, base first, each with a file of its name. It is not stored yet."""
        below = [None, *names]
        history = [
            layer_json(legacy_id(name), legacy_id(base) if base else None)
            for base, name in zip(below, names, strict=False)
        ]
        layers = [{"blobSum": self.blob(gzip.compress(layer_tar(name), mtime=0))} for name in reversed(names)]
        return json.dumps(
            {
                "schemaVersion": 1,
                "name": "app",
                "tag": "1.0",
                "architecture": "amd64",
                "fsLayers": layers,
                "history": [{"v1Compatibility": text.decode()} for text in reversed(history)],
            }
        ).encode()

    def schema2(self, *names: str) -> bytes:
        """The same in schema 2."""
        tars = [layer_tar(name) for name in names]
        blobs = [gzip.compress(tar, mtime=0) for tar in tars]
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "2016-01-01T00:00:00Z",
                "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
                "history": [{"created_by": name} for name in names],
            }
        ).encode()
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": self._descriptor("application/vnd.docker.container.image.v1+json", config),
                "layers": [
                    self._descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", blob) for blob in blobs
                ],
            }
        ).encode()

    def _descriptor(self, media_type: str, content: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "size": len(content), "digest": self.blob(content)}

    def add(self, repository: str, tag: str, manifest: bytes, digest: str | None = None) -> str:
        """Stores a manifest under a tag; `digest` is what it is to be found by, where that is not its own."""
        digest = digest or str(Digest.of(manifest))
        self.manifests[digest] = manifest
        self.tags.setdefault(repository, {})[tag] = digest
        return digest

    def write_tree(self, root: Path) -> Path:
        """The storage tree of a v2 registry."""
        top = root / "docker/registry/v2"
        for digest, content in {**self.blobs, **self.manifests}.items():
            _write(top / f"blobs/sha256/{digest[7:9]}/{digest[7:]}/data", content)
        for repository, tags in self.tags.items():
            manifests = top / "repositories" / repository / "_manifests"
            for tag, digest in tags.items():
                _write(manifests / "tags" / tag / "current/link", digest.encode())
                _write(manifests / "revisions/sha256" / digest[7:] / "link", digest.encode())
        return root

    def answer(self, request: Request) -> Reply:
        """What a registry with this content says."""
        path = request.path.partition("?")[0].removeprefix("/v2/")
        if not path:
            return Reply()
        if path == "_catalog":
            return _json_reply({"repositories": sorted(self.tags)})
        repository, kind, name = ["", "", *path.rsplit("/", 2)][-3:]  # team/app/tags/list → team/app, tags, list
        if kind == "tags" and repository in self.tags:
            return _json_reply({"name": repository, "tags": sorted(self.tags[repository])})
        if kind == "manifests":
            digest = self.tags.get(repository, {}).get(name, name)
            if digest in self.manifests:
                return Reply(body=self.manifests[digest])
        if kind == "blobs" and name in self.blobs:
            return Reply(body=self.blobs[name])
        return Reply(404)


def _json_reply(document: object) -> Reply:
    return Reply(body=json.dumps(document).encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
