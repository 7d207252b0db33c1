"""What is fuzzed: every reader and parser, each as a function of bytes out of which only MigrateError may come.

`TARGETS` maps a name to a function that prepares, in the directory that it is given, and returns the one to be fuzzed.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastcrc import crc32

from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.compose.config import HistoryStep, compose_config
from migrate.convert.run import Conversion, OpenedSource
from migrate.documents import containers, docker_root, go_json, jws, oci, registry_v1, schema1
from migrate.documents.docker_archive import parse_archive_manifest, parse_repositories
from migrate.documents.json_text import load_json, load_json_lenient
from migrate.documents.v1_json import LayerDocument
from migrate.errors import MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import LegacyID
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.readers.detect import detect, open_source
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.report.json import encode_report
from migrate.report.parse import parse_report
from migrate.rootfs.tar_listing import TarListing
from migrate.storage.blocks import open_device
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.thin.btree import BLOCK_SIZE, NODE_CSUM_XOR
from migrate.storage.thin.pool import SUPERBLOCK_CSUM_XOR, ThinPool
from migrate.storage.tree import Tree
from migrate.tar.entries import TarScanner
from migrate.tar.index import index_tar
from migrate.tar.inspector import TarInspector
from migrate.tar.tarsplit import assemble, iter_records
from migrate.tar.tarsum import VERSIONS, tarsums
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests.cases import case
from tests.unit.readers.devicemapper.images import ERA_FEATURES, make_ext4, make_xfs, xfs_prototype
from tests.unit.readers.devicemapper.pools import PoolBuilder, pool_xml, restore, write_record

Fuzzed = Callable[[bytes], None]
DIFF_ID = DiffID(Digest("a" * 64))


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result, or None where it was refused in the way that callers expect."""
    try:
        return function(*arguments)
    except MigrateError:
        return None


def with_checksums(raw: bytes) -> bytes:
    """The tar with right checksums in all that looks like a header, for a fuzzer does not guess them.

    An input that ends in an odd byte stays as it is.
    """
    if not raw or raw[-1] & 1:
        return raw
    fixed = bytearray(raw)
    for at in range(0, len(raw) - 511, 512):
        if raw[at + 257 : at + 262] == b"ustar":
            fixed[at + 148 : at + 156] = b" " * 8
            fixed[at + 148 : at + 156] = b"%06o\0 " % sum(fixed[at : at + 512])
    return bytes(fixed)


# --- documents ---------------------------------------------------------------------------------------------------


def json_documents(_: Path) -> Fuzzed:
    def run(raw: bytes) -> None:
        attempt(load_json, raw, "x")
        attempt(load_json_lenient, raw, "x")
        document = attempt(go_json.read_document, raw, "x")
        if isinstance(document, dict | go_json.RawObject):
            encoded = go_json.encode_object(go_json.carried_values(document, "x"))
            assert attempt(go_json.read_document, encoded, "x") is not None, "what is written cannot be read"

    return run


def v1_documents(_: Path) -> Fuzzed:
    def run(raw: bytes) -> None:
        attempt(LayerDocument(raw).identity)
        document = LayerDocument(raw)
        carried = attempt(document.carried_members)
        if carried is not None:
            config = attempt(compose_config, carried, [HistoryStep.of(document.facts(), empty_layer=False)], [DIFF_ID])
            if config is not None:
                assert oci.parse_config(config).diff_ids == (DIFF_ID,)

    return run


def oci_documents(_: Path) -> Fuzzed:
    def run(raw: bytes) -> None:
        attempt(oci.parse_config, raw)
        attempt(oci.parse_manifest, raw)
        index = attempt(oci.parse_index, raw)
        if index is not None:
            assert oci.parse_index(oci.encode_index(index.manifests, index.media_type)) == index
        attempt(parse_archive_manifest, raw)
        attempt(parse_repositories, raw)

    return run


