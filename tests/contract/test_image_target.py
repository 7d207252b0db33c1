"""What every target promises through the ImageTarget port, whatever it writes."""

from __future__ import annotations

import importlib
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path, PurePath

import pytest

from migrate.documents.oci import IndexEntry, encode_index
from migrate.errors import TargetError
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, Platform
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.model.reference import Reference
from migrate.storage.syscalls import SYSTEM_CALLS, SystemCalls
from migrate.verify import verify
from migrate.writers.base import ImageTarget
from migrate.writers.discard import Discard
from migrate.writers.docker_archive import DockerArchive, OciArchive
from migrate.writers.oci_layout import OciLayout
from migrate.writers.open_target import open_target
from migrate.writers.registry import RegistryTarget
from migrate.writers.registry_storage import RegistryStorage
from tests.buckets import memory_bucket, objects, write_files
from tests.images import AMD64, layer, put_image, put_layer
from tests.registries import docker_registry

OPTIONS = ConvertOptions()
REPORT = b'{"images": []}'
ARM = Platform(os="linux", architecture="arm")
A, B, PLAIN = layer("a"), layer("b", b"b" * 500_000), layer("c", compress=False)


class Kind:
    """One kind of target, by the path of a directory that is the test's own."""

    def __init__(self, open_it: Callable[[Path], ImageTarget]) -> None:
        self.open = open_it

    def files(self, path: Path) -> Path:
        """Where the target's files are, for `verify`."""
        return path

    def clean(self, path: Path) -> bool:
        return verify(str(self.files(path)), 2, SilentProgress()) == []

    def content(self, path: Path) -> dict[str, bytes]:
        top = self.files(path)
        found = [top] if top.is_file() else sorted(file for file in top.rglob("*") if file.is_file())
        return {
            str(file.relative_to(top)): file.read_bytes()
            for file in found
            if ".migrate" not in file.parts and file.name != "migration-report.json"
        }


class InBucket(Kind):
    def __init__(self, kind: type[OciLayout | RegistryStorage]) -> None:
        super().__init__(lambda path: kind(self.url(path), OPTIONS))

    def url(self, path: Path) -> str:
        return f"memory://bucket{path}"

    def files(self, path: Path) -> Path:
        """The objects, copied to files."""
        copy = path.with_name(f"{path.name}-copied")
        shutil.rmtree(copy, ignore_errors=True)
        filesystem = importlib.import_module("fsspec").filesystem("memory")
        return write_files(objects(filesystem, f"bucket{path}"), copy)


class Pushed(Kind):
    """To real registries, one for each path."""

    def __init__(self, servers: ExitStack) -> None:
        super().__init__(lambda path: RegistryTarget(self.host(path), OPTIONS))
        self._servers = servers
        self._hosts: dict[Path, str] = {}

    def host(self, path: Path) -> str:
        if path not in self._hosts:
            if path.parent.is_file():
                raise TargetError("no registry can be there")
            path.mkdir(parents=True)
            self._hosts[path] = self._servers.enter_context(docker_registry(path)).host
        return self._hosts[path]


KINDS: dict[str, Callable[[ExitStack], Kind]] = {
    "layout": lambda stack: Kind(lambda path: OciLayout(path, OPTIONS)),
    "layout in a bucket": lambda stack: InBucket(OciLayout),
    "oci-archive": lambda stack: Kind(lambda path: OciArchive(str(path), OPTIONS)),
    "docker-archive": lambda stack: Kind(lambda path: DockerArchive(str(path), OPTIONS)),
    "registry-storage": lambda stack: Kind(lambda path: RegistryStorage(str(path), OPTIONS)),
    "registry-storage in a bucket": lambda stack: InBucket(RegistryStorage),
    "registry": Pushed,
    "discard": lambda stack: Kind(lambda path: Discard()),
}
WRITTEN = sorted(KINDS.keys() - {"discard"})
KEPT = sorted(KINDS.keys() - {"discard", "registry"})
"""What a later run finds as this one left it. A registry is asked about blobs only when they are sent."""

KEPT_BY_SEVERAL = [name for name in KEPT if "archive" not in name]
"""An archive has one run at a time."""


@pytest.fixture
def make_kind() -> Iterator[Callable[[str], Kind]]:
    with memory_bucket(), ExitStack() as stack:
        yield lambda name: KINDS[name](stack)


@pytest.fixture(params=sorted(KINDS))
def any_kind(request: pytest.FixtureRequest, make_kind: Callable[[str], Kind]) -> Kind:
    return make_kind(request.param)


@pytest.fixture(params=WRITTEN)
def kind(request: pytest.FixtureRequest, make_kind: Callable[[str], Kind]) -> Kind:
    return make_kind(request.param)


