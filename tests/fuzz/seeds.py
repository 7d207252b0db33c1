"""`python -m tests.fuzz.seeds`: writes the corpus that fuzzing starts from, out of shipped cases and small archives.

What fuzzing found stands beside it, under `found-*`, and is left alone.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import lzma
import tarfile
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from migrate.blobio.compression import zstd_module
from migrate.documents.image_map import encode_map
from migrate.report.mapping import map_images
from migrate.report.parse import parse_report
from tests import disks
from tests.archives import V1Archive, build_tar, layer_tar, link
from tests.cases import FIXTURES, case, registry_cases, save_cases, store_cases
from tests.command import migrate
from tests.fuzz.__main__ import CORPUS
from tests.shelves import write_shelf
from tests.wrappings import gnu_tar

MOST_BYTES = 40_000
CHANGES_OF_SOUND = (
    "btrfs-disks",
    "containers",
    "disk-formats",
    "ext4-disks",
    "ext4-images",
    "journals",
    "partitioned-disks",
    "registries-v1",
    "registries-v2",
    "stores",
    "thin-pools",
    "v1-answers",
    "v2-answers",
    "xfs-disks",
    "xfs-images",
)
"""Targets whose input says what is changed in something sound."""
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
    yield "tars", layer
    yield (
        "tar-split",
        b'{"type":2,"payload":"aGVhZGVy","position":0}\n{"type":1,"name":"a","size":7,"payload":"AAAAAAAAAAA=","position":1}\n',
    )
    yield "tar-split", b'{"type":1,"name_raw":"/w==","payload":null,"position":0}'
    for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield "tars", _tar(dialect)
        yield "tar-trees", _tar(dialect)
    yield "tar-trees", sparse_tar("1.0")
    yield "tar-trees", sparse_tar("0.1")
    yield (
        "lvm-metadata",
        disks.volume_group("vg", {"pv0": "a" * 32}, {"root": ("", disks.linear(("pv0", 0, 1)))}).encode(),
    )
    yield from (("journal-records", content) for content in _records())
    yield "maps", encode_map(map_images(parse_report(_report())))
    yield "maps", _report()
    for target in CHANGES_OF_SOUND:
        for number in range(8):
            yield target, hashlib.sha256(f"{target}{number}".encode()).digest() * (number + 1)


def _documents() -> Iterator[tuple[str, bytes]]:
    for one in save_cases():
        for name, content in packed_files(str(one.path / "save.tar.xz")):
            if name.endswith(("/json", ".json", "repositories")):
                yield "json-documents", content
                yield ("v1-documents" if name.endswith("/json") else "oci-documents"), content
    for one in save_cases():
        yield from (("oci-documents", content) for _, content in packed_files(str(one.path / "configs.tar.xz")))
    for one in registry_cases():
        for name, content in packed_files(str(one.path / "registry.tar.xz")):
            if (content.startswith(b"{") and b"fsLayers" in content) or "signatures" in name:
                yield "schema1-documents", content
            elif content[:1] in b"{[" and len(content) > 2:
                yield "store-documents", content
    for one in store_cases():
        for name, content in packed_files(str(one.path / "store.tar.xz")):
            if "repositories" in name or name.endswith(("config.json", "config.v2.json")):
                yield "store-documents", content
    yield "layouts", b'{"schemaVersion":2,"manifests":[]}'
    yield "reports", (FIXTURES / "report.json").read_bytes() if (FIXTURES / "report.json").exists() else _report()


def _report() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        archive = case("made-duplicates").write_plain(Path(place))
        migrate("convert", "-q", archive, Path(place) / "layout")
        report = (Path(place) / "layout/migration-report.json").read_bytes()
        return report.replace(place.encode(), b"/shelf")


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


def _records() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as place:
        shelf, layout = write_shelf(Path(place) / "shelf", apps=1, builds=1), Path(place) / "layout"
        migrate("batch", "-q", "--executor", "threads", "--jobs", "1", shelf, layout)
        for line in (layout / ".migrate/journal.jsonl").read_bytes().splitlines():
            packed = line.partition(b',"record":"')[2].removesuffix(b'"}')
            if packed:
                yield zlib.decompress(base64.b64decode(packed)).replace(place.encode(), b"/shelf")


def sparse_tar(version: str) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        with (Path(place) / "holes").open("wb") as stream:
            stream.seek(1 << 20)
            stream.write(b"end")
        (Path(place) / "link").symlink_to("holes")
        target = Path(place) / "tar"
        gnu_tar("--format=posix", "-S", f"--sparse-version={version}", "--exclude=tar")(Path(place), target)
        return target.read_bytes().rstrip(b"\0")


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
