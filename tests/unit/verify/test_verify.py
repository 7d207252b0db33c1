"""verify finds every single change: of any byte of any blob, of any digest, size or path in any document."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from migrate.blobio.compression import zstd_module
from migrate.documents.oci import IndexEntry, encode_index
from migrate.errors import SourceUnreadableError, UnrecognisedSourceError
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, Platform
from migrate.model.options import ConvertOptions, Format
from migrate.model.progress import Event, SilentProgress
from migrate.model.reference import Reference
from migrate.verify import Finding, examine, hashing, verify
from migrate.verify.files import DirectoryFiles
from migrate.verify.findings import Findings
from migrate.writers.docker_archive import DockerArchive, OciArchive
from migrate.writers.oci_layout import OciLayout
from migrate.writers.registry_storage import RegistryStorage
from tests.images import LayerBytes, layer, put_image, put_layer

OPTIONS = ConvertOptions()
ARM = Platform(os="linux", architecture="arm", variant="v7")


class Heard:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def emit(self, event: Event, /) -> None:
        if event.kind == "warning":
            self.warnings.append(event.message)


def check(location: object, jobs: int = 2) -> list[Finding]:
    return verify(str(location), jobs, SilentProgress())


class Warnings:
    """A Progress that keeps the warnings."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def emit(self, event: Event) -> None:
        if event.kind == "warning":
            self.lines.append(event.message)


def text_of(findings: list[Finding]) -> str:
    return "\n".join(f"{finding.where}: {finding.message}" for finding in findings)


def fill(target: Any) -> None:
    """Shared, repeated, plain and multi-member layers; tags, an untagged image, and an index of two platforms."""
    base, middle, plain = layer("base"), layer("middle", random.Random(1).randbytes(3_000)), layer("p", compress=False)
    first = put_image(target, [base], "base:1", "registry.example:5000/base:latest")
    second = put_image(target, [base, middle, base], "app:1", platform=ARM)
    put_image(target, [plain, base])
    entries = [
        IndexEntry(
            descriptor=Descriptor(
                media_type=made.manifest_media_type, digest=made.manifest_digest, size=len(made.manifest)
            ),
            platform=made.platform,
        )
        for made in (first, second)
    ]
    content = encode_index(entries)
    target.commit_index(content, "application/vnd.oci.image.index.v1+json", [Reference.parse("multi:1")])
    rows = [
        {
            "manifest_digest": str(first.manifest_digest),
            "image_id": str(first.image_id),
            "layers": [
                {"blob_digest": None, "diff_id": None, "blob_size": None},
                {
                    "blob_digest": str(first.layers[0].digest),
                    "diff_id": str(first.diff_ids[0]),
                    "blob_size": first.layers[0].size,
                },
            ],
        }
    ]
    target.finish(json.dumps({"images": rows}).encode())
    target.close()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    fill(OciLayout(tmp_path / "layout", OPTIONS))
    return tmp_path / "layout"


def blobs_of(layout: Path) -> list[Path]:
    return sorted((layout / "blobs" / "sha256").iterdir())


# --- clean -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_what_the_writers_write_is_clean(tmp_path: Path, jobs: int) -> None:
    fill(OciLayout(tmp_path / "layout", OPTIONS))
    fill(OciArchive(str(tmp_path / "oci.tar"), OPTIONS))
    fill(DockerArchive(str(tmp_path / "docker.tar"), OPTIONS))
    for name in ("layout", "oci.tar", "docker.tar"):
        assert check(tmp_path / name, jobs) == []
    assert check(f"oci:{tmp_path / 'layout'}") == check(f"docker-archive:{tmp_path / 'docker.tar'}") == []


def test_a_started_layout_is_clean(tmp_path: Path) -> None:
    OciLayout(tmp_path / "layout", OPTIONS).close()
    assert check(tmp_path / "layout") == []
    assert examine(str(tmp_path / "layout"), 1, SilentProgress()).images == 0


def test_what_a_run_leaves_that_was_ended_at_once_is_clean(tmp_path: Path) -> None:
    (tmp_path / ".migrate").mkdir()
    assert check(tmp_path) == []
    (tmp_path / "blobs").mkdir()
    assert check(tmp_path) == []


def test_the_images_of_every_kind_of_target_are_counted(layout: Path, tmp_path: Path, registry: Path) -> None:
    """One is named twice, and two share an index."""
    fill(DockerArchive(str(tmp_path / "docker.tar"), OPTIONS))
    fill(OciArchive(str(tmp_path / "oci.tar"), OPTIONS))
    for target in (layout, tmp_path / "docker.tar", tmp_path / "oci.tar", registry):
        assert examine(str(target), 1, SilentProgress()).images == 3