@pytest.fixture(params=KEPT)
def kept(request: pytest.FixtureRequest, make_kind: Callable[[str], Kind]) -> Kind:
    return make_kind(request.param)


def test_a_blob_is_there_once_committed(any_kind: Kind, tmp_path: Path) -> None:
    target = any_kind.open(tmp_path / "target")
    digest, size = A.descriptor.digest, A.descriptor.size
    assert not target.has_blob(digest, size)
    put_layer(target, A)
    assert target.has_blob(digest, size)
    assert not target.has_blob(digest, size + 1)
    assert not target.has_blob(B.descriptor.digest, B.descriptor.size)
    target.close()


@pytest.mark.parametrize("name", WRITTEN)
def test_names_have_no_host_in_a_registry_alone_and_in_its_preview(
    make_kind: Callable[[str], Kind], name: str, tmp_path: Path
) -> None:
    target = make_kind(name).open(tmp_path / "target")
    target.close()
    assert target.names_have_hosts == (not isinstance(target, RegistryTarget | RegistryStorage))
    form = {"registry": "docker", "layout": "oci"}.get(name.split()[0], name.split()[0])
    place = "//127.0.0.1:9/preview" if form == "docker" else str(tmp_path / "preview")
    preview = open_target(f"{form}:{place}", ConvertOptions(dry_run=True))
    assert preview.names_have_hosts == target.names_have_hosts


@pytest.mark.parametrize("piece", [1, 7, 65_536, 200_000, 10_000_000])
def test_blobs_may_come_in_pieces_from_a_buffer_that_is_used_again(kind: Kind, piece: int, tmp_path: Path) -> None:
    target = kind.open(tmp_path / "target")
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


def test_leaving_without_commit_leaves_no_trace(kind: Kind, tmp_path: Path) -> None:
    target = kind.open(tmp_path / "target")
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
    assert not any(b"abandoned" in found for found in kind.content(tmp_path / "target").values())


def test_equal_content_gives_equal_bytes_in_any_order(kind: Kind, tmp_path: Path) -> None:
    first, second = kind.open(tmp_path / "1" / "target"), kind.open(tmp_path / "2" / "target")
    put_image(first, [A, B], "b:1", "b:2")
    put_image(first, [A], "a:1")
    put_image(first, [A, PLAIN, A])
    put_image(second, [A, PLAIN, A])
    put_image(second, [A], "a:1")
    put_image(second, [A, B], "b:2", "b:1")
    for target in (first, second):
        target.finish(REPORT)
        target.close()
    assert kind.content(tmp_path / "1" / "target") == kind.content(tmp_path / "2" / "target")
    assert kind.clean(tmp_path / "1" / "target")


def test_an_index_of_two_platforms(kind: Kind, tmp_path: Path) -> None:
    target = kind.open(tmp_path / "target")
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
    assert kind.clean(tmp_path / "target")


def test_an_index_that_is_none(kind: Kind, tmp_path: Path) -> None:
    target = kind.open(tmp_path / "target")
    with pytest.raises(TargetError):
        target.commit_index(b"[]", "application/vnd.oci.image.index.v1+json", [])
    target.close()


def test_the_same_run_again_changes_nothing(kind: Kind, tmp_path: Path) -> None:
    for _ in range(2):
        target = kind.open(tmp_path / "target")
        put_image(target, [A, B], "b:1")
        put_image(target, [A])
        target.finish(REPORT)
        target.close()
        target.close()
        found = kind.content(tmp_path / "target")
        assert kind.clean(tmp_path / "target")
    assert kind.content(tmp_path / "target") == found


def test_closed_before_the_end_nothing_has_a_name(kind: Kind, tmp_path: Path) -> None:
    target = kind.open(tmp_path / "target")
    put_image(target, [A], "a:1")
    target.close()
    left = kind.content(tmp_path / "target") if kind.files(tmp_path / "target").exists() else {}
    assert not any(b"a:1" in found for found in left.values())
    target = kind.open(tmp_path / "target")
    put_image(target, [A], "a:1")
    target.finish(REPORT)
    target.close()
    assert kind.clean(tmp_path / "target")


def test_many_threads(kind: Kind, tmp_path: Path) -> None:
    target = kind.open(tmp_path / "target")
    layers = [layer(f"file-{number}", b"x" * (number * 3_000)) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: put_layer(target, each), layers * 2))
        list(pool.map(lambda each: put_image(target, [each, A], f"image:{each.diff_id.hex[:12]}"), layers))
    target.finish(REPORT)
    target.close()
    assert kind.clean(tmp_path / "target")


