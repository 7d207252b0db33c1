"""A seeded corpus of `docker save` archives, made from what apt and pip have installed on this machine.

Layers have sizes and contents like those of real images: one large base, some middling ones of packages, many small
ones. Two archives hold the same image in the two forms that engines wrote (v1 only, and with `manifest.json` beside
it); in a second pair a third of the bytes are layers that stand there twice, as `docker build` on two hosts makes them.
The same seed and the same installed packages give the same bytes.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import json
import multiprocessing
import random
import stat
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tiny import go_json

MIB = 1024 * 1024
SEED = 20140609
_LAYER_SHARES = (24, 13, 10, 8, 7, 6, 5, 4, 4, 3, 3, 2, 2, 2, 1.5, 1.5, 1, 1, 0.6, 0.4, 0.3, 0.2, 0.1)
"""Percent of the unique bytes, base first."""
_LARGEST_PACKAGE = 64 * MIB
_DUPLICATED = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18, 20, 21, 22)
"""Which layers stand there twice where a third of the bytes are duplicates."""


@dataclass(frozen=True)
class Layer:
    path: Path
    size: int
    diff_id: str


@dataclass(frozen=True)
class Corpus:
    """`layers` are the chain of the image, base first; the same layer may stand there twice."""

    name: str
    v1: Path
    dual: Path
    layers: tuple[Layer, ...]

    @property
    def tar_bytes(self) -> int:
        return sum(layer.size for layer in self.layers)

    @property
    def unique(self) -> tuple[Layer, ...]:
        return tuple({layer.diff_id: layer for layer in self.layers}.values())

    @property
    def duplicate_share(self) -> float:
        return 1 - sum(layer.size for layer in self.unique) / self.tar_bytes


def make_corpora(directory: Path, mib: int) -> list[Corpus]:
    """The corpus without and the one with duplicates, written below `directory` by a process of its own.

    (What a process has in memory when it starts a command counts in that command's peak.)
    """
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_make_corpora, directory, mib * MIB).result()


def _make_corpora(directory: Path, unique_bytes: int) -> list[Corpus]:
    unique = list(_write_layers(directory / "layers", unique_bytes))
    twice = [layer for number, layer in enumerate(unique) for _ in range(2 if number in _DUPLICATED else 1)]
    return [_corpus(directory, "plain", unique), _corpus(directory, "duplicates", twice)]


def _corpus(directory: Path, name: str, layers: list[Layer]) -> Corpus:
    v1, dual = directory / f"{name}-v1.tar", directory / f"{name}-dual.tar"
    write_archive(v1, layers, name, with_manifest=False)
    write_archive(dual, layers, name, with_manifest=True)
    return Corpus(name, v1, dual, tuple(layers))


# --- layers ----------------------------------------------------------------------------------------------------------


def _packages() -> list[list[Path]]:
    """Files by package: of dpkg's lists, and of each folder that pip installed."""
    listings = sorted(Path("/var/lib/dpkg/info").glob("*.list"))
    packages = [[Path(line) for line in listing.read_text().splitlines()] for listing in listings]
    for directory in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")}):
        folders = [folder for folder in sorted(Path(directory).iterdir()) if folder.is_dir()]
        ignored = ("site-packages", "__pycache__")
        packages += [sorted(folder.rglob("*")) for folder in folders if folder.name not in ignored]
    return packages


def _write_layers(directory: Path, unique_bytes: int) -> Iterator[Layer]:
    directory.mkdir(parents=True)
    chance = random.Random(SEED)
    packages = _packages()
    chance.shuffle(packages)
    source = iter(packages)
    for number, share in enumerate(_LAYER_SHARES):
        wanted = int(unique_bytes * share / sum(_LAYER_SHARES))
        yield _write_layer(directory / f"{number:02}.tar", source, wanted, chance)


def _write_layer(path: Path, packages: Iterator[list[Path]], wanted: int, chance: random.Random) -> Layer:
    seen: set[Path] = set()
    folders: set[Path] = set()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        while tar.offset < wanted:
            files = next(packages, None)
            if files is None:
                sys.exit("the installed packages are too few for a corpus of this size: pass a smaller --mib")
            for file in _files_and_links(files, seen):
                for folder in reversed(file.parents[:-1]):
                    if folder not in folders:
                        folders.add(folder)
                        tar.addfile(_entry(folder, tarfile.DIRTYPE, chance))
                if file.is_symlink():
                    tar.addfile(_entry(file, tarfile.SYMTYPE, chance))
                    continue
                entry = _entry(file, tarfile.REGTYPE, chance)
                entry.size = min(file.stat().st_size, max(wanted - tar.offset, 4096))
                with file.open("rb") as content:
                    tar.addfile(entry, content)
                if tar.offset >= wanted:
                    break
    return layer_of(path)


def layer_of(path: Path) -> Layer:
    """The tar at `path`."""
    content_digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(MIB):
            content_digest.update(block)
    return Layer(path, path.stat().st_size, content_digest.hexdigest())


def _entry(path: Path, kind: bytes, chance: random.Random) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(str(path).lstrip("/"))
    entry.type = kind
    entry.mode = path.lstat().st_mode & 0o7777
    entry.mtime = 1_400_000_000 + chance.randrange(10_000_000)
    if kind == tarfile.SYMTYPE:
        entry.linkname = str(path.readlink())
    return entry


def _files_and_links(paths: Iterable[Path], seen: set[Path]) -> list[Path]:
    """What is there of a package, if it is not too large."""
    found = []
    size = 0
    for listed in paths:
        try:
            path = listed.parent.resolve() / listed.name  # below no link, such as /sbin
            status = path.lstat()
        except OSError:
            continue
        if path not in seen and (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            found.append(path)
            seen.add(path)
            size += status.st_size
    return found if size <= _LARGEST_PACKAGE else []


# --- archives --------------------------------------------------------------------------------------------------------


def write_archive(path: Path, layers: list[Layer], name: str, *, with_manifest: bool) -> None:
    """One image, `bench/<name>:latest`, whose chain is `layers`."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        ids = _write_chain(tar, layers, name)
        if with_manifest:
            _add_manifest(tar, layers, ids, name)
        _add(tar, "repositories", json.dumps({f"bench/{name}": {"latest": ids[-1]}}).encode())


def write_images(path: Path, images: Mapping[str, list[Layer]]) -> None:
    """One image for each name, in the form of Docker before 1.10: equal layers have an ID for each."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        tops = {name: {"latest": _write_chain(tar, layers, name)[-1]} for name, layers in images.items()}
        _add(tar, "repositories", json.dumps(tops).encode())


def _write_chain(tar: tarfile.TarFile, layers: list[Layer], name: str) -> list[str]:
    ids = [hashlib.sha256(f"{name} {number}".encode()).hexdigest() for number in range(len(layers))]
    for number, (legacy_id, layer) in enumerate(zip(ids, layers, strict=True)):
        _add(tar, f"{legacy_id}/VERSION", b"1.0")
        _add(tar, f"{legacy_id}/json", _layer_json(ids, number))
        entry = tarfile.TarInfo(f"{legacy_id}/layer.tar")
        entry.size = layer.size
        with layer.path.open("rb") as content:
            tar.addfile(entry, content)
    return ids


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _layer_json(ids: list[str], number: int) -> bytes:
    document: dict[str, object] = {
        "id": ids[number],
        "created": f"2015-06-01T10:{number // 60:02}:{number % 60:02}.5Z",
        "container_config": {"Cmd": ["/bin/sh", "-c", f"#(nop) ADD file:{number} in /"]},
        "docker_version": "1.9.1",
        "architecture": "amd64",
        "os": "linux",
    }
    if number:
        document["parent"] = ids[number - 1]
    return go_json(document)


def _add_manifest(tar: tarfile.TarFile, layers: list[Layer], ids: list[str], name: str) -> None:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "history": [{"created": "2015-06-01T10:00:00Z", "created_by": f"ADD {n}"} for n in range(len(layers))],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [
        {
            "Config": config_name,
            "RepoTags": [f"bench/{name}:latest"],
            "Layers": [f"{legacy_id}/layer.tar" for legacy_id in ids],
        }
    ]
    _add(tar, config_name, config)
    _add(tar, "manifest.json", json.dumps(manifest).encode())