def test_leftovers_are_told_but_are_no_mismatch(layout: Path) -> None:
    put = layer("nobody's")
    (layout / "blobs" / "sha256" / put.descriptor.digest.hex).write_bytes(put.blob)
    (layout / "notes.txt").write_text("mine")
    (layout / ".migrate" / "tmp-0123456789abcdef").mkdir()
    heard = Heard()
    assert verify(str(layout), 1, heard) == []
    assert heard.warnings == ["notes.txt: does not belong to the layout", "blobs: no image names 1 of the blobs"]
    notes = Finding("notes.txt", "does not belong to the layout")
    assert examine(str(layout), 1, SilentProgress()).warnings == [
        notes,
        Finding("blobs", "no image names 1 of the blobs"),
    ]


# --- any byte --------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_in_any_blob_is_found(layout: Path) -> None:
    generator = random.Random(20_140_601)
    tried = 0
    for blob in blobs_of(layout):
        content = blob.read_bytes()
        positions = {0, len(content) - 1, *(generator.randrange(len(content)) for _ in range(40))}
        for position in sorted(positions):
            flipped = bytearray(content)
            flipped[position] ^= 1 << generator.randrange(8)
            blob.write_bytes(flipped)
            found = check(layout, 1)
            assert any(blob.name in finding.where for finding in found), (blob, position)
            tried += 1
        blob.write_bytes(content)
    assert tried > 300
    assert check(layout) == []


@pytest.mark.parametrize("change", ["cut", "grown", "empty", "absent", "link", "directory"])
def test_a_changed_blob_is_found(layout: Path, change: str) -> None:
    for blob in blobs_of(layout):
        content = blob.read_bytes()
        blob.unlink()
        match change:
            case "cut":
                blob.write_bytes(content[:-1])
            case "grown":
                blob.write_bytes(content + b"\0")
            case "empty":
                blob.write_bytes(b"")
            case "link":
                blob.symlink_to("/etc/hostname")
            case "directory":
                blob.mkdir()
        assert blob.name in text_of(check(layout, 1))
        if change == "directory":
            blob.rmdir()
        else:
            blob.unlink(missing_ok=True)
        blob.write_bytes(content)


# --- any number in any document --------------------------------------------------------------------------------------