def test_an_unwritable_place(kind: Kind, tmp_path: Path) -> None:
    if isinstance(kind, InBucket):
        return  # there is none in memory
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TargetError):
        kind.open(tmp_path / "file" / "target")


@pytest.fixture(params=sorted(KEPT_BY_SEVERAL))
def shared(request: pytest.FixtureRequest, make_kind: Callable[[str], Kind]) -> Kind:
    return make_kind(request.param)


def test_a_run_that_gives_up_takes_nothing_of_one_that_has_ended(shared: Kind, tmp_path: Path) -> None:
    path = tmp_path / "target"
    first, second = shared.open(path), shared.open(path)
    put_image(second, [A, B], "b:1")
    second.finish(REPORT)
    second.close()
    before = shared.content(path)
    first.abandon()
    assert shared.content(path) == before
    assert shared.clean(path)


def test_a_run_that_gives_up_leaves_the_blobs_of_one_at_work(shared: Kind, tmp_path: Path) -> None:
    path = tmp_path / "target"
    first, second = shared.open(path), shared.open(path)
    put_layer(second, A)
    second.flush()
    first.abandon()
    put_image(second, [A], "a:1")
    second.finish(REPORT)
    second.close()
    assert shared.clean(path)


def test_a_run_that_gives_up_leaves_nothing_of_its_own(shared: Kind, tmp_path: Path) -> None:
    target = shared.open(tmp_path / "target")
    put_layer(target, A)
    target.flush()
    target.abandon()
    assert not shared.files(tmp_path / "target").exists() or shared.content(tmp_path / "target") == {}


def test_a_damaged_blob_of_the_right_size_is_written_anew(kept: Kind, tmp_path: Path) -> None:
    """Sizes alone are believed nowhere."""
    path = tmp_path / "target"
    target = kept.open(path)
    put_layer(target, A)
    target.close()
    damage(kept, path, A.blob)
    again = kept.open(path)
    assert not again.has_blob(A.descriptor.digest, len(A.blob))
    put_image(again, [A], "a:1")
    again.finish(REPORT)
    again.close()
    assert kept.clean(path)


def damage(kind: Kind, path: Path, blob: bytes) -> None:
    """Flips a bit in every stored copy of the blob."""
    bad = bytes([blob[0] ^ 1]) + blob[1:]
    if isinstance(kind, InBucket):
        filesystem = importlib.import_module("fsspec").filesystem("memory")
        for name in filesystem.find(f"/bucket{path}"):
            if filesystem.cat_file(name) == blob:
                filesystem.pipe_file(name, bad)
        return
    for file in path.parent.rglob("*"):
        if file.is_file() and file.read_bytes() == blob:
            file.write_bytes(bad)


def test_links_and_memory_are_optional(any_kind: Kind, tmp_path: Path) -> None:
    """What a target cannot do has a default that says so."""
    target = any_kind.open(tmp_path / "target")
    source = tmp_path / "source"
    source.write_bytes(A.blob)
    linked = target.link_blob(str(source), A.descriptor.digest, len(A.blob))
    assert linked <= target.takes_files
    assert target.has_blob(A.descriptor.digest, len(A.blob)) == linked
    assert list(target.existing_images()) == []
    assert target.memory.known_blob(A.diff_id, "gzip") is None
    assert target.memory.known_payload("0" * 64) is None
    assert target.free_bytes() is None or target.held_bytes() < 100_000
    target.memory.remember_size(A.diff_id, 1_024)
    target.flush()
    target.remove_blobs([])
    target.close()


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


@pytest.mark.parametrize("kind", [OciArchive, DockerArchive])
def test_an_archive_has_an_entry_for_each_folder_before_what_is_in_it(
    kind: type[OciArchive | DockerArchive], tmp_path: Path
) -> None:
    """Programs that walk the tar as a file system find nothing in a folder without an entry."""
    target = kind(str(tmp_path / "x.tar"), OPTIONS)
    put_image(target, [A, B], "b:1")
    target.finish(REPORT)
    target.close()
    seen: set[str] = set()
    with tarfile.open(tmp_path / "x.tar") as archive:
        for member in archive:
            assert str(PurePath(member.name).parent) in {".", *seen}, member.name
            assert member.name not in seen
            if member.isdir():
                seen.add(member.name)
                assert (member.mode, member.mtime, member.uid, member.gid, member.size) == (0o755, 0, 0, 0, 0)
    assert seen == ({"blobs", "blobs/sha256"} if kind is OciArchive else set())


def test_the_default_file_system_is_the_systems_own() -> None:
    assert type(SYSTEM_CALLS) is SystemCalls
