"""Docker roots that a test builds file by file, for what no shipped root has."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from migrate.model.legacy import LegacyID, LegacyLayer
from migrate.model.options import ReadOptions
from migrate.readers.docker_root import DockerRootSource
from migrate.storage.directory_tree import DirectoryTree

_PLACES = {"aufs": "aufs/diff", "btrfs": "btrfs/subvolumes", "overlay": "overlay", "vfs": "vfs/dir", "zfs": "zfs/graph"}
_POLYNOMIAL = 0xD800000000000000


def open_docker_root(path: Path, driver: str | None = None) -> DockerRootSource:
    return DockerRootSource(str(path), DirectoryTree(str(path)), ReadOptions(driver=driver))


def identity(name: str) -> LegacyID:
    return LegacyID(hashlib.sha256(name.encode()).hexdigest())


@dataclass
class RootBuilder:
    """A Docker root at `path` whose layers are those of one `driver`."""

    path: Path
    driver: str = "vfs"

    def add(self, name: str, parent: str | None = None, **fields: object) -> Path:
        """An image without files; its tree is returned."""
        legacy_id = identity(name)
        place = self.path / "graph" / legacy_id
        place.mkdir(parents=True)
        document: dict[str, object] = {"id": legacy_id, "created": "2014-05-06T07:08:09Z", **fields}
        if parent is not None:
            document["parent"] = identity(parent)
        (place / "json").write_text(json.dumps(document))
        tree = self.tree(name)
        tree.mkdir(parents=True)
        return tree

    def tree(self, name: str) -> Path:
        place = self.path / _PLACES[self.driver] / identity(name)
        return place / "root" if self.driver == "overlay" else place

    def tag(self, tags: dict[str, dict[str, str]]) -> None:
        """Repository → tag → the image's name here."""
        ids = {name: {tag: identity(image) for tag, image in entries.items()} for name, entries in tags.items()}
        (self.path / f"repositories-{self.driver}").write_text(json.dumps({"Repositories": ids}))

    def add_container(self, container: str, image: str, file: str = "config.json") -> None:
        place = self.path / "containers" / container
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(json.dumps({"ID": container, "Image": image}))

    def add_tar_split(self, name: str, tar: bytes) -> None:
        (self.path / "graph" / identity(name) / "tar-data.json.gz").write_bytes(gzip.compress(tar_split(tar)))

    def add_migrated(self, name: str, tar: bytes, diff_id: str | None = None) -> None:
        """What a migration to Docker 1.10 leaves beside a layer that it has read as `tar`."""
        place = self.path / "graph" / identity(name)
        (place / ".migration-tardata").write_bytes(gzip.compress(tar_split(tar)))
        (place / ".migration-diffid").write_text(diff_id or f"sha256:{hashlib.sha256(tar).hexdigest()}")

    def open(self, driver: str | None = None) -> DockerRootSource:
        return open_docker_root(self.path, driver)

    def read(self, name: str) -> bytes:
        """A layer's tar, in the form that comes first."""
        source = self.open()
        with source.open_payload(source.read_layer(identity(name))) as payload:
            return payload.stream.read()

    def layer(self, name: str) -> LegacyLayer:
        return self.open().read_layer(identity(name))


def write(path: Path, content: bytes = b"", mode: int = 0o644, mtime: int = 1_400_000_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, (mtime, mtime))
    return path


def tar_split(tar: bytes) -> bytes:
    """The metadata that tar-split writes for a tar (vbatts/tar-split, tar/asm), made by a plain reading of the tar."""
    lines: list[dict[str, object]] = []
    pending, position = b"", 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            lines.append({"type": 2, "payload": _text(tar[position : member.offset_data])})
            size = member.size if member.isreg() else 0
            content = tar[member.offset_data : member.offset_data + size]
            lines.append(_file_line(os.fsencode(member.name + "/" * member.isdir()), content))
            position = member.offset_data + size
    lines.append({"type": 2, "payload": _text(pending + tar[position:])})
    return b"".join(
        json.dumps({**line, "position": number}, separators=(",", ":")).encode() + b"\n"
        for number, line in enumerate(lines)
    )


def _file_line(name: bytes, content: bytes) -> dict[str, object]:
    line: dict[str, object] = {"type": 1}
    try:
        line["name"] = name.decode()
    except UnicodeDecodeError:
        line["name_raw"] = _text(name)
    if content:
        line["size"] = len(content)
    line["payload"] = _text(crc64_bit_by_bit(content).to_bytes(8, "big")) if content else None
    return line


def crc64_bit_by_bit(content: bytes) -> int:
    crc = 0xFFFF_FFFF_FFFF_FFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF_FFFF_FFFF


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
