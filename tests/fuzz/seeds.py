"""`python -m tests.fuzz.seeds`: writes the corpus that fuzzing starts from, out of shipped cases and small archives.

What fuzzing found stands beside it, under `found-*`, and is left alone.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import tarfile
from collections import defaultdict
from collections.abc import Iterator

from migrate.blobio.compression import zstd_module
from tests.archives import V1Archive, build_tar, layer_tar, link
from tests.cases import FIXTURES, registry_cases, save_cases, store_cases
from tests.fuzz.__main__ import CORPUS

MOST_BYTES = 40_000
MOST_SEEDS = 24


def packed_files(path: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None and member.size < MOST_BYTES:
                yield member.name, content.read()


def seeds() -> Iterator[tuple[str, bytes]]:
    """(target, input)."""
    yield from _documents()
    yield from _archives()
    layer = layer_tar("a", "./a", "b")
    for kind, compress in (("gzip", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        yield "compressed-streams", compress(kind.encode() * 100)
    yield "compressed-streams", zstd_module().compress(b"zstd" * 100)
    yield "compressed-streams", gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0)
    for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield "tars", _tar(dialect)
    yield "tars", layer
    yield (
        "tar-split",
        b'{"type":2,"payload":"aGVhZGVy","position":0}\n{"type":1,"name":"a","size":7,"payload":"AAAAAAAAAAA=","position":1}\n',
    )
    yield "tar-split", b'{"type":1,"name_raw":"/w==","payload":null,"position":0}'
    for target in ("ext4-images", "xfs-images", "thin-pools", "stores", "registries-v1", "registries-v2"):
        for number in range(8):
            yield target, hashlib.sha256(f"{target}{number}".encode()).digest() * (number + 1)


def _documents() -> Iterator[tuple[str, bytes]]:
    for case in save_cases():
        for name, content in packed_files(str(case.path / "save.tar.xz")):
            if name.endswith(("/json", ".json", "repositories")):
                yield "json-documents", content
                yield ("v1-documents" if name.endswith("/json") else "oci-documents"), content
    for case in save_cases():
        yield from (("oci-documents", content) for _, content in packed_files(str(case.path / "configs.tar.xz")))
    for case in registry_cases():
        for name, content in packed_files(str(case.path / "registry.tar.xz")):
            if (content.startswith(b"{") and b"fsLayers" in content) or "signatures" in name:
                yield "schema1-documents", content
            elif content[:1] in b"{[" and len(content) > 2:
                yield "store-documents", content
    for case in store_cases():
        for name, content in packed_files(str(case.path / "store.tar.xz")):
            if "repositories" in name or name.endswith(("config.json", "config.v2.json")):
                yield "store-documents", content
    yield "layouts", b'{"schemaVersion":2,"manifests":[]}'
    yield "reports", (FIXTURES / "report.json").read_bytes() if (FIXTURES / "report.json").exists() else _report()


def _report() -> bytes:
    import tempfile
    from pathlib import Path

    from tests.cases import case
    from tests.command import migrate

    with tempfile.TemporaryDirectory() as place:
        archive = case("made-duplicates").write_plain(Path(place))
        migrate("convert", "-q", archive, Path(place) / "layout")
        return (Path(place) / "layout/migration-report.json").read_bytes()


def _archives() -> Iterator[tuple[str, bytes]]:
    archive = V1Archive()
    archive.layer("base")
    archive.layer("empty", "base", tar=layer_tar())
    archive.tag("app", "1", archive.layer("top", "empty"))
    yield "archives", archive.build()
    yield "archives", gzip.compress(archive.build(), mtime=0)
    broken = V1Archive()
    broken.layer("base", tar=b"no tar")
    broken.tag("app", "1", broken.layer("top", "base"))
    yield "archives", broken.build([link("link", "../out")])
    layer = layer_tar("a")
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}'
    config %= hashlib.sha256(layer).hexdigest().encode()
    manifest = b'[{"Config":"c.json","RepoTags":["app:1"],"Layers":["x/layer.tar"]}]'
    dual = build_tar([("c.json", config), ("x/layer.tar", layer), ("manifest.json", manifest)])
    yield "archives", dual
    yield "targets", dual
    yield from (("layouts", content) for content in (manifest, config))


def _tar(dialect: int) -> bytes:
    import io

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
        for name, kind in (
            ("d/", tarfile.DIRTYPE),
            ("d/" + "n" * (90 if dialect == tarfile.USTAR_FORMAT else 120), tarfile.REGTYPE),
            ("é", tarfile.SYMTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.uid = (
                kind,
                "t" * (90 if dialect == tarfile.USTAR_FORMAT else 120) if kind == tarfile.SYMTYPE else "",
                1 << 20,
            )
            member.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()[: 4096 + 2048]


def main() -> None:
    chosen: dict[str, dict[str, bytes]] = defaultdict(dict)
    for target, content in seeds():
        name = f"seed-{hashlib.sha256(content).hexdigest()[:16]}"
        if len(chosen[target]) < MOST_SEEDS:
            chosen[target][name] = content
    for target, files in chosen.items():
        place = CORPUS / target
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("seed-*"):
            old.unlink()
        for name, content in files.items():
            (place / name).write_bytes(content)


if __name__ == "__main__":
    main()
