"""v1 registry storage made from `docker save` archives, in the exact form that docker-registry 0.9.1 wrote it."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import orjson

Compress = Callable[[bytes], bytes]
COMPRESSIONS: dict[str, Compress] = {
    "none": lambda tar: tar,
    "gzip": lambda tar: gzip.compress(tar, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
Checksum = Callable[[bytes, bytes, bytes], bytes | None]
"""(json, layer as stored, uncompressed tar) → the file `_checksum`, or None for no file."""


def _sha256(image_json: bytes, layer: bytes) -> str:
    return "sha256:" + hashlib.sha256(image_json + b"\n" + layer).hexdigest()


def checksum_tarsum(image_json: bytes, tar: bytes, version: str = "tarsum+sha256") -> str:
    """Written once more, from moby's `pkg/tarsum` and on Python's tarfile: independent of the code under test."""
    sums = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            fields = [
                ("name", member.name + ("/" if member.isdir() else "")),
                ("mode", member.mode),
                ("uid", member.uid),
                ("gid", member.gid),
                ("size", member.size if member.isfile() else 0),
                *([("mtime", int(member.mtime))] if version == "tarsum+sha256" else []),
                ("typeflag", member.type.decode("latin-1")),
                ("linkname", member.linkname),
                ("uname", member.uname),
                ("gname", member.gname),
                ("devmajor", member.devmajor if member.isdev() and not member.isfifo() else 0),
                ("devminor", member.devminor if member.isdev() and not member.isfifo() else 0),
            ]
            entry = hashlib.sha256("".join(f"{key}{value}" for key, value in fields).encode())
            stream = archive.extractfile(member) if member.isfile() else None
            entry.update(stream.read() if stream is not None else b"")
            sums.append(entry.hexdigest())
    return f"{version}:" + hashlib.sha256(image_json + "".join(sorted(sums)).encode()).hexdigest()


def _list(*lines: str) -> bytes:
    return json.dumps(list(lines)).encode()


WRONG = "sha256:" + "0" * 64
CHECKSUMS: dict[str, Checksum] = {
    "sha256": lambda raw, layer, tar: _list(_sha256(raw, layer)),
    "tarsum": lambda raw, layer, tar: _list(checksum_tarsum(raw, tar)),
    "tarsum.v1": lambda raw, layer, tar: _list(checksum_tarsum(raw, tar, "tarsum.v1+sha256")),
    "bare": lambda raw, layer, tar: checksum_tarsum(raw, tar).encode(),
    "quoted": lambda raw, layer, tar: json.dumps(_sha256(raw, layer)).encode(),
    "one of two": lambda raw, layer, tar: _list(WRONG, checksum_tarsum(raw, tar)),
    "missing": lambda raw, layer, tar: None,
}


@dataclass
class V1Tree:
    """A storage tree in the making; `root` is its folder."""

    root: Path
    compression: str = "gzip"
    checksum: str = "sha256"
    short_ids: bool = False
    layers: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def add_archive(self, archive: bytes) -> None:
        """Every image and tag of a v1 archive."""
        members = _members(archive)
        for name in sorted(members):
            identity, slash, rest = name.partition("/")
            if slash and rest == "json":
                self.add_image(identity, members[name], members[f"{identity}/layer.tar"])
        repositories = orjson.loads(members.get("repositories", b"{}"))
        for repository, tags in repositories.items():
            for tag, identity in tags.items():
                if f"{identity}/json" in members:
                    self.add_tag(repository, tag, identity)
        self._write_ancestries()

    def add_image(self, identity: str, raw: bytes, tar: bytes) -> None:
        raw = self._shortened(raw)
        folder = self.root / "images" / self._short(identity)
        folder.mkdir(parents=True)
        layer = COMPRESSIONS[self.compression](tar)
        (folder / "json").write_bytes(raw)
        (folder / "layer").write_bytes(layer)
        checksum = CHECKSUMS[self.checksum](raw, layer, tar)
        if checksum is not None:
            (folder / "_checksum").write_bytes(checksum)

    def add_tag(self, repository: str, tag: str, identity: str) -> None:
        namespace, slash, name = repository.partition("/")
        if not slash:
            namespace, name = "library", repository
        folder = self.root / "repositories" / _component(namespace) / _component(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"tag_{tag}").write_text(self._short(identity))
        (folder / f"tag{tag}_json").write_text('{"docker_version": "1.6.2"}')
        (folder / "_index_images").write_text(json.dumps([{"id": self._short(identity)}]))

    def _write_ancestries(self) -> None:
        parents: dict[str, str | None] = {}
        for folder in (self.root / "images").iterdir():
            document = {key.lower(): value for key, value in orjson.loads((folder / "json").read_bytes()).items()}
            parent = document.get("parent") or document.get("parent_id", "").removeprefix("sha256:")
            parents[folder.name] = parent or None
        for identity in parents:
            chain: list[str] = []
            current: str | None = identity
            while current is not None:
                chain.append(current)
                current = parents.get(current)
            (self.root / "images" / identity / "ancestry").write_text(json.dumps(chain))

    def _short(self, identity: str) -> str:
        return identity[:16] if self.short_ids else identity

    def _shortened(self, raw: bytes) -> bytes:
        """The json as Docker 0.1 wrote it, with IDs of 16 digits; only `id` and `parent` change."""
        if not self.short_ids:
            return raw
        document = orjson.loads(raw)
        for key in ("id", "parent"):
            if key in document:
                raw = raw.replace(f'"{key}":"{document[key]}"'.encode(), f'"{key}":"{document[key][:16]}"'.encode())
        return raw


def _component(name: str) -> str:
    """One path component, quoted as docker-registry does; a lone `.` or `..` too."""
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def _members(archive: bytes) -> Mapping[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            stream = opened.extractfile(member) if member.isreg() else None
            if stream is not None:
                found[member.name.removeprefix("./")] = stream.read()
    return found
