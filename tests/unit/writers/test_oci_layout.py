"""The layout in a directory: its documents, continuing what is there, names that two claim, several runs at once."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from migrate.batch.journal import journal_name
from migrate.batch.plan import Shard
from migrate.blobio.stopping import stopped_by
from migrate.documents.oci import IndexEntry, encode_index
from migrate.errors import InterruptedRunError, TargetError
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, Platform, StoredBlob
from migrate.model.options import Compression, ConvertOptions, Link, OnConflict
from migrate.model.progress import SilentProgress
from migrate.model.reference import Reference
from migrate.storage.syscalls import SystemCalls
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests.images import AMD64, LayerBytes, image, layer, layer_of, put_image, put_layer

OPTIONS = ConvertOptions()
REPORT = b'{"images": []}'
ARM = Platform(os="linux", architecture="arm")
A, B = layer("a"), layer("b")


def clean(path: Path) -> bool:
    return verify(str(path), 2, SilentProgress()) == []


def write(path: Path, *images: tuple[list[LayerBytes], tuple[str, ...]], options: ConvertOptions = OPTIONS) -> None:
    target = OciLayout(path, options)
    for layers, references in images:
        put_image(target, layers, *references)
    target.finish(REPORT)
    target.close()


def names(path: Path) -> dict[str | None, str]:
    """ref.name → digest; None is the last entry without a name."""
    index = json.loads((path / "index.json").read_bytes())
    return {
        entry.get("annotations", {}).get("org.opencontainers.image.ref.name"): entry["digest"]
        for entry in index["manifests"]
    }


def tags(path: Path) -> list[tuple[list[str] | None, int]]:
    return [(row["RepoTags"], len(row["Layers"])) for row in json.loads((path / "manifest.json").read_bytes())]


# --- documents -------------------------------------------------------------------------------------------------------


def test_the_documents(tmp_path: Path) -> None:
    target = OciLayout(tmp_path, OPTIONS)
    made = put_image(target, [A, B], "busybox:latest", "host.example:5000/team/app:1.0")
    put_image(target, [A])
    target.finish(b"the report\n")
    target.close()
    config, manifest = made.image_id, made.manifest_digest
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert [entry.get("annotations") for entry in index["manifests"]] == [
        {
            "io.containerd.image.name": "docker.io/library/busybox:latest",
            "org.opencontainers.image.ref.name": "busybox:latest",
        },
        {
            "io.containerd.image.name": "host.example:5000/team/app:1.0",
            "org.opencontainers.image.ref.name": "host.example:5000/team/app:1.0",
        },
        None,
    ]
    assert index["manifests"][0] | {"annotations": None} == {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": str(manifest),
        "size": len(made.manifest),
        "platform": {"architecture": "amd64", "os": "linux"},
        "annotations": None,
    }
    assert json.loads((tmp_path / "manifest.json").read_bytes())[0] == {
        "Config": f"blobs/sha256/{config.hex}",
        "RepoTags": ["busybox:latest", "host.example:5000/team/app:1.0"],
        "Layers": [f"blobs/sha256/{each.descriptor.digest.hex}" for each in (A, B)],
    }
    assert (tmp_path / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'
    assert (tmp_path / "migration-report.json").read_bytes() == b"the report\n"
    assert (tmp_path / f"blobs/sha256/{config.hex}").read_bytes() == made.config
    assert (tmp_path / f"blobs/sha256/{manifest.hex}").read_bytes() == made.manifest
    assert stat.S_IMODE((tmp_path / "index.json").stat().st_mode) & 0o133 == 0


def test_names_that_docker_refuses_stand_in_the_index_only(tmp_path: Path) -> None:
    write(tmp_path, ([A], ("Upper/Case:1", f"name@sha256:{'0' * 64}", "good:1")))
    assert sorted(names(tmp_path)) == ["Upper/Case:1", "good:1", f"name@sha256:{'0' * 64}"]  # type: ignore[type-var]
    assert tags(tmp_path) == [(["good:1"], 1)]
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert sum("io.containerd.image.name" in entry["annotations"] for entry in index["manifests"]) == 1
    assert clean(tmp_path)


def test_images_too_deep_for_docker_are_not_in_manifest_json(tmp_path: Path) -> None:
    write(tmp_path, ([A] * 126, ("deep:1",)), ([A] * 125, ("just:1",)))
    assert tags(tmp_path) == [(["just:1"], 125)]
    assert "deep:1" in names(tmp_path)
    assert clean(tmp_path)


def test_the_tag_of_an_index_goes_to_the_child_of_the_platform(tmp_path: Path) -> None:
    target = OciLayout(tmp_path, ConvertOptions(platform=ARM))
    children = [put_image(target, [A], platform=AMD64), put_image(target, [B], platform=ARM)]
    content = encode_index(
        IndexEntry(
            descriptor=Descriptor(
                media_type=child.manifest_media_type, digest=child.manifest_digest, size=len(child.manifest)
            ),
            platform=child.platform,
        )
        for child in children
    )
    target.commit_index(content, "application/vnd.oci.image.index.v1+json", [Reference.parse("multi:1")])
    target.finish(REPORT)
    target.close()
    assert names(tmp_path) == {"multi:1": str(Digest.of(content))}
    rows = json.loads((tmp_path / "manifest.json").read_bytes())
    assert [(row["RepoTags"], row["Config"][-64:]) for row in rows] == [
        (["multi:1"], children[1].image_id.hex),
        (None, children[0].image_id.hex),
    ]
    assert clean(tmp_path)


# --- what is there already -------------------------------------------------------------------------------------------


def test_a_second_run_adds(tmp_path: Path) -> None:
    write(tmp_path, ([A], ("a:1",)), ([A, A], ()))
    first = {file: file.stat().st_mtime_ns for file in (tmp_path / "blobs" / "sha256").iterdir()}
    write(tmp_path, ([B], ("b:1",)), ([A], ("a:1", "a:2")))
    assert list(names(tmp_path)) == ["a:1", "a:2", "b:1", None]
    assert tags(tmp_path) == [(["a:1", "a:2"], 1), (["b:1"], 1), (None, 2)]
    assert {file: file.stat().st_mtime_ns for file in first} == first
    assert clean(tmp_path)


def test_the_same_run_does_not_touch_the_documents(tmp_path: Path) -> None:
    write(tmp_path, ([A], ("a:1",)))
    before = (tmp_path / "index.json").stat()
    write(tmp_path, ([A], ("a:1",)))
    after = (tmp_path / "index.json").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_an_untagged_image_that_gets_a_name_has_one_entry(tmp_path: Path) -> None:
    write(tmp_path, ([A], ()))
    write(tmp_path, ([A], ("a:1",)))
    write(tmp_path, ([A], ()))
    assert list(names(tmp_path)) == ["a:1"]


def test_a_moved_name_leaves_the_old_image_untagged(tmp_path: Path) -> None:
    write(tmp_path, ([A], ("a:1",)))
    old = names(tmp_path)["a:1"]
    write(tmp_path, ([B], ("a:1",)))
    assert names(tmp_path)[None] == old
    assert names(tmp_path)["a:1"] != old
    assert tags(tmp_path) == [(["a:1"], 1), (None, 1)]
    assert clean(tmp_path)


def test_existing_images(tmp_path: Path) -> None:
    target = OciLayout(tmp_path, OPTIONS)
    assert target.existing_images() == []
    made = put_image(target, [A], "a:1", created="2013-05-06T07:08:09Z", platform=ARM)
    target.finish(REPORT)
    target.close()
    again = OciLayout(tmp_path, OPTIONS)
    (existing,) = again.existing_images()
    assert existing.reference == Reference("a", "1")
    assert (existing.manifest_digest, existing.created) == (made.manifest_digest, "2013-05-06T07:08:09Z")
    assert existing.platform == ARM
    again.close()


def test_a_damaged_blob_is_written_anew(tmp_path: Path) -> None:
    write(tmp_path, ([A, B], ("a:1",)))
    for blob in (tmp_path / "blobs" / "sha256").iterdir():
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
    assert not clean(tmp_path)
    write(tmp_path, ([A, B], ("a:1",)))
    assert clean(tmp_path)


def test_a_layout_of_another_tool_is_added_to(tmp_path: Path) -> None:
    write(tmp_path, ([A], ("a:1",)))
    for name in ("manifest.json", "migration-report.json"):
        (tmp_path / name).unlink()
    (tmp_path / "oci-layout").write_bytes(b'{"imageLayoutVersion": "1.0.0"}\n')
    index = json.loads((tmp_path / "index.json").read_bytes())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "latest", "vendor": "kept"}
    more = {"artifactType": "text/x", "platform": {"os": "linux", "architecture": "amd64", "os.features": ["a"]}}
    index["manifests"][0] |= more
    (tmp_path / "index.json").write_text(json.dumps(index, indent=1))
    write(tmp_path, ([B], ("b:1",)))
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert index["manifests"][1]["annotations"] == {"org.opencontainers.image.ref.name": "latest", "vendor": "kept"}
    assert index["manifests"][1] | more == index["manifests"][1]
    assert (tmp_path / "oci-layout").read_bytes() == b'{"imageLayoutVersion": "1.0.0"}\n'
    assert clean(tmp_path)


@pytest.mark.parametrize("name", ["precious.txt", "repositories", "graph", "index.json"])
def test_a_directory_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(TargetError, match=f"neither empty nor an OCI layout: it holds '{name}'"):
        OciLayout(tmp_path, OPTIONS)
    assert os.listdir(tmp_path) == [name]


def test_an_empty_file_system_is_no_other_thing(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    write(tmp_path, ([A], ("a:1",)))
    assert clean(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schemaVersion": 1}', b"[1]", b'{"schemaVersion":2,"manifests":[{}]}']
)
def test_a_damaged_index_is_never_replaced(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, ([A], ("a:1",)))
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(TargetError, match=r"index\.json is damaged"):
        OciLayout(tmp_path, OPTIONS)
    assert (tmp_path / "index.json").read_bytes() == content


def test_another_layout_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_bytes(b'{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(TargetError, match="another version"):
        OciLayout(tmp_path, OPTIONS)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name, said in (("file", "is a file"), ("link", "is a link to nowhere")):
        with pytest.raises(TargetError, match=rf"{name}: {said}.*oci-archive:FILE"):
            OciLayout(tmp_path / name, OPTIONS)
    with pytest.raises(TargetError, match="a part of the path is not a directory"):
        OciLayout(tmp_path / "file" / "layout", OPTIONS)


def test_links_inside_a_target_are_not_followed(tmp_path: Path) -> None:
    """A target made by somebody else must not lead our writes anywhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    path = tmp_path / "layout"
    write(path, ([A], ("a:1",)))
    blob = path / "blobs" / "sha256" / B.descriptor.digest.hex
    (outside / "file").write_bytes(b"precious")
    blob.symlink_to(outside / "file")
    write(path, ([B], ("b:1",)))
    assert not blob.is_symlink()
    assert (outside / "file").read_bytes() == b"precious"
    assert clean(path)