def schema1_documents(_: Path) -> Fuzzed:
    def run(raw: bytes) -> None:
        opened = attempt(schema1.open_manifest, raw)
        if opened is not None:
            attempt(schema1.parse_schema1, opened.payload)
            for signature in opened.signatures[:2]:
                attempt(jws.signature_problem, opened.payload, signature)
        attempt(schema1.parse_schema1, raw)
        attempt(schema1.parse_signature, raw)

    return run


def store_documents(_: Path) -> Fuzzed:
    def run(raw: bytes) -> None:
        attempt(docker_root.parse_tag_store, raw, "x")
        attempt(containers.parse_container, raw, "x", raw)
        attempt(docker_root.parse_migration_map, raw, "x")
        attempt(registry_v1.parse_checksums, raw)
        attempt(registry_v1.parse_ancestry, raw)

    return run


def reports(_: Path) -> Fuzzed:
    def run(raw: bytes) -> None:
        report = attempt(parse_report, raw)
        if report is not None:
            assert parse_report(encode_report(report)) == report

    return run


# --- streams -----------------------------------------------------------------------------------------------------


def _fed(observer: Any, raw: bytes, pieces: Iterable[int]) -> Any:
    view, position = memoryview(raw), 0
    for size in pieces:
        if position >= len(raw):
            break
        observer.feed(view[position : position + size])
        position += size
    return observer.finish()