def variants(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(place, other value) for every digest, size, path, name and media type in a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from variants(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from variants(item, (*path, index))
    elif isinstance(value, str):
        middle = len(value) // 2
        yield path, value[:middle] + chr(ord(value[middle]) ^ 1) + value[middle + 1 :]
        yield path, value[:-1]
        yield path, value + "0"
        yield path, "../" + value
    elif isinstance(value, int):
        yield path, value + 1
        yield path, -value
        yield path, str(value)


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", ["index.json", "manifest.json", "oci-layout", "migration-report.json"])
def test_any_other_value_in_a_document_is_found(layout: Path, name: str) -> None:
    document = json.loads((layout / name).read_bytes())
    tried = 0
    for path, value in variants(document):
        (layout / name).write_text(json.dumps(with_value(document, path, value)))
        found = check(layout, 1)
        if "variant" in path:  # configs of this age name none, so nothing can contradict it
            continue
        assert found, (path, value)
        tried += 1
    assert tried >= (4 if name == "oci-layout" else 15)


@pytest.mark.parametrize("name", ["index.json", "manifest.json"])
def test_any_other_existing_blob_in_a_document_is_found(layout: Path, name: str) -> None:
    """The hardest change: another digest that is there as well, even one with the same size."""
    document = json.loads((layout / name).read_bytes())
    digests = [blob.name for blob in blobs_of(layout)]
    for path, value in list(variants(document)):
        original = document
        for key in path:
            original = original[key]
        if not (isinstance(original, str) and original[-64:] in digests) or value == original:
            continue
        for other in digests:
            if not original.endswith(other):
                changed = with_value(document, path, original[:-64] + other)
                (layout / name).write_text(json.dumps(changed))
                assert check(layout, 1), (path, other)


def test_swapped_layers_and_swapped_images_are_found(layout: Path) -> None:
    document = json.loads((layout / "manifest.json").read_bytes())
    for row in document:
        if len(set(row["Layers"])) > 1:
            row["Layers"] = row["Layers"][1:] + row["Layers"][:1]
    (layout / "manifest.json").write_text(json.dumps(document))
    assert "unpacks to diffID" in text_of(check(layout))


def test_removed_and_doubled_entries_are_found(layout: Path) -> None:
    for name, rows in [("index.json", "manifests"), ("manifest.json", None)]:
        document = json.loads((layout / name).read_bytes())
        entries = document[rows] if rows else document
        for position in range(len(entries)):
            for changed in (entries[:position] + entries[position + 1 :], [*entries, entries[position]]):
                (layout / name).write_text(json.dumps({**document, rows: changed} if rows else changed))
                assert check(layout, 1), (name, position)
        (layout / name).write_text(json.dumps(document))
    assert check(layout) == []


@pytest.mark.parametrize("name", ["index.json", "manifest.json", "oci-layout", "migration-report.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", b"[" * 100_000, b'{"schemaVersion":2,"manifests":[1]}', b"\xff\xfe", b"[{}]"],
)
def test_a_broken_document_is_a_finding(layout: Path, name: str, content: bytes) -> None:
    (layout / name).write_bytes(content)
    assert check(layout, 1) != []


def test_documents_larger_than_the_limit_are_not_read(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.verify.layout.CATALOG_BYTES", 1_000)
    (layout / "manifest.json").write_bytes(b" " * 1_001)
    assert "larger than the limit of 1,000 bytes" in text_of(check(layout))


def test_an_interrupted_finish_is_no_mismatch(layout: Path) -> None:
    """manifest.json is replaced first; until index.json follows, a marker has the digests of both."""
    documents = [(layout / name).read_bytes() for name in ("manifest.json", "index.json")]
    (layout / ".migrate" / "finishing").write_text("\n".join(str(Digest.of(content)) for content in documents))
    document = json.loads((layout / "index.json").read_bytes())
    document["manifests"].pop()
    (layout / "index.json").write_text(json.dumps(document))
    heard = Heard()
    assert verify(str(layout), 1, heard) == []
    assert any("holds an image that index.json does not" in warning for warning in heard.warnings)


# --- images ----------------------------------------------------------------------------------------------------------


def write_image(tmp_path: Path, config: dict[str, Any], layers: list[LayerBytes], media_types: list[str]) -> Path:
    """A layout with one image that is put together by hand, so that it can contradict itself."""

    def blob(content: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(content).hexdigest()
        (path / "blobs" / "sha256" / digest).write_bytes(content)
        return f"sha256:{digest}", len(content)

    path = tmp_path / "layout"
    (path / "blobs" / "sha256").mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    docker = "application/vnd.docker."
    rows = []
    for each, media_type in zip(layers, media_types, strict=True):
        digest, size = blob(each.blob)
        rows.append({"mediaType": media_type, "digest": digest, "size": size})
    digest, size = blob(json.dumps(config).encode())
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": f"{docker}distribution.manifest.v2+json",
        "config": {"mediaType": f"{docker}container.image.v1+json", "digest": digest, "size": size},
        "layers": rows,
    }
    digest, size = blob(json.dumps(manifest).encode())
    entry = {"mediaType": manifest["mediaType"], "digest": digest, "size": size}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return path


GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PLAIN = "application/vnd.docker.image.rootfs.diff.tar"


def config_of(layers: list[LayerBytes], history: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [str(each.diff_id) for each in layers]},
        "history": history,
    }


@pytest.mark.parametrize(
    ("filled", "empty", "clean"),
    [(2, 0, True), (2, 3, True), (0, 0, True), (3, 0, False), (3, 1, False)],
)
def test_history_against_layers(tmp_path: Path, filled: int, empty: int, clean: bool) -> None:
    layers = [layer("a"), layer("b")]
    history: list[dict[str, Any]] = [{} for _ in range(filled)] + [{"empty_layer": True} for _ in range(empty)]
    path = write_image(tmp_path, config_of(layers, history), layers, [GZIP, GZIP])
    assert (check(path) == []) is clean


@pytest.mark.parametrize(("filled", "empty"), [(1, 0), (1, 2), (0, 2)])
def test_a_history_of_too_few_steps_is_an_oddity_for_docker_takes_it(tmp_path: Path, filled: int, empty: int) -> None:
    layers = [layer("a"), layer("b")]
    history: list[dict[str, Any]] = [{} for _ in range(filled)] + [{"empty_layer": True} for _ in range(empty)]
    path = write_image(tmp_path, config_of(layers, history), layers, [GZIP, GZIP])
    progress = Warnings()
    assert verify(str(path), 2, progress) == []
    (line,) = progress.lines
    assert f"{filled} steps of the history have a layer, but rootfs has 2 diff_ids" in line


def test_diff_ids_against_layers(tmp_path: Path) -> None:
    layers = [layer("a"), layer("b")]
    path = write_image(tmp_path, config_of(layers[::-1], []), layers, [GZIP, GZIP])
    found = check(path)
    assert [finding.where.rpartition(" ")[2] for finding in found] == ["layers[0]", "layers[1]"]
    assert all("unpacks to diffID" in finding.message for finding in found)


def test_the_number_of_diff_ids(tmp_path: Path) -> None:
    layers = [layer("a"), layer("b")]
    path = write_image(tmp_path, config_of(layers[:1], []), layers, [GZIP, GZIP])
    assert "the config has 1 diff_ids for 2 layers" in text_of(check(path))


def test_media_type_against_compression(tmp_path: Path) -> None:
    layers = [layer("a"), layer("b", compress=False)]
    path = write_image(tmp_path, config_of(layers, []), layers, [PLAIN, GZIP])
    assert len(check(path)) == 2


@pytest.mark.parametrize("damage", ["garbage behind", "cut", "zeros behind"])
def test_a_layer_whose_name_is_right_but_whose_gzip_is_not(tmp_path: Path, damage: str) -> None:
    good = layer("a", b"x" * 5_000)
    blob = {"garbage behind": good.blob + b"garbage", "cut": good.blob[:-4], "zeros behind": good.blob + bytes(9)}[
        damage
    ]
    path = write_image(tmp_path, config_of([good], []), [LayerBytes(good.diff_id, blob, GZIP)], [GZIP])
    assert "layers[0]" in text_of(check(path))


def test_multi_member_gzip_is_one_layer(tmp_path: Path) -> None:
    whole = layer("a", random.Random(2).randbytes(300_000), compress=False)
    blob = b"".join(gzip.compress(whole.blob[at : at + 65_536], mtime=0) for at in range(0, len(whole.blob), 65_536))
    path = write_image(tmp_path, config_of([whole], []), [LayerBytes(whole.diff_id, blob, GZIP)], [GZIP])
    assert check(path) == []


def random_tar(size: int) -> LayerBytes:
    return layer("a", random.Random(3).randbytes(size // 2) + bytes(size // 2), compress=False)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "one member", "false heads"])
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_a_large_layer_is_read_by_all_workers(
    tmp_path: Path, kind: str, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut where members begin; where that guess is wrong, read once more in one piece."""
    monkeypatch.setattr("migrate.verify.hashing._SPLIT_BYTES", 1_000)
    monkeypatch.setattr("migrate.verify.hashing._PART_BYTES", 400_000)
    whole = random_tar(1_500_000)
    media_type = GZIP
    pieces = [whole.blob[at : at + 100_000] for at in range(0, len(whole.blob), 100_000)]
    match kind:
        case "gzip":
            blob = b"".join(gzip.compress(piece, mtime=0) for piece in pieces)
        case "zstd":
            media_type = "application/vnd.oci.image.layer.v1.tar+zstd"
            blob = b"".join(zstd_module().compress(piece) for piece in pieces)
        case "one member":
            blob = gzip.compress(whole.blob, mtime=0)
        case _:  # stored, not deflated, so that the header's bytes stand in the middle of a member
            head = gzip.compress(b"", mtime=0, compresslevel=0)[:10]
            whole = layer("a", (b"x" * 70_000 + head) * 20, compress=False)
            blob = gzip.compress(whole.blob, mtime=0, compresslevel=0)
    good = LayerBytes(whole.diff_id, blob, GZIP)
    path = write_image(tmp_path, config_of([good], []), [good], [media_type])
    assert check(path, jobs) == []
    name = path / "blobs" / "sha256" / good.descriptor.digest.hex
    for position in (3, len(blob) // 2, len(blob) - 5):
        flipped = bytearray(blob)
        flipped[position] ^= 4
        name.write_bytes(flipped)
        assert any(finding.where == f"blobs/sha256/{name.name}" for finding in check(path, jobs)), position


def test_members_of_several_levels_are_parts_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.verify.hashing._SPLIT_BYTES", 1_000)
    monkeypatch.setattr("migrate.verify.hashing._PART_BYTES", 150_000)
    opened: list[str] = []
    real = DirectoryFiles.open

    def counted(files: DirectoryFiles, name: str) -> BinaryIO:
        opened.append(name)
        return real(files, name)

    monkeypatch.setattr(DirectoryFiles, "open", counted)
    whole = random_tar(1_500_000)
    blob = b"".join(
        gzip.compress(whole.blob[at : at + 100_000], 1 if at else 9, mtime=0)
        for at in range(0, len(whole.blob), 100_000)
    )
    good = LayerBytes(whole.diff_id, blob, GZIP)
    assert check(write_image(tmp_path, config_of([good], []), [good], [GZIP])) == []
    assert opened.count(f"blobs/sha256/{good.descriptor.digest.hex}") == 1, "it was read again in one piece"


def test_what_one_block_unpacks_to_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    class Files:
        def names(self) -> dict[str, int]:
            return {"stop": 2, "bomb": 1}

        def open(self, name: str) -> io.BytesIO:
            if name == "stop":
                assert begun.wait(10)
                raise KeyboardInterrupt
            return io.BytesIO(b"\x1f\x8b\x08")

    class Unpacked:
        blocks = 0

        def read_block(self, limit: int) -> bytes:
            begun.set()
            self.blocks += 1
            assert self.blocks < 10_000_000, "it was not stopped"
            return b"0"

    monkeypatch.setattr(hashing, "open_decompressed", lambda *args: Unpacked())
    with pytest.raises(KeyboardInterrupt):
        hashing.hash_files(cast(Any, Files()), {"bomb": True, "stop": False}, 2, Findings(SilentProgress()))


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    blob = zstd_module().compress(bytes(1 << 30), 19)
    bomb = LayerBytes(layer("a").diff_id, blob, GZIP)
    path = write_image(tmp_path, config_of([bomb], []), [bomb], ["application/vnd.oci.image.layer.v1.tar+zstd"])
    assert "over the limit" in text_of(check(path))


def test_the_platform_of_the_index_is_that_of_the_config(layout: Path) -> None:
    document = json.loads((layout / "index.json").read_bytes())
    document["manifests"][0]["platform"]["architecture"] = "s390x"
    (layout / "index.json").write_text(json.dumps(document))
    assert "the platform should be" in text_of(check(layout))


def test_an_index_that_names_one_image_fifty_times(tmp_path: Path) -> None:
    fill(OciLayout(tmp_path / "layout", OPTIONS))
    document = json.loads((tmp_path / "layout" / "index.json").read_bytes())
    nested = {"schemaVersion": 2, "manifests": [document["manifests"][0]] * 50}
    content = json.dumps(nested).encode()
    target = OciLayout(tmp_path / "layout", OPTIONS)
    target.commit_index(content, "application/vnd.oci.image.index.v1+json", [])
    target.finish(b'{"images": []}')
    target.close()
    assert check(tmp_path / "layout") == []


# --- archives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_a_flipped_byte_in_any_member_of_an_archive_is_found(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive.tar"
    fill(OciArchive(str(path), OPTIONS) if kind == "oci" else DockerArchive(str(path), OPTIONS))
    content = path.read_bytes()
    generator = random.Random(7)
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    for member in members:
        if not member.size or (not member.name.startswith("blobs/") and not member.name.endswith(".tar")):
            continue
        for _ in range(12):
            position = member.offset_data + generator.randrange(member.size)
            flipped = bytearray(content)
            flipped[position] ^= 1 << generator.randrange(8)
            path.write_bytes(flipped)
            assert check(path, 1), (member.name, position)


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_an_archive_cut_anywhere_is_found(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive.tar"
    fill(OciArchive(str(path), OPTIONS) if kind == "oci" else DockerArchive(str(path), OPTIONS))
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    for length in range(512, end, 1_777):
        path.write_bytes(content[:length])
        assert check(path, 1), length


def test_any_other_value_in_an_archives_manifest_is_found(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    fill(DockerArchive(str(path), OPTIONS))
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    document = json.loads(members["manifest.json"])
    tried = 0
    for place, value in variants(document):
        if "RepoTags" in place:
            continue
        tried += 1
        members["manifest.json"] = json.dumps(with_value(document, place, value)).encode()
        write_tar(path, members)
        assert check(path, 1), (place, value)
    assert tried > 20


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


# --- what is no target -----------------------------------------------------------------------------------------------


def test_what_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadableError, match="No such file"):
        check(tmp_path / "absent")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UnrecognisedSourceError):
        check(tmp_path / "text")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_text("hello")
    with pytest.raises(UnrecognisedSourceError):
        check(tmp_path / "directory")
    (tmp_path / "directory" / "link").symlink_to("file")
    with pytest.raises(UnrecognisedSourceError, match="no OCI layout"):
        check(tmp_path / "directory")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnrecognisedSourceError, match="nothing to verify: it is empty"):
        check(tmp_path / "empty")
    (tmp_path / "empty" / "blobs").mkdir()
    with pytest.raises(UnrecognisedSourceError):
        check(tmp_path / "empty")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceUnreadableError, match="neither a file nor a directory"):
        check(tmp_path / "fifo")


def test_an_oci_format_layout(tmp_path: Path) -> None:
    options = ConvertOptions(format=Format.OCI)
    fill(OciLayout(tmp_path / "layout", options))
    assert check(tmp_path / "layout") == []


def test_a_layer_that_no_manifest_names_is_only_hashed(tmp_path: Path) -> None:
    target = OciLayout(tmp_path / "layout", OPTIONS)
    put_layer(target, layer("a"))
    target.close()
    assert check(tmp_path / "layout") == []


# --- registry storage ------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    fill(RegistryStorage(str(tmp_path / "registry"), OPTIONS))
    return tmp_path / "registry"


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and ".migrate" not in file.parts)


def test_a_registrys_storage_is_clean_from_any_height(registry: Path) -> None:
    for place in (registry, registry / "docker", registry / "docker/registry", registry / "docker/registry/v2"):
        assert check(place) == []
    assert check(f"registry-storage:{registry}") == []


def test_any_flipped_byte_of_a_registrys_storage_is_found(registry: Path) -> None:
    generator = random.Random(5)
    tried = 0
    for file in files_of(registry / "docker"):
        content = file.read_bytes()
        for position in {0, len(content) - 1, *(generator.randrange(len(content)) for _ in range(6))}:
            flipped = bytearray(content)
            flipped[position] ^= 1 << generator.randrange(8)
            file.write_bytes(flipped)
            assert check(registry, 1), (file, position)
            tried += 1
        file.write_bytes(content)
    assert tried > 200


def test_any_missing_file_of_a_registrys_storage_is_found(registry: Path) -> None:
    for file in files_of(registry / "docker"):
        content = file.read_bytes()
        file.unlink()
        if "tags" not in file.parts or "index" in file.parts:  # without `current` there is no tag, which is no mismatch
            assert check(registry, 1), file
        file.write_bytes(content)
    assert check(registry) == []


def test_a_link_to_another_blob_is_found(registry: Path) -> None:
    links = [file for file in files_of(registry / "docker") if file.name == "link"]
    digests = sorted({file.read_bytes() for file in links})
    for file in links:
        content = file.read_bytes()
        for other in digests:
            if other != content:
                file.write_bytes(other)
                assert check(registry, 1), (file, other)
        file.write_bytes(content)


def test_what_an_old_registry_holds_is_told_but_no_mismatch(registry: Path) -> None:
    root = registry / "docker/registry/v2"
    content = b'{"schemaVersion": 1, "name": "old", "tag": "1"}'
    digest = hashlib.sha256(content).hexdigest()
    link = f"sha256:{digest}".encode()
    old = root / "repositories" / "team" / "old"
    for place in (
        f"_manifests/revisions/sha256/{digest}/link",
        f"_manifests/revisions/sha256/{digest}/signatures/sha256/{digest}/link",
        f"_manifests/tags/1/index/sha256/{digest}/link",
        "_manifests/tags/1/current/link",
        "_layers/tarsum/v1/sha256/0/link",
        "_uploads/0/data",
        "strange",
    ):
        (old / place).parent.mkdir(parents=True, exist_ok=True)
        (old / place).write_bytes(link)
    blob = root / "blobs" / "sha256" / digest[:2] / digest / "data"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    heard = Heard()
    assert verify(str(registry), 1, heard) == []
    assert len(heard.warnings) == 2
    assert "schema-1" in "".join(heard.warnings) and "strange" in "".join(heard.warnings)


def test_a_blob_in_the_wrong_place_of_a_registry(registry: Path) -> None:
    blob = next(file for file in files_of(registry / "docker") if file.name == "data")
    wrong = blob.parent.parent.parent / "zz" / blob.parent.name / "data"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(blob.read_bytes())
    assert "is not the name of a blob" in text_of(check(registry))
