"""What every target promises through the ImageTarget port, whatever it writes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from migrate.documents.oci import IndexEntry, encode_index
from migrate.errors import TargetError
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, Platform
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.model.reference import Reference
from migrate.storage.syscalls import FILE_SYSTEM, FileSystem
from migrate.verify import verify
from migrate.writers.base import ImageTarget
from migrate.writers.discard import Discard
from migrate.writers.docker_archive import DockerArchive, OciArchive
from migrate.writers.oci_layout import OciLayout
from migrate.writers.open_target import open_target
from migrate.writers.registry_storage import RegistryStorage
from tests.images import AMD64, layer, put_image, put_layer

OPTIONS = ConvertOptions()
REPORT = b'{"images": []}'
ARM = Platform(os="linux", architecture="arm")
A, B, PLAIN = layer("a"), layer("b", b"b" * 500_000), layer("c", compress=False)

Open = Callable[[Path], ImageTarget]
TARGETS: dict[str, Open] = {
    "layout": lambda path: OciLayout(path, OPTIONS),
    "oci-archive": lambda path: OciArchive(str(path), OPTIONS),
    "docker-archive": lambda path: DockerArchive(str(path), OPTIONS),
    "registry-storage": lambda path: RegistryStorage(str(path), OPTIONS),
    "discard": lambda path: Discard(),
}
WRITTEN = sorted(TARGETS.keys() - {"discard"})


@pytest.fixture(params=sorted(TARGETS))
def opened(request: pytest.FixtureRequest) -> Open:
    return TARGETS[request.param]


@pytest.fixture(params=WRITTEN)
def written(request: pytest.FixtureRequest) -> Open:
    return TARGETS[request.param]


def clean(path: Path) -> bool:
    return verify(str(path), 2, SilentProgress()) == []


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in files
        if ".migrate" not in file.parts and file.name != "migration-report.json"
    }


def test_a_blob_is_there_once_committed(opened: Open, tmp_path: Path) -> None:
    target = opened(tmp_path / "target")
    digest, size = A.descriptor.digest, A.descriptor.size
    assert not target.has_blob(digest, size)
    put_layer(target, A)
    assert target.has_blob(digest, size)
    assert not target.has_blob(digest, size + 1)
    assert not target.has_blob(B.descriptor.digest, B.descriptor.size)
    target.close()


@pytest.mark.parametrize("piece", [1, 7, 65_536, 200_000, 10_000_000])
def test_blobs_may_come_in_pieces_from_a_buffer_that_is_used_again(written: Open, piece: int, tmp_path: Path) -> None:
    target = written(tmp_path / "target")
    source = B.blob if piece > 1_000 else B.blob[:3_000]
    buffer = bytearray(piece)
    with target.open_blob() as blob:
        for at in range(0, len(source), piece):
            part = source[at : at + piece]
            buffer[: len(part)] = part
            blob.write(memoryview(buffer)[: len(part)])
            buffer[:] = bytes(piece)
        blob.commit(Digest.of(source))
    assert target.has_blob(Digest.of(source), len(source))
    if source is B.blob:
        put_image(target, [B], "b:1")
        target.finish(REPORT)
    target.close()


def test_leaving_without_commit_leaves_no_trace(written: Open, tmp_path: Path) -> None:
    target = written(tmp_path / "target")
    for part in (b"abandoned", b"abandoned" * 100_000):
        with target.open_blob() as blob:
            blob.write(part)
        with pytest.raises(RuntimeError), target.open_blob() as blob:
            blob.write(part)
            raise RuntimeError
        assert not target.has_blob(Digest.of(part), len(part))
    put_image(target, [A], "a:1")
    target.finish(REPORT)
    target.close()
    assert not any(b"abandoned" in found for found in content(tmp_path / "target").values())


def test_equal_content_gives_equal_bytes_in_any_order(written: Open, tmp_path: Path) -> None:
    first, second = written(tmp_path / "1" / "target"), written(tmp_path / "2" / "target")
    put_image(first, [A, B], "b:1", "b:2")
    put_image(first, [A], "a:1")
    put_image(first, [A, PLAIN, A])
    put_image(second, [A, PLAIN, A])
    put_image(second, [A], "a:1")
    put_image(second, [A, B], "b:2", "b:1")
    for target in (first, second):
        target.finish(REPORT)
        target.close()
    assert content(tmp_path / "1" / "target") == content(tmp_path / "2" / "target")
    assert clean(tmp_path / "1" / "target")


def test_an_index_of_two_platforms(written: Open, tmp_path: Path) -> None:
    target = written(tmp_path / "target")
    made = [put_image(target, [A], platform=AMD64), put_image(target, [A, B], platform=ARM)]
    entries = [
        IndexEntry(
            descriptor=Descriptor(media_type=m.manifest_media_type, digest=m.manifest_digest, size=len(m.manifest)),
            platform=m.platform,
        )
        for m in made
    ]
    target.commit_index(
        encode_index(entries), "application/vnd.oci.image.index.v1+json", [Reference.parse("multi:latest")]
    )
    target.finish(REPORT)
    target.close()
    assert clean(tmp_path / "target")


def test_an_index_that_is_none(written: Open, tmp_path: Path) -> None:
    target = written(tmp_path / "target")
    with pytest.raises(TargetError):
        target.commit_index(b"[]", "application/vnd.oci.image.index.v1+json", [])
    target.close()


def test_the_same_run_again_changes_nothing(written: Open, tmp_path: Path) -> None:
    for _ in range(2):
        target = written(tmp_path / "target")
        put_image(target, [A, B], "b:1")
        put_image(target, [A])
        target.finish(REPORT)
        target.close()
        target.close()
        found = content(tmp_path / "target")
        assert clean(tmp_path / "target")
    assert content(tmp_path / "target") == found


def test_closed_before_the_end_nothing_has_a_name(written: Open, tmp_path: Path) -> None:
    target = written(tmp_path / "target")
    put_image(target, [A], "a:1")
    target.close()
    left = content(tmp_path / "target") if (tmp_path / "target").exists() else {}
    assert not any(b"a:1" in found for found in left.values())
    target = written(tmp_path / "target")
    put_image(target, [A], "a:1")
    target.finish(REPORT)
    target.close()
    assert clean(tmp_path / "target")


def test_many_threads(written: Open, tmp_path: Path) -> None:
    target = written(tmp_path / "target")
    layers = [layer(f"file-{number}", b"x" * (number * 3_000)) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: put_layer(target, each), layers * 2))
        list(pool.map(lambda each: put_image(target, [each, A], f"image:{each.diff_id.hex[:12]}"), layers))
    target.finish(REPORT)
    target.close()
    assert clean(tmp_path / "target")


def test_an_unwritable_place(written: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TargetError):
        written(tmp_path / "file" / "target")


def test_discard_counts() -> None:
    target = Discard()
    put_image(target, [A, B], "b:1")
    put_image(target, [A, B], "b:2")
    target.finish(b"report")
    assert target.blobs == {A.descriptor.digest: len(A.blob), B.descriptor.digest: len(B.blob)}
    assert (target.images, target.indexes, target.report) == (2, 0, b"report")
    assert [str(reference) for reference in target.references] == ["b:1", "b:2"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{}/x", OciLayout),
        ("oci:{}/x", OciLayout),
        ("oci-archive:{}/x.tar", OciArchive),
        ("docker-archive:{}/x.tar", DockerArchive),
        ("docker-archive:-", DockerArchive),
        ("registry-storage:{}/x", RegistryStorage),
    ],
)
def test_open_target(text: str, kind: type, tmp_path: Path) -> None:
    target = open_target(text.format(tmp_path), OPTIONS)
    assert type(target) is kind
    target.close()


def test_the_default_file_system_is_the_systems_own() -> None:
    assert type(FILE_SYSTEM) is FileSystem