def tars(_: Path) -> Fuzzed:
    """One tar, read in one piece and in pieces of 700 bytes, by each of the readers that see a layer."""

    def run(raw: bytes) -> None:
        raw = with_checksums(raw)
        whole = attempt(_fed, TarInspector("x"), raw, [len(raw)])
        pieces = attempt(_fed, TarInspector("x"), raw, [700] * (len(raw) // 700 + 1))
        assert whole == pieces, f"{whole} in one piece, {pieces} in several"
        for observer in (TarScanner("x"), TarListing()):
            attempt(_fed, observer, raw, [700] * (len(raw) // 700 + 1))
        attempt(tarsums, io.BytesIO(raw), b"{}", VERSIONS, "x")
        fd = os.memfd_create("fuzz")
        try:
            os.write(fd, raw)
            attempt(index_tar, fd, "x")
        finally:
            os.close(fd)

    return run


def compressed_streams(_: Path) -> Fuzzed:
    def read(raw: bytes) -> None:
        stream = open_decompressed(io.BytesIO(raw), detect_compression(raw[:HEAD_BYTES]), "x")
        while stream.read(1 << 16):
            pass

    return lambda raw: attempt(read, raw)


def tar_split(_: Path) -> Fuzzed:
    """The lines of tar-split metadata, compressed here, for a fuzzer does not guess a CRC; the raw file, too."""

    def run(raw: bytes) -> None:
        packed = gzip.compress(raw, 1)
        attempt(lambda: list(iter_records(io.BytesIO(packed))))
        attempt(lambda: list(assemble(io.BytesIO(packed), lambda _: io.BytesIO(b"content"))))
        attempt(lambda: list(iter_records(io.BytesIO(raw))))

    return run


# --- whole sources and targets -----------------------------------------------------------------------------------


def archives(place: Path) -> Fuzzed:
    """An archive is converted into a layout; whatever became of it, the layout is clean."""
    source, layout = place / "archive.tar", place / "layout"
    options = ConvertOptions(all_layers=True, salvage=True, jobs=1)

    def convert() -> None:
        opened = OpenedSource(str(source), open_source(str(source)))
        target = OciLayout(layout, options)
        try:
            Conversion(sources=[opened], options=options, target=target).run()
        finally:
            target.close()
            assert opened.source is not None
            opened.source.close()

    def run(raw: bytes) -> None:
        source.write_bytes(with_checksums(raw))
        attempt(convert)
        if layout.exists():
            findings = verify(str(layout), 1, SilentProgress())
            assert findings == [], findings
            shutil.rmtree(layout)

    return run


def targets(place: Path) -> Fuzzed:
    """`verify` of an archive that says anything."""
    target = place / "target.tar"

    def run(raw: bytes) -> None:
        target.write_bytes(with_checksums(raw))
        attempt(verify, str(target), 1, SilentProgress())

    return run


def layouts(place: Path) -> Fuzzed:
    """A layout with any index.json, report and state: verified, and opened to be continued."""
    place = place / "layout"
    (place / "blobs/sha256").mkdir(parents=True)
    (place / ".migrate").mkdir()
    (place / "oci-layout").write_bytes(b'{"imageLayoutVersion": "1.0.0"}')

    def reopen() -> None:
        target = OciLayout(place, ConvertOptions())
        try:
            target.existing_images()
            target.memory.known_blob(DIFF_ID, "gzip")
            target.memory.known_sizes()
        finally:
            target.close()

    def run(raw: bytes) -> None:
        for name in ("index.json", "manifest.json", "migration-report.json", ".migrate/layers"):
            (place / name).write_bytes(raw)
        attempt(verify, str(place), 1, SilentProgress())
        attempt(reopen)

    return run


def stores(place: Path) -> Fuzzed:
    """A Docker root in which one file holds other bytes: a few of them (odd selector), or all."""
    return _tree(place, case("store-1.9.1-aufs").path / "store.tar.xz")


def registries_v1(place: Path) -> Fuzzed:
    return _tree(place, case("registry-v1-pushed").path / "registry.tar.xz")


def registries_v2(place: Path) -> Fuzzed:
    return _tree(place, case("registry-v2-mixed-2.8").path / "registry.tar.xz")


def _tree(place: Path, packed: Path) -> Fuzzed:
    with tarfile.open(packed) as archive:
        archive.extractall(place, filter="fully_trusted")
    root = next((path for path in (place, *sorted(place.iterdir())) if detect(DirectoryTree(str(path)))), place)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    options = ConvertOptions(dry_run=True, salvage=True, jobs=1)

    def plan() -> None:
        opened = OpenedSource(str(root), open_source(str(root)))
        try:
            Conversion(sources=[opened], options=options).run()
        finally:
            assert opened.source is not None
            opened.source.close()

    def run(raw: bytes) -> None:
        if len(raw) < 4:
            return
        selector, at, content = int.from_bytes(raw[:2], "big"), int.from_bytes(raw[2:4], "big"), raw[4:]
        path = files[(selector >> 1) % len(files)]
        sound = path.read_bytes()
        at %= len(sound) + 1
        path.write_bytes(sound[:at] + content + sound[at + len(content) :] if selector & 1 else content)
        try:
            attempt(plan)
        finally:
            path.write_bytes(sound)

    return run


def thin_pools(place: Path) -> Fuzzed:
    """Metadata of a small pool with bytes changed, and with checksums that are right again."""
    blocks = {1: {number: number + 1 for number in range(600)}, 2: {number: number + 7 for number in range(0, 900, 2)}}
    document, metadata = place / "pool.xml", place / "metadata"
    document.write_text(pool_xml(blocks, {}, 7, 2_000))
    restore(document, metadata, 1024 * 1024)
    sound = metadata.read_bytes()
    used = [at for at in range(0, len(sound), BLOCK_SIZE) if sound[at : at + BLOCK_SIZE].strip(b"\0")]

    def read() -> None:
        image = open_device(metadata)
        try:
            pool = ThinPool(image)
            for device in list(pool.devices)[:10]:
                sum(1 for _ in zip(pool.read_map(device).blocks(), range(5_000), strict=False))
        finally:
            image.close()

    def run(raw: bytes) -> None:
        changed = bytearray(sound)
        for at in range(0, len(raw) - 7, 8):
            block = used[raw[at] % len(used)]
            place_in = int.from_bytes(raw[at + 1 : at + 3], "big") % (BLOCK_SIZE - 5)
            changed[block + place_in : block + place_in + 5] = raw[at + 3 : at + 8]
        for block in used:
            mask = SUPERBLOCK_CSUM_XOR if block == 0 else NODE_CSUM_XOR
            checksum = crc32.iscsi(bytes(changed[block + 4 : block + BLOCK_SIZE])) ^ 0xFFFFFFFF ^ mask
            changed[block : block + 4] = checksum.to_bytes(4, "little")
        metadata.write_bytes(changed)
        attempt(read)

    return run


def ext4_images(place: Path) -> Fuzzed:
    return _device(place, lambda image, tree: make_ext4(image, tree, "8M", f"{ERA_FEATURES},^has_journal"))


def xfs_images(place: Path) -> Fuzzed:
    v4 = "crc=0,finobt=0,bigtime=0,inobtcount=0,reflink=0,rmapbt=0"
    return _device(
        place, lambda image, tree: make_xfs(image, xfs_prototype(tree.parent / "proto", tree), "320M", "-m", v4)
    )


def _device(place: Path, make: Callable[[Path, Path], Path]) -> Fuzzed:
    """A thin device whose file system has bytes changed at places where it stores something."""
    tree = place / "tree"
    (tree / "rootfs/etc").mkdir(parents=True)
    (tree / "id").write_text("0" * 64)
    (tree / "rootfs/etc/hostname").write_bytes(b"hello\n" * 3_000)
    (tree / "rootfs/etc/link").symlink_to("x" * 150)
    for number in range(80):
        (tree / f"rootfs/etc/name-{number:04d}").write_bytes(b"%d" % number)
    store = place / "store"
    (store / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(store / "devicemapper")
    image = make(place / "image", tree)
    pool.add(1, image)
    pool.write_metadata()
    write_record(store, "0" * 64, 1, image.stat().st_size)
    image.unlink()
    fd = os.open(pool.data, os.O_RDWR)
    size = os.fstat(fd).st_size
    used = [at for at in range(0, size, 512) if os.pread(fd, 512, at).strip(b"\0")]

    def read() -> None:
        driver = DevicemapperDriver(DirectoryTree(str(store)))
        try:
            _walk(driver.layer_tree(LegacyID("0" * 64)))
        finally:
            driver.close()

    def run(raw: bytes) -> None:
        undo: list[tuple[bytes, int]] = []
        for at in range(0, len(raw) - 7, 8):
            where = used[int.from_bytes(raw[at : at + 2], "big") % len(used)] + raw[at + 2] * 2
            undo.append((os.pread(fd, 5, where), where))
            os.pwrite(fd, raw[at + 3 : at + 8], where)
        try:
            attempt(read)
        finally:
            for content, where in reversed(undo):
                os.pwrite(fd, content, where)

    return run


def _walk(tree: Tree) -> None:
    waiting, seen = [b""], 0
    while waiting:
        for entry in tree.entries(waiting.pop()):
            seen += 1
            assert seen < 50_000, "a tree without an end"
            if stat.S_ISDIR(entry.mode):
                waiting.append(entry.path)
            elif stat.S_ISLNK(entry.mode):
                attempt(tree.read_link, entry.path)
            elif stat.S_ISREG(entry.mode) and entry.size < 1 << 24:
                with tree.open(entry.path) as stream:
                    while stream.read(1 << 16):
                        pass
            attempt(tree.xattrs, entry.path)


TARGETS: dict[str, Callable[[Path], Fuzzed]] = {
    "archives": archives,
    "compressed-streams": compressed_streams,
    "ext4-images": ext4_images,
    "json-documents": json_documents,
    "layouts": layouts,
    "oci-documents": oci_documents,
    "registries-v1": registries_v1,
    "registries-v2": registries_v2,
    "reports": reports,
    "schema1-documents": schema1_documents,
    "store-documents": store_documents,
    "stores": stores,
    "tar-split": tar_split,
    "tars": tars,
    "targets": targets,
    "thin-pools": thin_pools,
    "v1-documents": v1_documents,
    "xfs-images": xfs_images,
}
