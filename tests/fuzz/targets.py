"""What is fuzzed: every reader and parser, each as a function of bytes out of which only MigrateError may come.

`TARGETS` maps a name to a function that prepares, in the directory that it is given, and returns the one to be fuzzed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from fastcrc import crc32

from migrate.batch.batch import BatchRequest, run_batch
from migrate.batch.journal import Journals, pack_record, unpack_record
from migrate.batch.records import parse_record
from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.compose.config import HistoryStep, compose_config
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.distribution import client
from migrate.documents import containers, docker_root, go_json, jws, oci, registry_v1, schema1
from migrate.documents.docker_archive import parse_archive_manifest, parse_repositories
from migrate.documents.image_map import encode_map, parse_map, rows_of_report
from migrate.documents.json_text import load_json, load_json_lenient
from migrate.documents.v1_json import LayerDocument
from migrate.errors import MigrateError
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import LegacyID
from migrate.model.options import ConvertOptions, ReadOptions
from migrate.model.progress import SilentProgress
from migrate.readers.detect import detect, open_source
from migrate.readers.graphdrivers.devicemapper.driver import DevicemapperDriver
from migrate.readers.remote_registry import RegistryOverHttp
from migrate.report.json import encode_report
from migrate.report.parse import parse_report
from migrate.rootfs.tar_listing import TarListing
from migrate.storage.blocks import open_device
from migrate.storage.directory_store import DirectoryStore
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tar_tree import TarTree
from migrate.storage.thin.btree import BLOCK_SIZE, NODE_CSUM_XOR
from migrate.storage.thin.pool import SUPERBLOCK_CSUM_XOR, ThinPool
from migrate.tar.entries import TarScanner
from migrate.tar.index import index_tar
from migrate.tar.inspector import TarInspector
from migrate.tar.tarsplit import assemble, iter_tar_split
from migrate.tar.tarsum import VERSIONS, tarsums
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests.archives import unpack
from tests.cases import case
from tests.fuzz import disk_targets
from tests.scripted import Reply, Request
from tests.shelves import write_shelf
from tests.unit.readers.devicemapper.images import ERA_FEATURES, make_ext4, make_xfs, xfs_prototype
from tests.unit.readers.devicemapper.pools import PoolBuilder, pool_xml, restore, write_record
from tests.v1_server import TOKEN, V1Server

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


def maps(_: Path) -> Fuzzed:
    def run(raw: bytes) -> None:
        rows = attempt(parse_map, raw)
        if rows is not None:
            assert parse_map(encode_map(rows)) == rows
        attempt(rows_of_report, raw, 1 << 20)

    return run


def journal_records(_: Path) -> Fuzzed:
    """What `parse_record` takes must be packed and read again to the same."""

    def parsed(raw: bytes) -> Any:
        try:
            return parse_record(raw, "x")
        except ValueError:
            return None

    def run(raw: bytes) -> None:
        record = parsed(raw)
        if record is not None:
            assert unpack_record(pack_record(record).encode(), "x") == record

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
        attempt(lambda: list(iter_tar_split(io.BytesIO(packed))))
        attempt(lambda: list(assemble(io.BytesIO(packed), lambda _: io.BytesIO(b"content"))))
        attempt(lambda: list(iter_tar_split(io.BytesIO(raw))))

    return run


def tar_trees(place: Path) -> Fuzzed:
    """A tar as a tree: links, sparse files of three kinds, pax records."""
    path = place / "tree.tar"

    def read() -> None:
        tree = TarTree(os.open(path, os.O_RDONLY), "x")
        try:
            disk_targets.walk(tree)
            tree.problems()
        finally:
            tree.close()

    def run(raw: bytes) -> None:
        path.write_bytes(with_checksums(raw))
        attempt(read)

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
            opened.close()

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


def containers_of_roots(place: Path) -> Fuzzed:
    """The records of containers, which become images."""
    packed = case("containers-1.9.1-overlay").path / "store.tar.xz"
    return _tree(place, packed, "containers/", containers=True)


def journals(place: Path) -> Fuzzed:
    """A batch whose journal has some bytes changed goes on, and what it makes is clean.

    The first two bytes choose a line, the next two a place in its fields or in its unpacked record.
    """
    shelf, layout = write_shelf(place / "shelf", apps=1, builds=2), place / "layout"
    options = ConvertOptions(jobs=1, exact_sizes=True)
    request = BatchRequest(target=str(layout), options=options, locations=[str(shelf)], executor="threads")
    run_batch(request, SilentProgress()).close()
    journal = layout / ".migrate/journal.jsonl"
    sound = journal.read_bytes().splitlines(keepends=True)

    def changed(line: bytes, at: int, content: bytes) -> bytes:
        head, mark, packed = line.partition(b',"record":"')
        if at & 1 and mark:
            text = zlib.decompress(base64.b64decode(packed.removesuffix(b'"}\n')))
            at = (at >> 1) % (len(text) + 1)
            text = text[:at] + content + text[at + len(content) :]
            return head + mark + base64.b64encode(zlib.compress(text, 1)) + b'"}\n'
        at = (at >> 1) % (len(head) + 1)
        return head[:at] + content + head[at + len(content) :] + mark + packed

    def read() -> None:
        with closing(DirectoryStore(layout)) as store, closing(Journals(store)) as journals:
            for line in journals.iter_lines(journal.name):
                if line.is_source:
                    journals.read(line.place, str(line.fields["source"]))

    def run(raw: bytes) -> None:
        if len(raw) < 4:
            return
        lines = list(sound)
        which = int.from_bytes(raw[:2], "big") % len(lines)
        lines[which] = changed(lines[which], int.from_bytes(raw[2:4], "big"), raw[4:])
        journal.write_bytes(b"".join(lines))
        attempt(read)
        if raw[0] & 0x80:
            attempt(lambda: run_batch(request, SilentProgress()).close())
            findings = verify(str(layout), 1, SilentProgress())
            assert findings == [], findings

    return run


def v1_answers(place: Path) -> Fuzzed:
    """A v1 registry of which one answer has some bytes changed, in its head or its body."""
    with tarfile.open(case("registry-v1-pushed").path / "registry.tar.xz") as packed:
        unpack(packed, place)
    root = next(path.parent for path in sorted(place.rglob("images")) if (path.parent / "repositories").is_dir())
    return _answers(V1Server(root, token=TOKEN).answer, "docker://127.0.0.1:1/library/busybox", v1=True)


def v2_answers(_: Path) -> Fuzzed:
    """The same of a v2 registry."""
    layer = gzip.compress(b"\0" * 1024, mtime=0)
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}'
    config %= hashlib.sha256(b"\0" * 1024).hexdigest().encode()
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    described = [
        {"mediaType": kind, "size": len(blob), "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}"}
        for blob in (config, layer)
    ]
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": described[0], "layers": described[1:]})
    pages = {
        "/v2/_catalog": Reply(body=b'{"repositories": ["app"]}'),
        "/v2/app/tags/list": Reply(body=b'{"name": "app", "tags": ["1"]}', headers={"Link": '</v2/x>; rel="last"'}),
        "/v2/app/manifests/1": Reply(body=manifest.encode(), headers={"Content-Type": kind}),
        **{
            f"/v2/app/blobs/{one['digest']}": Reply(body=blob)
            for one, blob in zip(described, (config, layer), strict=True)
        },
    }

    def answer(request: Request) -> Reply:
        return Reply() if request.path == "/v2/" else pages.get(request.path.partition("?")[0], Reply(404))

    return _answers(answer, "docker://127.0.0.1:1", v1=False)


_NO_HEADER = dict.fromkeys(map(ord, "\r\n\0"))
"""What no HTTP client lets through in the value of a header."""


def _answers(sound: Callable[[Request], Reply], location: str, *, v1: bool) -> Fuzzed:
    state = {"count": 0, "wanted": 0, "at": 0}
    content = b""

    def handle(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode("latin-1")
        reply = sound(
            Request(request.method, path, {key.title(): value for key, value in request.headers.items()}, b"")
        )
        status, headers = reply.status, dict(reply.headers)
        body = b"" if request.method == "HEAD" else reply.body
        headers.setdefault("Content-Length", str(len(reply.body)))
        if state["count"] == state["wanted"]:
            if state["at"] & 1:
                names = [*headers, "Content-Length", "WWW-Authenticate", "Link", "Location", "Docker-Content-Digest"]
                headers[names[(state["at"] >> 1) % len(names)]] = content.decode("latin-1").translate(_NO_HEADER)
                status = (200, 401, 307, status)[state["at"] & 3] if state["at"] & 0x80 else status
            else:
                at = (state["at"] >> 1) % (len(body) + 1)
                body = body[:at] + content + body[at + len(content) :]
                headers["Content-Length"] = str(len(body))
        state["count"] += 1
        raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return httpx.Response(status, headers=raw_headers, stream=httpx.ByteStream(body), request=request)

    def open_http(scheme: str, host: str, *, insecure: bool, base: str = "") -> httpx.Client:
        del insecure
        return httpx.Client(base_url=f"{scheme}://{host}/{base}", transport=httpx.MockTransport(handle))

    options = ConvertOptions(dry_run=True, jobs=1)

    def plan() -> None:
        real = client.open_http  # type: ignore[attr-defined]
        client.open_http = open_http  # type: ignore[attr-defined]  # no socket: ten times as many inputs
        try:
            source = RegistryOverHttp(location, ReadOptions(dry_run=True), v1=v1, sleep=lambda _: None)
            try:
                Conversion([OpenedSource(location, source)], options=options).run()
            finally:
                source.close()
        finally:
            client.open_http = real  # type: ignore[attr-defined]  # for the other tests of this process

    def run(raw: bytes) -> None:
        nonlocal content
        if len(raw) < 4:
            return
        state.update(count=0, wanted=raw[0] & 0x1F, at=int.from_bytes(raw[1:3], "big"))
        content = raw[3:]
        attempt(plan)

    return run


def _tree(place: Path, packed: Path, below: str = "", *, containers: bool = False) -> Fuzzed:
    with tarfile.open(packed) as archive:
        unpack(archive, place)
    root = next((path for path in (place, *sorted(place.iterdir())) if detect(DirectoryTree(str(path)))), place)
    files = sorted(path for path in (root / below).rglob("*") if path.is_file() and not path.is_symlink())
    options = ConvertOptions(dry_run=True, salvage=True, containers=containers, jobs=1)

    def plan() -> None:
        opened = OpenedSource(str(root), open_source(str(root), options))
        try:
            Conversion(sources=[opened], options=options).run()
        finally:
            opened.close()

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
            disk_targets.walk(driver.layer_tree(LegacyID("0" * 64)))
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


TARGETS: dict[str, Callable[[Path], Fuzzed]] = {
    "archives": archives,
    "btrfs-disks": disk_targets.btrfs_disks,
    "compressed-streams": compressed_streams,
    "containers": containers_of_roots,
    "disk-formats": disk_targets.disk_formats,
    "ext4-disks": disk_targets.ext4_disks,
    "ext4-images": ext4_images,
    "json-documents": json_documents,
    "journal-records": journal_records,
    "journals": journals,
    "layouts": layouts,
    "lvm-metadata": disk_targets.lvm_metadata,
    "maps": maps,
    "oci-documents": oci_documents,
    "partitioned-disks": disk_targets.partitioned_disks,
    "registries-v1": registries_v1,
    "registries-v2": registries_v2,
    "reports": reports,
    "schema1-documents": schema1_documents,
    "store-documents": store_documents,
    "stores": stores,
    "tar-split": tar_split,
    "tar-trees": tar_trees,
    "tars": tars,
    "targets": targets,
    "thin-pools": thin_pools,
    "v1-answers": v1_answers,
    "v1-documents": v1_documents,
    "v2-answers": v2_answers,
    "xfs-disks": disk_targets.xfs_disks,
    "xfs-images": xfs_images,
}