# --- several runs at once --------------------------------------------------------------------------------------------


def _race(path: str, number: int, barrier: Any) -> None:
    barrier.wait()
    write(
        Path(path), ([layer(f"l{number}"), A], (f"image{number}:1",)), ([layer(f"u{number}")], ()), ([A], ("same:1",))
    )


@pytest.mark.parametrize("runs", [2, 4])
def test_runs_at_once_lose_no_entry(runs: int, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for turn in range(6):
        path = tmp_path / str(turn)
        barrier = context.Barrier(runs)
        processes = [context.Process(target=_race, args=(str(path), number, barrier)) for number in range(runs)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        index = json.loads((path / "index.json").read_bytes())["manifests"]
        assert len(index) == 2 * runs + 1
        assert {f"image{number}:1" for number in range(runs)} | {"same:1", None} == set(names(path))
        assert len(tags(path)) == 2 * runs + 1
        assert clean(path)
        assert sorted(os.listdir(path / ".migrate")) == ["lock", "proven"]


@pytest.mark.parametrize(
    ("policy", "wins"), [(OnConflict.NEWEST, "newer"), (OnConflict.FIRST, "other"), (OnConflict.KEEP_ALL, "both")]
)
@pytest.mark.parametrize("other_is_newer", [False, True])
def test_a_name_that_another_run_took_meanwhile(
    policy: OnConflict, wins: str, other_is_newer: bool, tmp_path: Path
) -> None:
    ours = OciLayout(tmp_path, ConvertOptions(on_conflict=policy))
    mine = put_image(ours, [A], "a:1", created="2014-01-01T00:00:00Z")
    other = OciLayout(tmp_path, OPTIONS)
    theirs = put_image(other, [B], "a:1", created="2015-01-01T00:00:00Z" if other_is_newer else "2013-01-01T00:00:00Z")
    other.finish(REPORT)
    other.close()
    ours.finish(REPORT)
    ours.close()
    index = json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    holders = {entry["digest"] for entry in index if entry.get("annotations")}
    expected = {
        "newer": [theirs if other_is_newer else mine],
        "other": [theirs],
        "both": [mine, theirs],
    }[wins]
    assert holders == {str(each.manifest_digest) for each in expected}
    assert {entry["digest"] for entry in index} == {str(mine.manifest_digest), str(theirs.manifest_digest)}
    assert clean(tmp_path)


def test_leftovers_of_dead_runs_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    living = OciLayout(tmp_path, OPTIONS)
    state = tmp_path / ".migrate"
    (own,) = state.glob("tmp-*")
    dead = state / "tmp-00112233445566aa"
    dead.mkdir()
    (dead / "owner").write_text("")
    (dead / "17").write_text("half a blob")
    nobody = state / "tmp-ffffffffffffffff"
    nobody.mkdir()
    foreign = state / "tmp-of-somebody"
    foreign.mkdir()
    second = OciLayout(tmp_path, OPTIONS)
    assert not dead.exists()
    assert not nobody.exists()
    assert foreign.exists()
    assert own.exists()
    second.close()
    put_image(living, [A], "a:1")
    living.finish(REPORT)
    living.close()
    assert clean(tmp_path)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    write(tmp_path, ([A], ("a:1",)))
    assert clean(tmp_path)


# --- layers of earlier runs ------------------------------------------------------------------------------------------


def stored(each: LayerBytes) -> StoredBlob:
    kind = "gzip" if each.media_type.endswith("gzip") else "none"
    return StoredBlob(digest=each.descriptor.digest, size=len(each.blob), compression=kind)


def remember(path: Path, *layers: LayerBytes, options: ConvertOptions = OPTIONS) -> None:
    target = OciLayout(path, options)
    for each in layers:
        put_layer(target, each)
        target.memory.remember_blob(each.diff_id, stored(each))
    target.close()


def known(
    path: Path, each: LayerBytes, compression: str = "gzip", options: ConvertOptions = OPTIONS
) -> StoredBlob | None:
    target = OciLayout(path, options)
    try:
        return target.memory.known_blob(each.diff_id, compression)
    finally:
        target.close()


def test_a_run_that_is_stopped_does_not_wait_for_the_proof_of_a_blob(tmp_path: Path) -> None:
    def stop() -> None:
        raise InterruptedRunError("the run was stopped")

    remember(tmp_path, A)
    with pytest.raises(InterruptedRunError), stopped_by(stop):
        known(tmp_path, A)


def test_blobs_are_remembered_over_runs_even_unfinished_ones(tmp_path: Path) -> None:
    plain = layer("plain", compress=False)
    remember(tmp_path, A, plain)
    assert known(tmp_path, A) == stored(A)
    assert known(tmp_path, plain, "none") == stored(plain)
    assert known(tmp_path, A, "zstd") is None
    assert known(tmp_path, A, "gzip-fast") is None
    assert known(tmp_path, A, options=ConvertOptions(compression_level=9)) is None
    assert known(tmp_path, B) is None


def test_gzip_fast_is_another_way(tmp_path: Path) -> None:
    fast = ConvertOptions(compression=Compression.GZIP_FAST)
    remember(tmp_path, A, options=fast)
    assert known(tmp_path, A, "gzip-fast", fast) == stored(A)
    assert known(tmp_path, A, "gzip") is None


@pytest.mark.parametrize("order", [(0, 9, 5), (5, 0, 9), (9, 5, 0)])
def test_of_several_blobs_of_a_layer_the_smallest_that_stands_is_used(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Whichever came first: workers meet layers in any order."""
    tar = gzip.decompress(A.blob)
    blobs = {level: gzip.compress(tar, level, mtime=0) for level in order}
    stored_blobs = {
        level: StoredBlob(digest=Digest.of(blob), size=len(blob), compression="gzip") for level, blob in blobs.items()
    }
    target = OciLayout(tmp_path, OPTIONS)
    for level in order:
        with target.open_blob() as writer:
            writer.write(blobs[level])
            writer.commit(stored_blobs[level].digest)
        target.memory.remember_blob(A.diff_id, stored_blobs[level])
    target.close()
    ranked = sorted(stored_blobs.values(), key=lambda blob: (blob.size, blob.digest))
    assert known(tmp_path, A) == ranked[0]
    (tmp_path / "blobs" / "sha256" / ranked[0].digest.hex).unlink()
    assert known(tmp_path, A) == ranked[1]
    target = OciLayout(tmp_path, OPTIONS)
    assert target.memory.known_blob(A.diff_id, "gzip", {ranked[0].digest, ranked[2].digest}) == ranked[2]
    assert target.memory.known_blob(A.diff_id, "gzip", {ranked[0].digest}) is None
    assert target.memory.known_blob(B.diff_id, "gzip", {ranked[2].digest}) is None
    target.close()


def test_a_record_with_very_many_blobs_of_a_layer_is_not_read_for_ever(tmp_path: Path) -> None:
    remember(tmp_path, A)
    record = tmp_path / ".migrate" / "layers"
    other = "".join(f"{A.diff_id.hex} gzip:-1 {number:064x} 5\n" for number in range(100_000))
    record.write_text(other + record.read_text())
    assert known(tmp_path, A) == stored(A)
    record.write_text(record.read_text() + other)
    assert known(tmp_path, A) is None


@pytest.mark.parametrize("change", ["flipped", "absent", "cut", "another layer's"])
def test_a_remembered_blob_that_is_no_longer_right_is_not_used(tmp_path: Path, change: str) -> None:
    remember(tmp_path, A, B)
    blob = tmp_path / "blobs" / "sha256" / A.descriptor.digest.hex
    content = bytearray(blob.read_bytes())
    match change:
        case "flipped":
            content[20] ^= 1
            blob.write_bytes(content)
        case "absent":
            blob.unlink()
        case "cut":
            blob.write_bytes(content[:-1])
        case "another layer's":
            blob.write_bytes(B.blob)
    assert known(tmp_path, A) is None
    assert known(tmp_path, B) == stored(B)


def test_a_forged_record_is_not_believed(tmp_path: Path) -> None:
    """The line is well formed, the blob is there and intact, and yet it is not this layer."""
    remember(tmp_path, A, B)
    record = tmp_path / ".migrate" / "layers"
    lines = [line.split() for line in record.read_text().splitlines() if line]
    lines[0][0], lines[1][0] = lines[1][0], lines[0][0]
    record.write_text("\n".join(map(" ".join, lines)) + "\n")
    assert known(tmp_path, A) is None
    assert known(tmp_path, B) is None


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5_000, b"nonsense\n", b"\xff" * 100, ("a" * 64 + " gzip:-1 ").encode(), None]
)
def test_a_damaged_record_is_no_error(tmp_path: Path, content: bytes | None) -> None:
    remember(tmp_path, A)
    record = tmp_path / ".migrate" / "layers"
    if content is None:
        record.unlink()
        record.mkdir()
        assert known(tmp_path, A) is None
        return
    record.write_bytes(content)
    assert known(tmp_path, A) is None
    remember(tmp_path, A)  # a torn last line does not spoil what is appended
    assert known(tmp_path, A) == stored(A)


def test_sizes_are_remembered(tmp_path: Path) -> None:
    for _ in range(2):
        target = OciLayout(tmp_path, OPTIONS)
        target.memory.remember_size(A.diff_id, 10_240)
        target.memory.remember_size(B.diff_id, 20_480)
        assert set(target.memory.known_sizes()) == {10_240, 20_480}
        target.close()
    again = OciLayout(tmp_path, OPTIONS)
    assert set(again.memory.known_sizes()) == {10_240, 20_480}
    again.close()


def test_what_is_known_is_not_written_twice(tmp_path: Path) -> None:
    for _ in range(3):
        remember(tmp_path, A)
    assert (tmp_path / ".migrate" / "layers").read_text().count("\n") == 2


# --- links -----------------------------------------------------------------------------------------------------------


class Reflinks(SystemCalls):
    """As btrfs and xfs do it; the test's own file system may not."""

    def reflink(self, source: int, target: int) -> None:
        os.sendfile(target, source, 0, os.fstat(source).st_size)


def test_hard_links_only_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(A.blob)
    target = OciLayout(tmp_path / "layout", ConvertOptions(link=Link.HARD))
    assert target.link_blob(str(source), A.descriptor.digest, len(A.blob))
    put_image(target, [A], "a:1")
    target.finish(REPORT)
    target.close()
    assert (tmp_path / "layout/blobs/sha256" / A.descriptor.digest.hex).samefile(source)
    assert clean(tmp_path / "layout")


@pytest.mark.parametrize("link", Link)
def test_reflinks(link: Link, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(A.blob)
    target = OciLayout(tmp_path / "layout", ConvertOptions(link=link), files=Reflinks())
    assert target.link_blob(str(source), A.descriptor.digest, len(A.blob)) is (link != "copy")
    target.close()
    blob = tmp_path / "layout/blobs/sha256" / A.descriptor.digest.hex
    assert blob.exists() is (link != "copy")
    assert source.stat().st_nlink == (2 if link == "hard" else 1)


def test_a_linked_file_that_is_not_the_blob_is_let_go(tmp_path: Path) -> None:
    source = tmp_path / "source"
    target = OciLayout(tmp_path / "layout", ConvertOptions(link=Link.HARD))
    for content in (B.blob, A.blob + b"\0", A.blob[:-1], b""):
        source.write_bytes(content)
        assert not target.link_blob(str(source), A.descriptor.digest, len(A.blob))
    assert not target.link_blob(str(tmp_path / "absent"), A.descriptor.digest, len(A.blob))
    assert not target.has_blob(A.descriptor.digest, len(A.blob))
    target.close()


def test_free_bytes(tmp_path: Path) -> None:
    target = OciLayout(tmp_path, OPTIONS)
    free = target.free_bytes()
    assert free is not None and free > 0
    target.close()
    assert image([layer_of(bytes(1024))]).layers


def test_no_blob_goes_that_a_run_at_work_may_have_found(tmp_path: Path) -> None:
    merging, other = OciLayout(tmp_path, OPTIONS), OciLayout(tmp_path, OPTIONS)
    put_layer(merging, A)
    put_layer(merging, B)
    merging.flush()
    assert other.has_blob(A.descriptor.digest, A.descriptor.size)
    put_image(other, [A], "app:1")
    merging.finish(REPORT)
    merging.remove_blobs([A.descriptor.digest])
    other.finish(REPORT)
    other.close()
    assert clean(tmp_path)
    merging.remove_blobs([A.descriptor.digest, B.descriptor.digest])  # one that does not know of the image
    assert clean(tmp_path)
    merging.close()
    alone = OciLayout(tmp_path, OPTIONS)
    alone.finish(REPORT)
    alone.remove_blobs([A.descriptor.digest, B.descriptor.digest])
    alone.close()
    assert clean(tmp_path)
    assert not (tmp_path / "blobs" / "sha256" / B.descriptor.digest.hex).exists()


def test_a_run_that_gives_up_leaves_what_a_shard_of_a_batch_has_read(tmp_path: Path) -> None:
    """A shard has its images in its journal, and not in index.json."""
    target = OciLayout(tmp_path / "out", ConvertOptions())
    journal = tmp_path / "out" / ".migrate" / journal_name(Shard(1, 2))
    journal.write_bytes(b"{}\n")
    target.abandon()
    assert journal.exists() and (tmp_path / "out" / "index.json").exists()
