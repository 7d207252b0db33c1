"""The shipped Docker roots, restored as their engines left them, and the entries of a layer's tar in their terms."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from migrate.errors import PayloadRestartError
from migrate.model.legacy import LegacyLayer
from migrate.readers.docker_root import DockerRootSource
from tests.cases import Case, case


@dataclass
class StoreShelf:
    """Restores each store once: with owners, times, xattrs, devices and hard links, as root."""

    directory: Path
    _restored: dict[str, Path] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The store of a case. A test that changes it takes `fresh` instead."""
        if name not in self._restored:
            self._restored[name] = restore(case(name), self.directory / name)
        return self._restored[name]


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> StoreShelf:
    return StoreShelf(tmp_path_factory.mktemp("stores"))


def restore(store: Case, target: Path) -> Path:
    target.mkdir(parents=True)
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-p", "-xJf", store.path / "store.tar.xz"],
        cwd=target,
        check=True,
    )
    return target


@dataclass(frozen=True)
class StoreCase:
    """What the real engines made of a store."""

    name: str

    @cached_property
    def case(self) -> Case:
        return case(self.name)

    @property
    def layers(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.case.expected["layers"]
        return found

    @cached_property
    def listings(self) -> dict[str, list[dict[str, Any]]]:
        with gzip.open(self.case.path / "layer-listings.json.gz") as stream:
            found: dict[str, list[dict[str, Any]]] = json.load(stream)
            return found


@dataclass(frozen=True)
class ReadLayer:
    diff_id: str
    origin: str
    exact: bool
    note: str | None
    restarts: int


def read_payload(source: DockerRootSource, layer: LegacyLayer) -> ReadLayer:
    """Reads a layer to its end, and opens it again where its first form turns out to be damaged."""
    for restarts in range(3):
        digest = hashlib.sha256()
        size = 0
        try:
            with source.open_payload(layer) as payload:
                while block := payload.stream.read(64 * 1024):
                    digest.update(block)
                    size += len(block)
        except PayloadRestartError:
            continue
        assert payload.size in (None, size)
        return ReadLayer(f"sha256:{digest.hexdigest()}", payload.origin, payload.exact, payload.note, restarts)
    raise AssertionError(f"{layer.legacy_id}: no form of it can be read")


def tar_entries(stream: BinaryIO) -> list[dict[str, Any]]:
    """A tar's entries as `layer-listings.json.gz` describes them, whiteouts without their time."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        return [_entry(archive, member) for member in archive]


def without_whiteout_times(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            key: value
            for key, value in entry.items()
            if key != "whiteout" and not (key == "mtime" and _is_whiteout(entry))
        }
        for entry in entries
    ]


def _is_whiteout(entry: dict[str, Any]) -> bool:
    return str(entry["name"]).rpartition("/")[2].startswith(".wh.") and entry["mode"] == 0


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    kind = member.type.decode("latin-1")
    entry: dict[str, Any] = {
        "name": member.name,
        "type": kind,
        "mode": member.mode,
        "uid": member.uid,
        "gid": member.gid,
        "size": member.size,
        "mtime": int(member.mtime),
    }
    if kind in "12":
        entry["link"] = member.linkname
    if kind in "34":
        entry["dev"] = [member.devmajor, member.devminor]
    if kind == "0" and member.size:
        content = archive.extractfile(member)
        assert content is not None
        entry["sha256"] = hashlib.sha256(content.read()).hexdigest()
    xattrs = {
        key.removeprefix("SCHILY.xattr."): base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
        for key, value in member.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    }
    if xattrs:
        entry["xattrs_b64"] = xattrs
    return entry
